"""Steps of a night with replay: each new example as often as the config says, and no replay row needlessly twice."""

from __future__ import annotations

import pytest

from mlx_lora.config import TrainingConfig
from mlx_lora.sleep.learning import steps_of


@pytest.mark.parametrize(
    ("new", "share", "changes", "expected"),
    [
        (40, 0.5, {}, (30, 10)),  # 4 new of 8 in a batch, 3 times
        (41, 0.5, {}, (33, 11)),
        (40, 0.75, {}, (60, 20)),
        (40, 0.5, {"gradient_accumulation_steps": 2}, (15, 5)),
        (40, 0.5, {"max_steps": 12}, (12, 10)),
        (1, 0.5, {"batch_size": 1}, (3, 1)),
    ],
)
def test_steps(new, share, changes, expected):
    settings = {"batch_size": 8, "gradient_accumulation_steps": 1, "num_epochs": 3, **changes}
    assert steps_of(TrainingConfig(**settings), new, share) == expected
