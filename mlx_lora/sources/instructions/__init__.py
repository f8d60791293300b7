"""Instruction rows (Alpaca and its dialects) → conversations: public API of the data source."""

from .dataset import conversation, make_dataset, make_instructions_dataset, prompt_of, select_rows
from .legacy import END_TOKENS, format_legacy, without_end_token
from .plan import BucketCheck, Plan, PlanCheck, check_plan, load_plan
from .rows import FLAGS, Row, as_row, read_rows

__all__ = [
    "END_TOKENS",
    "FLAGS",
    "BucketCheck",
    "Plan",
    "PlanCheck",
    "Row",
    "as_row",
    "check_plan",
    "conversation",
    "format_legacy",
    "load_plan",
    "make_dataset",
    "make_instructions_dataset",
    "prompt_of",
    "read_rows",
    "select_rows",
    "without_end_token",
]
