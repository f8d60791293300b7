"""Reading buffers of every dialect, and writing one from several programs at once."""

from __future__ import annotations

import hashlib
import json
import os
import string
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_lora.data.import_report import ImportReport
from mlx_lora.errors import UserError
from mlx_lora.sources.salience import (
    KEYS,
    BufferStore,
    ExperienceCollector,
    Filters,
    experience_id,
    make_salience_dataset,
    merge_buffers,
    parse_experience,
    read_buffer,
    read_buffers,
)
from mlx_lora.sources.salience.filters import CHECKS

SCORES = {"surprise": 0.5, "novelty": 0.75, "arousal": 0.5, "reward": 1.0, "conflict": 0.25, "total": 0.6}


def record(prompt="What did you see?", response="We saw the lake together.", **more):
    return {
        "id": experience_id(prompt, response),
        "prompt": prompt,
        "response": response,
        "salience": dict(SCORES),
        "session": 7,
        "phase": "relating",
        "timestamp": "2026-01-18T00:10:43.092734",
        "metadata": {"machine": "den"},
        **more,
    }


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_id_is_of_prompt_and_response():
    assert experience_id("a", "b") == hashlib.sha256(b"a|b").hexdigest()[:16]


def test_real_buffers(realdata):
    folder = realdata / "salience"
    for name, rows in {"first_two": 2, "twenty_four": 24, "before_removal": 180, "think_blocks": 11}.items():
        experiences = read_buffer(folder / f"{name}.json")
        assert len(experiences) == rows
        assert experiences == json.loads((folder / f"{name}.json").read_text())
        assert all(tuple(e) == KEYS and e["id"] == experience_id(e["prompt"], e["response"]) for e in experiences)
    assert sum(e["salience"]["total"] >= 0.6 for e in read_buffer(folder / "twenty_four.json")) == 18
    assert read_buffer(folder / "dict_top_level.json") == []
    before, after = (read_buffer(folder / f"{name}_removal.json") for name in ("before", "after"))
    report = ImportReport("salience")
    union = read_buffers([folder / "after_removal.json", folder / "before_removal.json"], report)
    assert {e["id"] for e in union} == {e["id"] for e in before} > {e["id"] for e in after}
    assert report.counts == {"the same experience again": 156}


def test_real_dialect_and_dream_bundle(realdata):
    first, second = read_buffer(realdata / "salience" / "dialect_exchanges.jsonl")
    assert first["prompt"] == "What does it mean to be conscious?"
    assert first["salience"]["total"] == 0.2084
    assert first["timestamp"] == "2025-10-30T17:07:04.693180+00:00"
    assert list(first["metadata"]) == ["irp_info"]
    assert second["id"] == experience_id(second["prompt"], second["response"])
    with pytest.raises(UserError, match=r"dream bundle .* 17941 experiences but not their text"):
        read_buffer(realdata / "salience" / "dream_bundle_head.jsonl")


def test_older_dialects():
    assert parse_experience({"text": "p", "response": "r"})["salience"] is None
    scored = parse_experience({"input_text": "p", "output_text": "r", "salience_score": 0.4, "timestamp": 1.0e12})
    assert scored["salience"] == {"total": 0.4}
    assert scored["timestamp"] == "2001-09-09T01:46:40+00:00"
    assert tuple(scored) == KEYS
    dimensions = {name: value for name, value in SCORES.items() if name != "total"}
    assert parse_experience({"prompt": "p", "response": "r", "salience": dimensions})["salience"] == SCORES
    ninth = parse_experience(record(tool_calls=[{"name": "search"}]))
    assert (*KEYS, "tool_calls") == tuple(ninth)


def test_bundles_with_text_and_other_shapes(tmp_path):
    header = {"_type": "dream_bundle_header", "experience_count": 1}
    bundle = write(tmp_path / "b.jsonl", f"{json.dumps(header)}\n{json.dumps(record())}\n")
    assert read_buffer(bundle) == [record()]
    assert read_buffer(write(tmp_path / "w.json", {"experiences": [record()], "max_size": 9})) == [record()]
    one_line = write(tmp_path / "o.jsonl", "\ufeff" + json.dumps(record()))
    assert read_buffer(one_line) == [record()]
    assert read_buffer(write(tmp_path / "e.json", "[]")) == read_buffer(write(tmp_path / "n.json", "")) == []


