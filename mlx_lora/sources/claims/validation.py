"""Validation of outputs in four stages: schema, citation, entailment, and similarity to the gold answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .entailment import Entailment, word_overlap
from .examples import citation_is_valid, documents_shown, format_for_training, words
from .prompt_format import Claim, ParsedOutput, parse_output
from .scifact import Sample

# Minimum rate of each stage.
TARGETS = {"schema": 0.95, "citation": 0.95, "entailment": 0.50, "similarity": 0.70}


@dataclass
class Case:
    """Output to validate.

    Attributes:
        documents: id -> text of those that the prompt shows.
        gold: the expected output.
    """

    output: str
    documents: dict[str, str]
    gold: str

    @classmethod
    def of(cls, sample: Sample, output: str) -> Case:
        """Return the case of a model's output for a sample."""
        texts = format_for_training(sample)
        return cls(output, documents_shown(texts["prompt"]), texts["expected_output"])

    @classmethod
    def from_messages(cls, messages: Sequence[Mapping[str, Any]], output: str | None = None) -> Case:
        """Return the case of a dataset's line (user, then assistant) with its own answer unless ``output`` is given."""
        gold = messages[-1]["content"]
        return cls(gold if output is None else output, documents_shown(messages[-2]["content"]), gold)


@dataclass
class ValidationReport:
    """Rates from 0 to 1 over all cases; 0 where there was nothing to score.

    Attributes:
        schema: non-empty lines that parse.
        citation: claims that cite a document which is shown and shares more than 0.3 of their words.
        entailment: mean probability that the cited document entails the claim; claims that the output itself says
            are refuted or contrasted are not scored, and one whose document is not shown has 0.
        similarity: mean over claims of the word F1 with the nearest gold claim.
        entailment_method: name of the model that gave the probabilities, or of the heuristic.
        passed: True if each rate reaches its target.
    """

    cases: int
    lines: int
    claims: int
    schema: float
    citation: float
    entailment: float
    similarity: float
    entailment_method: str
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report with its targets, for ``--json``."""
        return {**asdict(self), "targets": TARGETS}


def validate_cases(cases: Iterable[Case], entailment: Entailment | None = None) -> ValidationReport:
    """Validate outputs in all four stages.

    Args:
        entailment: scorer of (document, claim) pairs; by default the word-overlap heuristic.
    """
    entailment = entailment or word_overlap()
    count = lines = malformed = 0
    valid: list[bool] = []
    pairs: list[tuple[str, str]] = []
    similar: list[float] = []
    for case in cases:
        parsed = parse_output(case.output)
        gold = [Counter(words(claim.text)) for claim in parse_output(case.gold).claims]
        count, lines, malformed = count + 1, lines + parsed.lines, malformed + len(parsed.malformed)
        valid += [citation_is_valid(claim, case.documents) for claim in parsed.claims]
        similar += [max((_f1(Counter(words(claim.text)), g) for g in gold), default=0.0) for claim in parsed.claims]
        pairs += [(case.documents.get(claim.doc_id or "", ""), claim.text) for claim in asserted_claims(parsed)]
    known = iter(entailment.score([pair for pair in pairs if pair[0]]))
    rates = {
        "schema": _rate(lines - malformed, lines),
        "citation": _rate(sum(valid), len(valid)),
        "entailment": _rate(sum(next(known) for premise, _ in pairs if premise), len(pairs)),
        "similarity": _rate(sum(similar), len(similar)),
    }
    passed = all(rates[stage] >= target for stage, target in TARGETS.items())
    return ValidationReport(
        cases=count,
        lines=lines,
        claims=len(valid),
        **rates,
        entailment_method=entailment.method,
        passed=passed,
    )


def _rate(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def asserted_claims(parsed: ParsedOutput) -> list[Claim]:
    """Return the claims that the output itself does not say are refuted or contrasted."""
    denied = {relation.target for relation in parsed.relations if relation.kind != "supports"}
    return [claim for claim in parsed.claims if claim.number not in denied]


def _f1(some: Counter[str], others: Counter[str]) -> float:
    """Return F1 = 2·shared / (words of both) over multisets of words (van Rijsbergen's F with β = 1)."""
    total = some.total() + others.total()
    return 2 * (some & others).total() / total if total else 0.0
