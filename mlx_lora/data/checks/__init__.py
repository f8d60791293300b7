"""Data checks before training: each has a name, a severity, and findings that name file and line."""

from .base import DataCheck, DataFinding, Hit
from .dataset_table import Table, read_table
from .registry import CHECKS, check_table, errors_that_stop, stop_sentence

__all__ = [
    "CHECKS",
    "DataCheck",
    "DataFinding",
    "Hit",
    "Table",
    "check_table",
    "errors_that_stop",
    "read_table",
    "stop_sentence",
]
