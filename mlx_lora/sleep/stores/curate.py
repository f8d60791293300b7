"""Curation of a night's rows: what can be learned, each once, no pattern too often, and a part that judges."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.checks import CHECKS, DataFinding, Table
from ...data.checks.base import run_check
from ...data.checks.cleaning import left_out
from ...data.checks.dataset_table import Item
from ...data.dataset import Example
from ...data.dedup import NearDuplicates
from ...data.formats import DataRow
from ...data.patterns import pattern_limit
from ...data.split import place_of
from ...sources.salience.filters import TRIMMED
from .reading import HELD_OUT_MARK, LeftOut, Row, add_name, digest, question_of, row_name

# A night of so many rows has at least so many that judge, where its groups permit.
SMALL_NIGHT, FEWEST_HELD_OUT = 10, 2
# No more than this share of a night is held out by hash, whatever the sizes of its groups.
MOST_HELD_OUT = 0.5
NO_WEIGHT = "its weight is 0, so that nothing of it would be learned"
TOO_OFTEN = "too many rows of one prompt"
SAME_ANSWER = "nearly the same answer as a row of another store, or of an earlier night"
ASKED = "its prompt is that of a row that judges"


@dataclass
class Curated:
    """The examples of a night.

    Attributes:
        train, valid: those that train, and those that judge and never train.
        left_out, changed: rows by store and reason; each name begins with the row's id.
        notes: sentences for the report.
    """

    train: list[Example] = field(default_factory=list)
    valid: list[Example] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    changed: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _NightRow(DataRow):
    """A row as the checks read it: its id is its place."""

    name: str = ""

    @property
    def where(self) -> str:
        """The row's id."""
        return self.name


def curate(
    rows: Sequence[Row],
    *,
    held_out: float,
    pattern_share: float,
    known: Mapping[str, bool],
    earlier: Sequence[Example] = (),
    tokenizer: Any = None,
    max_seq_length: int = 512,
) -> Curated:
    """Choose the rows of a night that train and that judge; every other one is named.

    Args:
        held_out: share of the groups that judge.
        pattern_share: largest share of the rows that one prompt may have.
        known: a row's id, or its ``sleep_group``, → True if it was held out in an earlier night, False if it trained.
        earlier: examples of earlier nights; a row that nearly repeats one of them is left out.
        tokenizer, max_seq_length: of the base; rows that training would refuse are left out here.
    """
    curated = Curated()
    ordered = sorted(rows, key=lambda row: row.id not in known)
    ordered = _without_faults(ordered, earlier, tokenizer, max_seq_length, curated)
    ordered = _capped(ordered, pattern_share, curated)
    sides = _sides(ordered, held_out, known, curated)
    ordered = _without_leaks(ordered, sides, curated)
    for row in ordered:
        (curated.valid if sides[row.id] else curated.train).append(row.example)
        if cut := row.example.meta.get("trimmed"):
            add_name(curated.changed, row.store, TRIMMED, f"{row.id} ({cut} characters)")
    curated.notes += _warnings(ordered, sides, tokenizer, max_seq_length)
    return curated


def _leave_out(curated: Curated, row: Row, reason: str, why: str = "") -> None:
    name = row_name(row.id, row.example) if not why else why if why.startswith(row.id) else f"{row.id}: {why}"
    add_name(curated.left_out, row.store, reason, name)


def _owner_side(example: Example) -> bool | None:
    """Return True for a row that its owner holds out, False for one of a dataset that is split already, else None."""
    meta = example.meta
    if str(meta.get("is_eval")).lower() in ("true", "yes", "1") or "eval" in (
        meta.get("task_type"),
        meta.get("bucket"),
    ):
        return True
    side = meta.get(HELD_OUT_MARK)
    return side if isinstance(side, bool) else None


def _judges_only(example: Example) -> bool:
    return _owner_side(example) is True


def _item(name: str, example: Example, held_out: bool) -> Item:
    row = _NightRow(
        file="",
        line=0,
        messages=example.messages,
        meta=example.meta,
        weight=example.weight,
        spans=example.spans,
        tools=example.tools,
        template_kwargs=example.template_kwargs,
        name=name,
    )
    return Item(row, "valid" if held_out else "train")


def _run(table: Table, names: Sequence[str] = (), severity: str = "error", slow: bool = True) -> list[DataFinding]:
    """Return the findings of the checks of one severity, or of those that are named."""
    given = {"": True, "base": table.tokenizer is not None, "plan": False}
    checks = [check for check in CHECKS if given[check.needs] and (slow or not check.slow)]
    chosen = [check for check in checks if (check.name in names if names else check.severity == severity)]
    return [finding for check in chosen if (finding := run_check(check, table))]


def _without_faults(
    rows: Sequence[Row], earlier: Sequence[Example], tokenizer: Any, max_seq_length: int, curated: Curated
) -> list[Row]:
    """Leave out the rows that stop training, those without a weight, and copies and near copies."""
    weighted = []
    for row in rows:
        if row.example.weight > 0:
            weighted.append(row)
        else:
            _leave_out(curated, row, NO_WEIGHT)
    ids = {row.id for row in weighted}
    others = [example for example in earlier if example.meta.get("sleep_id") not in ids]
    items = {row.id: _item(row.id, row.example, _judges_only(row.example)) for row in weighted}
    table = Table(list(items.values()), tokenizer=tokenizer, max_seq_length=max_seq_length)
    before = [
        _item(f"{example.meta.get('sleep_id', 'a row')} of an earlier night", example, False) for example in others
    ]
    findings = _run(table)
    curated.notes += [_note(finding) for finding in findings if not any(hit.drop for hit in finding.hits)]
    means = {check.name: check.means for check in CHECKS}
    dropped = {id(item): (means[check], why) for item, check, why in left_out(table, findings, before)}
    kept = []
    for row in weighted:
        if fault := dropped.get(id(items[row.id])):
            _leave_out(curated, row, *fault)
        else:
            kept.append(row)
    return _without_said(kept, others, curated)


