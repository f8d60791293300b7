"""What the model reads."""

import pytest
from trace_stores import artifact, refined, write_store

from mlx_lora.sources.traces import (
    all_successes,
    artifact_prompt,
    extract_training_data,
    format_alpaca,
    format_prompt,
    read_store,
)


def test_the_prompt_as_published():
    assert format_prompt("Add", []) == "### Specification\nAdd\n\n### Solution\n"
    history = [{"artifact": f"try {i}", "feedback": f"wrong {i}"} for i in range(5)]
    assert format_prompt("Add", history[:1]) == (
        "### Specification\nAdd\n\n### Previous Attempts and Feedback\n"
        "**Attempt:**\n```\ntry 0\n```\n\n**Feedback:** wrong 0\n\n### Solution\n"
    )
    text = format_prompt("Add", history)
    assert [f"try {i}" in text for i in range(5)] == [False, False, True, True, True]


def test_attempts_are_cut_at_500_characters_and_stay_in_their_fence():
    text = format_prompt("Add", [{"artifact": "x" * 600 + "y", "feedback": "long"}])
    assert "x" * 500 + "\n```" in text
    fenced = format_prompt("Add", [{"content": "```py\nx\n```", "feedback": "fences"}])
    assert "````\n```py\nx\n```\n````" in fenced


def test_alpaca(tmp_path):
    history = [{"feedback": f"wrong {i}"} for i in range(3)]
    assert format_alpaca("Add", history, "a + b") == {
        "instruction": "Add",
        "input": "Previous feedback:\n- wrong 1\n- wrong 2\n",
        "output": "a + b",
    }
    assert format_alpaca("Add")["input"] == ""
    store = read_store(refined(tmp_path / "s"))
    assert format_alpaca(store.get("a1")) == {
        "instruction": "Add two numbers",
        "input": "Previous feedback:\n- r1 is wrong\n",
        "output": "content of a1",
    }


def test_an_example_of_a_store(tmp_path):
    example = extract_training_data(refined(tmp_path / "s"))[0]
    assert example["messages"] == [
        {"role": "user", "content": example["prompt"]},
        {"role": "assistant", "content": "content of a1"},
    ]
    assert example["completion"] == "content of a1"
    assert example["metadata"] == {
        "source": None,
        "action_pair_id": "ap_a",
        "workflow_id": "w1",
        "retry_count": 1,
        "item_id": "a1",
    }
    assert "**Attempt:**\n```\ncontent of r1\n```\n\n**Feedback:** r1 is wrong" in example["prompt"]
    assert example["prompt"].endswith("### Step\nap_a\n\n### Solution\n")


def test_the_context_tells_prompts_apart(tmp_path):
    context = {"constraints": "no loops", "escalation_feedback": [{"feedback": "the tests fail"}]}
    rows = [
        artifact("d1"),
        artifact("a2", pair="ap_b", depends={"ap_a": "d1", "ap_x": "gone"}, context=context),
        artifact("a3", pair="ap_c"),
    ]
    store = write_store(tmp_path / "s", rows)
    full = [e["prompt"] for e in extract_training_data(store, filter=all_successes)]
    plain = {e["prompt"] for e in extract_training_data(store, filter=all_successes, context=False)}
    assert (len(set(full)), len(plain)) == (3, 1)
    wanted = ["### Specification", "### Constraints\nno loops", "### Dependencies\n**ap_a:**\n```\ncontent of d1\n```"]
    wanted += ["### Feedback from Later Steps\n- the tests fail", "### Step\nap_b", "### Solution"]
    places = [next(p for p in full if "ap_b" in p).find(part) for part in wanted]
    assert places == sorted(places)
    assert -1 not in places


@pytest.mark.parametrize(
    "mark",
    [
        {"metadata": {"generator_error": True}},
        {"guard_result": {"passed": False, "guard_name": "GeneratorValidation"}},
    ],
)
def test_a_generators_error_is_no_attempt(tmp_path, mark):
    rows = [artifact("r1", "rejected", content="Exceeded maximum retries", **mark), artifact("a1", history=["r1"])]
    prompt = artifact_prompt(read_store(write_store(tmp_path / "s", rows)).get("a1"))
    assert "Exceeded" not in prompt
    assert "### Previous Attempts and Feedback\n**Feedback:** r1 is wrong" in prompt
