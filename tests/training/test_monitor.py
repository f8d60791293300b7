from datetime import datetime

import pytest

from mlx_lora.config import TrainingConfig, load_config
from mlx_lora.errors import UserError
from mlx_lora.training.monitor import Monitor
from mlx_lora.training.report import chart, write_report
from mlx_lora.training.stopping import deadline_of


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


def test_the_report_shows_what_happened_and_needs_nothing_else(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"event": "progress", "step": 1, "loss": 2.5, "learning_rate": 0.1, "grad_norm": 1, "tokens_per_second": 9, '
        '"supervised_tokens_per_second": 3, "peak_memory_gb": 1}\n'
        '{"event": "evaluation", "step": 1, "validation_loss": 2.0}\n'
        '{"event": "warning", "message": "mind the <gap>"}\n'
        '{"event": "complete", "steps": 1, "loss": 2.5}\n{"event": "cut sh'
    )
    record = {"model": "m", "data": "d", "data_sha256": {"train": "abc"}}
    write_report(tmp_path, {"lora_rank": 4}, record, [("a <prompt>", "reference", "answer")])
    page = (tmp_path / "report.html").read_text()
    for text in ("mind the &lt;gap&gt;", "a &lt;prompt&gt;", "lora_rank", "abc", "<svg", "2.5"):
        assert text in page
    assert "http" not in page.replace("http-equiv", "")
    assert chart("empty", {"a": []}) == ""
