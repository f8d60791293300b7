"""Per-case results in lm-eval's layout: ``samples_SUITE.jsonl``, one object a case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..files import write_atomic
from .cases import Case
from .scorers.base import Score
from .suite import Generation


def write_samples(
    file: Path,
    cases: Sequence[Case],
    replies: Sequence[Reply],
    scores: Sequence[Score],
    generation: Generation,
) -> None:
    """Write the results of all cases, with the keys of lm-evaluation-harness and one number for each metric.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [
        _sample(number, case, reply, score, generation)
        for number, (case, reply, score) in enumerate(zip(cases, replies, scores, strict=True))
    ]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    # A server's answer may hold half of a surrogate pair.
    write_atomic(file, "".join(lines).encode("utf-8", "replace"))


def _sample(number: int, case: Case, reply: Reply, score: Score, generation: Generation) -> dict[str, Any]:
    metrics = {"passed": float(score.passed), **{name: float(value) for name, value in score.metrics.items()}}
    doc = {"id": case.id, "messages": case.messages, "tags": case.tags, "metadata": case.meta}
    target = case.expect if isinstance(case.expect, str) else "" if case.expect is None else _json(case.expect)
    # A conversation is one JSON text, as lm-eval gives it to chat models.
    prompt, answer = _json(case.messages), reply.text or ""
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": _generation_arguments(generation)}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _sha256(prompt),
        "target_hash": _sha256(target),
        "reason": score.reason,
        **metrics,
    }


def _generation_arguments(generation: Generation) -> dict[str, Any]:
    """Return the settings under lm-eval's names."""
    return {
        "until": [],
        "max_gen_toks": generation.max_tokens,
        "do_sample": generation.temperature > 0,
        "temperature": generation.temperature,
        "seed": generation.seed,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
