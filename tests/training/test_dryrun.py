import json
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_lora.config import TrainingConfig
from mlx_lora.data.parts import SMALL
from mlx_lora.data.tokenize import EncodedExample
from mlx_lora.training import dry_run


def test_a_dry_run_writes_nothing_and_says_what_would_be(command, make_model, eisv_data, tmp_path):
    arguments = ("train", "--config", "quickstart", "--data", eisv_data, "--out", tmp_path / "run", "--dry-run")
    model = ("--set", f"model_name={make_model('llama')}")
    report = json.loads(command(*arguments, *model, "--json").stdout)
    assert list(tmp_path.iterdir()) == []
    assert report["total_steps"] == report["steps_per_epoch"] * 10
    assert report["supervised_tokens"] < report["tokens"]
    assert report["estimated_seconds"] > 0
    assert 0 < report["estimated_peak_memory_gb"] < report["machine_memory_gb"]
    supervised = report["example"].split("⟦")[1]
    assert supervised.startswith("EISV_TOKENS: ")
    assert supervised.endswith("<|eot_id|>⟧")
    shown = command(*arguments, *model).stdout
    assert "nothing was written" in shown
    assert "⟦EISV_TOKENS:" in shown


class Slow:
    """A backend that takes so many seconds a token, by a clock of its own."""

    pass_cost = SMALL

    def __init__(self, seconds: float):
        self.seconds, self.now, self.calls = seconds, 0.0, []

    def train_step(self, batches, step, learning_rate):
        tokens = sum(batch.padded_tokens for batch in batches)
        self.calls.append(tokens)
        self.now += tokens * self.seconds


def timed(seconds, monkeypatch):
    lengths = [20, 30, 40, 50] * 8
    train = [EncodedExample(np.arange(n, dtype=np.int32), np.arange(n) > n // 2) for n in lengths]
    config = TrainingConfig(batch_size=4, gradient_accumulation_steps=2, micro_batch_tokens=100)
    backend = Slow(seconds)
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: backend.now)
    ready = SimpleNamespace(config=config, train=train, mix=None, backend=backend)
    shown = []
    found = dry_run.time_steps(ready, 20, shown.append)
    assert shown == sorted(shown)
    return backend, found, shown


def test_three_whole_steps_are_timed_where_they_fit(monkeypatch):
    backend, found, _ = timed(0.001, monkeypatch)
    assert found.measured == "whole steps"
    assert found.seconds == pytest.approx(0.001 * min(backend.calls[-3:]))
    assert len(backend.calls) == 7


@pytest.mark.parametrize(
    ("seconds", "measured"), [(0.04, "whole steps"), (0.1, "a part of a step"), (0.3, "one example"), (2.0, "shortest")]
)
def test_a_slow_base_is_timed_by_what_fits_in_the_budget(seconds, measured, monkeypatch):
    backend, found, shown = timed(seconds, monkeypatch)
    assert measured in found.measured
    # Nothing but the first computation is begun without knowing how long it takes.
    assert shown[-1] <= max(dry_run.BUDGET_SECONDS, seconds * backend.calls[0])
    assert found.seconds == pytest.approx(seconds * 336, rel=0.2)
