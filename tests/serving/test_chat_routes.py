"""Chat completions, completions and models as OpenAI's own client reads them."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import suppress

import httpx
import numpy as np
import openai
import pytest
from chat_helpers import chat_service, greedy, serving, text_of, user
from run_fixtures import SEVEN, make_run, sharpen

from mlx_lora.backends.answering import Sampling
from mlx_lora.evaluation.suite import Generation
from mlx_lora.evaluation.targets.likelihood import encode_pair, token_likelihoods
from mlx_lora.evaluation.targets.opening import load_target, open_target

QUESTION = user("TRAJECTORY: shape: convergence")


@pytest.fixture(scope="module")
def models(make_model, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    base = sharpen(make_model("llama")).rename(root / "base")
    make_run(base, root / "runs" / "one", lora_target_modules=SEVEN)
    return root


@pytest.fixture(scope="module")
def chat(models, tmp_path_factory):
    with chat_service(tmp_path_factory.mktemp("state"), models) as service:
        yield service


@pytest.fixture(scope="module")
def url(chat):
    with serving(chat) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def target(models):
    return load_target(str(models / "runs" / "one"), "mlx")


def test_a_conversation_is_answered_as_by_the_run_itself(client, target):
    asked = {"model": "runs/one", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    found = client.chat.completions.create(**asked)
    (reply,) = target.answer([QUESTION], [""], Generation(12, 0.0, 0))
    assert found.choices[0].message.content == reply.text
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].finish_reason == "length"
    assert (found.object, found.model) == ("chat.completion", "runs/one")
    assert found.usage.prompt_tokens == reply.prompt_tokens
    assert found.usage.completion_tokens == 12
    assert found.usage.total_tokens == reply.prompt_tokens + 12
    assert abs(found.created - time.time()) < 3600
    again = client.chat.completions.create(**{**asked, "max_tokens": None, "max_completion_tokens": 5})
    assert reply.text.startswith(again.choices[0].message.content)
    assert again.usage.completion_tokens == 5


def test_a_stream_has_the_same_text_piece_by_piece(client):
    asked = {"model": "runs/one", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == whole.choices[0].message.content
    assert len([text for text in texts if text]) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {(chunk.id, chunk.object) for chunk in chunks} == {(chunks[0].id, "chat.completion.chunk")}
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**asked, stream=True))


def test_log_probabilities_of_an_answer(client, target):
    asked = {"model": "runs/one", "messages": QUESTION, "max_tokens": 6, "temperature": 0, "logprobs": True}
    found = client.chat.completions.create(**asked, top_logprobs=3).choices[0]
    rows = found.logprobs.content
    assert b"".join(bytes(row.bytes) for row in rows).decode(errors="replace") == found.message.content
    for row in rows:
        assert [top.logprob for top in row.top_logprobs] == sorted((t.logprob for t in row.top_logprobs), reverse=True)
        # Greedy: the token itself comes first.
        assert (row.top_logprobs[0].token, row.top_logprobs[0].logprob) == (row.token, row.logprob)
        assert len(row.top_logprobs) == 3
    tokenizer = target.backend.tokenizer
    from mlx_lora.data.chat_template import encode_prompt

    answer = tokenizer.encode(found.message.content, add_special_tokens=False)
    prompt = encode_prompt(tokenizer, QUESTION)
    (expected,) = token_likelihoods(target.backend, [(prompt, answer)])
    if len(answer) == len(rows):
        assert [row.logprob for row in rows] == pytest.approx(expected.logprobs, abs=1e-3)
    streamed = list(client.chat.completions.create(**asked, stream=True))
    parts = [row for chunk in streamed if chunk.choices[0].logprobs for row in chunk.choices[0].logprobs.content]
    assert [(row.token, row.logprob) for row in parts] == [(row.token, row.logprob) for row in rows]
    assert parts[0].top_logprobs == []
    assert client.chat.completions.create(**{**asked, "logprobs": None}).choices[0].logprobs is None


def test_stop_seed_and_sampling(client):
    asked = {"model": "runs/one", "messages": QUESTION, "max_tokens": 12}
    whole = client.chat.completions.create(**asked, temperature=0).choices[0].message.content
    stopped = client.chat.completions.create(**asked, temperature=0, stop=[whole[3:5], "never"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(whole[3:5])], "stop")
    drawn = [client.chat.completions.create(**asked, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]
    # The default draws, as OpenAI's, and from another seed each time.
    assert len({client.chat.completions.create(**asked).choices[0].message.content for _ in range(4)}) > 1
    least = client.chat.completions.create(**asked, top_p=1e-9).choices[0].message.content
    assert least == whole


def test_a_text_is_continued(client, models):
    text = "warmth 0.4, clarity"
    found = client.completions.create(model="base", prompt=text, max_tokens=8, temperature=0)
    base = load_target(str(models / "base"), "mlx").backend
    ids = base.tokenizer(text)["input_ids"]
    assert found.choices[0].text == base.generate([ids], 8, 0.0, 0)[0]
    assert (found.object, found.choices[0].finish_reason) == ("text_completion", "length")
    assert found.usage.prompt_tokens == len(ids)
    several = client.completions.create(model="base", prompt=[text, "other"], max_tokens=8, temperature=0)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == found.choices[0].text
    for prompt in (ids, [ids]):
        again = client.completions.create(model="base", prompt=prompt, max_tokens=8, temperature=0)
        assert again.choices[0].text == found.choices[0].text
    stream = client.completions.create(model="base", prompt=[text, text], max_tokens=8, temperature=0, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [found.choices[0].text] * 2
    assert client.completions.create(model="base", prompt="", temperature=0).usage.completion_tokens <= 16


@pytest.mark.parametrize("as_ids", [False, True])
def test_an_echo_has_the_log_probability_of_each_token_but_the_first(client, models, as_ids):
    text = "Grüße 👧 aus Wien, warmth 0.4"
    base = load_target(str(models / "base"), "mlx").backend
    ids = base.tokenizer(text)["input_ids"]
    prompt = ids if as_ids else text
    asked = {"model": "base", "prompt": prompt, "echo": True, "logprobs": 2, "temperature": 0}
    found = client.completions.create(**asked, max_tokens=3).choices[0]
    given = found.logprobs
    assert found.text.startswith(text)
    assert "".join(given.tokens) == found.text
    assert given.text_offset == [len("".join(given.tokens[:place])) for place in range(len(given.tokens))]
    assert len(given.tokens) == len(given.token_logprobs) == len(given.top_logprobs) == len(ids) + 3
    assert given.token_logprobs[0] is None
    assert given.top_logprobs[0] is None
    (expected,) = token_likelihoods(base, [(ids[:1], ids[1:])])
    assert given.token_logprobs[1 : len(ids)] == pytest.approx(expected.logprobs, abs=1e-3)
    # The generated ones are the most likely.
    assert [max(top.values()) for top in given.top_logprobs[-3:]] == given.token_logprobs[-3:]
    assert all(2 <= len(top) <= 3 for top in given.top_logprobs[1:] if len(set(top)) == len(top))
    only = client.completions.create(**asked, max_tokens=0).choices[0]
    assert (only.text, only.finish_reason) == (text, "length")
    assert only.logprobs.token_logprobs == given.token_logprobs[: len(ids)]
    chunks = list(client.completions.create(**asked, max_tokens=3, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == found.text
    streamed = [n for chunk in chunks for n in chunk.choices[0].logprobs.token_logprobs]
    assert streamed[1:] == pytest.approx(given.token_logprobs[1:], abs=1e-4)
    assert [n for chunk in chunks for n in chunk.choices[0].logprobs.text_offset] == given.text_offset


def test_an_end_of_turn_has_its_log_probability_and_no_text(client, models):
    """lm-eval leaves out the last token, which was generated: it must be there, even if the answer ends with it."""
    asked = {"prompt": "text", "echo": True, "logprobs": 1, "temperature": 0}
    backend = load_target(str(models / "base"), "mlx").backend
    batch = backend.open_batch()
    batch.join(backend.tokenizer("text")["input_ids"], Sampling(1))
    shutil.copytree(models / "base", models / "ending")
    config = json.loads((models / "base" / "config.json").read_text())
    (models / "ending" / "config.json").write_text(json.dumps({**config, "eos_token_id": batch.step()[0].token}))
    try:
        choice = client.completions.create(model="ending", max_tokens=1, **asked).choices[0]
    finally:
        shutil.rmtree(models / "ending")
    assert (choice.text, choice.finish_reason) == ("text", "stop")
    assert choice.logprobs.tokens[-1] == ""
    assert choice.logprobs.token_logprobs[-1] == max(choice.logprobs.top_logprobs[-1].values())
    assert client.completions.create(model="base", max_tokens=1, **asked).choices[0].finish_reason == "length"


def test_models_are_listed_and_found(client):
    names = [model.id for model in client.models.list()]
    assert names == ["builtin/tiny-lumen", "base", "runs/one"]
    for name in names:
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("runs/none")


def test_our_own_clients_and_commands(url, models, target):
    remote = open_target(f"{url}#runs/one")
    (expected,) = target.answer([QUESTION], [""], Generation(12, 0.0, 0))
    (reply,) = remote.answer([QUESTION], ["a"], Generation(12, 0.0, 0))
    assert (reply.error, reply.text) == (None, expected.text)
    from mlx_lora.evaluation.targets.raw_texts import raw_texts

    pairs = [("warmth 0.4 and", " clarity"), ("Grüße", " 👧"), ("a b", " c d")]
    own, theirs = (raw_texts(each).likelihoods(pairs) for each in (target, remote))
    for one, other in zip(own, theirs, strict=True):
        assert other.logprobs == pytest.approx(one.logprobs, abs=1e-3)
        assert other.greedy == one.greedy
    settings = Generation(8, 0.0, 0)
    assert raw_texts(remote).complete(["warmth"], settings, ["x"]) == raw_texts(target).complete(
        ["warmth"], settings, ["x"]
    )


def test_lm_eval_reads_the_log_probabilities(url, target):
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    base = target.backend.tokenizer.name_or_path
    model = LocalCompletionsAPI(model="runs/one", base_url=f"{url}/completions", tokenizer=base, batch_size=1)
    pairs = [("warmth 0.4 and", " clarity"), ("one two", " three four")]
    found = model.loglikelihood([Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)])
    encoded = [encode_pair(target.backend.tokenizer, *pair) for pair in pairs]
    for (total, greedy_one), expected in zip(found, token_likelihoods(target.backend, encoded), strict=True):
        assert total == pytest.approx(sum(expected.logprobs), abs=1e-3)
        assert greedy_one == expected.greedy


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(chat, url, stream):
    body = {"model": "base", "messages": QUESTION, "stream": stream, "seed": 3, "max_tokens": 1900, "stop": ["\x00"]}
    growing = chat._growing

    def rows():
        return sum(map(len, growing.values()))

    def go():
        with (
            httpx.Client(timeout=20) as client,
            client.stream("POST", f"{url}/chat/completions", json=body) as response,
        ):
            next(response.iter_lines())

    def wait_until(said):
        for _ in range(600):
            if said():
                return
            time.sleep(0.05)
        raise AssertionError("it did not come to that")

    if stream:
        go()
    else:
        connection = httpx.Client(timeout=20)

        def ask():
            with suppress(httpx.HTTPError):
                connection.post(f"{url}/chat/completions", json=body)

        threading.Thread(target=ask).start()
        wait_until(lambda: rows() == 1)
        connection._transport.close()
    wait_until(lambda: rows() == 0)
    assert text_of(chat.ask("base", QUESTION, greedy(3)))


def test_what_is_refused(client):
    asked = {"model": "base", "messages": QUESTION}
    with pytest.raises(openai.NotFoundError, match="There is no model 'none' here"):
        client.chat.completions.create(**{**asked, "model": "none"})
    with pytest.raises(openai.NotFoundError):
        list(client.chat.completions.create(**{**asked, "model": "none"}, stream=True))
    with pytest.raises(openai.BadRequestError, match="has a context of 2,048") as refused:
        client.chat.completions.create(model="base", messages=user("word " * 3000))
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="the user message"):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": None}])
    with pytest.raises(openai.BadRequestError, match="is not a token of this model"):
        client.completions.create(model="base", prompt=[1, 10**7])


def test_predictions(url):
    found = httpx.post(f"{url}/predict/nli", json={"premise": "a b c", "hypothesis": "a d", "model": "none"}).json()
    assert found == {"entailment": 0.5, "method": "heuristic", "reason": "the model is not on this machine"}
    found = httpx.post(f"{url}/predict/embed", json={"text": "a b c", "model": "none"}).json()
    assert found["method"] == "heuristic"
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1)
