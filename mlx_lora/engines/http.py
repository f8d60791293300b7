"""HTTP for clients of model servers: bounded answers without redirects, and tries that end in a reply or a sentence.

A case that a server fails becomes a sentence, and what may pass by itself is tried again.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ..errors import UserError
from .reply import Reply

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
MOST_BYTES = 32 << 20
LONGEST_PAUSE = 30.0
# Statuses of a server that is busy, restarting or behind a proxy.
BUSY = {408, 425, 429, 500, 502, 503, 504}
Result = TypeVar("Result")


def is_local(url: str) -> bool:
    """Return True if a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def options_for(url: str, read_seconds: float, whole_seconds: float | None = None) -> dict[str, Any]:
    """Return the arguments of ``httpx.Client`` for a server.

    Args:
        read_seconds: maximum silence.
        whole_seconds: maximum time of an answer after its headers, however steadily it drips.

    Raises:
        UserError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise UserError("the package httpx is missing; install it with `pip install 'mlx-lora[servers]'`") from error

    def bound(response: httpx.Response) -> None:
        _bound(response, whole_seconds)

    return {
        "timeout": httpx.Timeout(read_seconds, connect=min(CONNECT_SECONDS, read_seconds), pool=None),
        "follow_redirects": False,
        # A proxy is for other machines; httpx would use it for this one as well.
        "trust_env": not is_local(url),
        "headers": {"Accept-Encoding": "identity"},
        "event_hooks": {"response": [bound]},
    }


def _bound(response: httpx.Response, whole_seconds: float | None) -> None:
    """Limit the bytes and the time of a response's body.

    Raises:
        httpx.HTTPError: the body is compressed, though that was not asked for: a bomb may be in it.
    """
    import httpx

    inner, until = response.stream, None if whole_seconds is None else time.monotonic() + whole_seconds
    if response.headers.get("Content-Encoding", "identity") != "identity":
        response.close()
        raise httpx.DecodingError("its answer is compressed, which was not asked for", request=response.request)

    class Bounded(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            left = MOST_BYTES
            for piece in inner:  # type: ignore[union-attr]
                left -= len(piece)
                if left < 0:
                    raise httpx.DecodingError(f"its answer has more than {MOST_BYTES >> 20} MiB")
                if until is not None and time.monotonic() > until:
                    raise httpx.ReadTimeout("it took too long")
                yield piece

        def close(self) -> None:
            inner.close()  # type: ignore[union-attr]

    response.stream = Bounded()


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
