"""Raw texts on an OpenAI-compatible server: their continuations, and log-probabilities of given ones.

OpenAI's completions echo the prompt with its log-probabilities (vLLM and others do; llama.cpp ignores the field). In
llama.cpp each token of the continuation is forced in turn, and its log-probability before the forcing is reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from ..errors import UserError
from .http import RequestFailed
from .openai_format import first_choice
from .openai_server import OpenAIServer
from .reply import Likelihood, Opening, Reply, continuation_start, in_parallel

# OpenAI's limit.
MOST_STOPS = 4
# Larger than any bias that a model's logits have, and than any vocabulary.
FORCING = 10_000.0
WHOLE_VOCABULARY = 1_000_000
# llama.cpp's probabilities are float32: less than the smallest one is 0 there, whose logarithm is reported as -3.4e38.
LEAST_LOGPROB = math.log(2**-149)


def complete(
    server: OpenAIServer,
    texts: Sequence[str],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    stops: Sequence[str] = (),
) -> Iterator[tuple[int, Reply]]:
    """Yield (index, reply) of each raw text in the order in which they end.

    Args:
        stops: texts that end the answer; the first four are sent, and the answer may still hold the others.

    Raises:
        UserError: see ``OpenAIServer.chat``.
    """
    server.check()
    body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    if stops:
        body["stop"] = list(stops[:MOST_STOPS])

    def send(text: str) -> Reply:
        choice = first_choice(server.post("/completions", {**body, "prompt": text}))
        if not isinstance(choice.get("text"), str):
            raise RequestFailed("its answer has no text")
        return Reply(choice["text"], stopped=choice.get("finish_reason") == "stop")

    yield from in_parallel(lambda text: server.requests.reply(partial(send, text)), texts, server.parallel)


def opening_of(server: OpenAIServer) -> Opening:
    """Return the token that begins a text, where the server is llama.cpp's; others add it to raw texts themselves.

    Raises:
        UserError: see ``OpenAIServer.check``.
    """
    server.check()
    try:
        text = server.requests.retried(partial(server.get, "/props")).get("bos_token")
        lengths = [len(server.requests.retried(partial(_tokens, server, "a", added))) for added in (True, False)]
    except RequestFailed:
        return Opening(None, False)
    return Opening(text if isinstance(text, str) and text else None, lengths[0] > lengths[1])


def likelihoods(server: OpenAIServer, pairs: Sequence[tuple[str, str]]) -> list[Likelihood | None] | None:
    """Return the log-probabilities of (prompt, continuation) pairs of raw texts; ``None`` for a pair that failed.

    Special tokens in the texts count as such. A token that spans the end of the prompt belongs to the continuation.

    Returns:
        ``None`` if the server gives no log-probabilities of given texts.

    Raises:
        UserError: see ``OpenAIServer.check``.
    """
    server.check()
    if not pairs:
        return []
    for way in (_by_echo, _by_forcing):
        try:
            supported = server.requests.retried(partial(way, server, *pairs[0])) is not None
        except RequestFailed as error:
            if error.again is not None:
                raise UserError(f"{server.url}: {error}") from error
            supported = False
        if supported:
            break
    else:
        return None

    def ask(pair: tuple[str, str]) -> Likelihood | None:
        try:
            return server.requests.retried(partial(way, server, *pair))
        except RequestFailed:
            return None

    found = dict(in_parallel(ask, pairs, server.parallel))
    return [found[i] for i in range(len(pairs))]


def _by_echo(server: OpenAIServer, prompt: str, continuation: str) -> Likelihood | None:
    text = prompt + continuation
    body = {"prompt": text, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
    choice = first_choice(server.post("/completions", body))
    given = choice.get("logprobs")
    if not str(choice.get("text", "")).startswith(text) or not isinstance(given, dict):
        return None
    try:
        return _of_echo(given, len(prompt), len(text))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _of_echo(given: dict[str, Any], start: int, end: int) -> Likelihood:
    found, place = Likelihood(), 0
    for token, logprob, top in zip(given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True):
        # The first token of a text has no log-probability; the last ones were generated.
        if place + len(token) > start and place < end and logprob is not None:
            found.logprobs.append(float(logprob))
            found.greedy &= max(top.values()) <= logprob + 1e-6
        place += len(token)
    return found


def _by_forcing(server: OpenAIServer, prompt: str, continuation: str) -> Likelihood | None:
    start, ids = _tokens(server, prompt), _tokens(server, prompt + continuation)
    found = Likelihood()
    for place in range(continuation_start(start, ids), len(ids)):
        row = _forced(server, ids[:place], ids[place], 1) or _among_all(server, ids[:place], ids[place])
        if row is None:
            return None
        found.logprobs.append(row[0])
        found.greedy &= row[1]
    return found


def _tokens(server: OpenAIServer, text: str, special: bool = False) -> list[int]:
    """Return llama.cpp's token ids of a text; ``special``: with those that it adds to a text.

    Raises:
        RequestFailed: the server has no such request.
    """
    body = {"content": text, "add_special": special, "parse_special": True}
    ids = server.post("/tokenize", body, root=True).get("tokens")
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise RequestFailed("it has no tokens of a text")
    return ids


def _forced(server: OpenAIServer, ids: list[int], token: int, top: int, seek: int | None = None) -> Any:
    """Return (log-probability, is top-1) of a token after others, which is generated by force.

    Args:
        seek: another token, whose figures are returned instead, among the ``top`` most likely ones.
    """
    body = {"prompt": ids, "max_tokens": 1, "logprobs": top, "temperature": 1.0, "cache_prompt": True}
    choice = first_choice(server.post("/completions", {**body, "logit_bias": [[token, FORCING]]}))
    try:
        row = choice["logprobs"]["content"][0]
        ranked = row["top_logprobs"]
        one = row if seek is None else next(r for r in ranked if r["id"] == seek)
        right = one["id"] == (token if seek is None else seek) and isinstance(one["logprob"], (int, float))
        return (max(float(one["logprob"]), LEAST_LOGPROB), ranked[0]["id"] == one["id"]) if right else None
    except (KeyError, IndexError, TypeError, StopIteration):
        return None


def _among_all(server: OpenAIServer, ids: list[int], token: int) -> Any:
    """Return the same of a token that is a part of a character, whose own log-probability llama.cpp does not report."""
    whole = _tokens(server, "a")
    return _forced(server, ids, whole[0], WHOLE_VOCABULARY, seek=token) if whole else None
