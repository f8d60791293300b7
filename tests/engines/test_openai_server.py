"""The client of OpenAI-compatible servers, with a server that fails in each of the ways that servers do."""

from __future__ import annotations

import resource
import socket
import sys
import time

import pytest
from completions_server import completions_server

from mlx_lora.engines.openai_completions import likelihoods
from mlx_lora.engines.openai_server import OpenAIServer, parse_address
from mlx_lora.errors import UserError

pytest.importorskip("httpx", reason="the package httpx is not installed: pip install '.[servers]'")


@pytest.fixture
def server():
    with completions_server() as state:
        yield state


@pytest.fixture
def ask(server):
    """Ask the server: texts → the replies in their order."""

    def replies(*texts, seconds=5.0, model="tiny", **options):
        asked = {key: options.pop(key) for key in ("max_tokens", "temperature", "seed") if key in options}
        with OpenAIServer(f"{server.url}/v1#{model}", seconds=seconds, pause=0.01, **options) as client:
            found = dict(client.chat([[{"role": "user", "content": text}] for text in texts], **asked))
        return [found[i] for i in range(len(texts))]

    return replies


@pytest.mark.parametrize("stream", [False, True])
def test_answers_with_their_counts(server, ask, stream):
    replies = ask("hello there", "you", stream=stream, max_tokens=7, temperature=0.5, seed=[3, 4])
    assert [r.text for r in replies] == ["You said hello there", "You said you"]
    assert [(r.prompt_tokens, r.completion_tokens, r.stopped, r.error) for r in replies] == [
        (2, 4, True, None),
        (1, 3, True, None),
    ]
    assert all((r.first_token_s is not None) == stream and r.seconds > 0 for r in replies)
    sent = sorted(server.requests, key=lambda body: body["seed"])
    assert [body["seed"] for body in sent] == [3, 4]
    assert sent[0]["messages"] == [{"role": "user", "content": "hello there"}]
    assert (sent[0]["model"], sent[0]["max_tokens"], sent[0]["temperature"]) == ("tiny", 7, 0.5)


FAULTS = [
    ("hang", "did not finish within 0.5 seconds"),
    ("drip", "did not finish within 0.5 seconds"),
    ("html", "not an OpenAI-compatible server (it says '<html>"),
    ("break", "the connection broke"),
    ("500", "refuses with status 500: CUDA error"),
    ("large", "has more than 32 MiB"),
    ("bomb", "compressed, which was not asked for"),
    ("redirect", "it redirects to elsewhere.invalid, which is not followed"),
    ("odd", "has no "),
]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "sentence"), FAULTS)
def test_a_case_that_fails_loses_no_other(server, ask, fault, sentence, stream):
    server.faults["b"] = fault
    a, b, c = ask("a", "b", "c", seconds=0.5 if fault in ("hang", "drip") else 10, stream=stream, parallel=1)
    assert (a.text, c.text) == ("You said a", "You said c")
    assert b.text is None
    assert b.error.startswith(f"{server.url}/v1: ")
    assert sentence in b.error
    # Only what may pass by itself is tried again.
    assert server.counts["b"] == (4 if fault in ("500", "break") else 1)


@pytest.mark.parametrize("fault", ["429", "503"])
def test_a_busy_server_is_asked_again(server, ask, fault):
    server.faults[""] = fault
    assert [r.text for r in ask("a", "b")] == ["You said a", "You said b"]
    assert server.counts == {"a": 2, "b": 2}


def test_a_large_answer_is_not_kept(server, ask):
    ask("a")
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    server.faults[""] = "large"
    ask("b")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before < 90e6
    assert server.sent < 60_000_000


def test_requests_run_beside_each_other_within_a_bound(server, ask):
    server.answers = lambda messages: time.sleep(0.05) or "yes"
    ask(*map(str, range(12)), parallel=3)
    assert server.most_at_once == 3


def test_a_caller_may_stop_early(server):
    with OpenAIServer(f"{server.url}/v1#tiny", parallel=2) as client:
        replies = client.chat([[{"role": "user", "content": str(i)}] for i in range(50)])
        next(replies)
        replies.close()
    time.sleep(0.1)
    assert len(server.requests) <= 4


