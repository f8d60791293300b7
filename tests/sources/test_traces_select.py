"""Choosing: predicates, policies, who made it, how the run ended, what was overtaken."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from trace_stores import artifact, refined, write_store

from mlx_lora.errors import UserError
from mlx_lora.sources.traces import (
    POLICIES,
    all_successes,
    by_action_pair,
    by_outcome,
    by_source,
    by_status,
    by_workflow,
    created_after,
    extract_training_data,
    generator_only,
    get_provenance_chain,
    high_value,
    human_only,
    make_traces_dataset,
    named_policy,
    overtaken,
    read_results,
    read_store,
    recent,
    refinement,
    refinement_by_link,
    retry_count,
)


def chosen(store, predicate):
    return [a.artifact_id for a in store if predicate(a)]


@pytest.fixture
def store(tmp_path):
    return read_store(refined(tmp_path / "s"))


def test_predicates_and_their_composition(store):
    assert chosen(store, by_status("accepted")) == chosen(store, all_successes) == ["a1", "a2", "a3"]
    assert chosen(store, by_action_pair("ap_b")) == ["a2"]
    assert chosen(store, by_workflow("w2")) == []
    assert chosen(store, refinement_by_link) == ["a1"]
    assert chosen(store, refinement) == ["a1", "a3"]
    assert chosen(store, refinement & by_action_pair("ap_c")) == ["a3"]
    assert chosen(store, by_status("pending") | by_status("rejected")) == ["r1", "p1"]
    assert chosen(store, ~refinement & all_successes) == ["a2"]
    assert chosen(store, all_successes & (lambda a: a.artifact_id > "a2")) == ["a3"]
    with pytest.raises(UserError, match="status 'done' is unknown"):
        by_status("done")


def test_times(store):
    assert chosen(store, created_after("2026-02-03T06:02:00")) == ["a3", "p1"]
    assert chosen(store, created_after(datetime(2026, 2, 3, 6, 3, tzinfo=UTC))) == ["p1"]
    assert chosen(store, recent(30)) == []
    assert chosen(store, recent(30, now=datetime(2026, 2, 3) + timedelta(days=30))) == ["a1", "a3"]
    assert chosen(store, recent(10**9)) == ["a1", "a3"]
    with pytest.raises(UserError, match="ISO-8601"):
        created_after("soon")


def test_retries_are_counted_by_links_and_history(store, tmp_path):
    assert [retry_count(a) for a in store] == [0, 1, 0, 2, 0]
    rows = [artifact("r0", "rejected")]
    rows += [artifact(f"r{i}", "rejected", previous=f"r{i - 1}", minute=i) for i in (1, 2)]
    hard = read_store(write_store(tmp_path / "h", [*rows, artifact("a", previous="r2", minute=3)]))
    assert chosen(hard, high_value()) == ["a"]
    assert chosen(hard, high_value(min_retries=4)) == []
    assert [a.artifact_id for a in get_provenance_chain(hard.get("a"))] == ["r0", "r1", "r2", "a"]


def test_sources_need_someone_who_knows(store):
    for asks in (human_only, generator_only, ~by_source("human"), by_source("HUMAN") | refinement):
        with pytest.raises(UserError, match="is not written in this store"):
            extract_training_data(store, filter=asks)
    with pytest.raises(UserError, match="is not written in this store"):
        by_source("human")(store.get("a1"))
    with pytest.raises(UserError, match="source 'robot' is unknown"):
        by_source("robot")


def test_a_mapping_or_the_artifacts_tell_sources(tmp_path):
    path = refined(tmp_path / "s")
    mapped = read_store(path, sources={"a1": "human"})
    assert chosen(mapped, human_only) == ["a1"]
    assert chosen(mapped, generator_only) == ["a3"]
    assert extract_training_data(mapped, filter=human_only)[0]["metadata"]["source"] == "human"
    with pytest.raises(UserError, match="source 'me' is unknown"):
        read_store(path, sources={"a1": "me"})
    written = write_store(tmp_path / "w", [artifact("a1", history=["x"], source="human"), artifact("a2", minute=1)])
    assert [a.source for a in read_store(written)] == ["human", "generated"]


@pytest.mark.parametrize(
    ("amendment", "human"),
    [
        ({"parent_artifact_id": "r1", "created_by": "ada"}, ["a1"]),
        ({"parent_artifact_id": "r1", "created_by": "ada", "content": "content of a1"}, ["a1"]),
        ({"parent_artifact_id": "r1", "created_by": "ada", "content": "was refused"}, []),
        ({"parent_artifact_id": "r1", "amendment_type": "feedback", "content": "try again"}, []),
        ({"parent_artifact_id": None}, []),
        ({"parent_artifact_id": "nowhere"}, []),
    ],
)
def test_amendments_tell_sources(tmp_path, amendment, human):
    path = refined(tmp_path / "s")
    (path / "amendments" / "am").mkdir(parents=True)
    (path / "amendments" / "am" / "am1.json").write_text(json.dumps(amendment))
    (path / "amendments" / "am" / "am2.json").write_text("{")
    store = read_store(path)
    assert chosen(store, human_only) == human
    assert chosen(store, generator_only) == [i for i in ("a1", "a3") if i not in human]
    assert store.left_out[0][1].endswith("am2.json")
    elsewhere = (path / "amendments").rename(tmp_path / "elsewhere")
    assert chosen(read_store(path, amendments=elsewhere), human_only) == human
    with pytest.raises(UserError, match="no such directory of amendments"):
        read_store(path, amendments=tmp_path / "nowhere")


def test_later_accepted_artifacts_overtake(tmp_path):
    rows = [artifact(f"a{i}", minute=i, history=["x"]) for i in (1, 2)]
    path = write_store(tmp_path / "s", [*rows, artifact("b1", minute=3, workflow_id="w2")])
    store = read_store(path)
    assert overtaken(store) == {(str(path), "a1")}
    ids = [e["metadata"]["item_id"] for e in extract_training_data(store, filter=all_successes)]
    assert ids == ["a2", "b1"]
    assert len(extract_training_data(store, filter=all_successes, every_accepted=True)) == 3


def test_orders(store):
    def ids(**order):
        return [e["metadata"]["item_id"] for e in extract_training_data(store, filter=all_successes, **order)]

    assert ids() == ids(order_by="item_id") == ["a1", "a2", "a3"]
    assert ids(order_by="retry_count") == ["a2", "a1", "a3"]
    with pytest.raises(UserError, match="order_by 'mood' is unknown"):
        ids(order_by="mood")


def test_generator_errors_and_empty_contents_are_no_answers(tmp_path):
    rows = [
        artifact("a1", metadata={"generator_error": "timeout"}),
        artifact("a2", pair="ap_b", content=" \n"),
        artifact("a3", pair="ap_c", guard_result={"passed": True, "guard_name": "GeneratorValidation"}),
    ]
    assert extract_training_data(write_store(tmp_path / "s", rows), filter=all_successes) == []


def test_an_accepted_step_is_not_a_solved_task(tmp_path):
    good = refined(tmp_path / "task_1" / "arm_a")
    bad = refined(tmp_path / "task_1" / "arm_b")
    rows = [
        {"instance_id": "task_1", "arm": a, "workflow_status": s} for a, s in (("arm_a", "success"), ("arm_b", "x"))
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = read_results(tmp_path / "results.jsonl")
    examples = extract_training_data([good], filter=all_successes & by_outcome(results))
    assert len(examples) == 3
    assert extract_training_data([bad], filter=all_successes & by_outcome(results)) == []
    assert len(extract_training_data([bad], filter=by_outcome({"w1": "success"}) & all_successes)) == 3
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert read_results(tmp_path / "results.json") == rows


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"instance_id": "x"}\n', '{"workflow_status": 3}\n', "\xff"])
def test_broken_results_are_one_sentence(tmp_path, text):
    (tmp_path / "results.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError):
        read_results(tmp_path / "results.jsonl")


def test_results_of_other_stores_are_refused(tmp_path):
    store = refined(tmp_path / "s")
    (tmp_path / "results.jsonl").write_text('{"workflow_id": "other", "workflow_status": "success"}\n')
    with pytest.raises(UserError, match="no result belongs to these stores"):
        make_traces_dataset(tmp_path / "out", [store], policy="all", results=tmp_path / "results.jsonl")


def test_every_policy_has_its_predicate(tmp_path):
    store = read_store(refined(tmp_path / "s"), sources={"a3": "human"})
    found = {name: chosen(store, named_policy(name, min_retries=2, days=10**6)) for name in POLICIES}
    assert found == {
        "refinement": ["a1", "a3"],
        "generator": ["a1"],
        "human": ["a3"],
        "high_value": ["a3"],
        "recent": ["a1", "a3"],
        "all": ["a1", "a2", "a3"],
    }
    with pytest.raises(UserError, match="policy 'best' is unknown"):
        named_policy("best")


def test_the_command_knows_the_same_policies():
    from mlx_lora.cli.data import traces

    assert traces.POLICIES == POLICIES
