"""Values of the comparison page's templates: differences with their bounds, and pairs of answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...reporting.interval_bar import Scale, common_scale, interval_bar
from .answer_diff import word_diff
from .report_views import PERFORMANCE, case_view, more_cases, performance_of, three_digits

Report = Mapping[str, Any]


def rate_rows(rates: Sequence[tuple[str, Report]], anchors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each pair of pass rates, with the difference drawn on a scale that all share.

    Args:
        anchors: row → id of the section of its answers.
    """
    scale = _scale([row for _, row in rates])
    return [
        {
            "name": name,
            "anchor": anchors.get(name),
            "n": f"{row['n']:,}",
            "a": _share(row["passed_candidate"], row["n"]),
            "b": _share(row["passed_reference"], row["n"]),
            "wins": row["wins"],
            "losses": row["losses"],
            "p": f"{row['p_adjusted']:.3g}" if "p_adjusted" in row else "",
            "significantly_worse": row.get("significantly_worse", False),
            "detectable": three_digits(row["detectable"]),
            **_difference(row, scale, 3),
        }
        for name, row in rates
    ]


def loss_rows(parts: Sequence[Report]) -> list[dict[str, Any]]:
    """Return a row for each part of the held-out data."""
    scale = _scale(parts)
    return [
        {
            "name": part["part"],
            "n": f"{part['n']:,} in {part['clusters']:,}",
            "a": f"{part['loss_candidate']:.4f}",
            "b": f"{part['loss_reference']:.4f}",
            **_difference(part, scale, 4),
        }
        for part in parts
    ]


def _scale(rows: Sequence[Report]) -> Scale:
    return common_scale([0.0, *(-row["margin"] for row in rows), *(row[k] for row in rows for k in ("lower", "upper"))])


def _difference(row: Report, scale: Scale, digits: int) -> dict[str, Any]:
    value, lower, upper = row["difference"], row["lower"], row["upper"]
    known = value is not None and lower is not None and upper is not None
    return {
        "difference": "–" if value is None else f"{value:+.{digits}f}",
        "interval": f"{lower:+.{digits}f} to {upper:+.{digits}f}" if known else "",
        "bar": interval_bar(value, (lower, upper), scale, -row["margin"], zero=True) if known else "",
        "margin": f"{-row['margin']:g}",
        "verdict": row["verdict"],
        "needed": more_cases(row.get("cases_needed")),
    }


def _share(passed: int, total: int) -> str:
    return f"{passed / total:.3f} ({passed:,})" if total else "–"


def performance_rows(reports_a: Sequence[Report], reports_b: Sequence[Report]) -> list[tuple[str, str, str]]:
    """Return (label, A's figure, B's figure) of what was measured of either."""
    a, b = performance_of(reports_a), performance_of(reports_b)
    labels = [label for label, _, _ in PERFORMANCE.values() if label in a or label in b]
    return [(label, a.get(label, "–"), b.get(label, "–")) for label in labels]


def pairs_of(
    reports_a: Sequence[Report], reports_b: Sequence[Report]
) -> Iterator[tuple[str, Report | None, Report | None]]:
    """Yield the reports of each suite of A, then of those that only B has."""
    a, b = ({report["test_name"]: report for report in reports} for reports in (reports_a, reports_b))
    yield from ((name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b]))


def case_pair(case: str, a: Report | None, b: Report | None, unstable: bool) -> dict[str, Any]:
    """Return the answers of both to a case, with the words marked that only one of them has."""
    sides = [None if row is None else case_view(row) for row in (a, b)]
    passed = [side is not None and side["outcome"] == "passed" for side in sides]
    texts = [None if side is None else side["answer"] for side in sides]
    if texts[0] is not None and texts[1] is not None:
        pieces: Sequence[Any] = word_diff(texts[0], texts[1])
    else:
        pieces = [None if text is None else [(False, text)] for text in texts]
    for side, said in zip(sides, pieces, strict=True):
        if side is not None:
            side["pieces"] = said
    same = texts[0] == texts[1] and texts[0] is not None
    differs = passed[0] != passed[1]
    result = {(True, True): "both passed", (False, False): "both failed"}.get(
        (passed[0], passed[1]), "A passed, B failed" if passed[0] else "A failed, B passed"
    )
    some = next(side for side in sides if side is not None)
    return {
        "id": case,
        "tags": some["tags"],
        "prompt": some["prompt"],
        "sides": [("A", sides[0]), ("B", sides[1])],
        "same": same,
        "differs": differs,
        "won": passed[0],
        "result": result,
        "unstable": unstable,
        "is": " ".join(_kinds(passed, texts, differs, same, unstable)),
    }


def _kinds(
    passed: Sequence[bool], texts: Sequence[str | None], differs: bool, same: bool, unstable: bool
) -> Iterator[str]:
    """Yield the filters of the page that a case passes."""
    if differs:
        yield from ("differs", "won" if passed[0] else "lost")
    if not same:
        yield "words"
    if None in texts:
        yield "unanswered"
    if not all(passed):
        yield "failed"
    if all(passed):
        yield "passed"
    if unstable:
        yield "unstable"
