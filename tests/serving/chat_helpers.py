"""A chat service on runs that are drawn instead of trained, and its routes in an app."""

from __future__ import annotations

from contextlib import contextmanager

from mlx_lora.backends.answering import Sampling
from mlx_lora.serving.answering import Options
from mlx_lora.serving.chat import ChatService
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


def greedy(max_tokens=12, **options) -> Options:
    return Options(Sampling(max_tokens), **options)


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def text_of(answering) -> str:
    return "".join(piece.text for piece in answering)


@contextmanager
def chat_service(directory, models, start=True, **settings):
    state = State(directory)
    chat = ChatService(ServerSettings(directory, models, backend="mlx", **settings), state)
    if start:
        chat.start()
    yield chat
    chat.stop()
    state.close()
