"""Reports of the nights: a page for each, an index of all, and a notification."""
