"""Reader of Lumen's SQLite database: read-only, safe while Lumen writes to it."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...data.import_report import ImportReport, NothingLeft
from ...errors import UserError, shortened
from .synthetic import trajectory_record

STATE_COLUMNS = ("warmth", "clarity", "stability", "presence")
# Rows per read lock: between pages Lumen can write, even without a write-ahead log.
PAGE = 10_000
LOCK_TIMEOUT_S = 5.0

Row = dict[str, Any]


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def anima_to_eisv(warmth: float, clarity: float, stability: float, presence: float) -> dict[str, float]:
    """Map to E = warmth, I = clarity, S = 1 − stability, V = 0.3·(1 − presence), each clamped to [0, 1]."""
    return {"E": _unit(warmth), "I": _unit(clarity), "S": _unit(1 - stability), "V": _unit((1 - presence) * 0.3)}


def parse_timestamp(value: Any) -> float:
    """Return seconds since the epoch from ISO-8601 text (no zone = UTC) or an epoch number.

    Raises:
        ValueError: neither of the two.
    """
    if value is None or isinstance(value, bool):
        raise ValueError(f"{shortened(value)} is not a timestamp")
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        moment = datetime.fromisoformat(str(value).strip())
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError(f"{shortened(value)} is not a timestamp")
    return seconds


def _rows(db_path: str | Path, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield all rows of a table, ``(rowid, *columns)`` by rowid, in pages that each hold the read lock briefly."""
    path = Path(db_path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such database file; give the path of Lumen's anima.db")
    query = f"SELECT rowid, {', '.join(columns)} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {PAGE}"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_S)
        try:
            last = -(2**63)
            while page := connection.execute(query, (last,)).fetchall():
                yield from page
                last = page[-1][0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise UserError(f"{path}: {_explain(error, table)}") from error


def _explain(error: sqlite3.Error, table: str) -> str:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return f"this is not an intact SQLite database ({text}); give the path of Lumen's anima.db"
    if "no such table" in text:
        return f"it has no table {table}; give the path of Lumen's anima.db"
    if "no such column" in text:
        return f"its table {table} has {text.replace('no such column', 'no column')}; is this Lumen's anima.db?"
    if "locked" in text or "busy" in text:
        return f"another program has locked it for over {LOCK_TIMEOUT_S:.0f} seconds; try again when that is done"
    return f"SQLite cannot read it ({text}); check the file's permissions and that the disk is readable"


def _time_of(db_path: str | Path, table: str, row: tuple[Any, ...]) -> float:
    try:
        return parse_timestamp(row[1])
    except (ValueError, OverflowError):
        raise UserError(
            f"{db_path}: row {row[0]} of {table} has the timestamp {shortened(row[1])}, "
            "which is neither ISO-8601 nor an epoch number; correct or remove that row"
        ) from None


def _by_time(db_path: str | Path, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    timed = [(_time_of(db_path, table, row), row) for row in _rows(db_path, table, ("timestamp", *columns))]
    timed.sort(key=lambda pair: pair[0])
    return [row for _, row in timed]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def read_eisv_series(
    db_path: str | Path, *, skip_invalid: bool = False, report: ImportReport | None = None
) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Read all states as ``{"t", "E", "I", "S", "V"}`` by ascending t, and counts of irregular ones.

    A database of 214,503 states takes seconds and some 150 MB.

    Args:
        skip_invalid: leave out states with a non-finite or non-numeric value or time instead of raising.
        report: counts the states read, and names those left out.

    Returns:
        The series, and counts: states, skipped, out_of_order, equal_times.

    Raises:
        UserError: not a SQLite database, no such table, locked, empty, or a state that is not a number.
    """
    table = "state_history"
    series: list[dict[str, float]] = []
    notes = dict.fromkeys(("states", "skipped", "out_of_order", "equal_times"), 0)
    for row in _rows(db_path, table, ("timestamp", *STATE_COLUMNS)):
        values = row[2:]
        if not all(map(_is_number, values)):
            if not skip_invalid:
                name = next(n for n, v in zip(STATE_COLUMNS, values, strict=True) if not _is_number(v))
                raise UserError(
                    f"{db_path}: row {row[0]} of {table} has no finite number for {name}; "
                    "correct it, or leave such states out with --skip-invalid"
                )
            notes["skipped"] += 1
            if report is not None:
                report.leave_out("state that holds no finite number", f"{db_path}: row {row[0]} of {table}")
            continue
        try:
            t = _time_of(db_path, table, row)
        except UserError:
            if not skip_invalid:
                raise
            notes["skipped"] += 1
            if report is not None:
                report.leave_out("state without a readable time", f"{db_path}: row {row[0]} of {table}")
            continue
        if series:
            notes["out_of_order"] += t < series[-1]["t"]
        series.append({"t": t, **anima_to_eisv(*values)})
    series.sort(key=lambda state: state["t"])
    notes["states"] = len(series)
    if report is not None:
        report.read += notes["states"] + notes["skipped"]
    notes["equal_times"] = sum(a["t"] == b["t"] for a, b in pairwise(series))
    if not series:
        said = f"{db_path}: its table {table} holds no usable state; let Lumen run for a while first"
        raise NothingLeft(said, report or ImportReport("eisv"))
    if len(series) > 1 and series[0]["t"] == series[-1]["t"]:
        raise UserError(
            f"{db_path}: all {len(series)} states in {table} carry the same time, so nothing can be "
            "learned about change; check how the timestamps are written"
        )
    return series, notes


def extract_state_history(db_path: str | Path, *, compute_eisv: bool = False, limit: int | None = None) -> list[Row]:
    """Read the rows of ``state_history`` as dicts by ascending timestamp, ``sensors`` parsed.

    Raises:
        UserError: no SQLite database, no such table, locked, or an unreadable timestamp.
    """
    columns = (*STATE_COLUMNS, "sensors")
    out = []
    for row in _by_time(db_path, "state_history", columns)[:limit]:
        record: Row = {"id": row[0], "timestamp": row[1], **dict(zip(columns, row[2:], strict=True))}
        record["sensors"] = _json_object(record["sensors"]) or {}
        if compute_eisv:
            _check_states(db_path, record)
            record["eisv"] = anima_to_eisv(*(record[name] for name in STATE_COLUMNS))
        out.append(record)
    return out


def _check_states(where: str | Path, row: Mapping[str, Any]) -> None:
    for name in STATE_COLUMNS:
        if not _is_number(row[name]):
            raise UserError(
                f"{where}: row {row.get('id')} of state_history has no finite number for {name}; correct it"
            )


def _json_object(text: Any) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _signals(feedback: str | None) -> dict[str, Any]:
    """Parse feedback from JSON (a list under ``signals``), or into its comma-separated parts."""
    try:
        value = json.loads(feedback or "")
    except ValueError:
        return {"signals": _csv(feedback)}
    return value if isinstance(value, dict) else {"signals": value if isinstance(value, list) else [value]}


def _csv(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def extract_primitive_history(
    db_path: str | Path, *, min_score: float | None = None, limit: int | None = None
) -> list[Row]:
    """Read the rows of ``primitive_history`` by ascending timestamp: tokens, state at the time, score, feedback.

    Raises:
        UserError: no SQLite database, no such table, locked, or an unreadable timestamp.
    """
    state = ("warmth", "brightness", "stability", "presence")
    rows = _by_time(db_path, "primitive_history", ("tokens", "category_pattern", *state, "score", "feedback_signals"))
    out = []
    for identity, timestamp, tokens, pattern, *rest in rows:
        *values, score, feedback = rest
        if min_score is not None and (score is None or score < min_score):
            continue
        out.append(
            {
                "id": identity,
                "timestamp": timestamp,
                "tokens": _csv(tokens),
                "category_pattern": _csv(pattern),
                "state_at_generation": dict(zip(state, values, strict=True)),
                "score": score,
                "feedback_signals": _signals(feedback),
            }
        )
    return out[:limit]


def states_to_eisv_series(states: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Convert rows of :func:`extract_state_history` to ``{"t", "E", "I", "S", "V"}`` by ascending t."""
    series = []
    for state in states:
        if not state.get("eisv"):
            _check_states("states", state)
        eisv = state.get("eisv") or anima_to_eisv(*(state[name] for name in STATE_COLUMNS))
        series.append({"t": parse_timestamp(state["timestamp"]), **eisv})
    return sorted(series, key=lambda state: state["t"])


def iter_trajectory_records(
    series: Sequence[dict[str, float]], window_size: int = 10, stride: int = 5
) -> Iterator[dict[str, Any]]:
    """Yield the records of :func:`build_trajectory_records`, one at a time."""
    if window_size < 2 or stride < 1:
        raise ValueError(f"window_size {window_size} must be at least 2 and stride {stride} at least 1")
    for start in range(0, len(series) - window_size + 1, stride):
        yield trajectory_record(list(series[start : start + window_size]), "lumen_real")


def build_trajectory_records(
    series: Sequence[dict[str, float]], window_size: int = 10, stride: int = 5
) -> list[dict[str, Any]]:
    """Return the windows of a series as records with shape, states, differences, t_start, t_end and provenance."""
    return list(iter_trajectory_records(series, window_size, stride))


def align_expressions_to_trajectories(
    records: Iterable[Mapping[str, Any]], expressions: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Add to each record the ``"expressions"`` said between its t_start and t_end (both included)."""
    timed = [(parse_timestamp(e["timestamp"]), e) for e in expressions]
    return [
        {**record, "expressions": [e for t, e in timed if record["t_start"] <= t <= record["t_end"]]}
        for record in records
    ]


def assemble_dataset(
    state_records: Iterable[Mapping[str, Any]],
    expression_records: Sequence[Mapping[str, Any]] | None = None,
    window_size: int = 10,
    stride: int = 5,
) -> list[dict[str, Any]]:
    """Convert rows of the two tables to aligned trajectory records."""
    records = build_trajectory_records(states_to_eisv_series(state_records), window_size, stride)
    return align_expressions_to_trajectories(records, expression_records or [])
