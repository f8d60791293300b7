"""Scorer of claims with citations, in the four stages of ``sources.claims.validation``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import shortened
from ...sources.claims import validation
from ...sources.claims.entailment import nli_entailment, word_overlap
from ...sources.claims.examples import citation_is_valid, documents_shown
from ...sources.claims.prompt_format import parse_output
from ..cases import Case
from .base import Score, Scorer, expected_texts, prompt_text, read_options

STAGES = tuple(validation.TARGETS)
# The count of which each stage's rate is a share.
COUNTS = {"schema": "lines", "citation": "claims", "entailment": "asserted", "similarity": "claims"}


def claims(options: Any, where: str, profile: str | None, folder: Path) -> Scorer:
    """Make a scorer that passes answers which reach the target of every stage.

    Options: ``schema``, ``citation``, ``entailment``, ``similarity``, the targets; ``nli``, a model for entailment,
    by default the word-overlap heuristic. Documents are those that the prompt shows; ``expect`` is the gold answer.
    Metrics: the four rates, the counts behind them, and ``nli``, 1 where a model gave the entailment.
    """
    given = read_options(options, where, "claims", {**dict.fromkeys(STAGES, "share"), "nli": "text"}, main="nli")
    entailment = nli_entailment(given.pop("nli", None))
    targets = {**validation.TARGETS, **given}

    def score(case: Case, answer: str) -> Score:
        gold = "\n".join(expected_texts(case, where, "claims"))
        judged = validation.Case(answer, documents_shown(prompt_text(case)), gold)
        report = validation.validate_cases([judged], entailment)
        rates = {stage: float(getattr(report, stage)) for stage in STAGES}
        low = next((stage for stage in STAGES if rates[stage] < targets[stage]), None)
        reason = _reason(judged, low, rates[low], targets[low]) if low else ""
        counts = {
            "lines": float(report.lines),
            "claims": float(report.claims),
            "asserted": float(len(validation.asserted_claims(parse_output(answer)))),
            "nli": float(entailment.method != word_overlap().method),
        }
        return Score(low is None, reason, {**rates, **counts})

    return score


def _reason(judged: validation.Case, stage: str, rate: float, target: float) -> str:
    parsed = parse_output(judged.output)
    if not parsed.claims and stage != "schema":
        return "the answer makes no claim"
    said = f"{stage} is {rate:.2f}, below {target:g}"
    if stage == "schema" and parsed.malformed:
        return f"{said}: the line {shortened(parsed.malformed[0])} is neither a claim nor a relation"
    if stage == "citation":
        bad = next(claim for claim in parsed.claims if not citation_is_valid(claim, judged.documents))
        how = "cites nothing" if bad.doc_id is None else f"cites {bad.doc_id}, which "
        if bad.doc_id is not None:
            how += "shares too few of its words" if bad.doc_id in judged.documents else "the prompt does not show"
        return f"{said}: claim c{bad.number} {how}"
    return said


def summarize(cases: Sequence[Case], answers: Sequence[str], scores: Sequence[Score]) -> dict[str, Any]:
    """Return the rates over all lines and claims of the suite, as ``validate_cases`` counts them, not over cases."""
    rates: dict[str, Any] = {}
    for stage, count in COUNTS.items():
        total = sum(score.metrics[count] for score in scores)
        part = sum(score.metrics[stage] * score.metrics[count] for score in scores)
        rates[stage] = part / total if total else 0.0
    by_model = any(score.metrics["nli"] for score in scores)
    return {**rates, "entailment_method": "NLI model" if by_model else word_overlap().method}
