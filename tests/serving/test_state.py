"""The server's database."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_lora.errors import UserError
from mlx_lora.serving.records import Job, NewEvent, UploadedFile, new_id
from mlx_lora.serving.state import DATABASE, State


@pytest.fixture
def state(tmp_path):
    opened = State(tmp_path)
    yield opened
    opened.close()


def make_job(**changes) -> Job:
    return Job(new_id("ftjob"), "fine_tuning", "builtin/tiny-lumen", {}, {}, "file-1", **changes)


def test_records_come_back_as_they_were(state, tmp_path):
    file = UploadedFile(new_id("file"), "Zeilen ☂ <b>.jsonl", 12, "fine-tune", "ab")
    job = make_job(metadata={"ü": "☂"}, progress={"step": 3})
    state.add_file(file)
    state.add_job(job, [NewEvent("created", "created")])
    state.close()
    again = State(tmp_path)
    assert again.list_files() == [file]
    assert again.find_file(file.id) == file
    assert again.find_job(job.id) == job
    assert [event.message for event in again.list_events(job.id)] == ["created"]
    assert again.delete_file(file.id)
    assert not again.delete_file(file.id)
    assert again.find_file(file.id) is None
    again.close()


def test_jobs_by_status_and_in_the_order_they_came(state):
    jobs = [make_job(status=status) for status in ("queued", "running", "queued", "paused")]
    for job in jobs:
        state.add_job(job)
    assert [job.id for job in state.list_jobs()] == [job.id for job in jobs]
    assert state.job_ids("queued") == [jobs[0].id, jobs[2].id]
    assert [job.id for job in state.list_jobs(["paused", "queued"], limit=2)] == [jobs[0].id, jobs[2].id]
    assert state.count_jobs(["queued", "running"]) == 3
    assert state.update_job(jobs[0].id, ["running"], [NewEvent("no")], status="failed") is None
    assert state.list_events(jobs[0].id) == []
    assert state.update_job("ftjob-none", status="failed") is None
    changed = state.update_job(jobs[0].id, ["queued"], [NewEvent("yes")], status="running", attempts=2)
    assert (changed.status, changed.attempts) == ("running", 2)
    assert state.find_job(jobs[0].id) == changed
    assert state.job_ids("queued") == [jobs[2].id]
    assert [event.message for event in state.list_events(jobs[0].id)] == ["yes"]


def test_an_event_of_a_key_is_recorded_once(state):
    job = make_job()
    state.add_job(job)
    assert state.add_events(job.id, [NewEvent("step 1", "progress:1", data={"step": 1}, created_at=5.0)]) == 1
    assert state.add_events(job.id, [NewEvent("step 1 again", "progress:1", data={"step": 1})]) == 0
    assert state.add_events("ftjob-other", [NewEvent("step 1", "progress:1")]) == 1
    assert state.add_events(job.id, [NewEvent("step 1", "progress:1"), NewEvent("step 2", "progress:2", "warn")]) == 1
    first, second = state.list_events(job.id)
    assert (first.type, first.message, first.data, first.created_at) == ("metrics", "step 1", {"step": 1}, 5.0)
    assert (second.type, second.level, second.data) == ("message", "warn", {})
    assert second.sequence > first.sequence
    assert state.list_events(job.id, after=first.sequence) == [second]
    assert state.list_events(job.id, limit=1) == [first]


def test_from_many_threads(state):
    job = make_job()
    state.add_job(job)

    def work(number):
        state.add_events(job.id, [NewEvent(str(number), str(number % 50))])
        state.update_job(job.id, progress={"step": number})
        return state.find_job(job.id).progress["step"] in range(200)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(200)))
    assert len(state.list_events(job.id)) == 50


def test_a_full_disk_changes_nothing_and_is_an_error_of_the_system(state):
    job = make_job()
    state.add_job(job)
    pages = state._connection.execute("PRAGMA page_count").fetchone()[0]
    state._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(OSError, match="No space") as caught:
        state.update_job(job.id, events=[NewEvent("x" * 100_000)], status="running")
    assert caught.value.errno == errno.ENOSPC
    assert state.find_job(job.id).status == "validating_files"
    assert state.list_events(job.id) == []
    state._connection.execute("PRAGMA max_page_count=1000000")
    assert state.update_job(job.id, events=[NewEvent("x" * 100_000)], status="running").status == "running"


def test_keys_of_later_versions_are_ignored(state):
    job = make_job()
    state.add_job(job)
    content = json.loads(state._connection.execute("SELECT content FROM jobs").fetchone()[0])
    state._connection.execute("UPDATE jobs SET content = ?", (json.dumps({**content, "later": 1}),))
    assert state.find_job(job.id) == job


def test_what_is_no_database_or_of_a_later_version_is_a_sentence_and_stays(tmp_path):
    (tmp_path / DATABASE).write_text("a year's work, and more than a hundred bytes of it " * 9)
    with pytest.raises(UserError, match=r"state\.db: this database cannot be opened"):
        State(tmp_path)
    assert (tmp_path / DATABASE).read_text().startswith("a year's work")
    later = tmp_path / "later"
    State(later).close()
    with sqlite3.connect(later / DATABASE) as connection:
        connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(UserError, match="later version"):
        State(later)


def test_a_request_that_reads_does_not_wait_for_another_that_writes(tmp_path):
    state = State(tmp_path)
    found = []
    reader = threading.Thread(target=lambda: found.append(state.list_jobs()))
    with state._transaction():
        reader.start()
        reader.join(30)
        assert found == [[]]
    state.close()
