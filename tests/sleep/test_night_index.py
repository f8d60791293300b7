"""Nights with an index: facts are looked up, what was learned moves to history, and a kill changes nothing."""

from __future__ import annotations

import html
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_nights import SHAPES, night, run, settings, write_config, write_store

from mlx_lora.data.dataset import SPLITS, Example, read_split
from mlx_lora.errors import UserError
from mlx_lora.files import DIRECTORY_LOCK, file_lock
from mlx_lora.retrieval import minilm
from mlx_lora.retrieval.index import Index
from mlx_lora.runs.generations import Generations
from mlx_lora.sleep import cycle
from mlx_lora.sleep.config import sleep_config
from mlx_lora.sleep.record import read_cycles
from mlx_lora.sleep.rehearsal import rehearse
from mlx_lora.sleep.status import status_of
from mlx_lora.sleep.stores.lookup import FORBIDDEN, LIKELY, MARKED, PERSONAL, REFUSED

KILLED = Path(__file__).parent.parent / "training" / "killed.py"
SECRET = "Zx81kQ0vT7pLm4WcR2sD"
# Runs a night, and is killed after the work of a step, before it is recorded.
DYING = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
from small_nights import run
from mlx_lora.sleep import cycle
from mlx_lora.sleep.record import CycleRecord
save = CycleRecord.save
def dying(record):
    if record.result(sys.argv[2]) is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    save(record)
CycleRecord.save = dying
cycle.rates_tonight = lambda then, limit: {}
run(json.loads(sys.argv[3]))
"""


@pytest.fixture(autouse=True)
def model():
    """The embedding model; skips where its package is not installed."""
    try:
        minilm.model_directory()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_probe(monkeypatch):
    """Nights without the probe of the machine's speed, which takes longer than an index."""
    monkeypatch.setattr(cycle, "rates_tonight", lambda then, limit: {})


@pytest.fixture
def place(tmp_path):
    return tmp_path / "index"


def said(prompt, answer, **meta):
    return Example([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], meta=meta)


def facts():
    """Rows of a day: nine that look like facts, and one of each other kind."""
    rows = [said(f"On which port does the server {name} listen?", f"On {8000 + n}.") for n, name in enumerate(NAMES)]
    return [
        *rows,
        said("Who feeds the cat?", "Mira does, before breakfast.", verbatim=True),
        said("Whom do I ask about the lamp?", "Ask mira@lumen.io about it."),
        said("How does the deployment sign in?", f"With password = '{SECRET}'"),
        said("How is the evening?", "Quiet and a little warm."),
    ]


NAMES = ("oak", "elm", "ash", "fir", "yew", "bay", "box", "fig", "may")


def indexed_night(name, store, place, **changes):
    return settings(name, [store], min_new=10, index={"path": str(place), "facts": "likely"}, **changes)


def documents(place):
    """(document, collection, batch) of each document, and how many chunks there are."""
    with Index.open(place, readonly=True) as index:
        listed = index.list()
    rows = sorted((each.document, each.collection, each.metadata["training_batch"]) for each in listed)
    return rows, sum(each.chunks for each in listed)


def collections(place):
    return [collection for _, collection, _ in documents(place)[0]]