@pytest.mark.parametrize("fault", ["refuse", "key"])
def test_a_server_that_refuses_the_model_or_the_key(server, ask, monkeypatch, fault):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.faults[""] = fault
    with pytest.raises(UserError) as caught:
        ask("a", "b", model="other")
    assert ("`other` does not exist" if fault == "refuse" else "Incorrect API key provided: ***") in str(caught.value)
    assert "sk-secret" not in str(caught.value)
    assert all(headers["Authorization"] == "Bearer sk-secret" for headers in server.headers)


def test_a_text_that_no_server_can_be_sent_loses_one_case(ask):
    a, b = ask("half \ud83d", "b")
    assert "unpaired surrogate" in a.error
    assert b.text == "You said b"


def test_no_key_is_sent_where_none_is_set(server, ask, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask("a")
    assert all("Authorization" not in headers for headers in server.headers)


def test_a_model_that_is_refused_later_loses_one_case(server, ask):
    server.faults["b"] = "refuse"
    assert [r.text for r in ask("a", "b", "c", parallel=1)] == ["You said a", None, "You said c"]


def test_no_server_and_one_that_never_answers(server, ask):
    server.faults[""] = "hang"
    with pytest.raises(UserError, match=r"did not finish within 0.3 seconds; start it, or correct the address"):
        ask("a", seconds=0.3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1#m"
        with OpenAIServer(address) as client, pytest.raises(UserError, match="no server answers there"):
            list(client.chat([[{"role": "user", "content": "a"}]]))


def test_a_server_that_goes_away(monkeypatch):
    """Every case has its sentence, and only the first one waits for the server to come back."""
    pauses = []
    monkeypatch.setattr("mlx_lora.engines.http.time.sleep", pauses.append)
    with completions_server() as state:
        client = OpenAIServer(f"{state.url}/v1#tiny", parallel=1)
        replies = client.chat([[{"role": "user", "content": str(i)}] for i in range(30)])
        assert next(replies)[1].text == "You said 0"
    state.faults[""] = "break"  # for the connection that is still open
    rest = dict(replies)
    assert [rest[i].text for i in range(2, 30)] == [None] * 28
    assert "no server answers there" in rest[29].error
    assert len(pauses) <= 6


@pytest.mark.parametrize(
    ("listed", "sentence"), [(["a", "b"], "it has a, b"), (None, "it does not list its models"), (["only"], None)]
)
def test_a_model_that_is_not_named(server, ask, listed, sentence):
    server.listed = listed
    if sentence is None:
        ask("x", model="")
        assert server.requests[0]["model"] == "only"
    else:
        with pytest.raises(UserError, match=sentence):
            ask("x", model="")


def test_addresses():
    assert parse_address("http://box:80/v1#a/b:c") == ("http://box:80/v1", "a/b:c")
    assert parse_address("https://box/v1/") == ("https://box/v1", None)
    for bad in ("box:80/v1", "ftp://box/v1", "http://", "http://box:port/v1", "http://[::1/v1"):
        with pytest.raises(UserError, match="not a server's address"):
            parse_address(bad)
    with pytest.raises(UserError, match="put the key into OPENAI_API_KEY") as caught:
        parse_address("http://me:hunter2@box/v1")
    assert "hunter2" not in str(caught.value)


def test_log_probabilities_where_the_server_echoes(server):
    pairs = [("one", " the three"), ("one two", " the"), ("a", " the the")]
    with OpenAIServer(f"{server.url}/v1#tiny") as client:
        found = likelihoods(client, pairs)
    assert [(one.logprobs, one.greedy) for one in found] == [
        ([-4.0, -6.0], False),
        ([-4.0], True),
        ([-4.0, -4.0], True),
    ]
    assert found[0].total == -10.0


def test_no_log_probabilities(server):
    server.faults["completions"] = "refuse"
    with OpenAIServer(f"{server.url}/v1#tiny") as client:
        assert likelihoods(client, [("a", " b")]) is None
        assert likelihoods(client, []) == []
