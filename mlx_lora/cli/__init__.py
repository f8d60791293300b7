"""Command line interface: thin commands that parse, call and print. Heavy modules are imported where they are used."""
