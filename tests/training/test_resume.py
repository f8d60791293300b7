"""A run that is killed, starved or interrupted ends as the one that never was."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

CONFIG = {
    "lora_dropout": 0.1,
    "lora_rank": 4,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_epochs": 3,
    "save_steps": 4,
    "eval_steps": 5,
    "log_steps": 3,
    "weight_decay": 0.1,
}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("llama")


@pytest.fixture(scope="module")
def arguments(model, eisv_data, tmp_path_factory):
    """The command of one small run, up to its --out."""
    config = tmp_path_factory.mktemp("config") / "c.json"
    config.write_text(json.dumps({**CONFIG, "model_name": str(model), "data": str(eisv_data)}))
    return ["train", "--config", str(config), "--json", "--out"]


@pytest.fixture(scope="module")
def undisturbed(command, arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = command(*arguments, out)
    assert done.returncode == 0, done.stderr
    return out


def start(arguments, out):
    return subprocess.Popen(
        [sys.executable, "-m", "mlx_lora", *arguments, str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(command, arguments, out):
    done = command(*arguments, out)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_same_adapter(one, two):
    first, second = (load_file(d / "adapters.safetensors") for d in (one, two))
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def events(out, kind):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [e for e in lines if e["event"] == kind]


def kill_and_finish(command, arguments, out, moments):
    for moment in moments:
        process = start(arguments, out)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(command, arguments, out)


def kills(count, seconds, seed):
    rng = random.Random(seed)
    return [rng.uniform(0.2, seconds) for _ in range(count)]


def test_three_kills(command, arguments, undisturbed, tmp_path):
    kill_and_finish(command, arguments, tmp_path / "run", kills(3, 4, seed=1))
    assert_same_adapter(undisturbed, tmp_path / "run")
    # The metrics are those of one run: no step twice, the same losses.
    for out in (undisturbed, tmp_path / "run"):
        steps = [e["step"] for e in events(out, "progress")]
        assert steps == sorted(set(steps))
    once, again = ([(e["step"], e["loss"]) for e in events(out, "progress")] for out in (undisturbed, tmp_path / "run"))
    assert once == again


def killed_when(arguments, out, reached, moment=0.0):
    """Kill a run ``moment`` seconds after something is so; returns whether it was still going."""
    process = start(arguments, out)
    while process.poll() is None and not reached():
        time.sleep(0.0005)
    time.sleep(moment)
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


@pytest.mark.slow
def test_twenty_kills_while_loading_stepping_evaluating_and_writing(command, arguments, tmp_path):
    """Evaluations and checkpoints at every second step, so that a moment hits each of them as likely as a step."""
    often = [*arguments[:-1], "--set", "eval_steps=2", "--set", "save_steps=2", "--set", "keep_best=false", "--out"]
    finish(command, often, tmp_path / "undisturbed")
    out, rng = tmp_path / "run", random.Random(2)

    def size():
        try:
            return (out / "metrics.jsonl").stat().st_size
        except FileNotFoundError:  # not there yet, or removed where the run starts over
            return 0

    def writing():
        return any(out.glob("checkpoints/.step-*"))

    for _ in range(6):
        assert killed_when(often, out, lambda: True, rng.uniform(0.2, 1.5))
    met = 0
    for number in range(14):
        before = size()
        reached = writing if number % 2 else lambda before=before: size() != before
        met += killed_when(often, out, reached, 0 if number % 2 else rng.uniform(0, 0.3))
    assert met >= 7, "most kills must find the run still going"
    finish(command, often, out)
    assert_same_adapter(tmp_path / "undisturbed", out)


def wait_for_checkpoint(process, out):
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_first(command, arguments, undisturbed, tmp_path, number):
    out = tmp_path / "run"
    process = start(arguments, out)
    wait_for_checkpoint(process, out)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    saved = max(int(p.name[5:]) for p in out.glob("checkpoints/step-*"))
    assert events(out, "checkpoint")[-1]["step"] == saved
    finish(command, arguments, out)
    assert_same_adapter(undisturbed, out)


@pytest.mark.slow
def test_damaged_and_deleted_checkpoints_are_passed_over(command, arguments, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(arguments, out)
    while process.poll() is None and len(list(out.glob("checkpoints/step-*"))) < 2:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    newest = max(out.glob("checkpoints/step-*"))
    arrays = newest / "state.safetensors"
    half = arrays.read_bytes()[:-100]
    arrays.write_bytes(half)
    (out / "checkpoints" / ".step-99999999.1.tmp").mkdir()
    finish(command, arguments, out)
    said = f"is damaged and was passed over; it is now {newest.name}.unreadable-1"
    assert any(said in e["message"] for e in events(out, "warning"))
    assert (newest.with_name(f"{newest.name}.unreadable-1") / "state.safetensors").read_bytes() == half
    assert_same_adapter(undisturbed, out)
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_all_checkpoints_gone_starts_over(command, arguments, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(arguments, out)
    wait_for_checkpoint(process, out)
    process.kill()
    process.communicate()
    shutil.rmtree(out / "checkpoints")
    finish(command, arguments, out)
    assert_same_adapter(undisturbed, out)


def test_rotation_keeps_the_newest_and_the_best(undisturbed):
    kept = sorted(int(p.name[5:]) for p in undisturbed.glob("checkpoints/step-*"))
    last = json.loads((undisturbed / "run.json").read_text())["result"]
    assert last["steps"] in kept
    assert last["best_step"] in kept
    assert len(kept) <= 4


@pytest.mark.slow
def test_a_time_budget_stops_and_the_same_command_goes_on(command, arguments, undisturbed, tmp_path):
    out = tmp_path / "run"
    first = json.loads(command(*arguments, out, "--max-minutes", 0.001).stdout)
    assert first["stopped"] == "time budget"
    assert 0 < first["steps"] < events(undisturbed, "progress")[-1]["step"]
    assert (out / "adapters.safetensors").exists()
    assert finish(command, arguments, out)["stopped"] is None
    assert_same_adapter(undisturbed, out)


def test_a_finished_run_is_not_trained_again(command, arguments, undisturbed):
    before = (undisturbed / "adapters.safetensors").stat().st_mtime_ns
    again = finish(command, arguments, undisturbed)
    assert again["steps"] == events(undisturbed, "complete")[-1]["steps"]
    assert (undisturbed / "adapters.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_another_config_or_dataset_is_refused_with_what_changed(
    refused, command, arguments, undisturbed, eisv_data, tmp_path
):
    assert "learning_rate was 0.001 and is 0.002" in refused(*arguments, undisturbed, "--set", "learning_rate=2e-3")
    longer = refused(*arguments, undisturbed, "--set", "num_epochs=4")
    assert "num_epochs was 3 and is 4" in longer
    assert "--extend" in longer
    shutil.copytree(eisv_data, tmp_path / "data")
    lines = (tmp_path / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "train.jsonl").write_text("".join(lines[1:]))
    assert f"{tmp_path}/data/train.jsonl has changed" in refused(*arguments, undisturbed, "--data", tmp_path / "data")
    (tmp_path / "data" / "valid.jsonl").unlink()
    assert "the data has no valid any more" in refused(*arguments, undisturbed, "--data", tmp_path / "data")
    shutil.copytree(undisturbed, tmp_path / "run")
    done = command(*arguments, tmp_path / "run", "--set", "num_epochs=4", "--extend")
    assert json.loads(done.stdout)["steps"] > events(undisturbed, "complete")[-1]["steps"]


@pytest.mark.slow
def test_two_runs_in_one_directory(refused, arguments, tmp_path):
    out = tmp_path / "run"
    process = start(arguments, out)
    wait_for_checkpoint(process, out)
    assert "another process is training there" in refused(*arguments, out)
    process.communicate(timeout=120)
    assert process.returncode == 0


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_good_state(command, arguments, undisturbed, tmp_path):
    """A file size limit below a checkpoint's: writing it fails as on a full disk, and nothing half-written stays."""
    import resource

    def small_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / "run"
    done = command(*arguments, out, preexec_fn=small_files)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(out.glob("checkpoints/*"))
    finish(command, arguments, out)
    assert_same_adapter(undisturbed, out)


