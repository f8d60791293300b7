"""Live page: what it shows of runs, adapters and datasets, and its static files."""
