"""Verdicts on losses and answers that were measured, and the evidence that they leave."""

from __future__ import annotations

import json

import pytest

from mlx_lora.evaluation.scorers import Score
from mlx_lora.evaluation.statistics.collapse import CollapseStop
from mlx_lora.evaluation.statistics.comparison import compare
from mlx_lora.evaluation.statistics.non_inferiority import LossDifference
from mlx_lora.sleep.judgement.answer_verdicts import NightAnswers, judge_checks, judge_collapse, judge_suites
from mlx_lora.sleep.judgement.evidence import Evidence, read_evidence
from mlx_lora.sleep.judgement.heldout_rows import ScoredAnswer
from mlx_lora.sleep.judgement.loss_verdicts import NightLosses, judge_losses


def night(name, *differences):
    rows = [LossDifference(f"{name}.{i}", None, difference) for i, difference in enumerate(differences)]
    return NightLosses(name, rows, 1.0, 1.0)


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


SAME, NOISY = (0.001, -0.001) * 5, (0.05, -0.06) * 5


def test_each_night_has_a_verdict():
    nights = [night("1", *SAME), night("2", *[-0.1, -0.12] * 5), night("3", *[0.5, 0.4] * 5)]
    assert verdicts(judge_losses(nights, "3", [])) == {"1": "not_worse", "2": "worse", "3": "better"}


def test_a_gain_tonight_hides_no_loss_of_earlier_nights():
    nights = [night("1", *NOISY), night("2", *[1.0, 1.2] * 20)]
    assert verdicts(judge_losses(nights, "2", [])) == {"1": "inconclusive", "2": "better"}


def test_small_nights_are_judged_together():
    nights = [night("1", 0.0), night("2", 0.001, -0.002), night("3", *SAME), night("4", 0.3)]
    assert set(verdicts(judge_losses(nights, "4", [])).values()) == {"not_worse"}
    small = [night("1", 0.0), night("2", 0.001, -0.002), night("3", *SAME)]
    assert verdicts(judge_losses(small, "3", [])) == {"1": "inconclusive", "2": "inconclusive", "3": "not_worse"}
    assert verdicts(judge_losses([night("0", *SAME), *small], "3", []))["1"] == "not_worse"


def test_one_row_settles_nothing_until_other_nights_do():
    alone = [night("1", 0.9)]
    (check,) = judge_losses(alone, "1", [])
    assert (check.verdict, "more rows would settle it" in check.said) == ("inconclusive", True)
    earlier = [Evidence(new=[LossDifference(f"e{i}", None, 0.3 + i / 100)]) for i in range(20)]
    (check,) = judge_losses(alone, "1", earlier)
    assert check.verdict == "not_worse"
    assert "20 earlier judgements" in check.said


def test_a_pool_helps_no_candidate_that_is_outside_the_margin_tonight():
    equal = [
        Evidence(earlier=[LossDifference(f"e{k}.{i}", None, 0.001 * (-1) ** i) for i in range(20)]) for k in range(9)
    ]
    new = night("9", *[0.5] * 10)
    assert verdicts(judge_losses([night("1", *NOISY), new], "9", equal))["1"] == "not_worse"
    outside = night("1", *[0.2, -0.3] * 5)
    assert verdicts(judge_losses([outside, new], "9", equal))["1"] == "inconclusive"


def answers(text, passes="y", collapsed=""):
    """Scored answers of one night: y and n pass the check or not, . has none; c in ``collapsed`` marks one."""
    found = []
    for i, letter in enumerate(passes):
        score = None if letter == "." else Score(letter == "y", "", {})
        found.append(ScoredAnswer(f"{text} {i}", collapsed[i : i + 1] == "c", score))
    return found


def asked(name, candidate, reference):
    rows = [f"{name}{i}" for i in range(len(candidate))]
    return NightAnswers(name, rows, rows, answers("a", candidate), answers("b", reference))


