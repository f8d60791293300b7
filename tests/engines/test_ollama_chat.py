"""Conversations with a model in Ollama, by a local server that speaks its protocol and fails as it can."""

from __future__ import annotations

import pytest
from ollama_server import Answer, Model, ollama_server

from mlx_lora.engines.ollama import Ollama
from mlx_lora.errors import UserError

pytest.importorskip("ollama", reason="the package ollama is not installed: pip install '.[ollama]'")


def said(model, prompt, options) -> Answer:
    return Answer(f"{prompt} {options['seed']}", prompt_tokens=9, tokens=4, stopped=options["num_predict"] > 4)


@pytest.fixture
def server(tmp_path):
    with ollama_server(tmp_path / "blobs", said) as state:
        state.models["lumen:latest"] = Model(tmp_path / "none", None, None, {})
        yield state


@pytest.fixture
def ask(server):
    def replies(*texts, seconds=10.0, name="lumen:latest", **options):
        with Ollama(server.url, seconds=seconds) as client:
            chats = [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}] for text in texts]
            found = dict(client.chat(name, chats, pause=0.01, **options))
        return [found[i] for i in range(len(texts))]

    return replies


def test_answers_with_their_counters(server, ask):
    a, b = ask("a", "b", seed=[3, 4], max_tokens=5, temperature=0.5)
    assert (a.text, b.text) == ("a 3", "b 4")
    assert (a.prompt_tokens, a.completion_tokens, a.stopped, a.error) == (9, 4, True, None)
    assert a.tokens_per_second > 10
    assert 0 < a.load_s < a.first_token_s < a.seconds
    body = next(body for _, path, body in server.requests if path == "/api/chat" and body["options"]["seed"] == 3)
    assert body["options"] == {"temperature": 0.5, "seed": 3, "num_predict": 5}
    assert (body["stream"], body["think"]) == (False, False)
    assert body["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}]
    assert not ask("a", max_tokens=4)[0].stopped


@pytest.mark.parametrize(
    ("fault", "sentence", "times"),
    [
        ("refuse", "Ollama refuses: chat is out of order", 4),
        ("garbage", "what answers there is not Ollama (it says '<html>", 1),
        ("break", "the connection broke", 4),
        ("hang", "did not finish within 0.5 seconds", 1),
        ("large", "has more than 32 MiB", 1),
    ],
)
def test_a_case_that_fails_loses_no_other(server, ask, fault, sentence, times):
    server.faults["chat:b"] = fault
    a, b, c = ask("a", "b", "c", parallel=1, seconds=0.5 if fault == "hang" else 10)
    assert (a.text, b.text, c.text) == ("a 0", None, "c 0")
    assert b.error.startswith(f"{server.url}: ")
    assert sentence in b.error
    asked = [body["messages"][-1]["content"] for _, path, body in server.requests if path == "/api/chat"]
    assert asked.count("b") == times


def test_a_text_that_no_server_can_be_sent_loses_one_case(ask):
    a, b = ask("half \ud83d", "b")
    assert a.text is None
    assert b.text == "b 0"


def test_a_busy_server_is_asked_again(server, ask):
    server.faults["chat:a"] = "busy"
    assert [reply.text for reply in ask("a", "b")] == ["a 0", "b 0"]


def test_a_model_that_is_not_there_is_not_downloaded(server, ask):
    with pytest.raises(UserError, match="Ollama has no model absent:latest"):
        ask("a", name="absent:latest")
    assert [path for _, path, _ in server.requests] == ["/api/show"]
    assert server.downloads == []


def test_no_ollama():
    with Ollama("127.0.0.1:1") as client, pytest.raises(UserError, match="no Ollama answers there"):
        list(client.chat("lumen:latest", [[{"role": "user", "content": "a"}]]))
