import sqlite3
import subprocess
import sys

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sources.eisv import (
    align_expressions_to_trajectories,
    anima_to_eisv,
    assemble_dataset,
    build_trajectory_records,
    extract_primitive_history,
    extract_state_history,
    read_eisv_series,
    states_to_eisv_series,
)
from mlx_lora.sources.eisv.anima_db import parse_timestamp


def drifting(count, start=1_700_000_000):
    return [(str(start + 2 * i), 0.5 + 0.001 * (i % 7), 0.8, 0.9, 0.7) for i in range(count)]


def test_anima_to_eisv():
    assert anima_to_eisv(0.6, 0.7, 0.9, 0.5) == {"E": 0.6, "I": 0.7, "S": pytest.approx(0.1), "V": pytest.approx(0.15)}
    assert anima_to_eisv(1.4, -1, 2, -9) == {"E": 1, "I": 0, "S": 0, "V": 1}


@pytest.mark.parametrize(
    "text", ["2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "2026-01-01T02:00:00+02:00", 1767225600, "1767225600.0"]
)
def test_timestamps(text):
    assert parse_timestamp(text) == 1767225600


def test_state_history(anima):
    db = anima([("2026-01-01T00:00:04", 0.5, 0.6, 0.7, 0.8), ("2026-01-01T00:00:00Z", 0.1, 0.2, 0.3, 0.4)])
    rows = extract_state_history(db, compute_eisv=True)
    assert [r["id"] for r in rows] == [2, 1]
    assert rows[0]["sensors"] == {"light": 3}
    assert rows[0]["eisv"]["E"] == 0.1
    assert "eisv" not in extract_state_history(db, limit=1)[0]
    assert len(extract_state_history(db, limit=1)) == 1
    assert [s["E"] for s in states_to_eisv_series(reversed(rows))] == [0.1, 0.5]


def test_primitive_history(anima):
    db = anima(
        [],
        [
            ("2026-01-01T00:00:09", "warm, feel", "a,b", 0.9, '{"touch": 1}'),
            ("2026-01-01T00:00:01", "why", "", 0.2, "seen, heard"),
            ("2026-01-01T00:00:02", "you", "c", None, None),
        ],
    )
    rows = extract_primitive_history(db)
    assert [r["tokens"] for r in rows] == [["why"], ["you"], ["warm", "feel"]]
    assert rows[0]["feedback_signals"] == {"signals": ["seen", "heard"]}
    assert rows[1]["feedback_signals"] == {"signals": []}
    assert rows[2]["feedback_signals"] == {"touch": 1}
    assert rows[2]["state_at_generation"] == {"warmth": 0.5, "brightness": 0.4, "stability": 0.3, "presence": 0.2}
    assert [r["score"] for r in extract_primitive_history(db, min_score=0.5)] == [0.9]
    assert len(extract_primitive_history(db, limit=2)) == 2


def test_records_and_their_expressions(anima):
    db = anima(drifting(23), [("1700000010", "warm", "", 0.5, None), ("1700000100", "why", "", 0.5, None)])
    series = states_to_eisv_series(extract_state_history(db))
    records = build_trajectory_records(series)
    assert [r["t_start"] - 1_700_000_000 for r in records] == [0, 10, 20]
    assert records[0]["provenance"] == "lumen_real"
    assert records[0]["shape"] == "convergence"
    assert len(records[0]["states"]) == 10
    aligned = align_expressions_to_trajectories(records, extract_primitive_history(db))
    assert [len(r["expressions"]) for r in aligned] == [1, 1, 0]
    assert assemble_dataset(extract_state_history(db), extract_primitive_history(db)) == aligned
    assert [r["expressions"] for r in assemble_dataset(extract_state_history(db))] == [[], [], []]
    with pytest.raises(ValueError, match="stride"):
        build_trajectory_records(series, 10, 0)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_reading_while_lumen_writes(anima, journal):
    db = anima(drifting(25_000))
    writer = sqlite3.connect(db, timeout=0)
    writer.execute(f"PRAGMA journal_mode={journal}")
    insert = (
        "INSERT INTO state_history (timestamp, warmth, clarity, stability, presence) VALUES (?, 0.5, 0.5, 0.5, 0.5)"
    )
    writer.execute("BEGIN")
    writer.execute(insert, ("1800000000",))  # written, not committed: readers go on
    series, notes = read_eisv_series(db)
    assert len(series) == notes["states"] == 25_000
    writer.commit()
    # A reader in the middle of the table holds no lock that would keep Lumen from writing.
    from mlx_lora.sources.eisv.anima_db import _rows

    rows = _rows(db, "state_history", ("timestamp",))
    next(rows)
    writer.execute(insert, ("1800000002",))
    writer.commit()
    assert sum(1 for _ in rows) == 25_001
    writer.close()


@pytest.mark.slow
def test_a_database_of_214503_states_takes_little_memory(anima, tmp_path):
    db = anima(drifting(214_503))
    code = (
        "import pathlib, re, resource, sys\n"
        "from mlx_lora.sources.eisv import make_eisv_dataset\n"
        "print(make_eisv_dataset(sys.argv[2], anima_db=sys.argv[1])['counts']['real'])\n"
        # Linux counts the parent's memory, from before exec, in ru_maxrss; not so in VmHWM.
        "status = pathlib.Path('/proc/self/status')\n"
        "own = re.search(r'VmHWM:\\s+(\\d+)', status.read_text()) if status.exists() else None\n"
        "print(own[1] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(db), str(tmp_path / "out")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    real, peak = map(int, done.stdout.split())
    assert real == 42_899
    assert 20_000 < peak < 500_000


def test_notes_on_order_and_equal_times(anima):
    db = anima([("10", 0.5, 0.5, 0.5, 0.5), ("4", 0.5, 0.5, 0.5, 0.5), ("10", 0.6, 0.5, 0.5, 0.5)])
    series, notes = read_eisv_series(db)
    assert [s["t"] for s in series] == [4, 10, 10]
    assert notes == {"states": 3, "skipped": 0, "out_of_order": 1, "equal_times": 1}


def test_states_without_numbers(anima):
    good = ("1", 0.5, 0.5, 0.5, 0.5)
    for bad in (float("nan"), None, "warm", float("inf")):
        db = anima([good, ("2", 0.5, bad, 0.5, 0.5)], name=f"{bad}.db")
        with pytest.raises(UserError, match=r"row 2 .* clarity"):
            read_eisv_series(db)
        assert read_eisv_series(db, skip_invalid=True)[1]["skipped"] == 1
    with pytest.raises(UserError, match=r"row 1 .*timestamp"):
        read_eisv_series(anima([("yesterday", 0.5, 0.5, 0.5, 0.5)], name="t.db"))
