"""Times of the nights, and when the next one is due."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sleep.scheduling.schedule import (
    Schedule,
    installed,
    is_due,
    next_time,
    nominal_times,
    parse_every,
    parse_time,
    read_schedule,
    said_every,
    slug_of,
    write_schedule,
)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone()


def schedule(at="03:00", every="day", place=Path("/a")) -> Schedule:
    return Schedule(place / "adapters" / "agent", place / "sleep.yaml", at, parse_every(every), place)


@pytest.mark.parametrize(
    ("given", "kept", "said"),
    [
        ("day", "day", "every night at 03:00"),
        ("1", "day", "every night at 03:00"),
        ("2", "2", "every 2 nights at 03:00"),
        ("Weekday", "weekday", "every weekday at 03:00"),
        ("weekend", "weekend", "on weekends at 03:00"),
        ("wed, Monday,mon", "mon,wed", "on Mon, Wed at 03:00"),
    ],
)
def test_every(given, kept, said):
    assert parse_every(given) == kept
    assert said_every(schedule(every=given)) == said


@pytest.mark.parametrize("given", ["", "0", "-1", "2.5", "fortnight", "mon,,tue", "1000", "mon\x1b"])
def test_no_days(given):
    with pytest.raises(UserError, match=r"^--every .* there is no day .*; give day, weekday, weekend, .* or a number"):
        parse_every(given)


@pytest.mark.parametrize("given", ["24:00", "3", "03:60", "-1:00", "03:00:00", "", "noon", "٠٣:٠٠x"])
def test_no_time(given):
    with pytest.raises(UserError, match="must be a time such as 03:00"):
        parse_time(given)


def test_a_label_for_each_adapter():
    """Readable, and different for each place: two projects may both have an adapters/agent."""
    one, other = slug_of(Path("/a/adapters/My Agent!")), slug_of(Path("/b/adapters/My Agent!"))
    assert one != other
    assert one.startswith("my-agent-")
    assert one == slug_of(Path("/a/adapters/My Agent!"))
    assert slug_of(Path("/a/адаптер")).startswith("adapter-")
    assert len(slug_of(Path("/a") / ("x" * 200))) < 50


def test_starts_after_midnight_are_the_next_day_s():
    late = schedule("23:30", "sun")
    assert list(late.starts()) == [(6, 23, 30), (0, 0, 30), (0, 1, 30)]


def test_nominal_times():
    def first(four, **given):
        times = nominal_times(schedule(**given), moment("2026-11-27T15:00"))
        return [f"{next(times):%a %d %H:%M}" for _ in range(four)]

    # The 27th is a Friday.
    assert first(3) == ["Sat 28 03:00", "Sun 29 03:00", "Mon 30 03:00"]
    assert first(2, at="16:00") == ["Fri 27 16:00", "Sat 28 16:00"]
    assert first(3, every="weekday") == ["Mon 30 03:00", "Tue 01 03:00", "Wed 02 03:00"]
    assert first(3, every="3") == ["Sat 28 03:00", "Tue 01 03:00", "Fri 04 03:00"]
    assert first(3, every="mon,sat") == ["Sat 28 03:00", "Mon 30 03:00", "Sat 05 03:00"]


def test_the_next_time():
    def due(last, now, **given):
        last = last and moment(f"2026-11-{last}")
        return f"{next_time(schedule(**given), moment('2026-11-20T15:00'), last, moment(f'2026-11-{now}')):%d %H:%M}"

    # Installed in the afternoon: not before the first night.
    assert due(None, "20T15:01") == "21 03:00"
    assert due("20T10:00", "20T15:01") == "21 03:00"
    # The machine was off at night: due until it has happened.
    assert due(None, "21T09:00") == "21 03:00"
    assert due("21T09:00", "21T09:30") == "22 03:00"
    assert due("21T03:07", "25T12:00") == "25 03:00"
    # Every other night, counted from the first.
    assert due("21T03:07", "22T12:00", every="2") == "23 03:00"
    assert due(None, "22T12:00", every="2") == "21 03:00"


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_summer_time():
    """Three o'clock on the wall, before and after the change; half past two on a day that has none, or two."""
    times = nominal_times(schedule(), moment("2026-03-27T15:00"))
    assert [next(times).isoformat() for _ in range(3)] == [
        "2026-03-28T03:00:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T03:00:00+02:00",
    ]
    for since in ("2026-03-27T15:00", "2026-10-23T15:00"):
        times = nominal_times(schedule("02:30"), moment(since))
        found = [next(times) for _ in range(4)]
        assert all(timedelta(hours=22) < after - before < timedelta(hours=26) for before, after in pairwise(found))


