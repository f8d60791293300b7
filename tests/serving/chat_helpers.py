"""A chat service on runs that are drawn instead of trained, and its routes in an app."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

from mlx_lora.backends.answering import Sampling
from mlx_lora.serving.chat.answering import Options
from mlx_lora.serving.chat.service import ChatService
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


def greedy(max_tokens=12, **options) -> Options:
    return Options(Sampling(max_tokens), **options)


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def pieces_of(answering):
    """The pieces of an answer, read as a request's task reads them."""

    async def gone():
        return False

    stream = answering.stream(gone)

    async def following():
        return await anext(stream, None)

    with asyncio.Runner() as runner:
        while (piece := runner.run(following())) is not None:
            yield piece


def text_of(answering) -> str:
    return "".join(piece.text for piece in pieces_of(answering))


@contextmanager
def chat_service(directory, models, start=True, backend="mlx", **settings):
    state = State(directory)
    chat = ChatService(ServerSettings(directory, models, backend=backend, **settings), state)
    if start:
        chat.start()
    yield chat
    chat.stop()
    state.close()


@contextmanager
def serving(chat):
    """The routes of the chat in a server in this process; its address."""
    import threading

    import uvicorn

    from mlx_lora.serving.api import Services
    from mlx_lora.serving.app import make_app

    app = make_app(Services(chat.settings, None, None, chat))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
