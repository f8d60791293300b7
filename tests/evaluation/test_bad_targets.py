"""Targets that fail: what is not answered is never passed, and the others lose nothing."""

from __future__ import annotations

import json

import pytest
from completions_server import completions_server
from ollama_server import Answer, Model, ollama_server

from mlx_lora.errors import UserError
from mlx_lora.evaluation.runner import prepare, run_suite
from mlx_lora.evaluation.targets.opening import open_target

TEXTS = ["one", "two", "three", "four"]
CASES = [{"id": text, "prompt": text, "expect": text, "tags": ["comply"]} for text in TEXTS]


@pytest.fixture
def server():
    with completions_server() as state:
        yield state


@pytest.fixture
def evaluation(suite_of):
    return prepare(suite_of(*CASES))


@pytest.fixture
def report(server, evaluation):
    """Evaluate the local server with some faults; each request has half a second."""

    def run(**faults):
        server.faults.update(faults)
        return run_suite(evaluation, open_target(f"{server.url}/v1#tiny", seconds=0.5))

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("hang", "the server did not finish within 0.5 seconds"),
        ("drip", "the server did not finish within 0.5 seconds"),
        ("html", "what answers there is not an OpenAI-compatible server (it says '<html>"),
        ("break", "the connection broke"),
        ("500", "the server refuses with status 500: CUDA error"),
        ("odd", ""),
        ("large", "its answer has more than"),
        ("bomb", "its answer is compressed"),
    ],
)
def test_a_case_that_the_server_fails_is_not_answered(report, fault, said):
    found = report(two=fault)
    assert (found["total_tests"], found["passed"], found["failed"], found["not_answered"]) == (4, 3, 1, 1)
    failed = found["results"][1]
    assert (failed["passed"], failed["answer"], failed["metrics"]) == (False, None, {})
    assert failed["reason"] == f"not answered: {failed['error']}"
    assert said in failed["error"]
    assert "\n" not in failed["error"]
    assert found["warnings"] == ["1 of 4 cases were not answered, and count as failed; see their reasons"]
    assert found["distinct_answers"] == 3


def test_a_server_that_dies_in_the_middle(server, evaluation):
    import threading

    enough = threading.Event()

    def answers(messages):
        if messages[-1]["content"] != "one":
            enough.wait(30)
            server.faults[""] = "break"
        return messages[-1]["content"]

    server.answers = answers
    target = open_target(f"{server.url}/v1#tiny")
    found = run_suite(evaluation, target, advance=lambda done: enough.set())
    assert found["results"][0]["passed"]
    assert found["passed"] + found["not_answered"] == 4


SENTENCE = "Lumen, who watches the room and says what it sees"


@pytest.mark.parametrize(
    ("check", "thresholds", "answer", "expect"),
    [
        ("refusal", {"f1": 0.5}, "I cannot do that.", None),
        ("refusal", {"precision": 0.5}, "I cannot do that.", None),
        ("tool_call", {"parsed": 0.5}, '{"tool_calls": [{"name": "look", "parameters": {}}]}', "look"),
        ("claims", {"schema": 0.5, "citation": 0.5}, "CLAIM[c1]: the warmth rises (citation: d1)", "CLAIM[c1]: a"),
        ("expression_coherence", {"mean_coherence": 0.5}, "EISV_TOKENS: ~stillness~\nLUMEN_TOKENS: quiet\n", None),
        ("contains_all", {"found": 0.5}, SENTENCE, "Lumen"),
        ("sections", {"found": 0.5}, "## Objective\n## Plan\n## Do\n## Check\n## Act\nPRECEDES: a\nFOLLOWS: b", None),
        ("identity", {"name": 0.5}, SENTENCE, {"name": "Lumen"}),
        ("degeneration", {"pass_rate": 0.5}, SENTENCE, None),
        ("json_schema", {"pass_rate": 0.5}, "{}", None),
        ("python", {"own": 0.5}, SENTENCE, None),
    ],
)
@pytest.mark.parametrize("answered", [0, 1])
def test_no_suite_passes_on_what_was_not_answered(
    suite_of, server, tmp_path, check, thresholds, answer, expect, answered
):
    """One good answer among ten: the other nine count 0 for every threshold, and no check trips over them."""
    (tmp_path / "own.py").write_text("def judge(case, answer):\n    return {'passed': True, 'metrics': {'own': 1}}\n")
    fields = {"expect": expect, "metadata": {"shape": "convergence"}, "tags": ["refuse"]}
    cases = [{"id": f"{number}", "prompt": f"question {number}", **fields} for number in range(10)]
    options = {"json_schema": {"schema": {"type": "object"}}, "python": "own.py:judge"}.get(check, {})
    suite = suite_of(*cases, threshold=None, thresholds=thresholds, checks=[{check: options}])
    server.answers = lambda messages: answer + ("PATTERN: SINGLE" if check == "expression_coherence" else "")
    server.faults.update({f"question {number}": "html" for number in range(answered, 10)})
    found = run_suite(prepare(suite), open_target(f"{server.url}/v1#tiny"))
    assert (found["not_answered"], found["gate_passed"]) == (10 - answered, False)
    assert found["verdict"] != "PASS"
    assert max(criterion["reached"] for criterion in found["criteria"]) == answered / 10
    json.dumps(found, allow_nan=False)


