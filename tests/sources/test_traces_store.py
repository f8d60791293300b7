"""Reading stores: five layouts, an index that lies, links that lead nowhere, files that are no artifacts."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_stores import LAYOUTS, artifact, in_layout, refined, write_store

from mlx_lora.data.import_report import NothingLeft
from mlx_lora.errors import UserError
from mlx_lora.sources.traces import (
    extract_training_data,
    find_stores,
    get_provenance_chain,
    parse_artifact,
    read_store,
    read_stores,
    sparse_reward,
)
from mlx_lora.sources.traces.artifact import Malformed


def put(store, name, content):
    path = store / "objects" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_five_layouts_read_the_same(tmp_path, layout):
    rows = [artifact("d1", pair="ap_a"), artifact("d2", pair="ap_b", minute=1, depends={"ap_a": "d1"}, history=["x"])]
    store = read_store(write_store(tmp_path / "s", [in_layout(row, layout) for row in rows]))
    assert store.left_out == []
    second = store.get("d2")
    assert (second.guard_result.passed, second.guard_result.feedback) == (True, "so it is")
    assert second.workflow_id == (None if layout == "no_workflow" else "w1")
    assert second.context.dependencies == [(None if layout == "ids" else "ap_a", "d1")]
    assert second.context.escalation_feedback == (["the tests fail"] if layout == "list" else [])
    prompt = extract_training_data(store)[0]["prompt"]
    assert "**ap_a:**\n```\ncontent of d1\n```" in prompt


def test_without_workflows_the_specification_tells_runs_apart(tmp_path):
    one, two = (in_layout(artifact(f"a{i}", minute=i), "no_workflow") for i in (1, 2))
    two["context"]["specification"] = "Another task"
    store = read_store(write_store(tmp_path / "s", [one, two]))
    assert len(extract_training_data(store, filter=lambda a: True)) == 2


def test_objects_are_the_truth_and_differences_are_told(tmp_path):
    path = write_store(tmp_path / "s", [artifact("a1"), artifact("a2", minute=1)])
    index = json.loads((path / "index.json").read_text())
    index["artifacts"]["gone"] = {"path": "objects/go/gone.json", "status": "accepted"}
    index["artifacts"]["a1"]["status"] = "rejected"
    del index["artifacts"]["a2"]
    index["workflows"] = {"w1": ["a1", "a1"]}
    (path / "index.json").write_text(json.dumps(index))
    store = read_store(path)
    assert list(store.artifacts) == ["a1", "a2"]
    assert store.differences == {
        "the index names an object that is not there": ["gone"],
        "an object is not in the index": ["a2"],
        "the index lists an id twice": ["a1"],
        "the index gives another status": ["a1"],
    }


@pytest.mark.parametrize("text", ["", '{"artifacts": {"a', "[]", '{"artifacts": []}', "\xff\xfe"])
def test_a_broken_index_is_only_a_difference(tmp_path, text):
    path = write_store(tmp_path / "s", [artifact("a1")])
    (path / "index.json").write_bytes(text.encode("latin-1"))
    store = read_store(path)
    assert len(store) == 1
    assert "index.json" in next(iter(store.differences))


def test_dangling_and_cyclic_links_end_the_chain(tmp_path):
    path = write_store(
        tmp_path / "s",
        [
            artifact("a1", "rejected", previous="a3"),
            artifact("a2", "rejected", previous="a1", minute=1),
            artifact("a3", previous="a2", minute=2),
            artifact("self", previous="self", minute=3),
            artifact("lost", previous="nowhere", minute=4),
            artifact("after", previous="a3", minute=5),
        ],
    )
    store = read_store(path)
    assert [a.artifact_id for a in get_provenance_chain(store.get("a3"))] == ["a1", "a2", "a3"]
    assert [a.artifact_id for a in get_provenance_chain(store.get("after"))] == ["a1", "a2", "a3", "after"]
    assert [a.artifact_id for a in get_provenance_chain(store.get("self"))] == ["self"]
    assert store.cyclic() == ["a1", "a2", "a3", "self"]
    assert store.dangling() == ["lost"]


def test_a_long_chain_takes_no_time(tmp_path):
    rows = [
        artifact("n0", "rejected"),
        *(artifact(f"n{i}", pair=f"p{i}", previous=f"n{i - 1}") for i in range(1, 2000)),
    ]
    examples = extract_training_data(write_store(tmp_path / "s", rows), order_by="retry_count")
    assert [e["metadata"]["retry_count"] for e in examples] == list(range(1, 2000))


def test_times_with_and_without_a_zone_compare(tmp_path):
    times = {"b": "2026-02-03T08:30:00+02:00", "c": "2026-02-03T06:31:00", "a": "2026-02-03T06:29:00Z"}
    path = write_store(tmp_path / "s", [artifact(i, created_at=t) for i, t in times.items()])
    assert list(read_store(path).artifacts) == ["a", "b", "c"]


def test_sparse_reward(tmp_path):
    store = read_store(refined(tmp_path / "s"))
    assert [sparse_reward(a) for a in store] == [-1, 1, 1, 1, 0]


LONE = '"content": "\\ud800"'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'{"artifact_id": "x", "cont', "not JSON"),
        (b"[]", "a list instead of an object"),
        (b"null", "null instead of an object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"attempt_number": ' + b"9" * 10_000 + b"}", "not JSON"),
        (json.dumps(artifact("x")).replace('"content": "content of x"', LONE).encode(), "half a character"),
    ],
)
def test_files_that_are_no_artifacts_are_named(tmp_path, content, reason):
    path = write_store(tmp_path / "s", [artifact("a1")])
    bad = put(path, "xx/x.json", content)
    (found,) = read_store(path).left_out
    assert reason in found[0]
    assert found[1] == str(bad)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"artifact_id": 7}, "artifact_id is a number"),
        ({"content": None}, "content is null"),
        ({"status": "done"}, "status is none of"),
        ({"status": 1}, "status is a number"),
        ({"created_at": "yesterday"}, "created_at is no ISO-8601 time"),
        ({"created_at": "0001-01-01T00:00:00+23:00"}, "created_at is no ISO-8601 time"),
        ({"created_at": None}, "created_at is null"),
        ({"guard_result": "yes"}, "guard_result is neither"),
        ({"guard_result": {"passed": "yes"}}, "guard_result is neither"),
        ({"context": []}, "context is a list"),
        ({"context": {"constraints": ""}}, "context.specification is null"),
        ({"context": {"specification": "s", "feedback_history": "no"}}, "feedback_history is text"),
        ({"context": {"specification": "s", "feedback_history": [1]}}, "an entry of feedback_history is a number"),
        ({"context": {"specification": "s", "dependency_artifacts": [1]}}, "an entry of dependency_artifacts"),
        ({"context": {"specification": "s", "dependency_artifacts": {"a": 1}}}, "a dependency's artifact_id"),
        ({"context": {"specification": "s", "dependency_ids": "x"}}, "dependency_ids is text"),
        ({"previous_attempt_id": 3}, "previous_attempt_id is a number"),
    ],
)
def test_wrong_types_are_counted_by_field(change, reason):
    with pytest.raises(Malformed, match=reason):
        parse_artifact({**artifact("x"), **change})


def test_what_nobody_needs_may_be_odd():
    odd = parse_artifact({**artifact("x"), "attempt_number": "one", "metadata": 3, "source": []})
    assert (odd.attempt_number, odd.metadata, odd.source) == (None, {}, None)


def test_links_pipes_and_loops_neither_hang_nor_crash(tmp_path):
    path = write_store(tmp_path / "s", [artifact("a1")])
    objects = path / "objects"
    (objects / "loop").symlink_to(objects)
    (objects / "self.json").symlink_to(objects / "self.json")
    (objects / "gone.json").symlink_to(objects / "nowhere.json")
    os.mkfifo(objects / "pipe.json")
    (objects / "folder.json").mkdir()
    store = read_store(path)
    assert list(store.artifacts) == ["a1"]
    reasons = {os.path.basename(name): reason for reason, name in store.left_out}
    assert set(reasons) == {"loop", "self.json", "gone.json", "pipe.json"}
    assert reasons["pipe.json"] == "not a plain file"
    assert "not followed" in reasons["loop"]


def test_a_name_that_is_no_text_can_be_reported(tmp_path):
    path = write_store(tmp_path / "s", [artifact("a1")])
    try:
        (path / "objects" / os.fsdecode(b"\xff.json")).write_text("{")
    except OSError:
        pytest.skip("this file system has no such names")
    (found,) = read_store(path).left_out
    found[1].encode("utf-8")


def test_a_line_of_10_mb_is_read(tmp_path):
    path = write_store(tmp_path / "s", [artifact("a1", content="x" * 10_000_000)])
    assert len(read_store(path).get("a1").content) == 10_000_000


def test_the_same_id_twice_is_named(tmp_path):
    path = write_store(tmp_path / "s", [artifact("a1")])
    put(path, "zz/copy.json", json.dumps(artifact("a1", content="other")))
    store = read_store(path)
    assert store.get("a1").content == "content of a1"
    assert "same artifact_id" in store.left_out[0][0]


def test_stores_below_a_directory_are_found(tmp_path):
    write_store(tmp_path / "many" / "one", [artifact("a1")])
    write_store(tmp_path / "many" / "deep" / "two", [artifact("a2")])
    (tmp_path / "many" / "loop").symlink_to(tmp_path / "many")
    assert [p.name for p in find_stores(tmp_path / "many")] == ["two", "one"]
    assert len(read_stores([tmp_path / "many", tmp_path / "many" / "one"])) == 2


def test_a_store_without_artifacts_hides_no_other(tmp_path):
    for name in ("begun", "broken"):
        (tmp_path / name / "objects").mkdir(parents=True)
    put(tmp_path / "broken", "xx/x.json", "{")
    with pytest.raises(NothingLeft, match="begun: there is no artifact in objects") as error:
        read_stores([tmp_path])
    assert error.value.report.left_out == {
        "not JSON, or cut off in the middle": [str(tmp_path / "broken" / "objects" / "xx" / "x.json")]
    }
    write_store(tmp_path / "one", [artifact("a1")])
    assert [(store.path.name, len(store), len(store.left_out)) for store in read_stores([tmp_path])] == [
        ("begun", 0, 0),
        ("broken", 0, 1),
        ("one", 1, 0),
    ]


def test_what_is_no_store_is_one_sentence(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match="there is no"):
            find_stores(path)
    (tmp_path / "empty" / "objects").mkdir(parents=True)
    with pytest.raises(UserError, match="no artifact in objects"):
        read_store(tmp_path / "empty")
    put(tmp_path / "empty", "xx/x.json", "{")
    with pytest.raises(UserError, match=r"the first of 1 files, .*x\.json: not JSON"):
        read_store(tmp_path / "empty")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "objects").symlink_to(tmp_path / "loop" / "objects")
    with pytest.raises(UserError):
        read_stores([tmp_path / "loop"])


def test_reading_changes_nothing(tmp_path):
    path = refined(tmp_path / "s")
    before = {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in path.rglob("*")}
    extract_training_data(path)
    assert {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in path.rglob("*")} == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [*artifact("x"), "source", "feedback"]
CONTEXT = [*artifact("x")["context"], "dependency_ids", "escalation_feedback", "workflow_id"]


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.dictionaries(st.sampled_from(CONTEXT), json_values))
def test_any_json_is_an_artifact_or_malformed(change, context):
    data = artifact("x")
    data["context"] |= context
    data |= change
    try:
        parsed = parse_artifact(data)
    except Malformed:
        return
    assert isinstance(parsed.content, str)
    assert parsed.created.tzinfo is not None
    get_provenance_chain(parsed)


ids = st.sampled_from(["a", "b", "c", "d", "nowhere"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["accepted", "rejected"]), st.none() | ids, st.lists(ids, max_size=2), json_values),
        min_size=1,
        max_size=4,
    ),
    st.binary(max_size=60),
)
def test_any_links_and_any_bytes_give_examples_or_a_sentence(tmp_path_factory, rows, garbage):
    path = tmp_path_factory.mktemp("store")
    artifacts = [
        artifact(identity, status, previous=previous, history=history, minute=i, guard_result=guard)
        for i, (identity, (status, previous, history, guard)) in enumerate(zip("abcd", rows, strict=False))
    ]
    write_store(path, artifacts, index=False)
    put(path, "zz/z.json", garbage)
    (path / "index.json").write_bytes(garbage)
    try:
        store = read_store(path)
    except UserError:
        return
    assert len(store) + len(store.left_out) == len(artifacts) + 1
    for found in store:
        earlier = get_provenance_chain(found)[:-1]
        ancestry = store.ancestries[found.artifact_id]
        assert (ancestry.attempts, ancestry.rejected) == (len(earlier), any(a.status == "rejected" for a in earlier))
    for example in extract_training_data(store):
        assert example["prompt"].endswith("### Solution\n")
    store.cyclic()
