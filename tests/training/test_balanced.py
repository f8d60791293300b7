"""Two datasets in every batch, and the best state by the worst of them: through the trainer and the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from training.test_resume import CONFIG, assert_same_adapter, events, finish, kill_and_finish, kills

from mlx_lora.config import load_config
from mlx_lora.data.dataset import Example, read_split, write_dataset
from mlx_lora.runs.events import Evaluation, of_kind, read_events
from mlx_lora.training.setup import prepare
from mlx_lora.training.train import train
from mlx_lora.training.trainer import training_steps, validation_loss


def chats(word, count, **meta):
    return [
        Example(
            [{"role": "user", "content": f"{word} {i}"}, {"role": "assistant", "content": f"{word} {i * i}"}], meta=meta
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Settings of a run over two datasets, one with the held-out rows of two nights."""
    place = tmp_path_factory.mktemp("mixed")
    write_dataset(place / "new", {"train": chats("stone", 21), "valid": chats("stones", 3)}, {"source": "hand"})
    old = [*chats("river", 2, night="0001"), *chats("rivers", 2, night="0002")]
    write_dataset(place / "old", {"train": chats("lake", 13), "valid": old}, {"source": "hand"})
    shares = [{"path": str(place / "new"), "weight": 1}, {"path": str(place / "old"), "weight": 1}]
    return {**CONFIG, "model_name": "builtin/tiny-lumen", "data": shares, "balance_batches": True, "seed": 1}


@pytest.fixture(scope="module")
def arguments(mixed, tmp_path_factory):
    config = tmp_path_factory.mktemp("config") / "c.json"
    config.write_text(json.dumps({**mixed, "keep_best_by": "worst"}))
    return ["train", "--config", str(config), "--json", "--out"]


@pytest.fixture(scope="module")
def undisturbed(command, arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(command, arguments, out)
    return out


def config_of(mixed, out, **settings):
    return load_config(
        None, [f"{key}={json.dumps(value)}" for key, value in {**mixed, "output_dir": str(out), **settings}.items()]
    )


@pytest.mark.slow
def test_kills_change_nothing(command, arguments, undisturbed, tmp_path):
    kill_and_finish(command, arguments, tmp_path / "run", kills(3, 4, seed=7))
    assert_same_adapter(undisturbed, tmp_path / "run")


def test_every_backend_gets_the_same_batches(mixed, tmp_path):
    pytest.importorskip("torch", reason="needs the extra torch")
    plans = []
    for backend in ("mlx", "torch"):
        ready = prepare(config_of(mixed, tmp_path / backend, backend=backend))
        steps = training_steps(ready.config, ready.train, mix=ready.mix)
        plans.append([next(steps)[1] for _ in range(20)])
    assert plans[0] == plans[1]
    assert all(abs(sum(i < 21 for i in batch) - len(batch) / 2) < 1 for step in plans[0] for batch in step)


def test_an_evaluation_has_the_loss_of_each_part(mixed, undisturbed, tmp_path):
    found = of_kind(read_events(undisturbed / "metrics.jsonl"), Evaluation)
    new = mixed["data"][0]["path"]
    assert all(list(each.losses) == [new, "0001", "0002"] for each in found)
    last = found[-1]
    # The mean is over tokens, and each token counts once.
    ready = prepare(config_of(mixed, tmp_path / "run"))
    tokens = dict.fromkeys(last.losses, 0)
    for part, row in zip(ready.parts, ready.valid, strict=True):
        tokens[part] += int(row.supervised.sum())
    mean = sum(last.losses[part] * count for part, count in tokens.items()) / sum(tokens.values())
    assert last.validation_loss == pytest.approx(mean, rel=1e-5)
    ready.backend.attach_lora(ready.config)
    at_the_start = validation_loss(ready.backend, ready.valid, 2)
    assert at_the_start > last.validation_loss


class Falling:
    """Stands for the evaluation: the mean falls with every one, and the worst part is lowest at the second."""

    LOSSES = ((4.0, 4.0, 4.0), (2.0, 3.0, 3.0), (1.0, 2.0, 3.5), (0.5, 1.0, 3.8))

    def __init__(self):
        self.calls = 0

    def __call__(self, backend, parts, batch_size):
        losses = self.LOSSES[min(self.calls, 3)]
        self.calls += 1
        return sum(losses) / 3, dict(zip(parts, losses, strict=True))


@pytest.mark.parametrize(("criterion", "best"), [("mean", 8), ("worst", 4)])
def test_the_best_state_is_the_one_whose_worst_part_is_best(mixed, monkeypatch, tmp_path, criterion, best):
    monkeypatch.setattr("mlx_lora.training.trainer.validation_losses", Falling())
    short = {"max_steps": 8, "eval_steps": 2, "keep_best_by": criterion, "save_steps": 2, "save_total_limit": 8}
    out, result = train(config_of(mixed, tmp_path / "run", **short), quiet=True)
    assert result.best_step == best
    kept = load_file(out / "checkpoints" / f"step-{best:08d}" / "state.safetensors")
    adapter = load_file(out / "adapters.safetensors")
    name = next(iter(adapter))
    assert any(np.array_equal(adapter[name], value) for key, value in kept.items() if key.endswith(name))
    page = (out / "report.html").read_text()
    assert f"best, at step {best}" in page
    assert "Validation loss by part" in page
    assert events(out, "evaluation")[-1]["losses"]["0002"] == 3.8


@pytest.mark.slow
@pytest.mark.parametrize("key", ["balance_batches", "keep_best_by"])
def test_the_two_keys_decide_what_is_learned(refused, arguments, undisturbed, key):
    other = {"balance_batches": "false", "keep_best_by": "mean"}[key]
    assert f"{key} was " in refused(*arguments, undisturbed, "--set", f"{key}={other}")


@pytest.mark.slow
def test_a_run_of_an_earlier_version_resumes(command, mixed, tmp_path):
    """Its run.json has neither key, and its evaluations no parts."""
    out, config = tmp_path / "run", tmp_path / "c.json"
    config.write_text(json.dumps({key: value for key, value in mixed.items() if key != "balance_batches"}))
    arguments = ["train", "--config", str(config), "--json", "--out"]
    finish(command, arguments, tmp_path / "undisturbed")
    assert command(*arguments, out, "--max-minutes", 0.0001).returncode == 0
    record = json.loads((out / "run.json").read_text())
    for key in ("balance_batches", "keep_best_by"):
        del record["learned_from"][key]
    (out / "run.json").write_text(json.dumps(record))
    before = events(out, "start")[-1]["step"]
    finish(command, arguments, out)
    assert events(out, "start")[-1]["step"] > before
    assert_same_adapter(tmp_path / "undisturbed", out)


def test_rows_of_a_night_are_one_part_wherever_they_are(mixed, tmp_path):
    shutil.copytree(mixed["data"][0]["path"], tmp_path / "new")
    (tmp_path / "new" / "valid.jsonl").write_text(
        "".join(json.dumps(row.to_dict()) + "\n" for row in [*chats("a", 1, night="0002"), *chats("b", 1)])
    )
    shares = [{**mixed["data"][0], "path": str(tmp_path / "new")}, mixed["data"][1]]
    ready = prepare(config_of({**mixed, "data": shares}, tmp_path / "run"))
    assert ready.parts == ["0002", str(tmp_path / "new"), "0001", "0001", "0002", "0002"]
    assert len(ready.parts) == len(read_split(tmp_path / "new", "valid")) + 4
