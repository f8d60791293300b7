"""OpenAI-compatible server client: chat completions with bounded parallel requests, retries and a time limit."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..errors import LONGEST, UserError, shortened, visible
from .http import BUSY, RequestFailed, Requests, options_for, trouble
from .openai_format import finish_of, merged, message_of, read_choice, read_reply
from .reply import Messages, Reply, in_parallel, rate, seed_of

KEY_VARIABLE = "OPENAI_API_KEY"
PROBE_SECONDS = 30.0
# Statuses of a server that refuses whatever it is asked.
REFUSING = {401, 403, 404, 405}


def parse_address(address: str) -> tuple[str, str | None]:
    """Split ``http://host:port/v1#model`` into the base URL and the model's name, ``None`` without one.

    Raises:
        UserError: it is not such an address.
    """
    url, _, model = address.partition("#")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        valid = False
    if not valid:
        raise UserError(
            f"{shortened(address)}: this is not a server's address; write e.g. http://127.0.0.1:8080/v1#MODEL"
        )
    if parts.username or parts.password or parts.query:
        raise UserError(f"{parts.hostname}: the address holds a password or a query; put the key into {KEY_VARIABLE}")
    return url.rstrip("/"), model or None


class OpenAIServer:
    """Client of one model on an OpenAI-compatible server.

    Attributes:
        model: its name on the server; the server's only one if none was given.
    """

    def __init__(
        self,
        address: str,
        *,
        parallel: int = 4,
        seconds: float = 300.0,
        tries: int = 4,
        pause: float = 0.5,
        stream: bool = False,
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            address: ``http://host:port/v1#model``; the key is read from OPENAI_API_KEY.
            parallel: maximum requests at a time.
            seconds: time limit of one request.
            tries: maximum requests for one conversation.
            pause: seconds before the second try; doubled before each further one.
            stream: measure the time to the first token.

        Raises:
            UserError: the address is invalid, or httpx is not installed.
        """
        self.url, self.model = parse_address(address)
        options = options_for(self.url, seconds, whole_seconds=seconds)
        import httpx

        self.parallel, self.stream = parallel, stream
        self.requests = Requests(self.url, seconds, tries, pause)
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if self._key:
            options["headers"]["Authorization"] = f"Bearer {self._key}"
        self._client = httpx.Client(**options)
        self._reached = False

    def __enter__(self) -> OpenAIServer:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """Return the names of the server's models; empty if it does not list them.

        Raises:
            UserError: no server answers, or it refuses the key.
        """
        import httpx

        try:
            response = self._client.get(f"{self.url}/models", timeout=min(PROBE_SECONDS, self.requests.seconds))
            listed = self._object(response).get("data")
        except (httpx.ConnectError, httpx.TimeoutException) as error:
            said = trouble(error, min(PROBE_SECONDS, self.requests.seconds))
            raise UserError(f"{self.url}: {said}; start it, or correct the address") from error
        except RequestFailed as error:
            if error.everywhere and response.status_code in (401, 403):
                raise UserError(f"{self.url}: {error}; set {KEY_VARIABLE}") from error
            return []
        except httpx.HTTPError:
            return []
        rows = listed if isinstance(listed, list) else []
        return [row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]

    def check(self) -> None:
        """Reach the server, and choose its only model if none is named.

        Raises:
            UserError: no server answers, it refuses the key, or the model must be named.
        """
        if self._reached:
            return
        names = self.models()
        if self.model is None:
            if len(names) != 1:
                listed = f"it has {self._shown(', '.join(names[:8]))}" if names else "it does not list its models"
                raise UserError(f"{self.url}: name the model as {self.url}#MODEL ({listed})"[: 2 * LONGEST])
            self.model = names[0]
        self._reached = True

    def chat(
        self,
        conversations: Sequence[Messages],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) of each conversation in the order in which they end.

        A conversation that the server fails has a reply without a text.

        Args:
            seed: one for all, or one for each conversation.

        Raises:
            UserError: see ``check``, or the server refuses the model and has not answered anything yet.
        """
        self.check()

        def ask(number: int) -> Reply:
            body = {"messages": list(conversations[number]), "max_tokens": max_tokens, "temperature": temperature}
            return self.requests.reply(lambda: self._once({**body, "seed": seed_of(seed, number)}))

        yield from in_parallel(ask, range(len(conversations)), self.parallel)

    def _once(self, body: dict[str, Any]) -> Reply:
        if not self.stream:
            return read_reply(self.post("/chat/completions", body))
        started, first, texts, last = time.monotonic(), None, [], merged({}, {})
        body = {"model": self.model, **body, "stream": True, "stream_options": {"include_usage": True}}
        with self._client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                response.read()
                return read_reply(self._object(response))
            ended = False
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or not data:
                    continue
                if data == "[DONE]":
                    ended = True
                    break
                part = self._parsed(data)
                delta = read_choice(part, "delta") if part.get("choices") else {}
                if delta.get("content"):
                    first = first or time.monotonic()
                    texts.append(str(delta["content"]))
                last = merged(last, part)
        if not ended and not finish_of(last):
            raise RequestFailed("the connection broke (the answer has no end)", 0.0)
        last["choices"][0]["message"] = {"content": "".join(texts)}
        reply = read_reply(last)
        reply.first_token_s = first and first - started
        if first and reply.tokens_per_second is None:
            reply.tokens_per_second = rate(reply.completion_tokens - 1, time.monotonic() - first)
            reply.timed_by_client = True
        return reply

    def post(self, path: str, body: dict[str, Any], root: bool = False) -> dict[str, Any]:
        """Return the JSON object that answers a request.

        Args:
            root: the path is not below /v1, as llama.cpp's own are.

        Raises:
            RequestFailed: the server refuses, or the answer is not an object.
            httpx.HTTPError: the connection failed.
        """
        url = self.url.removesuffix("/v1") if root else self.url
        return self._object(self._client.post(url + path, json={"model": self.model, **body}))

    def get(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path that is not below /v1; errors as of ``post``."""
        return self._object(self._client.get(self.url.removesuffix("/v1") + path))

    def _object(self, response: Any) -> dict[str, Any]:
        status = response.status_code
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", "")).netloc or "another path"
            raise RequestFailed(f"it redirects to {target}, which is not followed; name that address", None, True)
        if status >= 400:
            reason, code = self._reason(response)
            again = None
            if status in BUSY:
                asked = response.headers.get("Retry-After", "")
                again = float(asked) if asked.isdecimal() else 0.0
            everywhere = status in REFUSING or code == "model_not_found"
            raise RequestFailed(f"the server refuses with status {status}{reason}", again, everywhere)
        return self._parsed(response.text)

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise RequestFailed(
                f"what answers there is not an OpenAI-compatible server (it says {self._shown(shortened(text))})"
            )
        if content.get("error"):
            raise RequestFailed(f"the server refuses: {self._shown(message_of(content['error']))}")
        return content

    def _reason(self, response: Any) -> tuple[str, Any]:
        """Return the server's own words after a colon, and its error code."""
        try:
            error = response.json()["error"]
        except (ValueError, KeyError, TypeError, RecursionError):
            hint = "; the address usually ends in /v1" if response.status_code in (404, 405) else ""
            return hint, None
        code = error.get("code") if isinstance(error, dict) else None
        return f": {self._shown(message_of(error))}", code

    def _shown(self, text: str) -> str:
        """Return a server's words without the key, which some repeat."""
        text = visible(text.replace(self._key, "***") if self._key else text)
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"
