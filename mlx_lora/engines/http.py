"""HTTP for clients of model servers: no redirect is followed, and no answer is larger or slower than allowed."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import UserError

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
MOST_BYTES = 32 << 20


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
