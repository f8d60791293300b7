"""Route of chat completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.responses import Response

from ..api import Call, Route
from ..chat.answering import Answering
from ..chat.sources import Source
from ..chat.token_text import Piece
from ..records import new_id
from .chat_models import ChatChoice, ChatCompletion, ChatMessage, ChatRequest, Usage
from .event_stream import AnswerStream
from .logprobs import chat_logprobs

# Prompts that are encoded at a time; the first one of a model waits for its tokenizer, and must not hold up others.
_encoding = CapacityLimiter(4)


async def ask(call: Call, *arguments: Any, **options: Any) -> Answering:
    """Ask the chat service in a thread: the prompt is encoded there.

    Raises:
        ApiError: see ``ChatService.ask``.
    """
    return await to_thread.run_sync(partial(call.services.chat.ask, *arguments, **options), limiter=_encoding)


async def create_chat_completion(call: Call) -> ChatCompletion | Response:
    """Answer a conversation, as a whole or as a stream."""
    body: ChatRequest = call.body
    chat = call.services.chat
    wanted = body.max_completion_tokens or body.max_tokens or chat.settings.most_tokens
    options = body.options(wanted, (body.top_logprobs or 0) if body.logprobs else None)
    tools = None if body.tool_choice == "none" else body.tools
    messages, sources = body.messages, None
    if body.retrieval:
        messages, sources = await to_thread.run_sync(chat.sources.before, messages, limiter=_encoding)
    answering = await ask(call, body.model, messages, options, tools=tools)
    pieces = answering.stream(call.http.is_disconnected)
    about: dict[str, Any] = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": body.model}
    if body.stream:
        # An error before the first token has a status of its own.
        first = await anext(pieces)
        return AnswerStream(_chunks(body, answering, first, pieces, about, sources), [answering])
    found = [piece async for piece in pieces]
    assert answering.finish_reason is not None
    choice = ChatChoice(
        message=ChatMessage(content="".join(piece.text for piece in found)),
        logprobs=chat_logprobs(answering.tokenizer, found) if body.logprobs else None,
        finish_reason=answering.finish_reason,
    )
    return ChatCompletion(**about, choices=[choice], usage=Usage.of([answering]), sources=sources)


async def _chunks(
    body: ChatRequest,
    answering: Answering,
    first: Piece,
    pieces: AsyncIterator[Piece],
    about: dict[str, Any],
    sources: list[Source] | None,
) -> AsyncIterator[dict[str, Any]]:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    about = {**about, "object": "chat.completion.chunk", **({"usage": None} if with_usage else {})}

    def chunk(delta: dict[str, Any], piece: Piece | None = None, finish: str | None = None) -> dict[str, Any]:
        logprobs = chat_logprobs(answering.tokenizer, [piece]).model_dump() if piece and body.logprobs else None
        return {**about, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}

    found = {} if sources is None else {"sources": [source.model_dump() for source in sources]}
    yield {**chunk({"role": "assistant", "content": "", "refusal": None}), **found}
    piece: Piece | None = first
    while piece is not None:
        if piece.text or (piece.tokens and body.logprobs):
            yield chunk({"content": piece.text}, piece)
        piece = await anext(pieces, None)
    yield chunk({}, finish=answering.finish_reason)
    if with_usage:
        yield {**about, "choices": [], "usage": Usage.of([answering]).model_dump()}


ROUTES = [
    Route(
        "POST",
        "/v1/chat/completions",
        "Answer a conversation",
        create_chat_completion,
        body=ChatRequest,
        answer=ChatCompletion,
        errors=(400, 404, 409, 429, 503),
        streams=True,
    ),
]
