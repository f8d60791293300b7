"""Raw texts continued by an OpenAI-compatible server, and the token that begins its texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from .openai_likelihood import read_first_choice, read_tokens
from .openai_server import OpenAIServer
from .reply import Opening, Reply, in_parallel
from .requests import RequestFailed

# OpenAI's limit.
MOST_STOPS = 4


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
        choice = read_first_choice(server.post("/completions", {**body, "prompt": text}))
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
        lengths = [len(server.requests.retried(partial(read_tokens, server, "a", added))) for added in (True, False)]
    except RequestFailed:
        return Opening(None, False)
    return Opening(text if isinstance(text, str) and text else None, lengths[0] > lengths[1])
