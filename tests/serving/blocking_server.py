"""A server with one route that answers at once and one that waits until it is told."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from pydantic import BaseModel

from mlx_lora.serving.api import Call, Route, Services
from mlx_lora.serving.app import make_app
from mlx_lora.serving.http_server import run_app
from mlx_lora.serving.server import address_of, listen
from mlx_lora.serving.settings import ServerSettings
from mlx_lora.serving.state import State


class Count(BaseModel):
    waiting: int


released, waiting = threading.Event(), []


def wait(call: Call) -> Count:
    waiting.append(1)
    released.wait(60)
    return Count(waiting=len(waiting))


def status(call: Call) -> Count:
    return Count(waiting=len(waiting))


def release(call: Call) -> Count:
    released.set()
    return Count(waiting=len(waiting))


ROUTES = [
    Route("GET", "/wait", "Wait", wait, answer=Count),
    Route("GET", "/status", "Count those that wait", status, answer=Count),
    Route("POST", "/release", "Let them go", release, answer=Count),
]

if __name__ == "__main__":
    settings = ServerSettings(Path(sys.argv[1]))
    app = make_app(Services(settings, State(settings.state), scheduler=None, chat=None), ROUTES)
    with listen("127.0.0.1", 0) as listening:
        print(address_of(listening), flush=True)
        run_app(app, listening, verbose=False)
