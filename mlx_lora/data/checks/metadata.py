"""Checks of row metadata: malformed lines, unknown keys, repeated ids, empty splits, and buckets against the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...errors import shortened
from .base import Hit
from .dataset_table import Item, Table


def malformed(table: Table) -> Iterator[Hit]:
    """Yield lines that hold no row."""
    for row in table.malformed:
        yield Hit(f"{row.where}: {row.error}")


def unknown_message_keys(table: Table) -> Iterator[Hit]:
    """Yield one hit for each unknown key of messages, which could change their meaning."""
    rows: dict[str, list[Item]] = {}
    for item in table.items:
        for key in item.row.unknown_keys:
            rows.setdefault(key, []).append(item)
    for key, items in rows.items():
        said = f"messages have the key {shortened(key)} ({len(items):,} rows), which only the chat template may know"
        yield Hit(f"{items[0].where}: {said}")


def sample_ids(table: Table) -> Iterator[Hit]:
    """Yield rows whose ``sample_id`` an earlier row has."""
    first: dict[str, Item] = {}
    for item in table.items:
        name = item.row.meta.get("sample_id")
        if isinstance(name, (str, int)) and not isinstance(name, bool):
            kept = first.setdefault(str(name), item)
            if kept is not item:
                yield Hit(f"{item.where}: sample_id {str(name)[:60]!r} is that of {kept.where}")


def no_validation_rows(table: Table) -> Iterator[Hit]:
    """Yield one hit for a dataset directory (with train.jsonl) without validation rows; loose files have no splits."""
    directories = {file.parent for file in table.files if file.name == "train.jsonl"}
    held = {Path(item.row.file).parent for item in table.items if item.split == "valid"}
    if directories and not directories & held:
        first = min(directories)
        yield Hit(f"{first}/valid.jsonl: no row, so training has no validation loss to stop early or keep the best by")


def buckets(table: Table) -> Iterator[Hit]:
    """Yield one hit for each bucket whose size is not as planned, and one where the plan's stated sum is wrong."""
    plan = table.plan or {}
    rows = Counter[str]()
    files: dict[str, str] = {}
    for item in table.items:
        bucket = item.bucket(plan)
        rows[bucket] += 1
        files.setdefault(bucket, item.row.file)
    for bucket in [*plan, *(name for name in rows if name not in plan)]:
        planned, where = plan.get(bucket), f"{files[bucket]}: " if bucket in files else ""
        if planned is None:
            yield Hit(f"{where}{rows[bucket]:,} rows of the bucket {bucket}, which the plan does not know")
        elif rows[bucket] != planned:
            yield Hit(f"{where}{rows[bucket]:,} rows of the bucket {bucket}, and the plan says {planned:,}")
    if table.stated_total not in (None, sum(plan.values())):
        total = sum(plan.values())
        yield Hit(f"the plan's buckets sum to {total:,} rows, and it states a total of {table.stated_total:,}")
