"""Export of a generation: its model and the alias in Ollama, whatever dies in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from night_fixtures import make_live
from ollama_answers import TINY, llama_cpp
from ollama_server import Answer, Model, ollama_server
from run_fixtures import make_run

from mlx_lora.engines.llamacpp.run import bindings
from mlx_lora.errors import UserError
from mlx_lora.processes import python_environment
from mlx_lora.runs.generations import Generations
from mlx_lora.sleep.config import ExportConfig
from mlx_lora.sleep.publish import collect_exports, export_generation, point_alias

pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")
pytest.importorskip("gguf", reason="the package gguf is not installed: pip install '.[gguf]'")
# Requests of an export to a server that knows its weights.
REQUESTS = 11


@contextmanager
def bar(description, total):
    yield lambda done: None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An adapter with one generation that is exported as GGUF."""
    if not bindings():
        pytest.skip("no llama.cpp is installed: pip install '.[gguf]'")
    place = tmp_path_factory.mktemp("made") / "agent"
    make_run(TINY, place / "generations" / "0001", "You are Lumen.", lora_alpha=0.2)
    make_live(place, 1)
    found = export_generation(Generations(place), 1, ExportConfig(gguf="q8_0"), place / "exports" / "0001", bar)
    assert found == {"gguf": str(place / "exports/0001/agent-gen-1.q8_0.gguf"), "type": "q8_0"}
    return place


@pytest.fixture
def agent(made, tmp_path):
    """An adapter of three generations, whose weights are exported; the second is live."""
    place = tmp_path / "agent"
    for number in (1, 2, 3):
        shutil.copytree(made / "generations/0001", place / f"generations/{number:04d}")
        exports = place / f"exports/{number:04d}"
        exports.mkdir(parents=True)
        os.link(made / "exports/0001/agent-gen-1.q8_0.gguf", exports / f"agent-gen-{number}.q8_0.gguf")
    make_live(place, 2)
    return place


@pytest.fixture(scope="module")
def ollama(tmp_path_factory):
    with ollama_server(tmp_path_factory.mktemp("ollama") / "blobs", llama_cpp) as state:
        yield state


@pytest.fixture
def server(ollama):
    ollama.models, ollama.requests, ollama.count, ollama.answers = {}, [], 0, llama_cpp
    ollama.strike = lambda number: None
    ollama.faults.clear()
    return ollama


def export(agent, server, number):
    wish = ExportConfig(ollama="agent", host=server.url)
    return export_generation(Generations(agent), number, wish, agent / f"exports/{number:04d}", bar)


def sent(server):
    return [f"{method} {path.split('/')[2]}" for method, path, _ in server.requests]


def system_of(agent, number, text):
    """Give a generation another system prompt, by which its model is told from others."""
    file = agent / f"generations/{number:04d}/run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"system_prompt": text}))


@pytest.fixture(scope="module")
def exported(made, ollama):
    """The models of an adapter whose first generation is exported and the alias."""
    ollama.models, run = {}, made / "generations/0001/run.json"
    content = run.read_text()
    system_of(made, 1, "You were Lumen.")
    assert "failed" not in export(made, ollama, 1)
    run.write_text(content)
    return dict(ollama.models)


@pytest.fixture
def old(exported, made, agent, server):
    """The first generation's model, which the alias names while the second one is exported."""
    shutil.copy(made / "exports/0001/export.json", agent / "exports/0001")
    shutil.copy(made / "exports/alias.json", agent / "exports")
    server.models = dict(exported)
    return server.models["agent:live"]


def test_the_model_of_the_generation_and_last_the_alias(agent, server):
    found = export(agent, server, 2)
    assert (found["ollama"], found["alias"], found["type"]) == ("agent:gen-2", "agent:live", "q8_0")
    assert {check["name"] for check in found["checks"]} >= {"prompt tokens in Ollama", "Ollama answers"}
    assert sorted(server.models) == ["agent:gen-2", "agent:live"]
    assert server.models["agent:live"] is server.models["agent:gen-2"]
    assert server.models["agent:live"].system == "You are Lumen."
    # The alias is the last; it was nobody's.
    assert sent(server)[-3:] == ["POST generate", "POST show", "POST copy"]
    # Again, nothing is made: it is asked, and the alias set.
    server.requests.clear()
    assert export(agent, server, 2) == found
    assert sent(server) == ["GET version", "GET tags", "POST generate", "POST copy"]
    assert server.downloads == []


