import math
import random
from itertools import product

import numpy as np
import pytest
from evalsig.inference.mcnemar import mcnemar_test
from evalsig.inference.multiplicity import holm as evalsig_holm
from evalsig.inference.paired import paired_t_test
from scipy import stats

from mlx_lora.evaluation.statistics.intervals import (
    Z80_POWER,
    Z95,
    Z95_ONE_SIDED,
    detectable_difference,
    f1_interval,
    f1_verdict,
    holm,
    margin_of,
    mcnemar,
    normal_quantile,
    one_sided_bounds,
    paired_difference,
    t_quantile,
    verdict,
    wilson,
)
from mlx_lora.evaluation.statistics.paired_means import clustered_mean, mean_verdict

RANDOM = random.Random(0)
TABLES = [tuple(RANDOM.randint(0, RANDOM.choice((6, 60, 600))) for _ in range(4)) for _ in range(20)]


@pytest.fixture(params=TABLES, ids=str)
def table(request):
    return request.param


def answers(both, wins, losses, neither):
    """Return the 0/1 answers of candidate and reference."""
    a = np.repeat([1, 1, 0, 0], [both, wins, losses, neither])
    return a, np.repeat([1, 0, 1, 0], [both, wins, losses, neither])


def test_wilson_is_scipys(table):
    successes, total = table[0] + table[1], sum(table)
    for level, z in ((0.95, Z95), (0.90, Z95_ONE_SIDED)):
        found = stats.binomtest(successes, total).proportion_ci(level, method="wilson")
        assert wilson(successes, total, z) == pytest.approx((found.low, found.high), abs=1e-6)


def test_paired_difference_from_scipys_intervals(table):
    """Newcombe's method 10 from SciPy's Wilson limits and φ from the table's χ² (Yates where the cross is positive)."""
    a, b, c, d = table
    n = sum(table)
    first, second = ([x.low, x.high] for x in (
        stats.binomtest(k, n).proportion_ci(0.90, method="wilson") for k in (a + b, a + c)
    ))  # fmt: skip
    p, q = (a + b) / n, (a + c) / n
    square = np.array([[a, b], [c, d]])
    phi = 0.0
    if square.sum(0).all() and square.sum(1).all():
        positive = a * d > b * c
        # SciPy's continuity correction never moves a cell beyond its expectation, as Newcombe's does not.
        phi = math.sqrt(stats.chi2_contingency(square, correction=positive).statistic / n) * (1 if positive else -1)
    low = math.sqrt((p - first[0]) ** 2 - 2 * phi * (p - first[0]) * (second[1] - q) + (second[1] - q) ** 2)
    high = math.sqrt((first[1] - p) ** 2 - 2 * phi * (first[1] - p) * (q - second[0]) + (q - second[0]) ** 2)
    assert paired_difference(*table, Z95_ONE_SIDED) == pytest.approx((p - q - low, p - q + high), abs=1e-6)


def test_mcnemar_is_scipys_and_evalsigs(table):
    _, wins, losses, _ = table
    expected = stats.binomtest(losses, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, abs=1e-9)
    exact = mcnemar_test(*answers(*table), alternative="greater", exact_threshold=10**6)
    assert mcnemar(wins, losses) == pytest.approx(exact.p_value, abs=1e-9)


def test_mean_of_differences_is_scipys_and_evalsigs(table):
    rng = np.random.default_rng(sum(table))
    a, b = rng.normal(size=(2, 2 + min(400, sum(table))))
    found = clustered_mean(list(b - a))
    expected = stats.ttest_rel(b, a).confidence_interval(0.90)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert (found.lower, found.upper) == pytest.approx(paired_t_test(a, b, ci_level=0.90).ci, abs=1e-6)
    assert found.lower == pytest.approx(paired_t_test(a, b, alternative="greater").ci[0], abs=1e-6)


def test_clustered_mean_is_the_mean_of_equal_clusters():
    """With clusters of equal size the formula is the t interval of the clusters' means."""
    values = np.random.default_rng(0).normal(size=(12, 7))
    found = clustered_mean(list(values.ravel()), [f"session {i}" for i in range(12) for _ in range(7)])
    expected = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.90)
    assert (found.n, found.clusters) == (84, 12)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=1e-9)
    single = clustered_mean([1.0, 2.0], ["one", "one"])
    assert (single.mean, single.lower, single.upper) == (1.5, -math.inf, math.inf)


def test_rows_that_repeat_each_other_do_not_narrow_the_interval():
    values = list(np.random.default_rng(1).normal(size=20))
    once, often = clustered_mean(values), clustered_mean(values * 10, [*range(20)] * 10)
    assert (often.lower, often.upper) == pytest.approx((once.lower, once.upper), abs=1e-9)
    assert clustered_mean(values * 10).lower > once.lower + 0.1


def test_holm_is_evalsigs():
    rng = random.Random(3)
    for _ in range(20):
        p = [rng.choice((rng.random(), 0.01, 0.5)) for _ in range(rng.randint(1, 9))]
        assert holm(p) == pytest.approx(list(evalsig_holm(np.array(p)).p_adjusted), abs=1e-12)
    assert holm([]) == []


def test_quantiles_are_scipys():
    assert pytest.approx((Z95, Z95_ONE_SIDED, Z80_POWER), abs=1e-12) == tuple(map(normal_quantile, (0.975, 0.95, 0.8)))
    for level, freedom in product((0.5, 0.7, 0.95, 0.975, 0.999), [*range(1, 40), 199, 200, 201, 1000, 10**5]):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf(level, freedom), abs=1e-8)


