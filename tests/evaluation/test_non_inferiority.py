"""Non-inferiority on few rows, over nights: simulated sequences of nights, and the parts that settle nothing."""

from __future__ import annotations

import math
import random

import pytest

from mlx_lora.evaluation.statistics.non_inferiority import (
    LossDifference,
    alarm_level,
    anytime_level,
    loss_interval,
    settled_losses,
    settled_rates,
)
from mlx_lora.evaluation.statistics.paired_rates import paired_rates

MARGIN = 0.05


def losses_of_a_night(rng, mean, spread, night):
    return [LossDifference(f"{night}.{i}", None, rng.gauss(mean, spread)) for i in range(rng.randint(5, 20))]


def nights_until_promoted(draw, settle, nights):
    """Return the night on which a sequence of candidates is promoted, each night's pairs kept; None for none."""
    earlier = []
    for night in range(nights):
        tonight = draw(night)
        if settle(tonight, earlier) in ("better", "not_worse"):
            return night + 1
        earlier.append(tonight)
    return None


def loss_sequence(seed, mean, spread, nights, later=None, change=0):
    """Held-out parts of 5 to 20 rows; from night ``change`` on the mean is ``later``."""
    rng = random.Random(seed)

    def draw(night):
        return losses_of_a_night(rng, mean if later is None or night < change else later, spread, night)

    return nights_until_promoted(draw, lambda now, before: settled_losses(now, before).verdict, nights)


def rate_sequence(seed, difference, discordant, nights):
    """Suites of 5 to 20 cases."""
    rng = random.Random(seed)
    lost, won = (discordant - difference) / 2, (discordant + difference) / 2

    def draw(night):
        drawn = [rng.random() for _ in range(rng.randint(5, 20))]
        return [(f"{night}.{i}", not u < lost, not lost <= u < lost + won) for i, u in enumerate(drawn)]

    def settle(now, before):
        return settled_rates(paired_rates(now, MARGIN), now, before).verdict

    return nights_until_promoted(draw, settle, nights)


def shares(sequence, count, **about):
    """Return the promoted share of ``count`` sequences, and the median night."""
    found = sorted(night for seed in range(count) if (night := sequence(seed, **about)) is not None)
    return len(found) / count, found[len(found) // 2] if found else None


def test_an_equal_candidate_is_promoted_and_a_worse_one_is_not():
    assert shares(loss_sequence, 40, mean=0.0, spread=0.05, nights=20)[0] == 1
    assert shares(loss_sequence, 40, mean=-0.1, spread=0.1, nights=20)[0] <= 0.05
    assert shares(rate_sequence, 40, difference=0.0, discordant=0.05, nights=60)[0] >= 0.95
    assert shares(rate_sequence, 40, difference=-0.05, discordant=0.1, nights=40)[0] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "median"), [(0.03, 2), (0.05, 4), (0.1, 15)])
def test_equal_losses_are_promoted(spread, median):
    share, night = shares(loss_sequence, 200, mean=0.0, spread=spread, nights=60)
    assert share >= 0.98
    assert night <= median


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2, 0.4])
def test_losses_that_are_a_tenth_of_a_nat_worse_are_not(spread):
    assert shares(loss_sequence, 200, mean=-0.1, spread=spread, nights=60)[0] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2])
def test_a_worse_candidate_does_not_ride_on_equal_ones(spread):
    nights = [
        night
        for seed in range(200)
        if (night := loss_sequence(seed, mean=0.0, spread=spread, nights=30, later=-0.1, change=3)) is not None
    ]
    assert sum(night > 3 for night in nights) <= 0.05 * 200


@pytest.mark.slow
@pytest.mark.parametrize(("discordant", "nights"), [(0.02, 40), (0.1, 100), (0.2, 150)])
def test_equal_rates_are_promoted(discordant, nights):
    assert shares(rate_sequence, 200, difference=0.0, discordant=discordant, nights=nights)[0] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("discordant", [0.05, 0.1, 0.2, 0.3])
def test_rates_that_are_five_points_worse_are_not(discordant):
    assert shares(rate_sequence, 200, difference=-0.05, discordant=discordant, nights=100)[0] <= 0.05


def rows(*differences):
    return [LossDifference(str(i), None, difference) for i, difference in enumerate(differences)]


@pytest.mark.parametrize("differences", [(), (2.0,), (-2.0,), (0.5, 0.5), (0.0, 0.0, 0.0, 0.0)])
def test_too_few_rows_settle_nothing(differences):
    assert loss_interval(rows(*differences)).verdict == "inconclusive"
    assert settled_losses(rows(*differences), [rows(*differences)]).verdict == "inconclusive"


def test_rows_without_variance():
    # Three rows that happen to be equal show nothing; many do.
    assert loss_interval(rows(*[0.0] * 4)).verdict == "inconclusive"
    assert loss_interval(rows(*[0.0] * 8)).verdict == "not_worse"
    assert loss_interval(rows(*[-0.1] * 8)).verdict == "worse"
    # The same row judged on many nights is one row.
    assert settled_losses(rows(0.0, 0.0), [rows(0.0, 0.0)] * 20).verdict == "inconclusive"


def test_one_windfall_hides_no_gain_and_no_loss():
    gains = (0.06, 0.08, 0.08, 0.09, 0.06, 0.14, 0.16)
    assert loss_interval(rows(*gains, 1.39)).verdict == "better"
    # Losses are not cut.
    assert loss_interval(rows(*[-x for x in gains], 1.39)).verdict != "better"
    lost = loss_interval(rows(*gains, -1.39))
    assert lost.verdict == "inconclusive"
    assert lost.mean == pytest.approx(sum((*gains, -1.39)) / 8)


def test_several_sessions_are_clusters_and_few_are_not():
    values = [0.01 if i % 2 else -0.01 for i in range(24)]
    few = [LossDifference(str(i), f"s{i % 2}", value) for i, value in enumerate(values)]
    many = [LossDifference(str(i), f"s{i % 8}", value) for i, value in enumerate(values)]
    assert loss_interval(few).verdict == "not_worse"
    assert loss_interval(many).upper != loss_interval(few).upper


def test_levels():
    assert [alarm_level(n) for n in (1, 10, 50)] == [0.95, 0.95, 0.99]
    levels = [anytime_level(n) for n in (8, 32, 128, 512, 4096)]
    assert all(0.99 < level < 1 for level in levels)
    # At one look the bound must be wider than the usual one.
    assert min(levels) > 0.95
    assert math.isfinite(anytime_level(0))