def test_after_a_rollback_the_alias_follows(agent, server, old):
    wish = ExportConfig(ollama="agent", host=server.url)
    export(agent, server, 2)
    point_alias(Generations(agent), 1, wish)
    assert server.models["agent:live"] is server.models["agent:gen-1"]
    with pytest.raises(UserError, match="Ollama has no model agent:gen-3 of this adapter, and agent:live stays"):
        point_alias(Generations(agent), 3, wish)
    assert server.models["agent:live"] is server.models["agent:gen-1"]
    # The base has no model of the adapter's.
    point_alias(Generations(agent), None, wish)
    assert sorted(server.models) == ["agent:gen-1", "agent:gen-2"]
    point_alias(Generations(agent), None, wish)
    point_alias(Generations(agent), 1, ExportConfig())


def test_a_generation_that_is_not_live_any_more_gets_no_alias(agent, server):
    found = export(agent, server, 3)
    assert "alias" not in found
    assert list(server.models) == ["agent:gen-3"]


def test_models_of_others_are_neither_replaced_nor_deleted(agent, server):
    theirs = Model(Path("theirs"), None, None, {})
    server.models["agent:gen-2"] = theirs
    assert "a model agent:gen-2 already that is not of this adapter" in export(agent, server, 2)["failed"]
    server.models = {"agent:live": theirs}
    assert "a model agent:live already that is not of this adapter" in export(agent, server, 2)["failed"]
    point_alias(Generations(agent), None, ExportConfig(ollama="agent", host=server.url))
    assert server.models == {"agent:live": theirs}
    del server.models["agent:live"]
    assert export(agent, server, 2)["alias"] == "agent:live"


def test_exports_are_collected_with_their_generations(agent, server):
    for number in (1, 2):
        make_live(agent, number)
        export(agent, server, number)
    shutil.rmtree(agent / "generations/0001")
    make_live(agent, None)
    # Nothing that the export did not make.
    (agent / "exports/notes").mkdir()
    (agent / "generations/0003/x").touch()
    found = export(agent, server, 3)
    assert "failed" not in found
    assert not (agent / "exports/0001").exists()
    assert (agent / "exports/notes").is_dir()
    assert sorted(server.models) == ["agent:gen-2", "agent:gen-3", "agent:live"]
    # Somebody has made a model of their own under the name.
    server.models["agent:gen-2"] = Model(Path("theirs"), None, None, {})
    shutil.rmtree(agent / "generations/0002")
    assert collect_exports(Generations(agent)) == [2]
    assert "agent:gen-2" in server.models
    # Ollama is away: the export is collected another night, and this night's stands.
    shutil.rmtree(agent / "generations/0003")
    record = json.loads((agent / "exports/0003/export.json").read_text())
    (agent / "exports/0003/export.json").write_text(json.dumps(record | {"host": "http://127.0.0.1:1"}))
    shutil.copytree(agent / "exports/0003", agent / "exports/0009")
    shutil.copytree(agent / "exports/0003", agent / "exports/0010")
    with pytest.raises(UserError, match="no Ollama answers there"):
        collect_exports(Generations(agent))
    assert (agent / "exports/0003").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"version": "garbage"}, "what answers there is not Ollama"),
        ({"blobs": "refuse"}, "no space left on device"),
        ({"create": "late"}, "unsupported architecture"),
        ({"create": "silent"}, "ended without success"),
        ({"generate": "refuse"}, "generate is out of order"),
        ({"copy": "refuse"}, "copy is out of order"),
        ({"tags": "garbage"}, "what answers there is not Ollama"),
    ],
)
def test_an_ollama_that_refuses_is_a_sentence_and_the_alias_stays(agent, server, old, fault, sentence):
    server.faults.update(fault)
    if "blobs" in fault:
        for blob in server.folder.iterdir():
            blob.rename(blob.with_suffix(".away"))
    found = export(agent, server, 2)
    assert list(found) == ["failed"]
    assert sentence in found["failed"]
    assert server.models["agent:live"] is old
    server.faults.clear()
    for blob in server.folder.glob("*.away"):
        blob.rename(blob.with_suffix(""))
    assert export(agent, server, 2)["alias"] == "agent:live"


