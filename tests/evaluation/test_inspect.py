"""Interoperation with Inspect: its Samples are cases, and its log reader opens what ``eval --inspect`` writes."""

from __future__ import annotations

import json

import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation import inspect_log
from mlx_lora.evaluation.cases import parse_case, read_cases

pytest.importorskip("inspect_ai", reason="the package inspect-ai is not installed: pip install '.[inspect]'")

SUITE = """
name: colours
description: names a colour
gate: quality
threshold: 0.5
cases: {file: cases.jsonl}
system: Answer in one word.
checks:
  - contains_all: {texts: [blue]}
"""
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}


@pytest.fixture
def written(command, tmp_path):
    """A suite over answers that exist: one right, one wrong, one missing; returns the output directory."""
    (tmp_path / "colours.yaml").write_text(SUITE)
    asked = [{"role": "user", "content": "Look."}, {"role": "assistant", "tool_calls": [CALL]}]
    cases = [
        {"id": "sky", "input": "The sky?", "target": "blue", "metadata": {"shape": "far"}},
        {"id": "sea", "input": "The sea?", "target": ["blue", "green"]},
        {"id": "ink", "messages": [*asked, {"role": "tool", "tool_call_id": "c1", "content": "It is blue."}]},
    ]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    answers = [{"id": "sky", "answer": "blue"}, {"id": "sea", "answer": "green"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    asking = ("--suite", "colours.yaml", "--target", "answers:answers.jsonl", "--out", "out", "--inspect")
    for _ in range(2):  # the second replaces the first
        done = command("eval", *asking, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    return tmp_path / "out"


@pytest.mark.slow
def test_the_log_opens_with_the_same_accuracy(written):
    from inspect_ai.log import read_eval_log

    report = json.loads((written / "report_colours.json").read_text())
    assert (report["passed"], report["total_tests"], report["not_answered"]) == (1, 3, 1)
    (file,) = written.glob("*.eval")
    log = read_eval_log(file)
    scores = {score.name: score for score in log.results.scores}
    assert scores["passed"].metrics["accuracy"].value == report["pass_rate"]
    assert (log.status, log.eval.task, log.eval.model) == ("success", "colours", report["target"])
    assert (log.results.total_samples, log.results.completed_samples) == (3, 2)
    by_id = {sample.id: sample for sample in log.samples}
    assert {name: s.scores["passed"].value for name, s in by_id.items()} == {"sky": "C", "sea": "I", "ink": "I"}
    reasons = {result["id"]: result["reason"] for result in report["results"]}
    assert by_id["sea"].scores["passed"].explanation == reasons["sea"] != ""
    assert [message.text for message in by_id["sky"].messages] == ["Answer in one word.", "The sky?", "blue"]
    assert (by_id["sky"].target, by_id["sea"].target) == ("blue", ["blue", "green"])
    assert by_id["ink"].error.message == report["results"][2]["error"]
    call = by_id["ink"].input[2].tool_calls[0]
    assert (call.function, call.arguments) == ("look", {"at": "sky"})


def test_inspects_samples_are_cases(tmp_path):
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ContentText

    talk = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content=[ContentText(text="Hi")])]
    samples = [
        Sample(input="The sky?", target="blue", id="sky", metadata={"shape": "far"}),
        Sample(input=talk, target=["a", "b"], id=2, description="a greeting"),
        Sample(input=[*talk, ChatMessageAssistant(content="Yes?"), ChatMessageUser(content="Go on.")], id="more"),
    ]
    file = tmp_path / "samples.jsonl"
    for dump in ({}, {"exclude_none": True}):
        file.write_text("".join(sample.model_dump_json(**dump) + "\n" for sample in samples))
        sky, two, more = read_cases(file)
        assert (sky.id, sky.expect, sky.meta, sky.tags) == ("sky", "blue", {"shape": "far"}, ["far"])
        assert sky.messages == [{"role": "user", "content": "The sky?"}]
        # Inspect's message ids are new each time; no model reads them.
        assert two.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        assert (two.id, two.expect) == ("2", ["a", "b"])
        assert [message["role"] for message in more.messages] == ["system", "user", "assistant", "user"]
        assert more.expect is None


@pytest.mark.slow
def test_cases_are_inspects_samples(written):
    from inspect_ai.dataset import json_dataset

    file = written.parent / "cases.jsonl"
    rows = file.read_text().splitlines()[:2]
    file.write_text("\n".join(rows))
    found = [(s.id, s.input, s.target, s.metadata) for s in json_dataset(str(file))]
    assert found == [(c.id, c.messages[0]["content"], c.expect, c.meta or None) for c in read_cases(file)]


def test_several_turns_end_with_what_is_asked():
    talk = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "Yes?"), ("user", "Go."))]
    assert parse_case("f:1", 1, {"id": "a", "messages": talk, "expect": "x"}).messages == talk
    example = parse_case("f:1", 1, {"id": "a", "messages": talk[:2]})
    assert (example.messages, example.expect) == (talk[:1], "Yes?")


def test_choices_are_refused():
    with pytest.raises(UserError, match=r"f:1: choices are not read; write them into the question"):
        parse_case("f:1", 1, {"id": "a", "input": "Which?", "choices": ["x", "y"], "target": "A"})


def test_a_log_needs_a_directory_and_the_package(refused, monkeypatch, tmp_path):
    asking = ("eval", "--suite", "eisv_gate1", "--target", tmp_path, "--cases", tmp_path, "--inspect")
    assert "--inspect writes a log beside the reports; give a directory to --out" in refused(*asking)
    assert "give a directory to --out" in refused(*asking, "--out", tmp_path / "r.json")
    monkeypatch.setattr(inspect_log, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mlx-lora\[inspect\]'"):
        inspect_log.check_inspect(tmp_path)
