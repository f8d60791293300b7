"""Streams of answers as OpenAI's clients read them: data-only server-sent events, closed by ``[DONE]``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..api_error import ApiError
from ..chat.answering import Answering

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class AnswerStream(StreamingResponse):
    """Response of objects that are sent as they come; its answers are cancelled however it ends."""

    def __init__(self, parts: AsyncIterator[dict[str, Any]], answers: list[Answering]) -> None:
        super().__init__(_events(parts), media_type="text/event-stream", headers=HEADERS)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for answering in self._answers:
                answering.cancel()


async def _events(parts: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for part in parts:
            yield f"data: {json.dumps(part)}\n\n"
    except ApiError as error:
        # The status has been sent.
        said = {"message": str(error), "type": "server_error", "param": error.param, "code": error.code}
        yield f"data: {json.dumps({'error': said})}\n\n"
        return
    yield "data: [DONE]\n\n"