BAD_FILES = {
    "cut off": (b'[{"id": "a", "prompt": "p"', "line 1: the JSON is broken or cut off"),
    "not UTF-8": (b'[{"prompt": "\xff"}]', "not UTF-8 text .byte 14."),
    "a number": (b"3", "neither"),
    "other object": (b'{\n"a": 1}', "neither"),
    "deep": (b"[" * 200_000, "not an experience buffer|broken"),
    "digits": (b"[" + b"9" * 5000 + b"]", "not an experience buffer"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_broken_files(tmp_path, name):
    content, sentence = BAD_FILES[name]
    path = tmp_path / "buffer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as raised:
        read_buffer(path)
    assert str(path) in str(raised.value)
    with pytest.raises(UserError, match=sentence):
        ExperienceCollector(path)
    assert path.read_bytes() == content


def test_paths_that_are_no_files(tmp_path):
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, sentence in ((loop, "symbolic links"), (tmp_path, "not a file"), (pipe, "not a file")):
        with pytest.raises(UserError, match=sentence):
            read_buffer(path)
        with pytest.raises(UserError, match=r"circle|not a file"):
            ExperienceCollector(path)
    with pytest.raises(UserError, match="no such file"):
        read_buffer(tmp_path / "absent.json")


def test_rows_that_cannot_be_used_are_named(tmp_path):
    rows = [
        record(),
        3,
        {"prompt": "p"},
        record(response="  "),
        record(response="x" * 10_000_000),
        record(salience={"total": 7}),
        record(salience={**SCORES, "total": float("nan")}),
        record(prompt="\ud800"),
        record(metadata=[1]),
        record(response="Another one.", session=True, phase=3, timestamp=10**400, metadata=None, salience=None),
    ]
    report = ImportReport("salience")
    experiences = read_buffer(write(tmp_path / "b.json", rows), report)
    assert [e["response"] for e in experiences] == ["We saw the lake together.", "Another one."]
    assert experiences[1] == {**experiences[1], "session": None, "phase": None, "timestamp": None, "metadata": {}}
    assert report.counts == {
        "no JSON object": 1,
        "no prompt and response": 1,
        "no text in its response": 1,
        "response of more than 100,000 characters": 1,
        "a salience that is not a number from 0 to 1": 1,
        "half a character (a lone surrogate), or a number that is not finite": 2,
        "metadata that is not an object": 1,
    }
    assert report.left_out["no JSON object"] == [f"{tmp_path / 'b.json'}, row 2"]
    lines = ImportReport("salience")
    assert len(read_buffer(write(tmp_path / "b.jsonl", f'{json.dumps(record())}\n{{"prompt": "cut of'), lines)) == 1
    assert lines.left_out == {"line that is not JSON": [f"{tmp_path / 'b.jsonl'}, line 2"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
texts = st.text(alphabet=string.ascii_letters + " ?.:'<>/`\n\ud800é中", max_size=60) | st.sampled_from(
    ["<think>", "Are you conscious?", "User: hi\nAssistant: yes", "we notice we notice we notice we notice", "```"]
)
rows = st.lists(
    json_values
    | st.fixed_dictionaries(
        {"prompt": texts, "response": texts},
        optional={
            **dict.fromkeys(("id", "session", "phase", "timestamp", "metadata"), json_values),
            "salience": json_values | st.just(SCORES) | st.floats(0, 1),
        },
    ),
    max_size=12,
)


def one_sentence(error):
    assert len(str(error).splitlines()) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=rows, wrapped=st.booleans(), skip=st.sets(st.sampled_from(sorted(CHECKS))), most=st.none() | st.integers(1, 4)
)
def test_any_rows_give_a_dataset_or_a_sentence(tmp_path_factory, rows, wrapped, skip, most):
    folder = tmp_path_factory.mktemp("any")
    path = write(folder / "b.json", {"experiences": rows} if wrapped else rows)
    try:
        card = make_salience_dataset(
            folder / "d", [path], min_salience=0.3, max_examples=most, filters=Filters(skip=frozenset(skip))
        )
    except UserError as error:
        one_sentence(error)
        return
    report = card["report"]
    assert report["kept"] == sum(card["splits"].values()) <= (most or 12)
    assert report["read"] == len(rows) == report["kept"] + sum(item["count"] for item in report["left_out"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(alphabet='[]{}":,promtesn \n', max_size=60).map(str.encode))
def test_any_bytes_give_rows_or_a_sentence(tmp_path, content):
    path = tmp_path / "b.json"
    path.write_bytes(content)
    try:
        read_buffer(path)
    except UserError as error:
        one_sentence(error)


def test_appending_keeps_all_that_was_there(tmp_path):
    path = write(tmp_path / "b.json", {"experiences": [record(), {"odd": 1}], "max_size": 1})
    path.chmod(0o600)
    other = record(response="They swam for hours.")
    assert merge_buffers([record(), other], path) == [other]
    assert json.loads(path.read_text()) == {"experiences": [record(), {"odd": 1}, other], "max_size": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.json.lock", "b.json"]


def test_the_file_is_what_json_dump_writes(tmp_path):
    path = tmp_path / "deep" / "b.json"
    records = [record(response=f"Answer {i} with an é.", metadata={}) for i in range(4)]
    for one in records:
        merge_buffers([one], path)
    assert path.read_text() == json.dumps(records, indent=2)
    compact = write(tmp_path / "compact.json", records)
    merge_buffers([record()], compact)
    assert compact.read_text() == json.dumps([*records, record()], indent=2)


def test_a_link_stays_a_link(tmp_path):
    path, link = tmp_path / "b.json", tmp_path / "link.json"
    link.symlink_to(path)
    merge_buffers([record()], link)
    assert link.is_symlink()
    assert read_buffer(path) == [record()]


def test_a_store_sees_what_others_did(tmp_path):
    path = tmp_path / "b.json"
    ours, theirs = BufferStore(path), BufferStore(path)
    replies = [record(response=f"Answer {i}.") for i in range(5)]
    for store, reply in zip((ours, theirs, theirs, ours, theirs), replies, strict=True):
        with store.locked():
            store.refresh()
            store.append([reply])
    assert ours.refresh() == [replies[4]]
    path.write_text("[]")  # somebody emptied it
    with ours.locked():
        assert ours.refresh() == []
        assert ours.append([record()]) == [record()]
    assert read_buffer(path) == [record()]


WRITER = """
import random, sys
from mlx_lora.sources.salience import ExperienceCollector
name, path = sys.argv[1:]
words = random.Random(name)
collector = ExperienceCollector(path, salience_threshold=0.0)
for i in range(1000):
    text = " ".join(str(words.randrange(10**6)) for _ in range(12))
    assert collector.add_exchange(f"{name} {i}?", f"{name} {i}: {text}.", i, "test")["stored"]
"""
MERGER = """
import sys
from mlx_lora.sources.salience import merge_buffers, read_buffer
old, path = sys.argv[1:]
for _ in range(20):
    merge_buffers(read_buffer(old), path)
"""


@pytest.mark.slow
def test_two_writers_and_a_merger_lose_nothing(tmp_path):
    path, old = tmp_path / "b.json", tmp_path / "old.json"
    before = [record(response=f"Older answer {i}.") for i in range(50)]
    write(old, before)
    write(path, before[:20])
    commands = [(WRITER, "a", path), (WRITER, "b", path), (MERGER, old, path)]
    running = [subprocess.Popen([sys.executable, "-c", code, *map(str, rest)]) for code, *rest in commands]
    while any(process.poll() is None for process in running):
        json.loads(path.read_text())  # valid at every moment, without a lock
        time.sleep(0.05)
    assert [process.returncode for process in running] == [0, 0, 0]
    rows = json.loads(path.read_text())
    assert len(rows) == len({row["id"] for row in rows}) == 2050
    assert {row["id"] for row in rows} >= {row["id"] for row in before}
    assert {row["prompt"] for row in rows} >= {f"{name} {i}?" for name in "ab" for i in range(1000)}
    assert path.read_text() == json.dumps(rows, indent=2)
