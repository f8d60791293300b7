"""Dataset of instructions: instruction files → a dataset directory and its import report."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...data.dataset import Example
from ...data.dataset_card import DatasetCard, write_card
from ...data.import_report import ImportReport, NothingLeft
from ...data.split import split_by_key, unless_held_out
from ...files import check_absent
from .plan import Plan, check_plan
from .rows import Row, read_rows

NEGATIVE = "row marked is_negative_example"
NEVER = "row marked never_train"
DUPLICATE = "exact duplicate of an earlier row"
LEAKED = "training row with the prompt of an evaluation row"


def make_dataset(
    out: str | Path,
    *,
    files: Sequence[str | Path],
    plan: Plan | None = None,
    keep_duplicates: bool = False,
    leave_out: Collection[str] = (),
) -> DatasetCard:
    """Write a new dataset directory and return its card.

    Where there are evaluation rows, they are the test split; else a tenth of the prompts is. Rows of one prompt
    stay in one split.

    Args:
        plan: number of rows each bucket should have; deviations are noted.
        leave_out: buckets (task_type) not to import.

    Raises:
        UserError: the directory exists, a file cannot be read, or no row is left to train on.
    """
    check_absent(out)
    report = ImportReport("instructions")
    rows = [row for path in files for row in read_rows(path, report)]
    train, test = select_rows(rows, report, keep_duplicates, leave_out)
    if not train:
        raise NothingLeft(f"{files[0]}: no row is left to train on ({report.reasons})", report)
    examples = [row.example for row in train]
    splits = split_by_key(examples, prompt_of, (0.1, 0.0) if test else (0.1, 0.1))
    note = "There are too few prompts to hold any out: all examples are in train."
    splits = unless_held_out(splits, examples, report, note)
    splits["test"] += [row.example for row in test]
    found, kept = (Counter(row.bucket for row in some) for some in (rows, [*train, *test]))
    details: dict[str, Any] = {
        "files": [str(path) for path in files],
        "buckets": {bucket: {"rows": count, "kept": kept[bucket]} for bucket, count in found.items()},
        "distinct_rows": len({conversation(row.example) for row in rows}),
    }
    report.notes += _notes([*train, *test])
    if plan is not None:
        check = check_plan(plan, found, kept)
        details["plan"] = check.to_dict()
        report.notes += check.notes()
    table = (
        *(f"{out}: buckets", ("bucket", "rows", "kept")),
        [(bucket, str(count), str(kept[bucket])) for bucket, count in found.items()],
    )
    counts = {"read": report.read, "examples": len(train) + len(test)}
    return write_card(out, splits, report, counts, details, table=table)


def make_instructions_dataset(out: str | Path, **options: Any) -> tuple[dict[str, Any], ImportReport]:
    """Write a dataset as :func:`make_dataset` does, and return the content of its card and the import report."""
    card = make_dataset(out, **options)
    return card.to_dict(), card.report


def select_rows(
    rows: Iterable[Row], report: ImportReport, keep_duplicates: bool = False, leave_out: Collection[str] = ()
) -> tuple[list[Row], list[Row]]:
    """Split rows into (training, evaluation); every other row is counted in the report."""
    train: list[Row] = []
    test: list[Row] = []
    seen: set[tuple[bool, str]] = set()
    for row in rows:
        identity = (row.is_eval, conversation(row.example))
        if row.bucket in leave_out:
            report.leave_out(f"bucket {row.bucket}, as asked", row.where)
        elif "is_negative_example" in row.flags:
            report.leave_out(NEGATIVE, row.where)
        elif "never_train" in row.flags and not row.is_eval:
            report.leave_out(NEVER, row.where)
        elif identity in seen and not keep_duplicates:
            report.leave_out(DUPLICATE, row.where)
        else:
            seen.add(identity)
            (test if row.is_eval else train).append(row)
    held = {prompt_of(row.example) for row in test}
    for row in train:
        if prompt_of(row.example) in held:
            report.leave_out(LEAKED, row.where)
    train = [row for row in train if prompt_of(row.example) not in held]
    report.kept = len(train) + len(test)
    return train, test


def conversation(example: Example) -> str:
    """Return the deduplication key of an example: its messages, regardless of the metadata."""
    return _digest([example.messages, example.tools] if example.tools else example.messages)


def prompt_of(example: Example) -> str:
    """Return an example's prompt: its messages before the first answer, white space aside; of bare text, the text."""
    first = next(i for i, message in enumerate(example.messages) if message["role"] == "assistant")
    asked = example.messages[:first] or example.messages
    turns: list[Any] = [(m["role"], " ".join((m.get("content") or "").split())) for m in asked]
    return _digest([*turns, example.tools] if example.tools else turns)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _notes(kept: Sequence[Row]) -> list[str]:
    notes = []
    bare = sum(len(row.example.messages) == 1 for row in kept)
    if bare:
        notes.append(f"{bare} rows are bare text: an assistant's turn without a prompt, learned whole.")
    buckets, answers = defaultdict(set), defaultdict(set)
    for row in kept:
        buckets[prompt_of(row.example)].add(row.bucket)
        answers[prompt_of(row.example)].add(conversation(row.example))
    torn = [prompt for prompt, some in answers.items() if len(some) > 1]
    if torn:
        names = sorted({bucket for prompt in torn for bucket in buckets[prompt]})
        notes.append(
            f"{len(torn)} prompts have different answers (buckets {', '.join(names)}): a model cannot learn both; "
            "leave a bucket of wrong answers out, or mark its rows is_negative_example."
        )
    return notes
