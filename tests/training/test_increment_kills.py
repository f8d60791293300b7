"""`train --increment`, killed at its writes and starved of disk: never stuck, and its adapter is always a whole one."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from mlx_lora.backends.adapter_format import published
from mlx_lora.data.dataset import Example, write_dataset
from mlx_lora.runs.generations import Generations

KILLED = Path(__file__).with_name("killed.py")
SETTINGS = ("--config", "quickstart", "--set", "lora_rank=4", "--set", "max_steps=3", "--set", "save_steps=2")
ITEMS = 10


class Rounds:
    """One incremental adapter, whose dataset has ten items more in every round."""

    def __init__(self, out):
        self.out, self.done = out, 0

    def arguments(self):
        data = self.out.with_name(f"data-{self.done + 1}")
        if not data.exists():
            chats = [
                Example(
                    [{"role": "user", "content": f"shape {i}"}, {"role": "assistant", "content": f"answer {i}"}],
                    meta={"item_id": f"item-{i}"},
                )
                for i in range(ITEMS * (self.done + 1))
            ]
            write_dataset(data, {"train": chats}, {"source": "hand"})
        # Dropout may change from round to round.
        dropout = f"lora_dropout={0.1 * (self.done % 3)}"
        return ["train", "--increment", *SETTINGS, "--set", dropout, "--data", data, "--out", self.out, "--json"]

    def killed_at(self, where):
        """Run the round to a write; returns whether it was killed, and counts the round if not."""
        process = subprocess.run(
            [sys.executable, str(KILLED), str(where), str(self.out), *map(str, self.arguments())],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode in (0, -signal.SIGKILL), process.stderr
        self.done += process.returncode == 0
        return process.returncode != 0

    def finish(self):
        while self.killed_at(0):
            pass

    def check(self, undisturbed):
        """Every generation is that of rounds that nothing disturbed, and every item was counted once."""
        state = json.loads((self.out / "increment.json").read_text())
        assert (state["rounds"], state["pending"]) == (self.done, [])
        assert len(state["trained"]) == ITEMS * self.done
        made = sorted((self.out / "generations").iterdir())
        assert [generation.name for generation in made] == [f"{i:04d}" for i in range(1, self.done + 1)]
        for generation in made:
            ours = load_file(generation / "adapters.safetensors")
            theirs = load_file(undisturbed.out / "generations" / generation.name / "adapters.safetensors")
            assert set(ours) == set(theirs)
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])
        assert published(self.out) == made[-1].resolve()
        assert (self.out / "adapters.safetensors").read_bytes() == (made[-1] / "adapters.safetensors").read_bytes()


class Reader(threading.Thread):
    """Two readers in a loop: ours finds the generation once, mlx-lm's opens the config and then the weights."""

    def __init__(self, out):
        super().__init__(daemon=True)
        self.out, self.over = out, threading.Event()
        self.whole, self.opened, self.wrong = set(), set(), []

    def run(self):
        while not self.over.wait(0.001):
            try:
                directory = published(self.out)
                self.whole.add(self._read(directory, "run.json"))
                self.opened.add(self._read(self.out, "adapter_config.json"))
            except FileNotFoundError as error:
                if self.whole:
                    self.wrong.append(error)
            except Exception as error:
                self.wrong.append(error)

    @staticmethod
    def _read(directory, other):
        first = (directory / other).read_bytes()
        weights = (directory / "adapters.safetensors").read_bytes()
        assert load(weights)
        assert json.loads(first)
        return first, weights

    def check(self):
        self.over.set()
        self.join()
        made = [g for g in (self.out / "generations").iterdir() if not g.name.startswith(".")]
        assert not self.wrong
        assert self.whole <= {self._read(g, "run.json") for g in made}
        assert self.opened <= {self._read(g, "adapter_config.json") for g in made}
        return len(self.whole)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Rounds that nobody kills, as many as are asked for."""
    rounds = Rounds(tmp_path_factory.mktemp("undisturbed") / "live")

    def up_to(count):
        while rounds.done < count:
            rounds.finish()
        return rounds

    return up_to


@pytest.mark.slow
def test_kills_at_every_kind_of_write(tmp_path, undisturbed):
    rounds = Rounds(tmp_path / "live")
    # The round's state, its dataset, its run, the generation, the pointer to it, and the mark that it is complete.
    for where in ("increment.json", ".data.", "train.jsonl", "run.json", "generations", "manifest", ".live."):
        assert rounds.killed_at(where), where
    assert rounds.killed_at("increment.json")
    rounds.finish()
    rounds.check(undisturbed(1))


@pytest.mark.slow
def test_kills_of_a_first_round_that_goes_on_from_a_night(tmp_path, undisturbed):
    agent, rounds = Generations(tmp_path / "agent"), Rounds(tmp_path / "agent")
    agent.promote(agent.add(undisturbed(1).out / "rounds" / "0001" / "run", {"cycle": "0001"}), "better")
    # The generation, its promotion, and the mark: none of them makes the round start from its own end.
    for where in ("manifest", "history", "refs", "increment.json"):
        assert rounds.killed_at(where), where
        assert agent.live in (1, 2)
    rounds.finish()
    assert (agent.live, agent.previous, agent.numbers()) == (2, 1, [1, 2])
    manifest = json.loads((agent.path(2) / "manifest.json").read_text())
    assert (manifest["parent"], manifest["round"]) == (1, 1)


@pytest.mark.slow
def test_a_full_disk_at_the_first_writes(command, tmp_path, undisturbed):
    rounds = Rounds(tmp_path / "live")
    for size in (10, 100, 1000, 20_000):

        def small_files(size=size):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        done = command(*rounds.arguments(), preexec_fn=small_files)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    rounds.finish()
    rounds.check(undisturbed(1))


@pytest.mark.slow
def test_a_hundred_kills_at_any_write_while_readers_load(tmp_path, undisturbed):
    rounds, rng = Rounds(tmp_path / "live"), random.Random(3)
    reader = Reader(rounds.out)
    reader.start()
    kills, started = 0, time.monotonic()
    while kills < 100:
        kills += rounds.killed_at(rng.randint(1, 90))
    rounds.finish()
    print(f"{kills} kills, {rounds.done} rounds, {time.monotonic() - started:.0f} s")
    assert reader.check() >= rounds.done - 1
    rounds.check(undisturbed(rounds.done))
