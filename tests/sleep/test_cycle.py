"""Whole nights: learned, judged, promoted, resumed, undone, and every way to end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_nights import SHAPES, night, run, settings, write_config, write_store

from mlx_lora.evaluation.targets.opening import load_target
from mlx_lora.runs.generations import Generations
from mlx_lora.sleep.config import load_sleep_config
from mlx_lora.sleep.record import MOST_ATTEMPTS, read_cycles

KILLED = Path(__file__).parent.parent / "training" / "killed.py"


@pytest.mark.slow
def test_two_nights_are_learned_and_the_second_is_undone(name, store, tmp_path, rows, command):
    trained = {"train": {"max_steps": 60, "num_epochs": 40, "lora_rank": 16, "lora_alpha": 32}}
    first = run(settings(name, [store], **trained))
    assert (first.summary["decision"], first.status, first.summary["generation"]) == ("promoted", 0, 1)
    second_store = write_store(tmp_path / "tuesday", rows[SHAPES[2]])
    second = run(settings(name, [store, second_store], **trained))
    assert (second.summary["decision"], second.summary["generation"]) == ("promoted", 2)
    assert second.summary["new"] == len(rows[SHAPES[2]])
    assert second.summary["replayed"] > 0
    generations = Generations(name)
    assert (generations.live, generations.previous, generations.trial) == (2, 1, None)
    done = command("sleep", "status", name, "--json")
    assert json.loads(done.stdout)["last"]["decision"] == "promoted"
    assert second.page.exists()
    assert (name / "cycles" / "index.html").exists()
    assert len((name / "sleep.log").read_text().splitlines()) == 2
    # Nothing is new, which is said; after a rollback tonight's rows are.
    third = run(settings(name, [store, second_store]))
    assert (third.summary["decision"], third.status) == ("skipped", 0)
    assert third.summary["reason"] == "0 new examples, 10 are needed"
    assert command("sleep", "rollback", name).returncode == 0
    assert Generations(name).live == 1
    fourth = run(settings(name, [store, second_store], **trained))
    assert fourth.summary["new"] == len(rows[SHAPES[2]])


def test_too_little_is_a_sentence(name, store, tmp_path, rows):
    few = write_store(tmp_path / "few", rows[SHAPES[0]][:9])
    ended = run(settings(name, [few], min_total=5))
    assert (ended.summary["reason"], ended.status) == ("9 new examples, 10 are needed", 0)
    ended = run(settings(name, [few], min_new=5, min_total=30))
    assert ended.summary["reason"] == "9 examples in all, 30 are needed"
    # A night that was skipped leaves its number to the next.
    assert [cycle.key for cycle in read_cycles(name)] == ["0001"]


@pytest.mark.slow
def test_a_store_that_collapsed_is_never_live(name, store, tmp_path, rows):
    run(settings(name, [store], train={"max_steps": 30}))
    said = {"role": "assistant", "content": "~warmth~ ~warmth~ ~warmth~"}
    stuck = [replace(row, messages=[*row.messages[:-1], said]) for row in rows[SHAPES[4]] + rows[SHAPES[5]]]
    ended = run(settings(name, [store, write_store(tmp_path / "stuck", stuck)], train={"max_steps": 60}))
    assert ended.summary["decision"] in ("kept", "failed")
    assert ended.status == (ended.summary["decision"] == "failed")
    assert Generations(name).live == 1


@pytest.mark.slow
def test_what_is_due(name, store):
    content = settings(name, [store])
    run(content)
    ended = run({**content, "min_hours": 12})
    assert ended.summary["decision"] == "skipped"
    assert "12" in ended.summary["reason"]
    assert ended.summary["cycle"] is None


def test_a_dry_run_writes_nothing(name, store, tmp_path, command):
    config = write_config(tmp_path / "night.yaml", settings(name, [store]))
    before = sorted(tmp_path.rglob("*"))
    done = command("sleep", "run", "--config", config, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["would_run"] is True
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_two_nights_at_once(name, store):
    content = settings(name, [store])
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom mlx_lora.sleep.lock import night_lock\n"
        "with night_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(name)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Exception, match=rf"a night is running there \(process {other.pid}, since"):
            run(content)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        # The owner is dead and its number may be another process's by now: this one's, to be sure.
        owner = name / "sleep.owner.json"
        owner.write_text(json.dumps({**json.loads(owner.read_text()), "pid": os.getpid()}))
        assert run(content).summary["decision"] in ("promoted", "kept", "failed")
    finally:
        other.kill()


@pytest.mark.slow
def test_a_night_that_cannot_run_says_so(name, store, tmp_path, command):
    config = write_config(tmp_path / "night.yaml", settings(name, [tmp_path / "gone"]))
    done = command("sleep", "run", "--config", config)
    assert done.returncode == 2, done.stdout
    assert "gone" in done.stdout
    assert "Traceback" not in done.stderr
    assert read_cycles(name)[-1].content["decision"] == "failed"
    # The next night runs.
    assert run(settings(name, [store])).status in (0, 1)


@pytest.mark.slow
def test_a_loss_that_is_not_finite(name, store):
    ended = run(settings(name, [store], train={"learning_rate": 10, "max_steps": 40, "lora_alpha": 1e6}))
    assert ended.status in (1, 2)
    assert ended.summary["decision"] == "failed"
    assert Generations(name).live is None


@pytest.mark.slow
def test_the_machine_slept_in_the_middle(name, store, monkeypatch):
    from mlx_lora.sleep import context

    class Slept:
        times, said = 0, None

        def suspended(self):
            Slept.times += 1
            self.said = "the machine slept for 3 h in the middle" if Slept.times == 3 else None
            return 3 * 3600.0 if self.said else 0.0

    monkeypatch.setattr(context, "SuspensionClock", Slept)
    ended = run(settings(name, [store]))
    assert ended.summary["decision"] in ("promoted", "kept", "failed")
    record = read_cycles(name)[-1].content
    assert record["notes"] == ["the machine slept for 3 h in the middle"]


@pytest.mark.slow
def test_a_night_that_is_cut_again_and_again_is_given_up(name, store, monkeypatch):
    content = settings(name, [store])
    from mlx_lora.sleep import cycle

    def cut(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cycle, "learn", cut)
        for _ in range(MOST_ATTEMPTS):
            with pytest.raises(KeyboardInterrupt):
                run(content)
        ended = run(content)
    assert (ended.status, ended.summary["decision"]) == (2, "failed")
    assert f"cut {MOST_ATTEMPTS} times in the step train" in ended.summary["reason"]
    assert run(content).summary["cycle"] == "0002"


@pytest.mark.slow
def test_failed_rows_are_set_aside(name, store, tmp_path, rows):
    run(settings(name, [store], train={"max_steps": 30}))
    # Answers of other shapes, and much of them: worse on every earlier night.
    wrong = write_store(
        tmp_path / "wrong", [swap(a, b) for a, b in zip(rows[SHAPES[0]], rows[SHAPES[6]], strict=False)]
    )
    harmful = settings(
        name, [store, wrong], retries=1, merge=[], replay={"share": 0.0}, train={"max_steps": 60, "learning_rate": 1e-2}
    )
    ended = run(harmful)
    assert ended.summary["decision"] == "failed"
    again = run(harmful)
    assert again.summary["reason"] == "0 new examples, 10 are needed"
    gathered = read_cycles(name)[-1].result("gather")
    assert gathered is None or any("set aside" in each["reason"] for each in gathered["left_out"])


def swap(example, other):
    return replace(example, messages=[*example.messages[:-1], other.messages[-1]])


# Kills.


def live_is_whole(name):
    """What is live is whole, and its hash is in the history."""
    generations = Generations(name)
    if generations.live is None:
        return None
    place = generations.resolve("live")
    digest = hashlib.sha256((place / "adapters.safetensors").read_bytes()).hexdigest()
    assert digest in {line["sha256"] for line in generations.history()}
    assert json.loads((place / "manifest.json").read_text())["sha256"]["adapters.safetensors"] == digest
    return digest


def killed_nights(name, store, count, seed, answers):
    """Run nights that are killed at random writes until one ends; return the hash of what is live then."""
    config = write_config(store.parent / "night.yaml", settings(name, [store]))
    draw = random.Random(seed)
    writes = 1
    for _number in range(count):
        where = draw.randrange(1, 120)
        status, content, said = night(config, program=(KILLED, str(where), str(name)))
        assert status in (0, 1, -signal.SIGKILL), said
        live_is_whole(name)
        writes += 1
        if answers and Generations(name).live is not None:
            target = load_target(f"{name}@live")
            assert target.backend is not None
        if status >= 0:
            break
    for _ in range(5):
        status, content, said = night(config)
        if content is not None:
            assert status in (0, 1), said
            break
    return live_is_whole(name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("undisturbed")
    store = write_store(folder / "store", rows[SHAPES[0]] + rows[SHAPES[1]])
    status, content, said = night(write_config(folder / "night.yaml", settings(folder / "lumen", [store])))
    assert (status, content["decision"]) == (0, "promoted"), said
    return live_is_whole(folder / "lumen")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_a_night_that_is_killed_ends_as_if_it_were_not(name, store, undisturbed, seed):
    assert killed_nights(name, store, 2, seed, answers=True) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 108))
def test_more_kills_of_whole_nights(name, store, undisturbed, seed):
    assert killed_nights(name, store, 4, seed, answers=False) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("file", ["twenty_four.json", "after_removal.json"])
def test_a_real_buffer_goes_through_a_night(realdata, tmp_path, name, file):
    buffer = realdata / "salience" / file
    content = settings(
        name,
        [{"salience": str(buffer), "min_salience": 0.5}],
        min_total=5,
        min_new=5,
        pattern_share=0.3,
        train={"max_seq_length": 2048, "max_steps": 6},
    )
    before = buffer.read_bytes()
    ended = run(content)
    assert ended.summary["decision"] in ("promoted", "kept", "failed"), ended.summary["reason"]
    assert ended.status in (0, 1)
    record = read_cycles(name)[-1]
    steps = [step["step"] for step in record.content["steps"]]
    assert steps[:6] == ["guards", "gather", "curate", "replay", "train", "judge"]
    assert buffer.read_bytes() == before


def test_the_config_in_the_repository_is_one():
    config = load_sleep_config("configs/sleep.yaml")
    assert (config.training().lora_rank, config.training().learning_rate) == (16, 2e-4)