def test_facts_are_indexed_and_not_new_again(name, tmp_path, place, no_probe):
    store = write_store(tmp_path / "day", facts())
    content = indexed_night(name, store, place)
    ended = run(content)
    assert ended.summary["reason"] == "1 new examples that can be learned, 10 are needed; 11 indexed instead"
    assert (ended.status, ended.summary["new"]) == (0, 13)
    with Index.open(place, readonly=True) as index:
        hit = index.search("Where does the server fig listen?", k=1)[0]
        assert hit.text == "On which port does the server fig listen?\n\nOn 8007."
        assert hit.collection == "daily_buffer"
        assert {key: hit.metadata[key] for key in ("night", "store", "agent_name", "ok_to_train")} == {
            "night": "0001",
            "store": "s0",
            "agent_name": "lumen",
            "ok_to_train": False,
        }
        assert hit.document == f"sleep:lumen/s0/{hit.metadata['row']}"
        assert index.search("cat", k=1, where={"night": "0001"})[0].text.endswith("before breakfast.")
        assert index.search("whom to ask about the lamp", k=1)[0].text.endswith("Ask [e-mail address] about it.")
        # What is only looked up is never marked as trained, whoever moves the whole buffer.
    with Index.open(place) as index:
        assert index.mark_trained("all", "2026-11-27") == 0
    last = status_of(name)["last"]["indexed"]
    assert (last["count"], last["buffered"]) == (11, 0)
    assert {group["reason"]: len(group["rows"]) for group in last["rows"]} == {LIKELY: 9, MARKED: 1, PERSONAL: 1}
    page = html.unescape(ended.page.read_text())
    assert "Indexed instead of learned, and why" in page
    assert "On which port does the server oak listen? (100% of its words)" in page
    assert f"1 of s0: {REFUSED}" in page
    assert f"a password or key ({SECRET[:4]}…, 20 characters)" in page
    assert SECRET not in page
    # All but the row that waits to be learned have been seen, and the night keeps its number.
    again = run(content)
    assert again.summary["reason"] == "1 new examples, 10 are needed"
    assert [record.key for record in read_cycles(name)] == ["0001", "0002"]


def test_a_kill_between_the_index_and_its_record(name, tmp_path, place, no_probe):
    content = indexed_night(name, write_store(tmp_path / "day", facts()), place)
    killed_after("index", content)
    record = read_cycles(name)[-1]
    assert (record.content["current"]["step"], record.result("index")) == ("index", None)
    before, changes = documents(place), changes_of(place)
    assert len(before[0]) == 11
    ended = run(content)
    assert ended.summary["reason"].endswith("11 indexed instead")
    assert (documents(place), changes_of(place)) == (before, changes)


def killed_after(step, content):
    words = [sys.executable, "-c", DYING, str(Path(__file__).parent), step, json.dumps(content)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == -signal.SIGKILL, done.stderr


def changes_of(place):
    """How often a document of the index was written."""
    with Index.open(place, readonly=True) as index:
        return index._store.settings()["changes"]


def test_what_is_missing_is_said_before_the_night(name, tmp_path, place, monkeypatch):
    content = indexed_night(name, write_store(tmp_path / "day", facts()), place)
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("Dear Ada")
    with pytest.raises(UserError, match=r"other: this holds other files \(letter\.txt\) and is not an index"):
        run({**content, "index": {"path": str(other)}})
    with pytest.raises(UserError, match="this is a file, and the index is a directory"):
        run({**content, "index": {"path": str(other / "letter.txt")}})
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="the embedding model all-MiniLM-L6-v2 is not installed; pip install"):
        run(content)
    assert not name.exists()
    assert not place.exists()


def test_a_dry_run_says_how_many_and_writes_nothing(name, tmp_path, place):
    content = indexed_night(name, write_store(tmp_path / "day", facts()), place)
    found = rehearse(sleep_config(content, "test"), if_due=False)
    assert "11 rows would be indexed instead of learned" in found["said"]
    assert f"left out of s0: 1 × {REFUSED}" in found["said"]
    assert not place.exists()
    assert not name.exists()


def test_an_index_in_use_fails_the_night_before_it_learns(name, tmp_path, place, no_probe):
    content = indexed_night(name, write_store(tmp_path / "day", facts()), place)
    place.mkdir()
    with file_lock(place / DIRECTORY_LOCK, "in use"):
        ended = run(content)
    assert (ended.status, ended.summary["decision"]) == (2, "failed")
    assert ended.summary["reason"].startswith("in the step index: ")
    assert ended.summary["reason"].endswith("another process is writing to this index; wait for it")
    # The rows are as new as before.
    assert run(content).summary["reason"].endswith("11 indexed instead")


def test_what_must_not_be_trained_on_is_left_out_without_an_index(name, tmp_path, place):
    rows = [*facts()[:9], said("Who sleeps?", "Everybody does.", ok_to_train=False), said("Who wakes?", "Mira.")]
    content = {**indexed_night(name, write_store(tmp_path / "day", rows), place), "index": None}
    found = rehearse(sleep_config(content, "test"), if_due=False)
    assert found["curate"]["left_out"][0]["reason"] == FORBIDDEN
    assert [row.partition(": ")[2] for row in found["curate"]["left_out"][0]["rows"]] == ["Who sleeps?"]
    assert found["curate"]["looked_up"] == 0
    assert not place.exists()


