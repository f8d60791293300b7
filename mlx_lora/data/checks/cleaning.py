"""Dataset cleaning (``--fix``): a copy without the rows that errors name, and a log of every dropped row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import new_directory, write_atomic
from ..dataset import SPLITS, Example, write_dataset
from .base import DataFinding, run_check
from .control_text import strip_table
from .dataset_table import Item, Table
from .registry import CHECKS, check_table

LOG = "fixed.jsonl"
COPIES = ("exact_duplicates", "near_leaks", "near_duplicates")


def write_fixed(out: str | Path, table: Table, findings: Sequence[DataFinding], strip: bool = False) -> dict[str, int]:
    """Write the rows without an error, each once, as a new dataset directory.

    ``fixed.jsonl`` in it has a line for each dropped row, ``{"file", "line", "check", "why"}``, with the first check
    that drops it.

    Args:
        strip: strip control tokens from the messages first, so that no row is dropped for them.

    Returns:
        The numbers of rows kept and dropped, and of rows that control tokens were stripped from.

    Raises:
        UserError: the directory exists, cannot be written, or no row to train on would be left.
    """
    stripped = 0
    if strip:
        table, stripped = strip_table(table)
        findings = check_table(table)
    log: list[dict[str, Any]] = [
        {"file": row.file, "line": row.line, "check": "malformed", "why": row.error} for row in table.malformed
    ]
    dropped: set[int] = set()
    for item, check, why in left_out(table, findings):
        dropped.add(id(item))
        log.append({"file": item.row.file, "line": item.row.line, "check": check, "why": why})
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for item in table.items:
        if id(item) not in dropped:
            example = item.row.example()
            example.meta = finite(example.meta)
            splits[item.split].append(example)
    if not any(example.weight > 0 for example in splits["train"]):
        raise UserError(f"{out}: no row to train on would be left, so nothing was written; see `mlx-lora data check`")
    card = {"source": "check", "checked": [str(file) for file in table.files], "dropped": len(log)}
    card |= {"stripped": stripped} if strip else {}
    with new_directory(out) as directory:
        # The dataset's own writer makes its directory; its files then move to the one with the log.
        write_dataset(directory / "data", splits, card)
        for file in sorted((directory / "data").iterdir()):
            file.rename(directory / file.name)
        (directory / "data").rmdir()
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in log)
        write_atomic(directory / LOG, lines)
    return {"kept": sum(map(len, splits.values())), "dropped": len(log), "stripped": stripped}


def left_out(table: Table, findings: Sequence[DataFinding], before: Sequence[Item] = ()) -> list[tuple[Item, str, str]]:
    """Return (item, check, why) of every row that an error names or that is a copy, each once.

    Args:
        before: rows of other datasets that the table's are compared with, and that are no part of the result.
    """
    found: list[tuple[Item, str, str]] = []
    dropped = set(map(id, before))

    def drop(finding: DataFinding) -> None:
        for hit in finding.hits:
            for item in hit.drop:
                if id(item) not in dropped:
                    dropped.add(id(item))
                    found.append((item, finding.check, hit.said))

    for finding in findings:
        if finding.severity == "error" and finding.check != "mostly_copies":
            drop(finding)
    # Copies last, each kind among the rows that are left, or a good row would go because it resembles a dropped one.
    rest = Table([*before, *table.items])
    for check in (check for name in COPIES for check in CHECKS if check.name == name):
        gone = {id(item) for item, _, _ in found}
        left = [item for item in rest.items if id(item) not in gone]
        rest = rest if len(left) == len(rest.items) else Table(left)
        if copies := run_check(check, rest):
            drop(copies)
    return found


def finite(meta: dict[str, Any]) -> dict[str, Any]:
    """Replace non-finite numbers by None: Python reads NaN and 1e999, but other programs cannot read them back."""
    return json.loads(json.dumps(meta), parse_constant=lambda name: None)
