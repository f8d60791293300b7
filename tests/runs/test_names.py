"""`NAME@live` and others, wherever a run is accepted."""

from __future__ import annotations

import json
import shutil

import pytest

from mlx_lora.errors import UserError
from mlx_lora.runs.generations import Generations
from mlx_lora.runs.resolve import resolve, resolve_model_or_run


@pytest.fixture
def agent(generations, monkeypatch):
    """The three generations as adapters/agent, seen from the working directory."""
    place = generations.directory.parent / "adapters" / "agent"
    place.parent.mkdir()
    shutil.move(generations.directory, place)
    monkeypatch.chdir(place.parents[1])
    return Generations("adapters/agent")


@pytest.mark.parametrize("name", ["agent", "adapters/agent", "./adapters/agent"])
def test_refs_and_numbers(agent, name):
    agent.promote(1, "again", trial=True)
    numbers = {which: resolve(f"{name}@{which}").adapter.name for which in ("live", "previous", "best", "trial", "2")}
    assert numbers == {"live": "0001", "previous": "0003", "best": "0003", "trial": "0001", "2": "0002"}
    assert resolve(f"{name}@0002").name == f"{name}@0002"
    assert resolve(f"{name}@0002").directory.name == "agent"


def test_a_plain_name_is_the_live_generation(agent, tmp_path):
    assert resolve("adapters/agent").adapter == agent.path(3)
    # Without @ a name below adapters/ may be one of the hub's.
    with pytest.raises(UserError, match="agent"):
        resolve("agent")


def test_where_the_base_is_live(agent):
    agent.rollback("to the base", to=0)
    for name in ("agent@live", "adapters/agent"):
        found = resolve(name)
        assert (found.kind, found.adapter, found.base.name) == ("base", None, "builtin/tiny-lumen")
        with pytest.raises(UserError, match="there is no live generation; generations: 1, 2, 3; refs: best is 3"):
            resolve_model_or_run(name, needs_adapter=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "agent@trial",
            "agent@trial: there is no trial generation; generations: 1, 2, 3; refs: live is 3, previous is 2, best",
        ),
        ("agent@9", "there is no generation 9; generations: 1, 2, 3"),
        ("agent@lively", "there is no generation lively; generations: 1, 2, 3"),
        ("agent@", "there is no generation ; generations"),
        ("agent@-1", "there is no generation -1"),
        ("agent@" + "9" * 100, "there is no generation 9999"),
    ],
)
def test_what_is_not_there(agent, name, said):
    with pytest.raises(UserError) as error:
        resolve(name)
    assert said in str(error.value)


def test_a_generation_that_is_gone(agent):
    shutil.rmtree(agent.path(3))
    with pytest.raises(UserError, match="there is no generation 3; generations: 1, 2; refs: live is 3"):
        resolve("agent@live")
    with pytest.raises(UserError, match="best is generation 3, which is gone"):
        resolve("agent@best")


def test_other_names_with_an_at_keep_their_meaning(agent, make_run, tmp_path, monkeypatch):
    shutil.copytree(make_run(5), "mine@live")
    assert resolve("mine@live").adapter.name == "mine@live"
    shutil.copytree(make_run(6), "plain")
    with pytest.raises(UserError, match="plain@live: this run has no generations; name it without @live"):
        resolve("plain@live")
    with pytest.raises(UserError, match=r"\./nothing@live: there is no such"):
        resolve("./nothing@live")
    assert resolve("ollama:agent@live").kind == "ollama"


def test_a_directory_of_an_earlier_version(agent):
    shutil.rmtree(agent.directory / "refs")
    (agent.directory / "history.jsonl").unlink()
    assert resolve("agent@live").adapter == agent.path(3)
    assert not (agent.directory / "refs").exists()
    assert agent.rollback("bad") == 2


@pytest.mark.slow
def test_the_commands(agent, command, refused):
    def run(*arguments):
        done = command("sleep", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert run("rollback", "agent", "--reason", "odd")["live"] == 2
    assert agent.history()[-1]["reason"] == "odd"
    assert run("rollback", "adapters/agent", "--to", "0")["live"] is None
    agent.promote(3, "on trial", trial=True)
    assert run("promote", "agent", "3")["trial"] is None
    assert run("promote", "agent", "1") | {"name": ""} == {
        "name": "",
        "live": 1,
        "previous": 3,
        "best": 3,
        "trial": None,
        "reason": "by hand",
    }
    assert run("pin", "agent", "2")["pinned"] == [2]
    assert run("pin", "agent", "2", "--remove")["pinned"] == []
    shown = run("history", "agent")
    assert (shown["intact"], shown["live"], len(shown["history"])) == (True, 1, len(agent.history()))
    assert "there is no such directory of generations" in refused("sleep", "rollback", "nobody")
    assert "there is no generation 8" in refused("sleep", "promote", "agent", "8")


def test_the_table_of_a_broken_history(agent, command):
    table = command("sleep", "history", "agent")
    assert table.returncode == 0
    assert "lines is intact" in table.stdout
    assert "night 2" in table.stdout
    file = agent.directory / "history.jsonl"
    file.write_text(file.read_text().replace("night 2", "night X"))
    table = command("sleep", "history", "agent")
    assert table.returncode == 2
    assert "is broken" in table.stdout
    assert "line 5: the chain is broken" in table.stderr
    assert len(table.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_doors_of_other_commands(tmp_path, command, eisv_data):
    """A true adapter, by its generation: training starts from it, generate answers, exports and fuse read it."""
    settings = ("--config", "quickstart", "--set", "lora_rank=4", "--set", "max_steps=2", "--data", eisv_data)

    def run(*arguments):
        done = command(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("train", *settings, "--out", "first")
    agent = Generations(tmp_path / "adapters" / "agent")
    agent.promote(agent.add(tmp_path / "first", {"cycle": "0001"}), "first")
    run("train", *settings, "--set", "init_adapter=agent@live", "--out", "second")
    record = json.loads((tmp_path / "second" / "run.json").read_text())
    assert record["init_adapter"] == str(agent.path(1))
    assert record["learned_from"]["init_adapter"] == str(tmp_path / "adapters" / "agent@live")
    agent.promote(agent.add(tmp_path / "second", {"cycle": "0002"}), "second")
    assert json.loads((agent.path(2) / "manifest.json").read_text())["parent"] == 1
    # The same command again is the same run, although another generation is live.
    run("train", *settings, "--set", "init_adapter=agent@live", "--out", "second")
    run("generate", "--target", "agent@1", "--prompt", "hello", "--max-tokens", "2")
    run("compare", "agent@previous", "agent@live", "--data", eisv_data, "--out", "compared")
    run("export", "peft", "--run", "agent@previous", "--out", "peft")
    run("fuse", "--run", "agent@live", "--out", "fused")
    agent.rollback("to the base", to=0)
    run("generate", "--target", "agent@live", "--prompt", "hello", "--max-tokens", "2")
    done = command("train", *settings, "--set", "init_adapter=agent@live", "--out", "third", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no live generation" in done.stderr
