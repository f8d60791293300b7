"""Targets: models that answer conversations, in this process, in another program, or from a file of answers."""
