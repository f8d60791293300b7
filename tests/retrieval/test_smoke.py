"""Smoke tests of deployed models: in Ollama's protocol, llama.cpp's server, a GGUF file, and this process."""

from __future__ import annotations

import json

import pytest
from completions_server import completions_server
from embedders import HashedWords
from ollama_server import Answer, Model, ollama_server

from mlx_lora.errors import UserError
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.opening import open_target
from mlx_lora.retrieval.index import Index
from mlx_lora.retrieval.smoke import LIMITS, SmokePrompts, run_smoke
from mlx_lora.retrieval.smoke_tables import smoke_lines, smoke_table

BASE = "builtin/tiny-lumen"
CALL = '{"tool_calls": [{"name": "read_file", "parameters": {"path": "Button.tsx"}}]}'
# Times of a loaded machine are none of these tests' business, except where they say so.
WIDE = dict.fromkeys(LIMITS, 1000.0)


def good(prompt):
    """A model that knows what it should."""
    if prompt.startswith("You have access to the following tools"):
        return CALL
    if prompt.startswith("Answer the question from the numbered sources"):
        return "The zombies were counted [1]."
    return "The Constructor is empty, and init(scenario) sets the object up."


@pytest.fixture
def ollama(tmp_path, monkeypatch):
    """An Ollama whose model answers by ``state.say``."""
    pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")
    with ollama_server(tmp_path / "blobs", lambda model, prompt, _: Answer(state.say(prompt), 9, 20)) as state:
        state.say = good
        state.models["lumen:latest"] = Model(tmp_path, None, None, {})
        monkeypatch.setenv("OLLAMA_HOST", state.url)
        yield state


def smoke(target, index=None, limits=WIDE, **options):
    opened = open_target(target)
    try:
        return run_smoke(opened, index, limits=limits, generation=Generation(24), **options)
    finally:
        opened.close()


def test_a_model_that_knows_passes_by_its_servers_counters(ollama, index):
    report = smoke("ollama:lumen", index)
    assert [(test.name, test.status) for test in report.tests] == [
        ("knowledge", "passed"),
        ("history", "passed"),
        ("tool", "passed"),
    ]
    assert report.passed
    assert report.load_s > 0
    assert report.tokens_per_s > 20
    assert report.counted_by == "server"
    prompts = [body["messages"][-1]["content"] for _, path, body in ollama.requests if path == "/api/chat"]
    assert len(prompts) == 4
    assert "530 zombie processes" in prompts[2]
    assert "Example\nUser: Read the Card.tsx file" in prompts[3]


WRONG = [
    ("knowledge", lambda prompt: "The constructor is empty.", "the answer lacks 'init'"),
    ("history", lambda prompt: "Zombies were counted.", "the answer cites no PDCA"),
    ("history", lambda prompt: "Zombies [1] and [8].", "the answer cites [8], which no source has"),
    ("tool", lambda prompt: "I would read Button.tsx.", "the answer holds no tool call"),
    ("tool", lambda prompt: CALL.replace("read_file", "ls"), "the answer calls 'ls', and read_file is expected"),
]


@pytest.mark.parametrize(("name", "say", "reason"), WRONG)
def test_a_wrong_answer_fails_its_test_alone(ollama, index, name, say, reason):
    marks = {"knowledge": "Why is", "history": "Answer the question", "tool": "You have access"}
    ollama.say = lambda prompt: say(prompt) if prompt.startswith(marks[name]) else good(prompt)
    report = smoke("ollama:lumen", index)
    assert [test.name for test in report.tests if test.status == "failed"] == [name]
    assert len(report.failures) == 1
    assert reason in report.failures[0]
    assert not report.passed


@pytest.mark.parametrize("name", LIMITS)
def test_a_time_above_its_limit_fails(ollama, index, name):
    report = smoke("ollama:lumen", index, {**WIDE, name: 1e-6})
    assert [test.name for test in report.tests if test.status == "failed"] == [name]
    assert "s, and less than 1e-06 s is asked for" in report.failures[0]


