"""A GGUF file in llama.cpp, asked as the base it was made of is asked in MLX, and through llama.cpp's own server."""

from __future__ import annotations

import os
import shutil
import signal

import mlx.core as mx
import numpy as np
import pytest

from mlx_lora.backends.mlx.backend import MLXBackend
from mlx_lora.data.chat_template import encode_prompt
from mlx_lora.engines.llamacpp.session import GGUFModel
from mlx_lora.engines.openai_completions import likelihoods
from mlx_lora.engines.openai_server import OpenAIServer
from mlx_lora.errors import UserError
from mlx_lora.models.resolve import resolve_model

TEXTS = ["hello", "What now?", "Describe the shape: settled_presence", "The warmth rises, stillness.", "größe 日本 😀"]
# Not the last text: the base is unsure of its answer, and a rounding decides.
CHATS = [
    *([{"role": "user", "content": text}] for text in [*TEXTS[:-1], "TRAJECTORY:\nshape: convergence"]),
    [{"role": "system", "content": "You are Lumen."}, {"role": "user", "content": "hello"}],
]
PAIRS = [("hello", " there"), ("The warmth", " rises größe 日本 😀"), ("a b", " c<|eot_id|>")]


@pytest.fixture(scope="module")
def model(gguf_file):
    with GGUFModel(gguf_file) as opened:
        yield opened


@pytest.fixture(scope="module")
def backend():
    return MLXBackend(resolve_model("builtin/tiny-lumen"))


@pytest.fixture(scope="module")
def greedy(backend):
    return backend.generate([encode_prompt(backend.tokenizer, chat) for chat in CHATS], 24, 0.0, 0)


def test_greedy_answers_are_those_of_mlx(model, backend, greedy):
    replies = [reply for _, reply in model.chat(CHATS, max_tokens=24)]
    assert [reply.text for reply in replies] == greedy
    assert any(len(text) > 20 for text in greedy)
    assert [reply.prompt_tokens for reply in replies] == [len(encode_prompt(backend.tokenizer, c)) for c in CHATS]
    assert model.tokenize(model.render(CHATS[-1])) == encode_prompt(backend.tokenizer, CHATS[-1])


def test_what_is_measured(model):
    reply = next(iter(model.chat([CHATS[2]], max_tokens=24)))[1]
    assert reply.stopped
    assert 0 < reply.first_token_s < reply.seconds
    assert reply.tokens_per_second > 1
    assert 0 < model.load_s < 60
    assert model.context == 2048
    assert 10e6 < model.peak_bytes < 3e9


def test_answers_end_at_the_limit(model):
    reply = next(iter(model.chat([CHATS[2]], max_tokens=3)))[1]
    assert (reply.completion_tokens, reply.stopped) == (3, False)


def test_a_seed_repeats_what_was_drawn(model):
    def drawn(seed):
        return [reply.text for _, reply in model.chat(CHATS[:3], max_tokens=12, temperature=9.0, seed=seed)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn([1, 5, 1])[::2] == drawn(1)[::2]


def test_log_probabilities_are_those_of_mlx_and_of_llama_cpps_server(model, backend, llama_server):
    ours = model.likelihoods(PAIRS)
    for (prompt, continuation), found in zip(PAIRS, ours, strict=True):
        start, ids = len(model.tokenize(prompt)), model.tokenize(prompt + continuation)
        logits = np.array(backend.model(mx.array([ids]))[0].astype(mx.float32), dtype=np.float64)
        expected = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        expected -= logits.max(1, keepdims=True)
        places = range(start, len(ids))
        assert found.logprobs == pytest.approx([expected[i - 1, ids[i]] for i in places], abs=2e-2)
        assert found.greedy == all(expected[i - 1].argmax() == ids[i] for i in places)
    with OpenAIServer(f"{llama_server}/v1") as client:
        theirs = likelihoods(client, PAIRS)
    for one, other in zip(ours, theirs, strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=2e-2)
        assert one.greedy == other.greedy


def test_a_greedy_continuation_is_known_as_such(model, greedy):
    pairs = [(model.render(chat), text + "<|eot_id|>") for chat, text in zip(CHATS, greedy, strict=True)]
    found = model.likelihoods(pairs)
    assert [one.greedy for one in found] == [True] * len(pairs), [one.total for one in found]


@pytest.mark.parametrize("stream", [False, True])
def test_llama_cpps_server_answers_the_same(llama_server, greedy, stream):
    with OpenAIServer(f"{llama_server}/v1", stream=stream) as client:
        found = dict(client.chat(CHATS, max_tokens=24))
    assert [found[i].text.strip() for i in range(len(CHATS))] == [text.strip() for text in greedy]
    assert found[2].tokens_per_second > 1
    assert found[2].first_token_s > 0
    assert found[2].completion_tokens > 3


def test_a_prompt_that_is_too_long_loses_one_case(model, greedy):
    long = [{"role": "user", "content": "stillness " * 3000}]
    replies = [reply for _, reply in model.chat([long, CHATS[0]], max_tokens=24)]
    assert replies[0].text is None
    assert "tokens, and the context 2,048" in replies[0].error
    assert replies[1].text == greedy[0]


@pytest.mark.parametrize(
    ("number", "sentence"), [(signal.SIGKILL, "killed by SIGKILL"), (signal.SIGSTOP, "did not finish within 2 seconds")]
)
def test_a_process_that_dies_or_hangs_loses_one_case(gguf_file, greedy, number, sentence):
    with GGUFModel(gguf_file, seconds=2) as model:
        replies = model.chat([CHATS[0]] * 3, max_tokens=24)
        assert next(replies)[1].text == greedy[0]
        os.kill(model._process.pid, number)
        failed = next(replies)[1]
        assert failed.text is None
        assert sentence in failed.error
        assert next(replies)[1].text == greedy[0]


def test_files_that_cannot_be_asked(gguf_file, tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        GGUFModel(tmp_path / "absent.gguf")
    (tmp_path / "odd.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match=r"odd.gguf: llama.cpp cannot run this file"):
        GGUFModel(tmp_path / "odd.gguf")
    shutil.copy(gguf_file, tmp_path / "mute.gguf")
    content = (tmp_path / "mute.gguf").read_bytes()
    (tmp_path / "mute.gguf").write_bytes(content.replace(b"tokenizer.chat_template", b"tokenizer.chat_tampered"))
    with GGUFModel(tmp_path / "mute.gguf") as model, pytest.raises(UserError, match="this file has no chat template"):
        list(model.chat([CHATS[0]]))
