"""Ollama API client: upload blobs, create, query, copy and delete models.

https://github.com/ollama/ollama/blob/main/docs/api.md. Models are made of uploaded files only: no request has a
``from``, and only a model that was just created is queried, so that Ollama never downloads one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import UserError
from ..files import sha256_of

DEFAULT_PORT = 11434
CONNECT_SECONDS = 10
# Loading or quantizing a large model can be silent for minutes.
SILENCE_SECONDS = 900
PIECE = 1 << 20
PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
NAME = re.compile(
    rf"^(?:(?P<host>[A-Za-z0-9][A-Za-z0-9_.:-]*)/)?(?:(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?"
    rf"(?P<model>{PART})(?::(?P<tag>{PART}))?$"
)


@dataclass
class Reply:
    """Response of ``/api/generate``.

    Attributes:
        prompt_tokens: tokens of the prompt after the model's template; 0 if Ollama does not report it.
        stopped: the answer ended by itself, not at the token limit.
        load_seconds: time until the model was in memory.
        tokens_per_second: generation speed; 0 if Ollama does not report it.
    """

    text: str
    stopped: bool
    prompt_tokens: int
    tokens: int
    load_seconds: float
    tokens_per_second: float


def check_name(name: str) -> str:
    """Return the model name with its tag, ``latest`` if none is given.

    Raises:
        UserError: Ollama would not accept the name.
    """
    match = NAME.match(name)
    if match is None:
        raise UserError(
            f"--name {name}: Ollama takes names like model, model:tag or namespace/model:tag, "
            "of letters, digits, - _ and . (each part at most 80)"
        )
    return name if match["tag"] else f"{name}:latest"


def server_url(host: str | None = None) -> str:
    """Return the server's URL: ``host``, else OLLAMA_HOST, else this machine; parsed as Ollama itself does.

    Raises:
        UserError: it is not an address.
    """
    given = (host or os.environ.get("OLLAMA_HOST") or "127.0.0.1").strip().rstrip("/")
    scheme, mark, _ = given.partition("://")
    try:
        parts = urlsplit(given if mark else f"http://{given}")
        port = parts.port or ({"http": 80, "https": 443}[scheme] if mark else DEFAULT_PORT)
    except (ValueError, KeyError) as error:
        raise UserError(f"{given}: this is not an Ollama server's address; use e.g. http://127.0.0.1:11434") from error
    # A server that listens on all interfaces is reached at the loopback address.
    name = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname, parts.hostname)
    return f"{parts.scheme}://{f'[{name}]' if ':' in str(name) else name}:{port}{parts.path}"


class Ollama:
    """Client of one Ollama server; errors are UserErrors of one sentence."""

    def __init__(self, host: str | None = None) -> None:
        try:
            import httpx
        except ImportError as error:
            raise UserError("the package httpx is missing; install it with `pip install 'mlx-lora[ollama]'`") from error
        self.url = server_url(host)
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        # A proxy is for other machines; httpx would use it for this one as well.
        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(base_url=self.url, timeout=timeout, trust_env=not local)

    def __enter__(self) -> Ollama:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client.close()

    def version(self) -> str:
        """Return the server's version; also the check that a server is running."""
        return str(self._answer("GET", "/api/version", "the version").get("version", "unknown"))

    def exists(self, name: str) -> bool:
        """Return True if the server has a model of that name."""
        with self._speaking("looking for the model"):
            response = self._client.post("/api/show", json={"model": name})
        if response.status_code == 404:
            return False
        self._refused(response, f"the model {name}")
        return True

    def upload(self, file: Path, advance: Callable[[int], None] = lambda done: None) -> str:
        """Upload a file unless the server has it; return its digest, ``sha256:<hex>``.

        Args:
            advance: called with the number of bytes sent so far.
        """
        digest = f"sha256:{sha256_of(file)}"
        with self._speaking("looking for the weights"):
            known = self._client.head(f"/api/blobs/{digest}").status_code == 200
        if known:
            advance(file.stat().st_size)
            return digest
        headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        with self._speaking("the weights were sent"):
            response = self._client.post(f"/api/blobs/{digest}", content=_pieces(file, advance), headers=headers)
        self._refused(response, "the weights")
        return digest

    def create(self, name: str, body: dict[str, Any], say: Callable[[str], None] = lambda status: None) -> None:
        """Create a model from uploaded files.

        Errors after the first line come with status 200; only a line with the status ``success`` means success.

        Args:
            body: ``files`` {name: digest} and other fields of ``/api/create``; never ``from``.
            say: called with each status line.
        """
        if "from" in body or not body.get("files"):
            raise ValueError("a model is made of uploaded files only; anything else could start a download")
        last = ""
        with (
            self._speaking(f"{name} was made"),
            self._client.stream("POST", "/api/create", json={"model": name, **body, "stream": True}) as response,
        ):
            if response.status_code != 200:
                response.read()
                self._refused(response, f"to make {name}")
            for line in response.iter_lines():
                if line.strip():
                    last = self._status(line, name)
                    say(last)
        if last != "success":
            raise UserError(
                f"{self.url}: Ollama ended without success while making {name} (its last word: {last or 'none'}); "
                "look at its log"
            )

    def _status(self, line: str, name: str) -> str:
        try:
            content = json.loads(line)
            error = content.get("error")
        except (ValueError, AttributeError) as problem:
            raise UserError(f"{self.url}: what answers there is not Ollama (it says {line[:60]!r})") from problem
        if error:
            raise UserError(f"{self.url}: Ollama refuses to make {name}: {error}")
        return str(content.get("status", ""))

    def generate(self, name: str, prompt: str, max_tokens: int) -> Reply:
        """Generate a greedy answer to a user's message, with the model's own template and system prompt."""
        options = {"temperature": 0, "seed": 0, "num_predict": max_tokens}
        body = {"model": name, "prompt": prompt, "stream": False, "options": options}
        said = self._answer("POST", "/api/generate", f"an answer of {name}", body)
        try:
            # Durations are in nanoseconds; zero values are left out.
            tokens, nanoseconds = int(said.get("eval_count", 0)), int(said.get("eval_duration", 0))
            return Reply(
                text=str(said.get("response", "")),
                stopped=said.get("done_reason") == "stop",
                prompt_tokens=int(said.get("prompt_eval_count", 0)),
                tokens=tokens,
                load_seconds=int(said.get("load_duration", 0)) / 1e9,
                tokens_per_second=tokens / nanoseconds * 1e9 if nanoseconds > 0 else 0.0,
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.url}: Ollama's answer cannot be read ({error}); is it another program?") from error

    def copy(self, source: str, name: str) -> None:
        """Copy a model to another name; a model that already has that name is replaced."""
        self._answer("POST", "/api/copy", f"the name {name}", {"source": source, "destination": name})

    def delete(self, name: str) -> None:
        """Delete a model name; weights that no other model uses are deleted as well."""
        self._answer("DELETE", "/api/delete", f"to delete {name}", {"model": name})

    def _answer(self, method: str, path: str, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a whole JSON response; an empty one is ``{}``."""
        with self._speaking(f"it was asked for {what}"):
            response = self._client.request(method, path, json=body)
        self._refused(response, what)
        try:
            content = response.json() if response.content else {}
            if not isinstance(content, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise UserError(f"{self.url}: what answers there is not Ollama (it says {response.text[:60]!r})") from error
        if content.get("error"):
            raise UserError(f"{self.url}: Ollama refuses {what}: {content['error']}")
        return content

    def _refused(self, response: Any, what: str) -> None:
        """Raise UserError with Ollama's own error message if a request failed."""
        if response.status_code < 400:
            return
        try:
            reason = str(response.json()["error"])
        except (ValueError, KeyError, TypeError):
            reason = f"status {response.status_code}"
        raise UserError(f"{self.url}: Ollama refuses {what}: {reason}")

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Turn connection errors into a UserError of one sentence."""
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UserError(
                f"{self.url}: no Ollama answers there; start it (`ollama serve`), or name another with --host URL"
            ) from error
        except httpx.TimeoutException as error:
            raise UserError(f"{self.url}: Ollama fell silent while {doing}; look at its log") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise UserError(f"{self.url}: the connection to Ollama broke while {doing} ({reason})") from error


def _pieces(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with open(file, "rb") as stream:
        while piece := stream.read(PIECE):
            yield piece
            done += len(piece)
            advance(done)
