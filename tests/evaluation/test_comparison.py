import json
from collections import Counter

import numpy as np
import pytest

from mlx_lora.errors import UserError
from mlx_lora.evaluation.statistics.comparison import HeldoutRows, compare
from mlx_lora.evaluation.statistics.paired_rates import judge


def pairs(both, wins, losses, neither, name="case"):
    kinds = [(True, True)] * both + [(True, False)] * wins + [(False, True)] * losses + [(False, False)] * neither
    return [(f"{name} {number}", a, b) for number, (a, b) in enumerate(kinds)]


def simulated(seed, candidate, cases=500, reruns=2):
    """Compare on cases that the reference passes with probabilities of mean 0.9; two of its runs differ in 10 %.

    Args:
        candidate: (generator, the reference's probabilities) -> the candidate's.
    """
    rng = np.random.default_rng(seed)
    reference = rng.beta(1.125, 0.125, cases)
    runs = [rng.random(cases) < p for p in (candidate(rng, reference), *[reference] * (1 + reruns))]
    a, b, *again = [dict(enumerate(map(bool, run))) for run in runs]
    rows = [(str(i), a[i], b[i]) for i in a]
    return compare({"suite": rows}, reruns=[{"suite": {str(i): v for i, v in run.items()}} for run in again])


def same(rng, reference):
    return reference


def five_points_worse(rng, reference):
    return np.where(rng.random(len(reference)) < 0.05 / 0.9, 0.0, reference)


def test_a_model_against_itself_is_rarely_blocked():
    found = [simulated(seed, same) for seed in range(200)]
    assert sum(c.exit_status for c in found) <= 10


def test_five_points_worse_is_rarely_promoted():
    found = [simulated(seed, five_points_worse) for seed in range(200)]
    assert sum(c.exit_status == 0 for c in found) <= 10


def test_one_rerun_favours_the_reference():
    """Why sampled answers need two reruns: the first run's luck would decide which cases are kept."""
    one, two = ([simulated(s, same, reruns=r).pooled.difference for s in range(100)] for r in (1, 2))
    assert np.mean(one) < -0.012
    assert abs(np.mean(two)) < 0.004


@pytest.mark.parametrize(
    ("lower", "upper", "outcome"),
    [(0.01, 0.1, "better"), (-0.02, 0.05, "not_worse"), (-0.02, -0.001, "not_worse"), (-0.06, -0.001, "worse"),
     (-0.05, 0.01, "inconclusive"), (0.0, 0.01, "not_worse")],
)  # fmt: skip
def test_verdict_of_a_part(lower, upper, outcome):
    assert judge(lower, upper, 0.05) == outcome


def test_verdicts():
    better = compare({"s": pairs(80, 15, 2, 3)})
    assert (better.verdict, better.exit_status, better.pooled.difference) == ("better", 0, pytest.approx(0.13))
    assert compare({"s": pairs(190, 2, 2, 6)}).verdict == "not_worse"
    assert compare({"s": pairs(60, 2, 30, 8)}).verdict == "worse"
    unsettled = compare({"s": pairs(18, 0, 1, 1)})
    assert (unsettled.verdict, unsettled.exit_status) == ("inconclusive", 1)
    assert "more cases would settle it" in unsettled.reasons[0]


def test_cases_needed_settle_it():
    found = compare({"s": pairs(85, 4, 5, 6)}).pooled
    factor = (found.n + found.cases_needed) / found.n
    assert found.verdict == "inconclusive"
    assert factor > 1.5
    more = [round(count * factor * 1.1) for count in (85, 4, 5, 6)]
    assert compare({"s": pairs(*more)}, margin=0.05).verdict == "not_worse"


def test_one_suite_much_worse_blocks_though_the_pool_is_not():
    suites = {f"s{i}": pairs(190, 5, 0, 5) for i in range(4)} | {"bad": pairs(80, 0, 12, 8)}
    found = compare(suites)
    assert found.pooled.verdict in ("better", "not_worse")
    assert found.verdict == "worse"
    assert [s.suite for s in found.suites if s.significantly_worse] == ["bad"]
    assert found.reasons == ["bad: significantly worse, 12 cases lost and 0 won, adjusted p = 0.00122"]


