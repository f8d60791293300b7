"""Gate before every route: Host and Origin, the bearer token, encodings and lengths, and errors as answers."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api import Method, Route
from .api_error import ApiError
from .responses import LOG, error_answer, error_of
from .settings import LOOPBACK, ServerSettings

# Room for the other fields of an upload and for what separates them.
ENVELOPE = 2**16
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    # The page is of one host, and no other page may frame it.
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class RouteTable:
    """Routes by path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.by_path: dict[str, dict[Method, Route]] = {}
        for route in routes:
            self.by_path.setdefault(route.path, {})[route.method] = route
        self._patterns = [(compile_path(path)[0], path) for path in self.by_path]

    def at(self, path: str) -> Mapping[Method, Route]:
        """Return the routes of a request's path, by method; empty where there are none."""
        return next((self.by_path[own] for pattern, own in self._patterns if pattern.match(path)), {})


class Gate:
    """Middleware that checks a request before anything reads its body, and turns exceptions into answers."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, table: RouteTable) -> None:
        self.app, self.settings, self.table = app, settings, table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        routes = self.table.at(scope["path"])
        route = routes.get("GET" if scope["method"] == "HEAD" else scope["method"])
        try:
            most = self._check(Headers(scope=scope), route)
            if not routes:
                raise ApiError(404, "There is no such path on this server; /openapi.json lists all.", "not_found")
            if route is None:
                raise ApiError(405, f"This path has no method {scope['method'][:20]}.", "method_not_allowed")
            await self.app(scope, _limited(receive, most), send_with_headers)
        except ClientDisconnect:
            LOG.debug("a client went away")
        except (Exception, asyncio.CancelledError) as error:
            meant = error_of(error)
            if started:
                # The connection closes, so that the client does not take the part for the whole.
                return
            contract = next(iter(routes.values())).contract if routes else "openai"
            await error_answer(meant, contract, _headers_of(meant.status, routes))(scope, receive, send_with_headers)

    def _check(self, headers: Headers, route: Route | None) -> int:
        """Check the headers of a request, and return the maximum length of its body."""
        self._check_host(headers)
        public = route is not None and route.public
        origin = headers.get("origin")
        if origin is not None and not _same_origin(origin, headers["host"]):
            raise ApiError(403, "Pages of another origin may not use this server.", "wrong_origin")
        if not public and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise ApiError(403, "Pages of another site may not use this server.", "wrong_origin")
        if not public and self.settings.token is not None:
            _check_token(headers, self.settings.token)
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ApiError(415, "Encoded bodies are not read; send it without Content-Encoding.", "bad_encoding")
        upload = route is not None and route.upload
        most = self.settings.most_upload_bytes + ENVELOPE if upload else self.settings.most_body_bytes
        length = headers.get("content-length", "0")
        if not re.fullmatch(r"\d{1,18}", length, re.ASCII) or int(length) > most:
            raise _too_long(most)
        return most

    def _check_host(self, headers: Headers) -> None:
        """Refuse names that are not this server's: a page whose name another DNS server answers for (rebinding)."""
        names = headers.getlist("host")
        name = _host_of(names[0]) if len(names) == 1 else ""
        known = {*LOOPBACK, *(host.lower() for host in self.settings.allowed_hosts)}
        if not self.settings.is_local:
            known.add(self.settings.host.lower())
            with suppress(ValueError):
                # An address is not a name that could be bound again.
                known.add(str(ipaddress.ip_address(name)))
        if not name or name not in known:
            raise ApiError(
                421, "The Host header does not name this server; allow the name with --allow-host.", "wrong_host"
            )


def _host_of(header: str) -> str:
    """Return the host of a Host header without its port, in lower case; empty where it is malformed."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", header)
    return (found[1] or found[2]).lower() if found else ""


def _same_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _check_token(headers: Headers, token: str) -> None:
    given = headers.getlist("authorization")
    kind, _, value = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    same = hmac.compare_digest(value.strip().encode("latin-1"), token.encode())
    if kind.lower() != "bearer" or not same:
        raise ApiError(
            401, "The token is missing or wrong; send the header Authorization: Bearer TOKEN.", "invalid_api_key"
        )


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"The body is longer than {most:,} bytes, which is the most that is read here.", "too_long")


def _limited(receive: Receive, most: int) -> Receive:
    """Return ``receive`` that raises 413 once more than ``most`` bytes of the body have come."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > most:
                raise _too_long(most)
        return message

    return counted


def _headers_of(status: int, routes: Mapping[Method, Route]) -> dict[str, str]:
    if status == 401:
        return {"www-authenticate": "Bearer"}
    return {"allow": ", ".join(sorted({*routes, *(["HEAD"] if "GET" in routes else [])}))} if status == 405 else {}
