"""Route of completions: raw texts and token ids, without a chat template."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.responses import Response

from ..api import Call, Route
from ..chat.answering import Answering
from ..chat.token_text import Piece
from ..records import new_id
from .chat import ask
from .chat_models import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Usage
from .event_stream import AnswerStream
from .logprobs import CompletionScores, prompt_tokens

# OpenAI's default.
MAX_TOKENS = 16


async def create_completion(call: Call) -> Completion | Response:
    """Continue texts, as a whole or as a stream; with ``echo``, the prompts and their log-probabilities come first."""
    body: CompletionRequest = call.body
    wanted = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = body.options(wanted, body.logprobs, scores=bool(body.echo) and body.logprobs is not None)
    prompts, answers = body.prompts(), list[Answering]()
    about: dict[str, Any] = {"id": new_id("cmpl"), "created": int(time.time()), "model": body.model}
    try:
        for prompt in prompts:
            answers.append(await ask(call, body.model, prompt, options))
        rows = [
            _Row(number, body, prompt, answering, answering.stream(call.http.is_disconnected))
            for number, (prompt, answering) in enumerate(zip(prompts, answers, strict=True))
        ]
        if body.stream:
            # An error before the first token has a status of its own.
            first = await anext(rows[0].pieces)
            return AnswerStream(_chunks(body, rows, first, about), answers)
        choices = [row.choice([piece async for piece in row.pieces]) for row in rows]
    except BaseException:
        for answering in answers:
            answering.cancel()
        raise
    return Completion(**about, choices=[CompletionChoice(**choice) for choice in choices], usage=Usage.of(answers))


class _Row:
    """Choice of one prompt."""

    def __init__(
        self,
        number: int,
        body: CompletionRequest,
        prompt: str | list[int],
        answering: Answering,
        pieces: AsyncIterator[Piece],
    ) -> None:
        self._number, self._body, self.answering, self.pieces = number, body, answering, pieces
        self._text = prompt if isinstance(prompt, str) else None
        self._scores = CompletionScores(answering.tokenizer)
        self._echo = bool(body.echo)

    def choice(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the next part of the choice; the first one begins with the prompt where it is echoed."""
        text, tokens = "", []
        if self._echo:
            self._echo = False
            given = self._text
            text = self.answering.tokenizer.decode(self.answering.prompt) if given is None else given
            if self._body.logprobs is not None:
                tokens = prompt_tokens(self.answering, self._text)
        text += "".join(piece.text for piece in pieces)
        tokens += [(token.text, token.score) for piece in pieces for token in piece.tokens]
        logprobs: CompletionLogprobs | None = None
        if self._body.logprobs is not None:
            logprobs = self._scores.of(tokens)
        finish = pieces[-1].finish if pieces else None
        return {"index": self._number, "text": text, "logprobs": logprobs, "finish_reason": finish}


async def _chunks(
    body: CompletionRequest, rows: Sequence[_Row], first: Piece, about: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    about = {**about, "object": "text_completion", **({"usage": None} if with_usage else {})}
    for number, row in enumerate(rows):
        piece: Piece | None = first if number == 0 else await anext(row.pieces)
        while piece is not None:
            choice = row.choice([piece])
            logprobs = choice["logprobs"] and choice["logprobs"].model_dump()
            yield {**about, "choices": [{**choice, "logprobs": logprobs}]}
            piece = await anext(row.pieces, None)
    if with_usage:
        usage = Usage.of([row.answering for row in rows])
        yield {**about, "choices": [], "usage": usage.model_dump()}


ROUTES = [
    Route(
        "POST",
        "/v1/completions",
        "Continue raw texts",
        create_completion,
        body=CompletionRequest,
        answer=Completion,
        errors=(404, 409, 429, 503),
        streams=True,
    ),
]