def test_row_checks():
    nights = [asked("1", "yyyyyyyy", "yyyyyyyy"), asked("2", "yyyynnnn", "yyyyyyyy"), asked("3", "y" * 8, "n" * 8)]
    found = verdicts(judge_checks(nights, "3", []))
    assert found == {"1": "not_worse", "2": "worse", "3": "better", "row checks": "worse"}
    # One row lost is no alarm, and no proof either: other nights settle it.
    nights = [asked("1", "yyyyyyyn", "yyyyyyyy"), asked("3", "y" * 8, "n" * 8)]
    assert verdicts(judge_checks(nights, "3", [])) == {"1": "not_worse", "3": "better", "row checks": "inconclusive"}
    assert judge_checks([asked("1", "....", "....")], "1", []) == []


def test_the_row_checks_of_few_rows_are_not_passed_by_accident():
    first = [asked("1", "yy", "nn")]
    assert verdicts(judge_checks(first, "1", []))["row checks"] == "inconclusive"
    assert verdicts(judge_checks([asked("1", "yyy", "yyy")], "1", []))["row checks"] == "not_worse"


def collapse(candidate, reference, stored=None):
    texts = stored or [f"s{i}" for i in range(len(candidate))]
    return judge_collapse(candidate, reference, texts, CollapseStop()).verdict


def test_collapse():
    sound = answers("b", "." * 12)
    assert collapse(answers("a", "." * 12), sound) == "not_worse"
    assert collapse(answers("a", "." * 12, "cc"), sound) == "not_worse"
    assert collapse(answers("a", "." * 12, "ccc"), sound) == "worse"
    assert collapse(answers("a", "." * 12, "c" * 12), answers("b", "." * 12, "c" * 12)) == "not_worse"
    one = [ScoredAnswer("the same", False, None)] * 12
    assert collapse(one, sound) == "worse"
    # Where one answer is right everywhere, one answer is none of concern.
    assert collapse(one, sound, ["yes"] * 12) == "not_worse"


def suites(pairs, exact=(), evidence=(), anchors=None):
    pool = {"mine"} - set(exact)
    compared = compare({"mine": pairs}, pool=pool, anchors=anchors or {})
    pooled = [] if exact else pairs
    return judge_suites(compared, pooled, anchors or {}, list(evidence), exact)


def pairs(letters):
    """Return pairs: b both pass, w won, l lost."""
    return [(f"q{i}", letter in "bw", letter in "bl") for i, letter in enumerate(letters)]


def test_suites():
    assert verdicts(suites(pairs("b" * 100)))["suites"] == "not_worse"
    assert verdicts(suites(pairs("l" * 12 + "b" * 88))) == {"suites": "worse", "mine": "worse"}
    few = pairs("b" * 20)
    assert verdicts(suites(few)) == {"suites": "inconclusive", "mine": "not_worse"}
    pooled = suites(few, evidence=[Evidence(suites=few) for _ in range(12)])
    assert verdicts(pooled)["suites"] == "not_worse"
    assert "13 nights" in pooled[0].said


def test_a_suite_whose_cases_must_all_pass_is_judged_case_by_case():
    assert verdicts(suites(pairs("b" * 20), exact=("mine",))) == {"mine": "not_worse"}
    (check,) = suites(pairs("l" + "b" * 19), exact=("mine",))
    assert (check.verdict, "none may be lost" in check.said) == ("worse", True)


def test_anchors():
    found = verdicts(suites(pairs("b" * 100), anchors={"best": pairs("l" * 20 + "b" * 80)}))
    assert (found["suites"], found["best"]) == ("not_worse", "worse")
    assert verdicts(suites(pairs("b" * 100), anchors={"base": pairs("w" * 100)}))["base"] == "not_worse"


def test_evidence_is_read_as_it_was_written():
    kept = Evidence([LossDifference("a", "s", 0.125)], [LossDifference("b", None, -0.5)], pairs("bl"), pairs("w"))
    kept.anchors = {"sha": pairs("bb")}
    assert read_evidence(json.loads(json.dumps(kept.to_dict()))) == kept


@pytest.mark.parametrize("content", [{}, {"new": 3}, {"new": [["a"]], "earlier": [], "checks": [], "suites": []}])
def test_evidence_that_cannot_be_read_is_none(content):
    assert read_evidence(content) is None