def test_load_time_and_rate_may_be_bounded(ollama):
    report = smoke("ollama:lumen", max_load_s=0.0, min_tokens_per_s=1e9)
    assert [failure.split(":")[0] for failure in report.failures] == ["load time", "tokens a second"]
    assert smoke("ollama:lumen", max_load_s=1000, min_tokens_per_s=1e-9).passed


def test_without_an_index_the_history_is_not_run(ollama):
    report = smoke("ollama:lumen")
    assert [test.status for test in report.tests] == ["passed", "not_run", "passed"]
    assert report.passed
    assert any("history was not run: it needs an index" in line for line in smoke_lines(report))


def test_an_index_without_pdcas_fails_the_history(ollama, tmp_path):
    with Index.open(tmp_path / "empty", embedder=HashedWords()) as empty:
        report = smoke("ollama:lumen", empty)
    assert report.failures == ["history: the index has nothing in pdca_historical"]


def test_a_server_that_counts_nothing_is_timed_here():
    with completions_server() as state:
        state.answers = lambda messages: good(messages[-1]["content"])
        report = smoke(f"{state.url}/v1#tiny", max_load_s=5)
    assert report.counted_by == "client"
    assert report.tests[0].status == "passed"
    assert report.tests[0].seconds > 0
    assert report.failures == ["load time: the server does not tell it, and at most 5 s is asked for"]


def test_the_users_own_prompts(ollama):
    ollama.say = lambda prompt: "Paris, on the Seine." if prompt == "Capital of France?" else good(prompt)
    prompts = SmokePrompts(knowledge="Capital of France?", expect=("paris", "seine"))
    assert smoke("ollama:lumen", prompts=prompts).tests[0].status == "passed"


def test_llama_cpps_server_tells_its_own_rate(llama_server):
    """The tiny model knows none of this: the tests fail, and the figures are there."""
    report = smoke(f"{llama_server}/v1#tiny")
    assert [test.status for test in report.tests] == ["failed", "not_run", "failed"]
    assert report.counted_by == "server"
    assert report.tokens_per_s > 0
    assert report.tests[0].seconds > 0


def test_a_gguf_file_and_a_base_are_loaded_here(gguf_file):
    for target, counted_by in ((str(gguf_file), "server"), (BASE, "process")):
        report = smoke(target)
        assert report.load_s > 0
        assert report.tokens_per_s > 0
        assert report.counted_by == counted_by
        assert report.tests[0].seconds > 0
        assert "the answer lacks" in report.tests[0].reason


def test_answers_are_no_deployed_model(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"id": "a", "answer": "b"}\n')
    with pytest.raises(UserError, match="a file of answers is no deployed model"):
        smoke(f"answers:{file}")


def test_the_table_shows_what_was_measured(ollama, index):
    title, columns, rows = smoke_table(smoke("ollama:lumen", index))
    assert title == "Smoke tests of ollama:lumen"
    assert [row[0] for row in rows] == ["knowledge", "history", "tool", "load time", "tokens a second"]
    assert all(len(row) == len(columns) for row in rows)
    assert rows[4][4] == "counted by the program that runs it"


@pytest.mark.integration
def test_exit_status_0_1_and_2(command, refused, ollama):
    wide = [word for name in LIMITS for word in ("--limit", f"{name}=1000")]
    done = command("smoke", "ollama:lumen", *wide, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
    failed = command("smoke", "ollama:lumen", "--limit", "tool=0.000001", *wide[:4])
    assert failed.returncode == 1, failed.stderr
    assert "FAILED" in failed.stdout
    assert "Ollama has no model other:latest" in refused("smoke", "ollama:other")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--limit", "speed=1"), "--limit 'speed=1': write TEST=SECONDS, with a test of knowledge, history, tool"),
        (("--limit", "tool=fast"), "write TEST=SECONDS"),
        (("--limit", "tool=nan"), "write TEST=SECONDS"),
        (("--ecosystem", "emacs"), "'emacs': there is no such ecosystem"),
        (("--index", "nowhere"), "nowhere"),
    ],
)
def test_wrong_options_are_said_before_the_model_is_loaded(refused, tmp_path, arguments, sentence):
    assert sentence in refused("smoke", "builtin/tiny-lumen", *arguments, cwd=tmp_path)
