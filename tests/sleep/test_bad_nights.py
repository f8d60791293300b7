"""Nights that go wrong: the live adapter is untouched, the end is a sentence, and the next night can run."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_nights import run, settings, write_config

from mlx_lora.errors import UserError
from mlx_lora.runs.generations import Generations
from mlx_lora.sleep import cycle as cycle_module
from mlx_lora.sleep.guards import GuardResult
from mlx_lora.sleep.record import read_cycles


def spoil(generations, candidate, record):
    """Promote as the night does, and damage what is live then: weights that are no numbers."""
    promoted = cycle_module_promote(generations, candidate, record)
    file = generations.resolve("live") / "adapters.safetensors"
    weights = load_file(file)
    save_file({key: np.full_like(value, np.nan) for key, value in weights.items()}, file)
    return promoted


cycle_module_promote = cycle_module.promote


@pytest.mark.slow
def test_a_bad_generation_on_trial_is_gone_without_a_person(name, store, monkeypatch):
    monkeypatch.setattr(cycle_module, "promote", spoil)
    ended = run(settings(name, [store]))
    assert (ended.status, ended.summary["decision"]) == (1, "failed")
    assert "generation 1 was rolled back" in ended.summary["reason"]
    generations = Generations(name)
    assert (generations.live, generations.trial) == (None, None)
    assert [line["event"] for line in generations.history()] == ["added", "promoted", "rolled_back"]


@pytest.mark.slow
def test_a_night_that_is_cut_on_trial_goes_on_with_it(name, store, monkeypatch):
    def cut(*arguments):
        raise KeyboardInterrupt

    content = settings(name, [store])
    with monkeypatch.context() as patched:
        patched.setattr(cycle_module, "promote", spoil)
        patched.setattr(cycle_module, "confirm_or_roll_back", cut)
        with pytest.raises(KeyboardInterrupt):
            run(content)
    assert Generations(name).trial == 1
    ended = run(content)
    assert "generation 1 was rolled back" in ended.summary["reason"]
    assert Generations(name).live is None


@pytest.mark.slow
def test_a_rollback_while_a_night_is_cut_stays(name, store, monkeypatch):
    def cut(*arguments):
        raise KeyboardInterrupt

    content = settings(name, [store])
    with monkeypatch.context() as patched:
        patched.setattr(cycle_module, "confirm_or_roll_back", cut)
        with pytest.raises(KeyboardInterrupt):
            run(content)
    Generations(name).rollback("it answers in capitals")
    ended = run(content)
    assert ended.summary["reason"] == "generation 1 was rolled back: it answers in capitals"
    assert Generations(name).live is None


@pytest.mark.parametrize(
    "said", ["on battery at 41 %, AC power or 50 % is asked for", "0.3 GB of memory available, 1 GB are asked for"]
)
def test_a_guard_ends_the_night_before_it_begins(name, store, monkeypatch, said):
    refused = [GuardResult("disk", True, "9 GB free"), GuardResult("power", False, said)]
    monkeypatch.setattr(cycle_module, "check_guards", lambda guards, directory: refused)
    ended = run(settings(name, [store]))
    assert (ended.status, ended.summary["decision"], ended.summary["reason"]) == (0, "skipped", said)
    assert read_cycles(name)[-1].result("guards")["guards"][1]["said"] == said
    assert said in ended.page.read_text()


@pytest.mark.slow
def test_a_guard_that_refuses_after_the_machine_slept_leaves_the_night_to_the_next_run(name, store, monkeypatch):
    from mlx_lora.sleep import context

    class Slept:
        said = None

        def suspended(self):
            slept = len(read_cycles(name)[-1].content["steps"]) == 3
            self.said = "the machine slept for 3 h in the middle" if slept else None
            return 3 * 3600.0 if slept else 0.0

    content = settings(name, [store])
    with monkeypatch.context() as patched:
        patched.setattr(context, "SuspensionClock", Slept)
        answers = [[GuardResult("power", True, "on AC power")], [GuardResult("power", False, "on battery")]]
        patched.setattr(cycle_module, "check_guards", lambda guards, directory: answers.pop(0))
        ended = run(content)
    assert (ended.status, ended.summary["decision"]) == (0, "skipped")
    assert "slept for 3 h" in ended.summary["reason"]
    assert not read_cycles(name)[-1].finished
    assert run(content).summary["cycle"] == "0001"
    assert read_cycles(name)[-1].finished


@pytest.mark.slow
@pytest.mark.parametrize("most", [1_000, 20_000, 60_000, 200_000])
def test_no_space_in_the_middle(name, store, tmp_path, most):
    """Files cannot grow beyond a size, as on a disk that fills up: before training, in it, or in the promotion."""
    config = write_config(tmp_path / "night.yaml", settings(name, [store]))
    words = [sys.executable, "-m", "mlx_lora", "sleep", "run", "--config", str(config)]

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limited, timeout=600)
    assert done.returncode in (0, 1, 2), done.stderr
    assert "Traceback" not in done.stderr
    generations = Generations(name)
    assert generations.live is None or generations.resolve("live").is_dir()
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["decision"] in ("promoted", "kept", "failed", "skipped")


@pytest.mark.slow
def test_a_clock_that_was_set_back(name, store):
    content = settings(name, [store])
    run(content)
    record = read_cycles(name)[-1]
    record.content["started"] = "2031-01-01T03:00:00+00:00"
    record.save()
    ended = run({**content, "min_hours": 12})
    # Not "the last night trained -30,000 h ago": it may run.
    assert ended.summary["cycle"] is not None


def test_a_record_that_is_broken_is_named(name, store):
    run(settings(name, [store], min_new=1000))
    (name / "cycles" / "0001" / "cycle.json").write_text("{")
    with pytest.raises(Exception, match=r"0001/cycle\.json: this is not the record of a night"):
        run(settings(name, [store]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"suites": "nosuite"}, "nosuite"),
        ({"trial": "nosuite"}, "nosuite"),
        ({"export": {"gguf": "q9_9"}}, "q9_9"),
        ({"export": {"ollama": "an agent"}}, "an agent"),
        ({"train": {"fine_tune_type": "dora"}}, "set merge"),
    ],
)
def test_what_a_config_names_is_looked_up_before_the_night(name, store, changes, said):
    with pytest.raises(UserError, match=said):
        run(settings(name, [store], **changes))
    with pytest.raises(UserError, match="nosuite"):
        run(settings(name, [{"data": str(store), "check": "nosuite"}]))
    assert not name.exists()