def learnable(examples: Sequence[Example], tokenizer: Any, max_seq_length: int) -> list[bool]:
    """Return False for each example that would stop training by an error of the dataset checks."""
    items = [_item(str(number), example, False) for number, example in enumerate(examples)]
    table = Table(items, tokenizer=tokenizer, max_seq_length=max_seq_length)
    errors = [finding for finding in _run(table) if finding.check != "mostly_copies"]
    faulty = {id(item) for finding in errors for hit in finding.hits for item in hit.drop}
    return [id(item) not in faulty for item in items]


def _without_said(rows: Sequence[Row], earlier: Sequence[Example], curated: Curated) -> list[Row]:
    """Leave out experiences whose answer a row of another store or night nearly has; its own store was looked at."""
    said = NearDuplicates()
    said.add_all([("", example.messages[-1].get("content") or "") for example in earlier if _is_said(example)])
    experiences = [row for row in rows if _is_said(row.example)]
    twins = said.add_all([(row.store, row.example.messages[-1].get("content") or "") for row in experiences])
    again = {row.id for row, twin in zip(experiences, twins, strict=True) if twin is not None and twin != row.store}
    for row in rows:
        if row.id in again:
            _leave_out(curated, row, SAME_ANSWER)
    return [row for row in rows if row.id not in again]


def _is_said(example: Example) -> bool:
    return "experience_id" in example.meta


def _capped(rows: Sequence[Row], share: float, curated: Curated) -> list[Row]:
    """Leave out the rows of a prompt beyond its share; those that come first stay."""

    def pattern(row: Row) -> str:
        # Numbers are what a trajectory says, so that only prompts of experiences count as the same without them.
        question = question_of(row.example)
        return row.group if _is_said(row.example) else digest(question) if question.strip() else row.id

    counted = [row for row in rows if not _judges_only(row.example)]
    most, reached = pattern_limit(Counter(map(pattern, counted)), share)
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        if not _judges_only(row.example):
            seen[pattern(row)] += 1
            if seen[pattern(row)] > most:
                _leave_out(curated, row, TOO_OFTEN)
                continue
        kept.append(row)
    if not reached and len(kept) < len(rows):
        curated.notes.append(
            f"With so few different prompts, {share:.0%} of the rows from one prompt cannot be reached: at most {most} "
            "of each were kept."
        )
    return kept


def _sides(rows: Sequence[Row], held_out: float, known: Mapping[str, bool], curated: Curated) -> dict[str, bool]:
    """Return id → True for the rows that judge: as in earlier nights, as their owner says, else by the group's hash."""
    groups: dict[str, list[Row]] = defaultdict(list)
    sides: dict[str, bool] = {}
    for row in rows:
        groups[row.group].append(row)
        if row.id in known:
            sides[row.id] = known[row.id]
        elif (side := _owner_side(row.example)) is not None:
            sides[row.id] = side
    free: dict[str, list[Row]] = {}
    for group, members in groups.items():
        new = [row for row in members if row.id not in sides]
        decided = [sides[row.id] for row in members if row.id in sides]
        side = known.get(digest(group), any(decided) if decided else None)
        if side is None:
            free[group] = new
        else:
            sides |= dict.fromkeys((row.id for row in new), side)
    held = sum(sides.values())
    fewest = max(FEWEST_HELD_OUT, math.ceil(held_out * len(rows) - 1e-9))
    short = False
    for place, group in sorted((place_of(group), group) for group in free):
        # Where the hash alone would hold out none of a night, the lowest ones do.
        short = short or (place >= held_out and not held and len(rows) >= SMALL_NIGHT)
        judges = place < held_out or (short and held < fewest)
        judges = judges and held + len(free[group]) <= MOST_HELD_OUT * len(rows)
        sides |= dict.fromkeys((row.id for row in free[group]), judges)
        held += judges * len(free[group])
    if not held and len(rows) >= SMALL_NIGHT:
        curated.notes.append(
            f"None of the {len(rows)} rows judges: they trained before, or are of too few groups to hold one out."
        )
    return sides


def _without_leaks(rows: Sequence[Row], sides: Mapping[str, bool], curated: Curated) -> list[Row]:
    """Leave out rows that train and have the prompt of one that judges, as two stores can have it."""
    items = {row.id: _item(row.id, row.example, sides[row.id]) for row in rows}
    leaks = ("leaked_rows", "leaked_prompts")
    dropped = {
        id(item): hit.said
        for finding in _run(Table(list(items.values())), leaks)
        for hit in finding.hits
        for item in hit.drop
    }
    kept = []
    for row in rows:
        if why := dropped.get(id(items[row.id])):
            _leave_out(curated, row, ASKED, f"{row.id}: {why}")
        else:
            kept.append(row)
    return kept


def _warnings(rows: Sequence[Row], sides: Mapping[str, bool], tokenizer: Any, max_seq_length: int) -> list[str]:
    items = [_item(row.id, row.example, sides[row.id]) for row in rows]
    table = Table(items, tokenizer=tokenizer, max_seq_length=max_seq_length)
    return [_note(finding) for finding in _run(table, severity="warning", slow=False)]


def _note(finding: DataFinding) -> str:
    return f"{finding.count} × {finding.means} (check {finding.check}), the first: {finding.examples[0]}."
