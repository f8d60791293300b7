"""Rows of the agent's days: read from every source's store, curated, and told apart from what should be looked up."""
