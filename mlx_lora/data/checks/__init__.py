"""Checks before hours are spent: each has a name, a severity, and findings that name file and line."""

from .finding import Check, Finding, Hit
from .suite import CHECKS, check_table, errors_that_stop, stop_sentence
from .table import Table, read_table

__all__ = [
    "CHECKS",
    "Check",
    "Finding",
    "Hit",
    "Table",
    "check_table",
    "errors_that_stop",
    "read_table",
    "stop_sentence",
]
