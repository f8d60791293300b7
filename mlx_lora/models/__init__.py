"""Base models: where they are found, and the tiny one that comes with the package."""
