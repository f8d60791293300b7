"""Evaluation logs of Inspect: a suite's answers and scores, as ``inspect view`` shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import replace_file, temporary_beside, writing
from .cases import Case
from .runner import Evaluation

LOG = "inspect_{}.eval"
PASSED = "passed"


def check_inspect(out: Path | None) -> None:
    """Check that logs can be written, before anything is asked.

    Args:
        out: directory for them; None, or a ``.json`` file, has no place for a log.

    Raises:
        UserError: they cannot.
    """
    if find_spec("inspect_ai") is None:
        raise UserError("--inspect needs the package inspect-ai; install it with `pip install 'mlx-lora[inspect]'`")
    if out is None:
        raise UserError("--inspect writes a log beside the reports; give a directory to --out")


def write_inspect_logs(
    directory: Path, evaluations: Sequence[Evaluation], reports: Sequence[Mapping[str, Any]]
) -> None:
    """Write each suite's report as an EvalLog; an earlier log of the suite is replaced.

    Raises:
        UserError: a file cannot be written.
    """
    from inspect_ai.log import write_eval_log

    for evaluation, report in zip(evaluations, reports, strict=True):
        file = directory / LOG.format(evaluation.suite.name)
        # Inspect tells a log's format by the end of its name.
        temporary = temporary_beside(file, keep_suffix=True)
        with writing(file):
            try:
                write_eval_log(_log(evaluation, report), temporary)
                replace_file(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)


def _log(evaluation: Evaluation, report: Mapping[str, Any]) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats
    from inspect_ai.model import GenerateConfig

    suite, cases = evaluation.suite, evaluation.cases
    settings = {name: report[name] for name in ("max_tokens", "temperature", "seed")}
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=report["timestamp"],
            task=suite.name,
            task_description=suite.description,
            dataset=EvalDataset(
                name=suite.name,
                location=str(report["cases"]),
                samples=len(cases),
                sample_ids=[case.id for case in cases],
            ),
            model=report["target"],
            model_generate_config=GenerateConfig(**settings),
            config=EvalConfig(epochs=1),
            metadata={"gate": suite.gate, "gate_passed": report["gate_passed"], "criteria": report["criteria"]},
        ),
        stats=EvalStats(started_at=report["timestamp"], completed_at=report["timestamp"]),
        results=_results(report["results"]),
        samples=[_sample(*pair, report["target"]) for pair in zip(cases, report["results"], strict=True)],
    )


def _results(results: Sequence[Mapping[str, Any]]) -> Any:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    def score(name: str, measure: str, values: Sequence[float]) -> Any:
        metric = EvalMetric(name=measure, value=sum(values) / len(values))
        return EvalScore(name=name, scorer=name, scored_samples=len(values), metrics={measure: metric})

    names = dict.fromkeys(name for result in results for name in result["metrics"])
    scores = [score(PASSED, "accuracy", [float(result["passed"]) for result in results])]
    scores += [score(n, "mean", [r["metrics"][n] for r in results if n in r["metrics"]]) for n in names]
    answered = sum(result["answer"] is not None for result in results)
    return EvalResults(total_samples=len(results), completed_samples=answered, scores=scores)


def _sample(case: Case, result: Mapping[str, Any], model: str) -> Any:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatMessageAssistant, ModelOutput
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    answer, reason = result["answer"], result["reason"] or None
    messages = [_message(message) for message in case.messages]
    scores = {PASSED: Score(value=CORRECT if result["passed"] else INCORRECT, answer=answer, explanation=reason)}
    scores |= {name: Score(value=value, answer=answer) for name, value in result["metrics"].items()}
    said = [] if answer is None else [ChatMessageAssistant(content=answer, model=model)]
    error = result["error"]
    return EvalSample(
        id=case.id,
        epoch=1,
        input=messages,
        target=_target(case.expect),
        messages=[*messages, *said],
        output=ModelOutput(model=model) if answer is None else ModelOutput.from_content(model, answer),
        scores=scores,
        metadata={**case.meta, "tags": case.tags},
        error=None if error is None else EvalError(message=error, traceback="", traceback_ansi=""),
    )


def _target(expect: Any) -> str | list[str]:
    if expect is None or isinstance(expect, str):
        return expect or ""
    if isinstance(expect, list) and all(isinstance(text, str) for text in expect):
        return expect
    return json.dumps(expect, ensure_ascii=False)


def _message(message: Mapping[str, Any]) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageTool, ChatMessageUser

    text = message["content"] or ""
    if message["role"] == "assistant":
        return ChatMessageAssistant(content=text, tool_calls=[_call(call) for call in message.get("tool_calls", [])])
    if message["role"] == "tool":
        return ChatMessageTool(content=text, tool_call_id=message.get("tool_call_id"), function=message.get("name"))
    return (ChatMessageSystem if message["role"] == "system" else ChatMessageUser)(content=text)


def _call(call: Mapping[str, Any]) -> Any:
    from inspect_ai.tool import ToolCall

    function = call["function"]
    given = function.get("arguments") or {}
    arguments = given if isinstance(given, dict) else {"arguments": given}
    return ToolCall(id=str(call.get("id") or function["name"]), function=function["name"], arguments=arguments)
