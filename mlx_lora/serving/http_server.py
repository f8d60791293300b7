"""HTTP server under the app: uvicorn, with its errors as JSON and an end by SIGINT or SIGTERM."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from anyio import to_thread
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .api_error import ApiError
from .responses import LOG, error_answer

# Longer than clients poll: one that asks every five seconds keeps its connection.
KEEP_ALIVE = 75
# Seconds that open streams have after SIGTERM; jobs go on without the server.
GRACE = 3
# Handlers that are plain functions, such as predictions, which wait for one another, take one each.
THREADS = 200


class Protocol(H11Protocol):
    """Connection that says in JSON what is wrong with a request that is not HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Answer, unless an answer has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = error_answer(ApiError(400, "This is not a valid HTTP request.", "bad_http"), "openai")
            headers = [*answer.raw_headers, (b"connection", b"close")]
            events = (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


class Server(uvicorn.Server):
    """Server that ends by a signal without raising it once more: the caller's clean-up follows."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, with threads enough that answers which take long do not keep short ones waiting."""
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while it runs."""
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def run_app(app: ASGIApp, listening: socket.socket, verbose: bool) -> None:
    """Serve an app until SIGINT or SIGTERM."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    # It warns of every malformed form, which the client is told.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    LOG.setLevel(logging.DEBUG if verbose else logging.WARNING)
    config = uvicorn.Config(
        app,
        # One parser for all, whatever else is installed.
        http=Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_level="info" if verbose else "critical",
        access_log=verbose,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
    )
    Server(config).run(sockets=[listening])