def test_no_ollama_a_wrong_answer_and_an_empty_one(agent, server):
    wish = ExportConfig(ollama="agent", host="http://127.0.0.1:1")
    found = export_generation(Generations(agent), 2, wish, agent / "exports/0002", bar)
    assert "no Ollama answers there" in found["failed"]
    server.answers = lambda *_: Answer("else", prompt_tokens=1, tokens=2)
    assert "the export was rejected (prompt tokens in Ollama: 1, not " in export(agent, server, 2)["failed"]
    assert server.models == {}
    server.answers = llama_cpp
    assert "failed" not in export(agent, server, 2)
    server.answers = lambda *_: Answer("", prompt_tokens=9, tokens=0)
    assert "agent:gen-2 gives an empty answer; the alias stays as it was" in export(agent, server, 2)["failed"]


@pytest.mark.slow
def test_where_ollamas_own_template_is_another_the_models_is_sent(agent, server):
    def with_a_system_prompt_of_its_own(model, prompt, options):
        answer = llama_cpp(model, prompt, options)
        return answer if model.template else Answer(answer.text, answer.prompt_tokens + 9, answer.tokens)

    server.answers = with_a_system_prompt_of_its_own
    assert export(agent, server, 2)["alias"] == "agent:live"
    assert server.models["agent:live"].template
    # A Modelfile that a killed process left is of the first try.
    for file in (agent / "exports/0002").glob("*.Modelfile"):
        file.write_text("FROM elsewhere")
    server.models.clear()
    assert export(agent, server, 2)["alias"] == "agent:live"


def test_records_that_are_broken_or_of_another_adapter(agent, server):
    record = agent / "exports/0002/export.json"
    for broken in ("{", "[1]", '{"format": 99}'):
        record.write_text(broken)
        assert str(record) in export(agent, server, 2)["failed"]
    record.write_text('{"format": 1, "adapter_sha256": "x"}')
    assert "this is the export of another adapter" in export(agent, server, 2)["failed"]
    assert server.requests == []


def completed(agent, server):
    server.strike = lambda number: None
    """The same export again gives the generation its model and the alias, and leaves nothing behind."""
    found = export(agent, server, 2)
    assert found.get("alias") == "agent:live", found
    assert sorted(server.models) == ["agent:gen-1", "agent:gen-2", "agent:live"]
    assert server.models["agent:live"].system == "You are Lumen."


def test_the_number_of_requests(agent, server, old):
    export(agent, server, 2)
    assert server.count == REQUESTS


@pytest.mark.parametrize(
    ("number", "when"),
    [
        pytest.param(
            number, when, marks=() if (number, when) in ((5, "after"), (REQUESTS, "before")) else pytest.mark.slow
        )
        for number in range(1, REQUESTS + 1)
        for when in ("before", "after")
    ],
)
def test_ollama_dies_at_each_request(agent, server, old, number, when):
    # It stays dead.
    server.strike = lambda count: when if count == number else "before" if count > number else None
    assert list(export(agent, server, 2)) == ["failed"]
    if (number, when) != (REQUESTS, "after"):
        assert server.models["agent:live"] is old
    completed(agent, server)


KILLED = """
import sys
from contextlib import contextmanager
from pathlib import Path
import night_fixtures
from mlx_lora.runs.generations import Generations
from mlx_lora.sleep.config import ExportConfig
from mlx_lora.sleep.publish import export_generation

@contextmanager
def bar(description, total):
    yield lambda done: None

place, url = Path(sys.argv[1]), sys.argv[2]
print(export_generation(Generations(place), 2, ExportConfig(ollama="agent", host=url), place / "exports/0002", bar))
"""


@pytest.mark.parametrize(
    ("number", "when"),
    [
        pytest.param(number, when, marks=() if (number, when) == (7, "after") else pytest.mark.slow)
        for number in range(1, REQUESTS + 1)
        for when in ("before", "after")
    ],
)
def test_the_night_is_killed_at_each_request(agent, server, old, tmp_path, number, when):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    places = os.pathsep.join([str(Path(__file__).parent), python_environment()["PYTHONPATH"]])
    environment = python_environment(PYTHONPATH=places)
    command = [sys.executable, str(script), str(agent), server.url]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:

        def strike(count):
            if count == number:
                process.kill()
                return when
            return None

        server.strike = strike
        said = process.communicate(timeout=120)[0]
    assert process.returncode == -signal.SIGKILL, said
    if (number, when) != (REQUESTS, "after"):
        assert server.models["agent:live"] is old
    completed(agent, server)
