import pytest

from mlx_lora.sources.eisv import (
    TrajectoryShape,
    classify_trajectory,
    compute_derivatives,
    compute_second_derivatives,
    compute_trajectory_window,
    fill_missing_shapes,
    generate_dataset,
    generate_trajectory,
)

SHAPES = list(TrajectoryShape)


def states(**series):
    length = len(next(iter(series.values())))
    base = {"E": 0.5, "I": 0.5, "S": 0.3, "V": 0.1}
    return [{"t": float(i), **base, **{k: v[i] for k, v in series.items()}} for i in range(length)]


def shape_of(**series):
    return classify_trajectory(compute_trajectory_window(states(**series))).value


def test_derivatives_are_stamped_with_the_later_time():
    first = compute_derivatives(
        [{"t": 0.0, "E": 0.1, "I": 0, "S": 0, "V": 0}, {"t": 2.0, "E": 0.5, "I": 0, "S": 0, "V": 0}]
    )
    assert first == [{"t": 2.0, "dE": pytest.approx(0.2), "dI": 0, "dS": 0, "dV": 0}]


def test_equal_times_give_no_entry_and_the_later_state_becomes_the_previous_one():
    at = lambda t, e: {"t": t, "E": e, "I": 0.0, "S": 0.0, "V": 0.0}  # noqa: E731
    assert [d["dE"] for d in compute_derivatives([at(0, 0.0), at(0, 1.0), at(1, 1.5)])] == [0.5]


def test_second_derivatives_of_a_square():
    second = compute_second_derivatives(compute_derivatives(states(E=[i * i for i in range(5)])))
    assert [d["d2E"] for d in second] == [2, 2, 2]
    assert [d["t"] for d in second] == [2, 3, 4]


@pytest.mark.parametrize(
    ("series", "shape"),
    [
        ({"E": [0.8, 0.6]}, "basin_transition_down"),
        ({"E": [0.25, 0.5]}, "basin_transition_up"),
        ({"S": [0.1, 0.5, 0.1]}, "entropy_spike_recovery"),
        ({"ethical_drift": [0.0, 0.31]}, "drift_dissonance"),
        ({"V": [0.1, 0.2]}, "void_rising"),
        ({"S": [0.1, 0.2]}, "rising_entropy"),
        ({"E": [0.5, 0.4]}, "falling_energy"),
        ({"E": [0.5, 0.501, 0.502]}, "convergence"),
        ({"E": [0.5, 0.5, 0.5]}, "settled_presence"),
        ({"E": [0.5, 0.501]}, "settled_presence"),  # no second derivative
        ({"I": [0.5, 0.6, 0.5]}, "settled_presence"),
        # Thresholds: a range of exactly 0.2 counts, a rate of exactly 0.05 does not.
        ({"E": [0.5, 0.25, 0.25]}, "basin_transition_down"),
        ({"S": [0.0, 0.05]}, "settled_presence"),
        # The maximum at an end is no spike; of several maxima the first counts.
        ({"S": [0.5, 0.1, 0.3]}, "settled_presence"),
        ({"S": [0.5, 0.1, 0.5]}, "settled_presence"),
        # Order of the rules.
        ({"E": [0.8, 0.5], "V": [0.0, 0.2]}, "basin_transition_down"),
        ({"V": [0.0, 0.2], "S": [0.0, 0.2]}, "void_rising"),
        ({"S": [0.0, 0.2], "E": [0.5, 0.4]}, "rising_entropy"),
    ],
)
def test_classification(series, shape):
    assert shape_of(**series) == shape


def test_an_empty_window_is_settled():
    assert classify_trajectory(compute_trajectory_window([])) is TrajectoryShape.SETTLED_PRESENCE


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dt", [0.001, 0.5, 1.0, 2.0, 30.0])
@pytest.mark.parametrize("n_points", [3, 4, 20, 60])
def test_synthetic_states_have_their_shape(shape, dt, n_points):
    for seed in range(6):
        for noise in (None, 0.0, 0.2):
            made = generate_trajectory(shape, n_points, dt, seed, noise_scale=noise)
            assert classify_trajectory(compute_trajectory_window(made)) is shape
            assert len(made) == n_points
            assert all(0 <= s[k] <= 1 for s in made for k in "EIS")
            assert all(0 <= s["V"] <= 0.3 for s in made)
            assert ("ethical_drift" in made[0]) == (shape is TrajectoryShape.DRIFT_DISSONANCE)
            assert made[1]["t"] - made[0]["t"] <= dt * (1 + 1e-9)


def test_dt_is_kept_where_the_shape_is_possible():
    kept = {s.value: generate_trajectory(s, 4, 1.2, 0)[1]["t"] for s in SHAPES}
    assert set(kept.values()) == {1.2}
    assert generate_trajectory("falling_energy", 20, 1.0, 0)[1]["t"] < 0.2 / (0.05 * 19)


def test_the_same_seed_gives_the_same_states():
    assert generate_trajectory("convergence", seed=5) == generate_trajectory("convergence", seed=5)
    assert generate_trajectory("convergence", seed=5) != generate_trajectory("convergence", seed=6)


def test_an_unknown_shape_names_the_nine():
    with pytest.raises(ValueError, match=r"basin_transition_up.*convergence"):
        generate_trajectory("spiral")
    with pytest.raises(ValueError, match="at least 3"):
        generate_trajectory("convergence", n_points=2)
    with pytest.raises(ValueError, match="dt"):
        generate_trajectory("convergence", dt=0)


def test_datasets_of_records():
    records = generate_dataset({"convergence": 2, TrajectoryShape.VOID_RISING: 1}, n_points=5)
    assert [r["shape"] for r in records] == ["convergence", "convergence", "void_rising"]
    assert records[0]["states"] != records[1]["states"]
    assert set(records[0]) == {
        *("shape", "states", "derivatives", "second_derivatives"),
        *("t_start", "t_end", "provenance"),
    }
    assert records[0]["provenance"] == "synthetic"
    new = fill_missing_shapes(records, min_per_shape=2, n_points=5)
    assert len(new) == 9 * 2 - 3
    assert [r["shape"] for r in new].count("void_rising") == 1
