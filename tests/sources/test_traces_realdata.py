"""What real stores hold."""

import json
import shutil
from collections import Counter

import pytest

from mlx_lora.errors import UserError
from mlx_lora.sources.traces import (
    all_successes,
    by_outcome,
    extract_training_data,
    format_prompt,
    get_provenance_chain,
    make_traces_dataset,
    overtaken,
    read_results,
    read_stores,
    refinement,
    refinement_by_link,
)
from mlx_lora.sources.traces.prompt_format import attempts_of


@pytest.fixture(scope="module")
def everything(realdata):
    return read_stores([realdata / "traces"])


def accepted(stores, predicate=all_successes):
    return [a for store in stores for a in store if predicate(a)]


def test_every_object_is_read(everything):
    assert len(everything) == 8
    assert Counter(a.status for s in everything for a in s) == {"accepted": 39, "rejected": 24}
    assert [s.left_out for s in everything] == [[]] * 8
    assert [s.differences for s in everything] == [{}] * 8


def test_refinements_by_link_and_by_history(everything):
    assert len(accepted(everything, refinement_by_link)) == 3
    assert len(accepted(everything, refinement)) == 4
    assert sum(a.attempt_number != len(get_provenance_chain(a)) for s in everything for a in s) == 13
    assert sum(len(overtaken(store)) for store in everything) == 8
    assert len(extract_training_data(everything)) == 3


def test_specification_and_history_alone_do_not_tell_targets_apart(everything):
    artifacts = accepted(everything)
    plain = {format_prompt(a.context.specification, attempts_of(a)) for a in artifacts}
    assert (len(plain), len({a.content for a in artifacts})) == (7, 38)
    # In full, only the same step of the same task in two arms asks the same.
    full = extract_training_data(everything, filter=all_successes, every_accepted=True)
    assert len({e["prompt"] for e in full}) == 37


@pytest.mark.parametrize("name", ["llama3", "qwen2-from-gguf"])
def test_most_examples_exceed_4096_tokens(everything, realdata, name):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(realdata / "tokenizers" / name / "tokenizer.json"))
    texts = [a.context.specification + a.content for a in accepted(everything)]
    assert sum(len(tokenizer.encode(text).ids) > 4096 for text in texts) == 28


def test_the_default_policy_finds_nothing_in_stores_and_says_which_would(realdata, refused, command, tmp_path):
    stores = realdata / "traces" / "stores"
    sentence = refused("data", "traces", "--store", stores, "--out", tmp_path / "d")
    assert "of 21 artifacts, 9 accepted, the policy refinement chooses none" in sentence
    assert sentence.endswith("choose another --policy: all would find 9")
    assert list(tmp_path.iterdir()) == []
    done = command("data", "traces", "--store", stores, "--policy", "all", "--out", tmp_path / "d", "--json")
    assert json.loads(done.stdout)["report"]["kept"] == 9
    with pytest.raises(UserError, match="is not written in this store"):
        make_traces_dataset(tmp_path / "e", [stores], policy="human")


def test_outcomes_of_the_runs(realdata, tmp_path):
    """One accepted step of these belongs to a run that failed; the paths are as the original lays them out."""
    stores = realdata / "traces" / "stores"
    results = read_results(stores / "results.jsonl")
    tasks = {"qb2": "f91ace96", "qb1": "c580ebf0"}
    names = {
        task: next(r["instance_id"] for r in results if digest in r["instance_id"]) for task, digest in tasks.items()
    }
    for store in stores.iterdir():
        if store.is_dir():
            task, arm = store.name.split("_", 1)
            shutil.copytree(store, tmp_path / names[task] / arm)
    found = extract_training_data(tmp_path, filter=all_successes & by_outcome(results))
    assert len(found) == 8
