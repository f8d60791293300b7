"""Answer to a request while it grows: tokens come from the engine's thread, text is read in a task."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...backends.answering import Finish, NewToken, Sampling, TokenScore
from ..api_error import ApiError
from .catalogue import ServedModel
from .token_text import AnswerText, Piece

# Seconds after which a client that waits is looked at again: it may have gone.
LOOK = 0.5


@dataclass(frozen=True)
class Options:
    """Options of a request.

    Attributes:
        stop: texts that end the answer.
        scores: score the prompt's own tokens too, before the answer.
    """

    sampling: Sampling
    stop: tuple[str, ...] = ()
    scores: bool = False


@dataclass(frozen=True)
class PromptScores:
    """Scores of a prompt's tokens but the first."""

    scores: list[TokenScore]


Item = NewToken | PromptScores | ApiError | None


class Answering:
    """Answer to one request.

    :meth:`stream` yields its text in pieces, the last of which has ``finish`` set.

    Attributes:
        prompt: token ids.
        prompt_scores: set before the first piece, where they are wanted.
        completion_tokens: tokens so far; an end-of-turn token is one too.
        cancelled: True once nobody waits for more.
    """

    def __init__(
        self, model: ServedModel, prompt: list[int], options: Options, tokenizer: Any, wake: Callable[[], None]
    ) -> None:
        self.model, self.prompt, self.options, self.tokenizer = model, prompt, options, tokenizer
        self.prompt_scores: list[TokenScore] = []
        self.completion_tokens = 0
        self.finish_reason: Finish | None = None
        self.cancelled = False
        self._text = AnswerText(tokenizer, options.stop)
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._wake_engine = wake
        self._wake_reader: Callable[[], object] = lambda: None

    def put(self, item: Item) -> None:
        """Add what the engine has; ``None`` ends an answer without tokens."""
        self._items.put(item)
        # The reader's event loop may have ended.
        with suppress(RuntimeError):
            self._wake_reader()

    def cancel(self) -> None:
        """End the answer: nobody waits for more of it."""
        if not self.cancelled:
            self.cancelled = True
            self._wake_engine()

    async def stream(self, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Piece]:
        """Yield the pieces; the answer is cancelled when the iteration ends, or the client is gone.

        Args:
            gone: returns True once the client has closed its connection.

        Raises:
            ApiError: the engine has failed, or 499: the client is gone.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        self._wake_reader = lambda: loop.call_soon_threadsafe(arrived.set)
        try:
            while self.finish_reason is None:
                arrived.clear()
                with suppress(queue.Empty):
                    while self.finish_reason is None:
                        if (piece := self._piece(self._items.get_nowait())) is not None:
                            yield piece
                if self.finish_reason is None:
                    await self._wait(arrived, gone)
        finally:
            self.cancel()

    async def _wait(self, arrived: asyncio.Event, gone: Callable[[], Awaitable[bool]]) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), LOOK)
                return
            if await gone():
                raise ApiError(499, "The client has closed the connection.", "client_closed_request")

    def _piece(self, item: Item) -> Piece | None:
        if isinstance(item, ApiError):
            raise item
        if isinstance(item, PromptScores):
            self.prompt_scores = item.scores
            return None
        if item is None:
            self.finish_reason = "length"
            return Piece(finish="length")
        self.completion_tokens += 1
        piece = self._text.add(item)
        self.finish_reason = piece.finish
        return piece if piece.text or piece.tokens or piece.finish else None
