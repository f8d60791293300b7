"""Real runs on the built-in base: what a run directory holds, and who else can read it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_lora.config import load_config
from mlx_lora.data import dataset, formats
from mlx_lora.models.resolve import BUILT_IN
from mlx_lora.training.train import train

STEPS = 6


@pytest.fixture(scope="module")
def run(command, eisv_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    arguments = ("--data", eisv_data, "--out", out, "--set", f"max_steps={STEPS}", "--set", "log_steps=2")
    done = command("train", "--config", "quickstart", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_a_run_directory_is_whole(run, eisv_data):
    out, printed = run
    assert sorted(p.name for p in out.iterdir()) == [
        *(".lock", "adapter_config.json", "adapters.safetensors", "checkpoints", "config.yaml", "metrics.jsonl"),
        *("report.html", "run.json", "samples.json", "telemetry.jsonl"),
    ]
    adapter = json.loads((out / "adapter_config.json").read_text())
    assert adapter["lora_parameters"]["scale"] == 2.0
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == "builtin/tiny-lumen"
    assert record["data_sha256"]["train"] == json.loads((eisv_data / "card.json").read_text())["sha256"]["train"]
    assert record["system_prompt"].startswith("You map an EISV trajectory")
    assert printed["steps"] == STEPS
    assert printed["path"] == str(out)


def test_the_metrics_tell_the_run(run):
    events = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
    names = [e["event"] for e in events if e["event"] != "warning"]
    assert names[0] == "start"
    assert names[-3:] == ["evaluation", "checkpoint", "complete"]
    progress = [e for e in events if e["event"] == "progress"]
    assert [e["step"] for e in progress] == [1, 2, 4, 6]
    assert {"loss", "unweighted_loss", "learning_rate", "grad_norm", "tokens_per_second", "peak_memory_gb"} <= set(
        progress[0]
    )
    evaluation = next(e for e in reversed(events) if e["event"] == "evaluation")
    assert evaluation["validation_loss"] == pytest.approx(run[1]["validation_loss"])


@pytest.mark.slow
def test_the_resolved_config_trains_the_same_run_again(run, command, eisv_data, tmp_path):
    done = command("train", "--config", run[0] / "config.yaml", "--out", tmp_path / "b", "--json")
    assert done.returncode == 0, done.stderr
    first, second = (load_file(d / "adapters.safetensors") for d in (run[0], tmp_path / "b"))
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.slow
def test_fresh_replaces_a_run(run, command, eisv_data, tmp_path):
    arguments = (
        "--config",
        "quickstart",
        "--data",
        eisv_data,
        "--out",
        tmp_path / "c",
        "--set",
        "max_steps=1",
        "--json",
    )
    assert command("train", *arguments).returncode == 0
    again = command("train", *arguments)
    assert again.returncode == 0
    assert json.loads(again.stdout)["steps"] == 1
    assert command("train", *arguments, "--fresh").returncode == 0


def test_mlx_lm_runs_the_adapter(run):
    """`mlx_lm.generate --adapter-path` on the run, against our own generation."""
    from mlx_lora.models.resolve import BUILT_IN

    prompt = "TRAJECTORY:\nshape: convergence"
    theirs = subprocess.run(
        [
            *(sys.executable, "-m", "mlx_lm", "generate", "--model", str(BUILT_IN["builtin/tiny-lumen"])),
            *("--adapter-path", str(run[0]), "--prompt", prompt, "--temp", "0", "--max-tokens", "40"),
            *("--verbose", "False"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert theirs.returncode == 0, theirs.stderr
    ours = subprocess.run(
        [
            *(sys.executable, "-m", "mlx_lora", "generate", "--target", str(run[0]), "--prompt", prompt),
            *("--system", "", "--max-tokens", "40"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.strip() == theirs.stdout.strip()


@pytest.mark.slow
def test_every_architecture_trains(command, make_model, eisv_data, tmp_path):
    for architecture in ("llama", "qwen2", "qwen3"):
        arguments = ("--data", eisv_data, "--out", tmp_path / architecture, "--set", "max_steps=2")
        done = command(
            *("train", "--config", "quickstart", *arguments, "--json"),
            *("--set", f"model_name={make_model(architecture)}", "--set", "batch_size=4"),
        )
        assert done.returncode == 0, done.stderr
        assert np.isfinite(json.loads(done.stdout)["loss"])


@pytest.mark.slow
def test_generating_by_hand(run, command):
    arguments = ("generate", "--target", run[0], "--prompt", "TRAJECTORY:\nshape: convergence", "--max-tokens", "30")
    answer = json.loads(command(*arguments, "--json").stdout)
    assert answer["system"].startswith("You map an EISV trajectory")
    assert command(*arguments).stdout.strip() == answer["answer"].strip()
    sampled = [command(*arguments, "--temperature", "20", "--seed", seed).stdout for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.slow
def test_tensorboard_has_the_measurements(command, eisv_data, tmp_path):
    settings = ("--config", "quickstart", "--set", "max_steps=2", "--set", "log_steps=1", "--set", "tensorboard=true")
    assert command("train", *settings, "--data", eisv_data, "--out", tmp_path / "a").returncode == 0
    written = b"".join(file.read_bytes() for file in (tmp_path / "a" / "tensorboard").iterdir())
    for name in (b"loss", b"grad_norm", b"validation_loss", b"tokens_per_second"):
        assert name in written


@pytest.mark.slow
@pytest.mark.parametrize(("span", "touched"), [((3, 8), 1), ((0, 1), 0)])
def test_a_run_says_what_its_spans_touch(command, tmp_path, span, touched):
    answer = "\n  quiet here"
    span = {"message": 1, "start": span[0], "end": span[1], "weight": 5.0}
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}], "spans": [span]}
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_text(json.dumps(row) + "\n")
    base = make_stripping_base(tmp_path / "base")
    settings = ("--config", "quickstart", "--set", "max_steps=1", "--set", f"model_name={base}")
    done = command("train", *settings, "--data", tmp_path / "d", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    start = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    assert start["span_tokens"] == touched
    assert ("spans touch no token" in " ".join(done.stderr.split())) is (touched == 0)


def make_stripping_base(directory):
    """The built-in base with a chat template that strips what is said, as Llama 3's does."""
    shutil.copytree(BUILT_IN["builtin/tiny-lumen"], directory)
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["chat_template"] = settings["chat_template"].replace("message['content']", "message['content'].strip()")
    file.write_text(json.dumps(settings))
    return directory


def test_a_fresh_run_reads_and_hashes_each_file_once(eisv_data, tmp_path, monkeypatch):
    read, hashed = Counter[str](), Counter[str]()

    def counting(counter, function):
        def call(path, *others):
            counter[Path(path).name] += 1
            return function(path, *others)

        return call

    monkeypatch.setattr(formats, "read_records", counting(read, formats.read_records))
    monkeypatch.setattr(dataset, "sha256_of", counting(hashed, dataset.sha256_of))
    config = replace(load_config("quickstart"), data=str(eisv_data), output_dir=str(tmp_path / "run"), max_steps=1)
    train(config, quiet=True)
    once = {"train.jsonl": 1, "valid.jsonl": 1, "test.jsonl": 1}
    assert (read, hashed) == (once, once)