def test_nan_stops_and_names_step_and_examples(refused, make_model, arguments, tmp_path):
    import mlx.core as mx

    broken = make_model("llama")
    weights = mx.load(str(broken / "model.safetensors"))
    name = "model.embed_tokens.weight"
    weights[name][998:1001] = float("nan")
    mx.save_safetensors(str(broken / "model.safetensors"), weights)
    sentence = refused(*arguments, tmp_path / "run", "--set", f"model_name={broken}")
    assert "step 1: the loss is nan" in sentence
    assert "on the examples" in sentence
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000000"]


def test_a_memory_limit_stops_with_a_sentence(refused, arguments, tmp_path):
    sentence = refused(*arguments, tmp_path / "run", "--set", "memory_limit_gb=0.001")
    assert "memory_limit_gb" in sentence
    assert "batch_size" in sentence


@pytest.fixture
def stopped(command, arguments, tmp_path):
    """A run that was stopped by its time budget, with its last checkpoint's state.json."""
    out = tmp_path / "run"
    assert command(*arguments, out, "--max-minutes", 0.0001).returncode == 0
    return out, max(out.glob("checkpoints/step-*")) / "state.json"


def change(file, **keys):
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


@pytest.mark.slow
def test_fields_of_later_versions_are_ignored(command, arguments, undisturbed, stopped):
    out, state = stopped
    assert json.loads(state.read_text())["format"] == json.loads((out / "run.json").read_text())["format"] == 1
    change(state, of_a_later_version={"a": 1})
    step = json.loads(state.read_text())["step"]
    change(out / "run.json", of_a_later_version=[1])
    finish(command, arguments, out)
    assert events(out, "start")[-1]["step"] == step > 0
    assert_same_adapter(undisturbed, out)
    result = json.loads((out / "run.json").read_text())["result"]
    change(out / "run.json", result={**result, "of_a_later_version": 1})
    assert finish(command, arguments, out)["steps"] == result["steps"]


