"""Reports for people: tables for the terminal and HTML pages, from the reports of suites and comparisons."""
