"""Report of a suite: the fields against fooling, thresholds on metrics, and names that a user's function chose."""

from __future__ import annotations

import json

import pytest

from mlx_lora.engines.reply import Reply
from mlx_lora.errors import UserError
from mlx_lora.evaluation.runner import prepare, run_suite
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.suite_report import best_constant_answer


class Said:
    """Target with answers by id."""

    def __init__(self, answers):
        self.answers = answers
        self.name, self.identity, self.system_prompt, self.warnings, self.group = "said", "said", None, [], 4

    def answer(self, conversations, ids, settings):
        return [Reply(self.answers[name]) for name in ids]

    def performance(self):
        return dict.fromkeys(("load_s", "first_token_s", "tokens_per_s", "peak_memory_bytes"))


@pytest.fixture
def report_of(suite_of):
    def run(cases, answers, **keys):
        evaluation = prepare(suite_of(*cases, **keys))
        return run_suite(
            evaluation, Said({str(case["id"]): answer for case, answer in zip(cases, answers, strict=True)})
        )

    return run


def cases(*expected, tags=()):
    return [
        {"id": n, "prompt": f"q{n}", "expect": e, "tags": [tags[n]] if tags else []} for n, e in enumerate(expected)
    ]


def test_the_fields_against_fooling(report_of):
    """Nine of ten want the same: one answer given to all passes the threshold, and the mean over classes shows it."""
    rows = cases(*["yes"] * 9, "no", tags=["a"] * 9 + ["b"])
    report = report_of(rows, ["yes"] * 10, threshold=0.9)
    assert (report["pass_rate"], report["gate_passed"], report["balanced"], report["distinct_answers"]) == (
        0.9,
        True,
        0.5,
        1,
    )
    assert report["best_constant"] == {"answer": "yes", "score": 0.9, "balanced_score": 0.5}
    assert report["verdict"] == "INCONCLUSIVE"
    assert "these cases cannot tell a model from a constant" in report["warnings"][0]
    assert report_of(rows, ["yes"] * 10, threshold=0.95)["warnings"] == []


def test_the_best_constant_is_an_answer_or_a_reference(report_of):
    rows = cases("red", "red", "blue", "green")
    # Thirteen different answers were once the limit: the best one is the last here.
    many = cases(*["zebra"] * 40)
    assert report_of(many, [f"wrong {n}" for n in range(39)] + ["a zebra"])["best_constant"]["score"] == 1.0
    assert report_of(rows, ["red and blue", "x", "y", "z"])["best_constant"]["answer"] == "red and blue"
    assert report_of(rows, ["x"] * 4)["best_constant"] == {"answer": "red", "score": 0.5, "balanced_score": 0.5}
    lists = cases(["a", "b"], ["c", "d"])
    assert report_of(lists, ["x", "x"], checks=[{"contains_all": {}}])["best_constant"]["answer"] == "a\nb"
    calls = cases({"name": "look", "parameters": {"at": 1}}, {"name": "look", "parameters": {"at": 1}})
    best = report_of(calls, ["x", "x"], checks=[{"tool_call": {}}])["best_constant"]
    assert (json.loads(best["answer"])["name"], best["score"]) == ("look", 1.0)


def test_slow_checks_are_not_tried_with_every_answer(suite_of):
    evaluation = prepare(suite_of(*cases("a"), checks=[{"command": "true"}]))
    assert best_constant_answer(evaluation.suite, evaluation.cases, ["a"], evaluation.scorers) is None


def test_the_best_constant_of_many_cases_is_bounded(suite_of):
    """However many distinct answers there are, at most some 20,000 scores are computed."""
    evaluation, calls = prepare(suite_of(*cases(*[f"e{n}" for n in range(400)]))), []
    counting = [lambda case, answer: calls.append(1) or evaluation.scorers[0](case, answer)]
    best = best_constant_answer(evaluation.suite, evaluation.cases, [f"a{n}" for n in range(400)], counting)
    assert best["score"] > 0
    assert len(calls) <= 20_000


OWN = """\
def judge(case, answer):
    return {"passed": True, "metrics": {"passed": 0.25, "results": 0.5, "warnings": 0.75, "length": len(answer)}}
def nothing(case, answer):
    return {"passed": True, "metrics": {}}
def endless(case, answer):
    return {"passed": True, "metrics": {"length": float("nan")}}
def scored(case, answer):
    from mlx_lora.evaluation.scorers import Score
    return Score(True, "", {"length": float("inf")})
"""


def test_a_metric_of_ones_own_takes_no_place_of_a_field(report_of, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    report = report_of(cases("a", "b"), ["xx", "y"], checks=[{"python": "own.py:judge"}])
    assert (report["passed"], len(report["results"]), report["length"]) == (2, 2, 1.5)
    assert isinstance(report["warnings"], list)
    with pytest.raises(UserError, match="the threshold is on length, which none of its checks measures"):
        report_of(cases("a"), ["x"], checks=[{"python": "own.py:nothing"}], threshold=None, thresholds={"length": 1})
    for name in ("endless", "scored"):
        report = report_of(cases("a"), ["x"], checks=[{"python": f"own.py:{name}"}])
        assert (report["passed"], report["results"][0]["reason"]) == (
            0,
            f"own.py:{name} returned a metric that is not finite",
        )


def test_of_two_checks_with_a_metric_the_lower_value_counts(report_of):
    checks = [{"contains_all": ["a", "b"]}, {"contains_all": ["a", "b", "c", "d"]}, {"contains_all": ["a"]}]
    report = report_of(cases("-"), ["a b c"], checks=checks, threshold=None, thresholds={"found": 0.8})
    assert (report["found"], report["gate_passed"]) == (0.75, False)
    assert report["results"][0]["reason"] == "the answer lacks 'd'"


def test_mean_coherence_is_judged_over_valid_answers(report_of):
    rows = [{"id": n, "prompt": "q", "metadata": {"shape": "convergence"}} for n in range(60)]
    good, bad = "EISV_TOKENS: ~stillness~\nLUMEN_TOKENS: quiet\nPATTERN: SINGLE", "no expression"
    keys = {"checks": [{"expression_coherence": {}}], "threshold": None}
    report = report_of(rows, [good] * 55 + [bad] * 5, thresholds={"mean_coherence": "> 0.933"}, **keys)
    # 55 of 60 are valid, and all of those are coherent: over all, 0.917 would be below the threshold.
    assert (report["mean_coherence"], report["verdict"], report["gate_passed"]) == (1.0, "PASS", True)


def test_thresholds_may_be_strict(report_of):
    rows, said = cases(*"abcd"), ["a", "b", "x", "x"]
    assert report_of(rows, said, threshold=0.5)["gate_passed"]
    assert not report_of(rows, said, threshold="> 0.5")["gate_passed"]


def test_settings_are_the_suites_own_or_the_callers(suite_of):
    evaluation = prepare(suite_of(*cases("a"), generate={"max_tokens": 5, "seed": 2}))
    assert run_suite(evaluation, Said({"0": "a"}))["max_tokens"] == 5
    report = run_suite(evaluation, Said({"0": "a"}), generation=Generation(7, 0.5, 1))
    assert (report["max_tokens"], report["temperature"], report["seed"]) == (7, 0.5, 1)