@pytest.mark.slow
def test_files_without_a_format_are_of_the_first(command, arguments, undisturbed, stopped):
    out, state = stopped
    for file in (state, out / "run.json"):
        content = json.loads(file.read_text())
        del content["format"]
        file.write_text(json.dumps(content))
    finish(command, arguments, out)
    assert events(out, "start")[-1]["step"] > 0
    assert_same_adapter(undisturbed, out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["state.json", "run.json"])
def test_a_later_format_is_a_sentence_and_stays(refused, arguments, stopped, name):
    out, state = stopped
    file = state if name == "state.json" else out / name
    change(file, format=2)
    kept = [path for path in out.rglob("*") if path.is_file() and path.name != "config.yaml"]
    before = {path: path.read_bytes() for path in kept}
    sentence = refused(*arguments, out)
    assert f"{file}: this file has format 2, and this version of mlx-lora reads format 1" in sentence
    assert {path: path.read_bytes() for path in kept} == before


@pytest.mark.parametrize("broken", ["{", "[]", '{"step": "one"}', ""])
@pytest.mark.slow
def test_a_state_that_cannot_be_read_is_kept(command, arguments, undisturbed, stopped, broken):
    out, state = stopped
    state.write_text(broken)
    steps = len(list(out.glob("checkpoints/step-*")))
    metrics = (out / "metrics.jsonl").read_text()
    finish(command, arguments, out)
    assert_same_adapter(undisturbed, out)
    kept = state.parent.with_name(f"{state.parent.name}.unreadable-1")
    assert (kept / "state.json").read_text() == broken
    if steps == 1:
        assert (out / "metrics.jsonl.unreadable-1").read_text() == metrics


def test_fresh_removes_nothing_but_a_run(refused, arguments, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("a year's work")
    assert "--fresh replaces a run, and this is not a run directory" in refused(*arguments, out, "--fresh")
    (out / "run.json").write_text("{}")
    assert "chapter.txt in this directory is not of a run" in refused(*arguments, out, "--fresh")
    assert (out / "chapter.txt").read_text() == "a year's work"


@pytest.mark.slow
def test_samples_cannot_undo_a_finished_run(arguments, tmp_path, monkeypatch):
    from mlx_lora.config import load_config
    from mlx_lora.training import samples
    from mlx_lora.training import train as run

    def fails(ready):
        raise MemoryError("no room for <answers>")

    monkeypatch.setattr(samples, "_answers", fails)
    out = tmp_path / "run"
    config = load_config(arguments[2], [f"output_dir={out}"])
    run.train(config, quiet=True)
    assert json.loads((out / "run.json").read_text())["result"]["stopped"] is None
    assert "no room for &lt;answers&gt;" in (out / "report.html").read_text()

    def interrupted(ready):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "write_after", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.train(config, fresh=True, quiet=True)
    assert json.loads((out / "run.json").read_text())["result"]["stopped"] is None
    # The report that Ctrl-C prevented is written by the next call, which trains nothing.
    monkeypatch.undo()
    before = (out / "adapters.safetensors").stat().st_mtime_ns
    run.train(config, quiet=True)
    assert (out / "report.html").exists()
    assert (out / "adapters.safetensors").stat().st_mtime_ns == before
