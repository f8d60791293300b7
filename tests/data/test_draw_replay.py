"""Replay draws every earlier night equally often, and no row again before the others of its night."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlx_lora.data.dataset import Example
from mlx_lora.data.replay import draw_replay


def rows(night, count):
    return [
        Example([{"role": "assistant", "content": f"{night} {i}"}], meta={"sleep_id": f"{night}-{i}"})
        for i in range(count)
    ]


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    size=st.integers(0, 60),
    seed=st.integers(0, 2**63 - 1),
)
def test_each_night_equally_often_and_none_again_before_all(sizes, size, seed):
    nights = {f"{n:04d}": rows(n, count) for n, count in enumerate(sizes, 1)}
    drawn = draw_replay(nights, size, seed)
    assert len(drawn) == (size if any(sizes) else 0)
    by_night = Counter(example.meta["night"] for example in drawn)
    assert all(
        by_night[key] in (size // sum(map(bool, sizes)), -(-size // sum(map(bool, sizes))))
        for key in nights
        if nights[key]
    )
    for key, stored in nights.items():
        times = Counter(example.meta["sleep_id"] for example in drawn if example.meta["night"] == key)
        seen = [times[example.meta["sleep_id"]] for example in stored]
        assert not seen or max(seen) - min(seen) <= 1
        assert all("night" not in example.meta for example in stored), "the stored rows are not touched"


def test_the_draw_is_a_function_of_the_seed():
    nights = {"0001": rows(1, 30), "0002": rows(2, 10)}
    assert draw_replay(nights, 12, 5) == draw_replay(nights, 12, 5) != draw_replay(nights, 12, 6)
    # The place left over goes to either night, by the seed.
    favoured = Counter(draw_replay(nights, 1, seed)[0].meta["night"] for seed in range(200))
    assert min(favoured.values()) > 60
    assert draw_replay({}, 5, 1) == draw_replay({"0001": []}, 5, 1) == draw_replay(nights, 0, 1) == []