@pytest.mark.parametrize(
    ("successes", "total", "threshold"),
    [(99, 100, 0.95), (196, 200, 0.95), (484, 500, 0.95), (29, 29, 0.90), (59, 59, 0.95), (149, 149, 0.98),
     (299, 299, 0.99)],
)  # fmt: skip
def test_fewest_cases_that_show_a_threshold(successes, total, threshold):
    assert verdict(successes, total, threshold).verdict == "PASS"
    fewer = (total - 1,) * 2 if successes == total else (successes - 1, total)
    assert verdict(*fewer, threshold).verdict == "INCONCLUSIVE"


def test_cases_needed_settle_it_and_no_fewer_do():
    assert verdict(0, 0, 0.95).cases_needed == 59
    assert verdict(20, 20, 0.90).cases_needed == 9
    assert verdict(95, 100, 0.95).cases_needed is None
    for rate, threshold in ((0.97, 0.95), (0.96, 0.95), (0.93, 0.95), (0.86, 0.85), (0.5, 0.52)):
        found = verdict(rate * 100, 100, threshold)
        total = 100 + found.cases_needed
        assert found.verdict == "INCONCLUSIVE"
        assert verdict(rate * total, total, threshold).verdict == ("PASS" if rate > threshold else "FAIL")
        assert verdict(rate * (total - 1), total - 1, threshold).verdict == "INCONCLUSIVE"


def test_a_threshold_of_one_is_about_the_cases_themselves():
    assert verdict(20, 20, 1.0).verdict == "PASS"
    assert verdict(19, 20, 1.0).verdict == "FAIL"


def test_a_rate_at_the_threshold_rarely_passes():
    """The point estimate passes a model whose true rate is the threshold 62 % of the time; the verdict at most 5 %."""
    at_the_point = sum(stats.binom.pmf(k, 100, 0.95) for k in range(95, 101))
    shown = sum(stats.binom.pmf(k, 100, 0.95) for k in range(101) if verdict(k, 100, 0.95).verdict == "PASS")
    assert at_the_point == pytest.approx(0.616, abs=1e-3)
    assert shown <= 0.05


def test_one_sided_bounds():
    lower, upper = one_sided_bounds(90, 100)
    assert 1 - upper == pytest.approx(one_sided_bounds(10, 100)[0])
    assert one_sided_bounds(29, 29)[0] == pytest.approx(0.05 ** (1 / 29))
    assert one_sided_bounds(0, 29)[1] == pytest.approx(1 - 0.05 ** (1 / 29))
    assert lower == pytest.approx(wilson(90, 100, Z95_ONE_SIDED)[0])


def test_f1_interval_covers_the_true_value():
    """Refusals of 100 + 100 cases with a true F1: the interval misses it about 5 % of the time."""
    rng = np.random.default_rng(0)
    hit, wrong = 0.95, 0.03
    true = 2 * hit / (2 * hit + wrong + (1 - hit))
    counts = zip(rng.binomial(100, hit, 2000), rng.binomial(100, wrong, 2000), strict=True)
    found = [f1_interval(int(tp), int(fp), int(100 - tp)) for tp, fp in counts]
    assert 0.93 <= sum(low <= true <= high for low, high in found) / 2000 <= 0.98
    assert f1_interval(0, 0, 0) == (0.0, 1.0)


def test_f1_verdict():
    assert f1_verdict(50, 0, 0, 0.98, 100).verdict == "INCONCLUSIVE"
    more = f1_verdict(50, 0, 0, 0.98, 100).cases_needed
    assert f1_verdict(50 + more // 2, 0, 0, 0.98).verdict == "PASS"
    assert f1_verdict(80, 10, 20, 0.98, 200).verdict == "FAIL"
    found = f1_verdict(97, 2, 3, 0.90, 200)
    assert found.verdict == "PASS"
    assert found.lower < 2 * 97 / (2 * 97 + 5) < found.upper


def test_mean_verdict():
    rng = random.Random(0)
    values = [rng.uniform(0.8, 1.0) for _ in range(100)]
    middle = sum(values) / 100
    assert [mean_verdict(values, t).verdict for t in (middle - 0.05, middle + 0.005, middle + 0.05)] == [
        "PASS",
        "INCONCLUSIVE",
        "FAIL",
    ]
    assert mean_verdict([1.0, 1.0], 0.9).verdict == "INCONCLUSIVE"
    assert mean_verdict([1.0] * 29, 0.9).verdict == "PASS"
    assert mean_verdict([], 0.9).verdict == "INCONCLUSIVE"


def test_detectable_difference_solves_its_equation():
    for discordant, total in ((50, 500), (5, 20), (1, 1000), (300, 500)):
        found, share = detectable_difference(discordant, total), discordant / total
        assert found == pytest.approx(
            (1.645 * math.sqrt(share) + 0.842 * math.sqrt(share - found**2)) / math.sqrt(total), abs=1e-4
        )
    assert detectable_difference(0, 100) == detectable_difference(1, 100)
    assert detectable_difference(1, 1) is None


def test_margins():
    assert [margin_of(n) for n in (20, 499, 500, 5000)] == [0.05, 0.05, 0.03, 0.03]