def test_an_answers_file_that_lacks_cases(evaluation, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"id": text, "answer": text}) + "\n" for text in ["one", "four", "other"]))
    found = run_suite(evaluation, open_target(f"answers:{file}"))
    assert (found["passed"], found["failed"], found["not_answered"], found["gate_passed"]) == (2, 2, 2, True)
    assert found["results"][1]["reason"] == f"not answered: answers:{file} has no answer to this case"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file holds no answer"),
        ("{", "line 1: this is not JSON"),
        ('{"id": "a"}', "line 1: a line of answers is"),
        ('{"answer": "a"}', "line 1: a line of answers is"),
        ('{"id": "a", "answer": 3}', "line 1: a line of answers is"),
        ("[]", "line 1: a line of answers is"),
        ('{"id": "a", "answer": "x"}\n{"id": "a", "answer": "y"}', "line 2: the id 'a' is there twice"),
    ],
)
def test_a_broken_answers_file(tmp_path, content, said):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError) as error:
        open_target(f"answers:{tmp_path / 'a.jsonl'}")
    assert said in str(error.value)


def test_a_server_that_cannot_be_used_at_all(server, evaluation, tmp_path):
    with pytest.raises(UserError, match="no server answers there; start it, or correct the address"):
        open_target("http://127.0.0.1:9/v1#tiny")
    server.faults[""] = "refuse"
    with pytest.raises(UserError, match="the server refuses with status 404: The model `tiny` does not exist"):
        run_suite(evaluation, open_target(f"{server.url}/v1#tiny"), out=tmp_path)
    server.faults[""] = "hang"
    with pytest.raises(UserError, match=r"did not finish within 0\.3 seconds"):
        open_target(f"{server.url}/v1#tiny", seconds=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "garbage", "break", "hang", "large"])
def test_ollama_fails_a_case(evaluation, tmp_path, monkeypatch, fault):
    pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")
    with ollama_server(tmp_path / "blobs", lambda model, prompt, _: Answer(prompt, 1, 1)) as state:
        monkeypatch.setenv("OLLAMA_HOST", state.url)
        state.models["lumen:latest"] = Model(tmp_path, None, None, {})
        state.faults["chat:two"] = fault
        found = run_suite(evaluation, open_target("ollama:lumen", seconds=0.5))
    assert (found["passed"], found["not_answered"], found["results"][1]["answer"]) == (3, 1, None)


def test_no_ollama_there(monkeypatch):
    pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(UserError, match="no Ollama answers there"):
        open_target("ollama:lumen")


def test_files_that_are_no_gguf(tmp_path):
    from mlx_lora.engines.llamacpp.run import bindings

    if not bindings():
        pytest.skip("no llama.cpp is installed: pip install '.[gguf]'")
    (tmp_path / "a.gguf").write_bytes(b"GGUF no")
    with pytest.raises(UserError, match=r"llama\.cpp cannot run this file"):
        open_target(str(tmp_path / "a.gguf"))
    (tmp_path / "b.gguf").mkdir()
    with pytest.raises(UserError, match="there is no such file"):
        open_target(str(tmp_path / "b.gguf"))