def test_unstable_cases_are_listed_and_left_out():
    rows = pairs(95, 1, 1, 3)
    again = {case: b for case, _, b in rows}
    flipped = again | {"case 0": False, "case 96": False}
    one = compare({"s": rows}, reruns=[{"s": flipped}])
    assert one.unstable == [{"suite": "s", "id": "case 0"}, {"suite": "s", "id": "case 96"}]
    assert (one.pooled.n, one.pooled.losses) == (98, 0)
    # Two reruns that agree with each other leave nothing out, whatever the paired run was.
    assert compare({"s": rows}, reruns=[{"s": flipped}] * 2).unstable == []
    assert compare({"s": rows}, reruns=[{"s": again}, {"s": flipped}]).unstable == one.unstable


def test_heldout_loss():
    rng = np.random.default_rng(0)
    base = rng.uniform(1.0, 3.0, 60)
    sessions = [f"session {i // 5}" for i in range(60)]

    def rows(change, clusters=sessions):
        return HeldoutRows(list(base - change + rng.normal(0, 0.02, 60)), list(base), clusters)

    found = compare({}, heldout={"new": rows(0.3), "night 1": rows(0.0)})
    assert (found.verdict, found.heldout_loss["verdict"], found.pooled.n) == ("better", "better", 0)
    new, old = found.heldout_loss["parts"]
    assert (new["learned"], old["not_forgotten"], new["clusters"]) == (True, True, 12)
    assert new["difference"] == pytest.approx(new["loss_reference"] - new["loss_candidate"])
    assert compare({}, heldout={"new": rows(0.3), "night 1": rows(-0.2)}).verdict == "worse"
    assert compare({}, heldout={"new": rows(0.3, ["one"] * 60)}).verdict == "inconclusive"


def test_anchor_blocks_what_many_nights_have_lost():
    live, best = pairs(190, 2, 2, 6), pairs(180, 0, 20, 0)
    assert compare({"s": live}).verdict == "not_worse"
    assert compare({"s": live}, anchors={"best": best}).verdict == "worse"
    assert compare({"s": live}, anchors={"base": pairs(20, 0, 0, 0)}).verdict == "not_worse"
    assert compare({"s": live}, anchors={"base": pairs(19, 0, 1, 0)}).verdict == "inconclusive"
    assert compare({"s": live}, anchors={"base": pairs(80, 15, 2, 3)}).verdict == "not_worse"


def test_a_stopped_comparison_is_worse():
    found = compare({"s": pairs(3, 0, 1, 0)}, stopped_after=4)
    assert (found.verdict, found.stopped_after) == ("worse", 4)


def test_json_shape():
    found = compare({"s": pairs(95, 1, 1, 3)}, heldout={"test": HeldoutRows([1.0, 2.0], [1.1, 2.0])}).as_dict()
    assert {"verdict", "pooled", "suites", "heldout_loss", "unstable"} <= found.keys()
    assert {"n", "difference", "lower", "upper", "detectable"} <= found["pooled"].keys()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    empty = compare({"s": []}).as_dict()
    assert empty["verdict"] == "inconclusive"
    json.dumps(empty, allow_nan=False)


def test_user_errors():
    rows = pairs(2, 0, 0, 0)
    for arguments, said in (
        (({},), "nothing to compare"),
        (({"s": rows + rows},), "there twice"),
        (({"s": rows}, [{"s": {"case 0": True}}]), "lacks the case 'case 1'"),
        (({"s": rows}, (), {"new": HeldoutRows([1.0], [1.0, 2.0])}), "the same held-out rows"),
        (({"s": rows}, (), {"new": HeldoutRows([float("nan")], [1.0])}), "not finite"),
    ):
        with pytest.raises(UserError, match=said):
            compare(*arguments[:1], **dict(zip(("reruns", "heldout"), arguments[1:], strict=False)))


def test_swapping_the_sides_mirrors_the_difference():
    table = Counter()
    for rows in (pairs(80, 15, 2, 3), pairs(85, 4, 5, 6), pairs(190, 2, 2, 6)):
        there = compare({"s": rows}).pooled
        back = compare({"s": [(case, b, a) for case, a, b in rows]}).pooled
        assert (there.lower, there.upper) == pytest.approx((-back.upper, -back.lower))
        table[there.verdict] += 1
    assert len(table) == 3
