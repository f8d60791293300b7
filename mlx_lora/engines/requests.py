"""Requests to a model server: a case that it fails becomes a sentence, and what may pass by itself is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import UserError
from .reply import Reply

LONGEST_PAUSE = 30.0
# Statuses of a server that is busy, restarting or behind a proxy.
BUSY = {408, 425, 429, 500, 502, 503, 504}
Result = TypeVar("Result")


class RequestFailed(Exception):
    """Failure of one request, in words that follow the server's address.

    Attributes:
        again: seconds that the server asks to wait; 0 if it names none, ``None`` if another try is of no use.
        everywhere: any other request would fail in the same way.
    """

    def __init__(self, reason: str, again: float | None = None, everywhere: bool = False) -> None:
        super().__init__(reason)
        self.again, self.everywhere = again, everywhere


class Requests:
    """Requests to one server, from several threads.

    Attributes:
        seconds: time limit of one request, for messages.
        tries: maximum requests for one conversation.
        pause: seconds before the second try; doubled before each further one.
    """

    def __init__(self, url: str, seconds: float, tries: int = 4, pause: float = 0.5) -> None:
        self.url, self.seconds, self.tries, self.pause = url, seconds, tries, pause
        self._answered = self._gone = False

    def reply(self, send: Callable[[], Reply]) -> Reply:
        """Return the reply to one conversation; without a text, but with a reason, if the server fails it.

        Raises:
            UserError: the server is not reached or refuses the model, and has not answered anything yet.
        """
        started = time.monotonic()
        try:
            reply = self.retried(send)
        except RequestFailed as error:
            if error.everywhere and not self._answered:
                raise UserError(f"{self.url}: {error}") from error
            return Reply(None, f"{self.url}: {error}", seconds=time.monotonic() - started)
        self._answered = True
        reply.seconds = time.monotonic() - started
        return reply

    def retried(self, send: Callable[[], Result]) -> Result:
        """Return the result of ``send``; a busy server and a broken connection get some more tries.

        Raises:
            RequestFailed: none of them succeeded.
        """
        for number in range(1, self.tries + 1):
            try:
                found = self._sent(send)
            except RequestFailed as error:
                # After one conversation has had all its tries in vain, others do not wait for a server that is gone.
                if error.again is None or number == self.tries or self._gone:
                    self._gone = error.everywhere
                    raise
                time.sleep(min(LONGEST_PAUSE, max(error.again, self.pause * 2 ** (number - 1))))
            else:
                self._gone = False
                return found
        raise AssertionError

    def _sent(self, send: Callable[[], Result]) -> Result:
        import httpx

        try:
            return send()
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
            raise RequestFailed(trouble(error, self.seconds), 0.0, everywhere=True) from error
        except (httpx.TimeoutException, httpx.DecodingError) as error:
            # A second try would take as long again.
            raise RequestFailed(trouble(error, self.seconds)) from error
        except UnicodeError as error:
            raise RequestFailed("the conversation holds an unpaired surrogate, which cannot be sent") from error
        except httpx.HTTPError as error:
            raise RequestFailed(trouble(error, self.seconds), 0.0) from error


def trouble(error: Exception, seconds: float) -> str:
    """Return what went wrong with a connection, as the end of a sentence that begins with the server's address."""
    import httpx

    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError)):
        return "no server answers there"
    if isinstance(error, httpx.TimeoutException):
        return f"the server did not finish within {seconds:g} seconds"
    reason = str(error).rstrip(".") or type(error).__name__
    return reason if isinstance(error, httpx.DecodingError) else f"the connection broke ({reason})"
