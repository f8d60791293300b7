"""Changes of generations, killed at each step and starved of disk: `NAME@live` is always a whole, recorded one."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from safetensors.numpy import load

from mlx_lora.backends.adapter_format import published
from mlx_lora.processes import python_environment
from mlx_lora.runs.generations import Generations
from mlx_lora.runs.refs import Refs
from mlx_lora.runs.resolve import resolve

STEPS = Path(__file__).with_name("generation_steps.py")
CHANGES = ("publish", "rollback", "collect", "pin", "unpin")


@pytest.fixture(scope="module")
def killed():
    """Make a change in a process that is killed at a step; returns whether it came that far."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(STEPS)], text=True, env=python_environment(), **pipes) as process:

        def run(directory, change, run, kill):
            request = {"directory": str(directory), "change": change, "run": str(run), "kill": kill}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            status = json.loads(process.stdout.readline())
            assert status in (0, signal.SIGKILL), (change, kill)
            return status != 0

        yield run
        process.stdin.close()


def number_in(weights: bytes) -> int:
    return int(load(weights)["number"][0, 0])


def check(directory):
    """Check that NAME@live loads, whole and recorded, before and after the recovery; return both."""
    before = check_live(directory)
    generations = Generations(directory)
    generations.recover()
    after = check_live(directory)
    history = generations.history()
    assert Refs.of_line(history[-1]) == Refs.read(directory)
    assert not [file for file in directory.rglob("*") if ".tmp" in file.name or file.name.startswith(".collected")]
    for which in (*Refs.read(directory).named().values(), *generations.pinned):
        assert which is None or generations.path(which).is_dir()
    live = generations.live
    if live is None:
        assert not (directory / "live").is_symlink()
        assert not (directory / "adapters.safetensors").exists()
    else:
        assert (directory / "live").resolve() == generations.path(live)
        whole = (generations.path(live) / "adapters.safetensors").read_bytes()
        assert (directory / "adapters.safetensors").read_bytes() == whole
    # A second recovery has nothing to do.
    size = (directory / "history.jsonl").stat().st_size
    generations.recover()
    assert (directory / "history.jsonl").stat().st_size == size
    return before, after


def check_live(directory):
    reference = resolve(f"{directory}@live")
    if reference.adapter is None:
        assert reference.kind == "base"
        return None
    weights = (reference.adapter / "adapters.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    manifest = json.loads((reference.adapter / "manifest.json").read_text())
    assert manifest["sha256"]["adapters.safetensors"] == digest
    generation, history = int(reference.adapter.name), Generations(directory).history()
    # An earlier version has left none.
    recorded = {line["generation"]: line["sha256"] for line in history if line["sha256"]}
    assert not history or recorded[generation] == digest
    assert number_in(weights) == json.loads((reference.adapter / "run.json").read_text())["number"]
    return generation


class Reader(threading.Thread):
    """A program that opens NAME@live again and again, and compares its files."""

    def __init__(self, directory):
        super().__init__(daemon=True)
        self.directory, self.over, self.seen, self.wrong = directory, threading.Event(), [], []

    def run(self):
        while not self.over.wait(0.001):
            try:
                directory = published(self.directory)
                told = json.loads((directory / "run.json").read_text())["number"]
                found = number_in((directory / "adapters.safetensors").read_bytes())
                assert told == found
                self.seen.append(found)
            except FileNotFoundError:
                # The base is live, or the generation was collected long after it had been live.
                continue
            except Exception as error:
                self.wrong.append(error)

    def stop(self):
        self.over.set()
        self.join()
        assert not self.wrong
        return self.seen


def some_nights(killed, directory, make_run, kills, seed):
    """Publish, undo, collect and pin at random, each killed at a random step, until there are that many kills."""
    rng, night, count = random.Random(seed), 0, 0
    reader = Reader(directory)
    killed(directory, "publish", make_run(0), 0)
    reader.start()
    while count < kills:
        night += 1
        what = "publish" if night % 2 else rng.choice(CHANGES)
        before = Generations(directory).live
        count += killed(directory, what, make_run(night), rng.randint(1, 60))
        after = check(directory)
        allowed = {before} if what not in ("publish", "rollback") else {before, *after}
        assert set(after) <= allowed
        # What was cut is done again, and is then complete.
        if what == "publish":
            killed(directory, what, make_run(night), 0)
            live = Generations(directory).path(Generations(directory).live)
            assert json.loads((live / "run.json").read_text())["number"] == night
            check(directory)
    seen = reader.stop()
    assert len(set(seen)) > 1
    return seen


def test_ten_nights_with_a_kill(killed, tmp_path, make_run):
    some_nights(killed, tmp_path / "agent", make_run, 10, 1)


@pytest.mark.slow
def test_a_hundred_nights_with_a_kill(killed, tmp_path, make_run):
    some_nights(killed, tmp_path / "agent", make_run, 100, 2)


def every_step(killed, start, directory, what, run, among=lambda step: True):
    """Kill a change at each of its steps, each time from the same start; returns the number of steps."""
    step = 0
    while True:
        step += 1
        if not among(step):
            continue
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(start, directory, symlinks=True)
        before = Generations(directory).live
        there = killed(directory, what, run, step)
        yield before, check(directory), there
        if not there:
            return


@pytest.mark.parametrize(
    "what", ["publish", *(pytest.param(what, marks=pytest.mark.slow) for what in ("rollback", "collect", "pin"))]
)
def test_a_kill_at_every_step(killed, tmp_path, make_run, generations, what):
    for number in (4, 5):
        generations.promote(generations.add(make_run(number), {"cycle": f"{number:04d}"}), "more")
    expected = {"publish": {5, 6}, "rollback": {5, 4}}.get(what, {5})
    outcomes = set()
    # In the fast tests each third step, and the end.
    among = (lambda step: step % 3 == 1) if what == "publish" else (lambda step: True)
    for before, after, _ in every_step(killed, generations.directory, tmp_path / "copy", what, make_run(6), among):
        assert before == 5
        outcomes |= set(after)
        # What the history says is what a recovery gives: a night that was recorded is not lost.
        assert after[0] == before or after[1] == after[0]
    assert outcomes == expected


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["generations and a link", "a copy that followed the links"])
def test_a_kill_while_a_directory_of_an_earlier_version_is_taken_over(killed, tmp_path, make_run, generations, layout):
    old = generations.directory
    as_before(old)
    if layout != "generations and a link":
        shutil.copytree(old, tmp_path / "followed")
        old = tmp_path / "followed"
    for _, after, there in every_step(killed, old, tmp_path / "copy", "recover", make_run(1)):
        assert after[1] == 3
        if not there:
            assert [line["event"] for line in Generations(tmp_path / "copy").history()] == ["adopted"] * 3


def as_before(directory):
    """Turn a directory into one of an earlier version: no refs and no history, and manifests of rounds."""
    shutil.rmtree(directory / "refs")
    (directory / "history.jsonl").unlink()
    for number, file in enumerate(sorted(directory.glob("generations/*/manifest.json")), 1):
        content = json.loads(file.read_text())
        kept = ("format", "parent", "base_fingerprint", "data_sha256", "sha256")
        file.write_text(json.dumps({**{key: content[key] for key in kept}, "round": number}))
