from datetime import datetime

import pytest

from mlx_lora.config import TrainingConfig, load_config
from mlx_lora.errors import UserError
from mlx_lora.training.diagnostics import Monitor
from mlx_lora.training.interrupts import deadline_of


def watched(state=None, limit=1000.0, grad_clip=None):
    given: list[str] = []
    return Monitor(given.append, limit, state or {}, grad_clip), given


def test_each_warning_is_given_once_even_over_a_resume():
    monitor, given = watched()
    monitor.after_step(3, 4.9)
    assert given == []
    monitor.after_step(4, 7.0)
    monitor.after_step(5, 9.0)
    assert len(given) == 1
    assert "step 4: the gradient norm is 7.0" in given[0]
    resumed, later = watched(monitor.state)
    resumed.after_step(6, 9.0)
    assert later == []


def test_not_learning_no_progress_and_memorising():
    monitor, given = watched()
    monitor.after_epoch(1, 1.6)
    assert "hardly learning" in given.pop()
    monitor.after_epoch(2, 1.4)
    monitor.after_epoch(3, 1.7)
    assert "not fallen for two epochs" in given.pop()
    monitor.after_evaluation(10, 0.5, 2.0, 1.0)
    monitor.after_evaluation(10, 0.3, 0.9, 1.0)
    assert given == []
    # One rise is no trend: the next evaluation may be the best yet.
    monitor.after_evaluation(20, 0.3, 1.2, 0.9)
    monitor.after_evaluation(30, 0.3, 0.8, 0.9)
    monitor.after_evaluation(40, 0.3, 1.0, 0.8)
    assert given == []
    resumed, later = watched(monitor.state)
    resumed.after_evaluation(50, 0.3, 0.95, 0.8)
    assert "memorising" in later.pop()


def test_the_gradient_norm_is_judged_after_clipping():
    monitor, given = watched(grad_clip=1.0)
    monitor.after_step(1, 16.0)
    assert given == []
    monitor, given = watched(grad_clip=10.0)
    monitor.after_step(1, 16.0)
    assert len(given) == 1


def test_memory_limit():
    assert watched(limit=1.0)[0].over_memory(1_000_000_001)
    assert not watched(limit=1.0)[0].over_memory(999_999_999)


def test_time_budgets():
    now = datetime(2026, 1, 1, 22, 30).timestamp()
    assert deadline_of(TrainingConfig(), now) is None
    assert deadline_of(TrainingConfig(max_minutes=90), now) == now + 5400
    assert deadline_of(TrainingConfig(until="06:00"), now) == datetime(2026, 1, 2, 6).timestamp()
    assert deadline_of(TrainingConfig(until="23:00", max_minutes=90), now) == now + 1800
    with pytest.raises(UserError, match="time of day"):
        load_config(None, ["until=25:00"])