def cycle(place, number, started, decision="promoted", guards=(), ended=True, **more):
    directory = place / "adapters" / "agent" / "cycles" / number
    directory.mkdir(parents=True)
    steps = [{"step": "guards", "result": {"guards": [{"name": "power", "ok": ok, "said": ""} for ok in guards]}}]
    content = {"format": 1, "cycle": number, "started": moment(started).isoformat(), "steps": steps}
    content |= {"ended": moment(started).isoformat() if ended else None, "decision": decision, "reason": "", **more}
    (directory / "cycle.json").write_text(json.dumps(content))


@pytest.fixture
def agent(tmp_path):
    """An adapter whose nights were installed on the 20th."""
    made = schedule(place=tmp_path)
    made.name.mkdir(parents=True)
    file = tmp_path / "job.plist"
    file.touch()
    write_schedule(
        made,
        installed=moment("2026-11-20T15:00").isoformat(),
        scheduler="launchd",
        file=str(file),
        rates={"mlx_small": 2.0},
    )
    return made.name


def test_due_by_what_the_last_night_did(agent, tmp_path):
    at_three, at_four = moment("2026-11-21T03:00"), moment("2026-11-21T04:00")
    assert is_due(agent, moment("2026-11-20T23:00")) == (False, "the next night is due at 2026-11-21 03:00")
    assert is_due(agent, at_three) == (True, "this night was due at 2026-11-21 03:00")
    # On battery at three: again at four.
    cycle(tmp_path, "0001", "2026-11-21T03:00:05", "skipped", guards=[True, False])
    assert is_due(agent, at_four)[0]
    # Too few examples at four: not again before the next night.
    cycle(tmp_path, "0002", "2026-11-21T04:00:05", "skipped", guards=[True, True])
    assert not is_due(agent, moment("2026-11-21T05:00"))[0]
    # Cut in the middle: resumed.
    cycle(tmp_path, "0003", "2026-11-22T03:00:05", None, ended=False)
    assert is_due(agent, moment("2026-11-22T09:00"))[0]
    for torn in ('{"torn', "[]", '{"started": 7}', '{"started": "2026-11-22T09:00", "ended": "x", "steps": [7]}'):
        (agent / "cycles" / "0003" / "cycle.json").write_text(torn)
        assert is_due(agent, moment("2026-11-22T09:00"))[0]
    cycle(tmp_path, "0004", "2026-11-22T09:00:05", "failed")
    assert is_due(agent, moment("2026-11-22T09:30")) == (False, "the next night is due at 2026-11-23 03:00")


def test_a_clock_that_was_set_back(agent, tmp_path):
    """A night dated a year ahead does not put off the next one by a year."""
    cycle(tmp_path, "0001", "2027-11-21T03:00:05")
    assert is_due(agent, moment("2026-11-25T03:00"))[0]
    # An hour: this night has been.
    cycle(tmp_path, "0002", "2026-11-25T03:30")
    assert not is_due(agent, moment("2026-11-25T03:01"))[0]


def test_installed(agent):
    found = installed(agent, moment("2026-11-21T02:00"))
    assert found["next_due"] == moment("2026-11-21T03:00").isoformat(timespec="minutes")
    assert (found["at"], found["every"], found["scheduler"]) == ("03:00", "day", "launchd")
    assert found["rates"] == {"mlx_small": 2.0}
    Path(found["file"]).unlink()
    assert installed(agent) is None


def test_nothing_is_installed(tmp_path):
    assert installed(tmp_path) is None
    assert is_due(tmp_path)[0]


@pytest.mark.parametrize(
    "change",
    [{"installed": "yesterday"}, {"installed": None}, {"at": "25:00"}, {"every": "never"}, {"name": 7}, {"format": 99}],
)
def test_a_schedule_that_is_none(agent, change):
    file = agent / "schedule.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f"^{file}: this "):
        read_schedule(agent)
    for content in ("", "[]", "7", '{"at": "03:00"}'):
        file.write_text(content)
        with pytest.raises(UserError, match=f"^{file}: this is not a schedule"):
            installed(agent)


def test_a_path_that_no_scheduler_takes():
    with pytest.raises(UserError, match="control characters"):
        schedule(place=Path("/a\nExecStart=rm"))
