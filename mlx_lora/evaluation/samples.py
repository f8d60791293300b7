"""Per-case results in lm-eval's layout: ``samples_SUITE.jsonl``, one object a case."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..engines.reply import Reply
from ..files import write_atomic
from .cases import Case
from .scorers.base import Score
from .suite import Generation, Suite


def write_samples(
    file: Path,
    suite: Suite,
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
    write_atomic(file, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def _sample(number: int, case: Case, reply: Reply, score: Score, generation: Generation) -> dict[str, Any]:
    metrics = {"passed": float(score.passed), **score.metrics}
    target = "" if case.expect is None else case.expect
    return {
        "doc_id": number,
        "doc": {"id": case.id, "messages": case.messages, "tags": case.tags, "metadata": case.meta},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": case.messages, "arg_1": asdict(generation)}},
        "resps": [[reply.text]],
        "filtered_resps": [reply.text],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": _sha256(asdict(case)),
        "prompt_hash": _sha256(case.messages),
        "target_hash": _sha256(target),
        "reason": score.reason,
        **metrics,
    }


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
