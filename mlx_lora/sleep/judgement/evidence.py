"""Verdict of one check of a candidate, and the evidence that a judgement leaves for later nights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...evaluation.statistics.non_inferiority import LossDifference
from ...evaluation.statistics.paired_rates import Outcome, Pair

# Held-out rows below which a night is judged together with the others.
SMALL = 8

Kind = Literal["suite", "loss", "anchor", "collapse", "check"]


@dataclass
class SleepCheck:
    """Verdict of one check, with the values of candidate and reference where it has some."""

    name: str
    kind: Kind
    verdict: Outcome
    said: str
    candidate: float | None = None
    reference: float | None = None


@dataclass
class Evidence:
    """Pairs that an earlier judgement against the same live adapter leaves for later ones.

    Attributes:
        new: differences of the rows that were new on its night; ``earlier``: of the others.
        checks: pairs of the row checks of earlier nights.
        suites: pairs of the suites that are pooled; ``anchors``: of each anchor.
    """

    new: list[LossDifference] = field(default_factory=list)
    earlier: list[LossDifference] = field(default_factory=list)
    checks: list[Pair] = field(default_factory=list)
    suites: list[Pair] = field(default_factory=list)
    anchors: dict[str, list[Pair]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; rows as ``[row, cluster, difference]``."""
        content = asdict(self)
        for key in ("new", "earlier"):
            content[key] = [[row["row"], row["cluster"], round(row["difference"], 6)] for row in content[key]]
        return content


def read_evidence(content: Mapping[str, Any]) -> Evidence | None:
    """Return the evidence of ``to_dict``; None where it is of another version or broken."""
    try:
        new, earlier = ([LossDifference(str(r), c, float(d)) for r, c, d in content[key]] for key in ("new", "earlier"))
        anchors = {name: [_pair(pair) for pair in pairs] for name, pairs in content["anchors"].items()}
        checks, suites = ([_pair(pair) for pair in content[key]] for key in ("checks", "suites"))
        return Evidence(new, earlier, checks, suites, anchors)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _pair(content: Sequence[Any]) -> Pair:
    case, candidate, reference = content
    return str(case), bool(candidate), bool(reference)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