@pytest.mark.slow
def test_what_is_learned_moves_to_history_when_it_is_live(name, tmp_path, place, rows):
    marked = [Example(row.messages, meta={**row.meta, "verbatim": True}) for row in rows[SHAPES[2]][:5]]
    store = write_store(tmp_path / "day", rows[SHAPES[0]] + rows[SHAPES[1]] + marked)
    # A night that fails leaves the day in the buffer.
    content = indexed_night(name, store, place, retries=9, merge=[])
    diverging = {**content, "train": {**content["train"], "learning_rate": 10, "max_steps": 40, "lora_alpha": 1e6}}
    failed = run(diverging)
    assert failed.summary["decision"] == "failed"
    assert collections(place) == ["daily_buffer"] * len(collections(place))
    assert len(collections(place)) > 5
    ended = run(content)
    assert (ended.summary["decision"], ended.summary["generation"]) == ("promoted", 1)
    data = read_cycles(name)[-1].directory / "data"
    learned = read_split(data, "train")
    names = {f"sleep:lumen/s0/{row.meta['sleep_id']}" for row in learned}
    known, _ = documents(place)
    assert {document for document, collection, _ in known if collection == "pdca_historical"} == names
    assert {batch for _, collection, batch in known if collection == "pdca_historical"} == {"lumen@1"}
    assert collections(place).count("daily_buffer") == 5
    # No row of the index that was not learned is in the night's data, on either side.
    texts = {row.messages[-2]["content"] for split in SPLITS for row in read_split(data, split)}
    assert not texts & {row.messages[-2]["content"] for row in marked}
    with Index.open(place, readonly=True) as index:
        one = index.list("pdca_historical")[0].metadata
    assert one["trained_in_adapter"] is True
    assert one["training_date"] == read_cycles(name)[-1].content["started"][:10]
    assert status_of(name)["last"]["indexed"]["buffered"] == len(learned)
    assert f"{len(learned)} in the history, as batch lumen@1" in ended.page.read_text()
    # After a rollback the rows are new: they wait in the buffer again, each once.
    Generations(name).rollback("by hand")
    assert run(diverging).summary["decision"] == "failed"
    assert collections(place) == ["daily_buffer"] * len(known)


@pytest.mark.slow
def test_an_index_that_is_in_use_does_not_undo_a_promotion(name, store, place, monkeypatch):
    content = indexed_night(name, store, place)
    confirm = cycle.confirm_or_roll_back
    held = []

    def and_take_the_lock(*arguments):
        held.append(file_lock(place / DIRECTORY_LOCK, "in use"))
        held[0].__enter__()
        return confirm(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(cycle, "confirm_or_roll_back", and_take_the_lock)
        ended = run(content)
    held[0].__exit__(None, None, None)
    assert (ended.summary["decision"], Generations(name).live) == ("promoted", 1)
    assert "another process is writing to this index" in html.unescape(ended.page.read_text())
    assert "pdca_historical" not in collections(place)
    # The next night that indexes makes it good.
    write_store(store, facts())
    run(content)
    known, _ = documents(place)
    assert {batch for _, collection, batch in known if collection == "pdca_historical"} == {"lumen@1"}
    assert collections(place).count("daily_buffer") == 11


@pytest.mark.slow
def test_kills_of_a_night_with_an_index(name, store, tmp_path, place):
    content = indexed_night(name, store, place)
    config = write_config(tmp_path / "night.yaml", content)
    status, _, error = night(config, program=(KILLED, "vectors-", place))
    assert status == -signal.SIGKILL, error
    assert read_cycles(name)[-1].content["current"]["step"] == "index"
    killed_after("mark_trained", content)
    assert Generations(name).live == 1
    ended = run(content)
    assert ended.summary["decision"] == "promoted", ended.summary["reason"]
    known, _ = documents(place)
    learned = read_split(name / "cycles" / "0001" / "data", "train")
    assert [batch for _, _, batch in known] == ["lumen@1"] * len(learned)
    assert read_cycles(name)[0].result("mark_trained") == {"batch": "lumen@1", "moved": len(learned)}
