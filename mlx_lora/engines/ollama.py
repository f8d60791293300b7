"""Ollama client: upload blobs, create, query, copy and delete models, through the official package ``ollama``.

https://github.com/ollama/ollama/blob/main/docs/api.md. Models are made of uploaded files only: no request has a
``from``, and only a model that was just created is queried, so that Ollama never downloads one.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import LONGEST, UserError, first_line, shortened, visible
from ..files import sha256_of
from .http import BUSY, RequestFailed, Requests, options_for
from .reply import Messages, Reply, in_parallel, rate, seed_of

DEFAULT_PORT = 11434
# Loading or quantizing a large model can be silent for minutes.
SILENCE_SECONDS = 900.0
PIECE = 1 << 20
PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
NAME = re.compile(
    rf"^(?:(?P<host>[A-Za-z0-9][A-Za-z0-9_.:-]*)/)?(?:(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?"
    rf"(?P<model>{PART})(?::(?P<tag>{PART}))?$"
)


def check_name(name: str) -> str:
    """Return the model name with its tag, ``latest`` if none is given.

    Raises:
        UserError: Ollama would not accept the name.
    """
    match = NAME.match(name)
    if match is None:
        raise UserError(
            f"{name}: Ollama takes names like model, model:tag or namespace/model:tag, "
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

    def __init__(self, host: str | None = None, *, seconds: float = SILENCE_SECONDS) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            seconds: maximum silence of the server.
        """
        self.url, self.seconds = server_url(host), seconds
        options = options_for(self.url, seconds)
        try:
            import httpx
            import ollama
        except ImportError as error:
            raise UserError(
                "the package ollama is missing; install it with `pip install 'mlx-lora[ollama]'`"
            ) from error
        self._client = ollama.Client(self.url, **options)
        # For what the official client has not: the version, an upload with progress, and a look at a model that does
        # not depend on the fields of its description.
        self._http = httpx.Client(base_url=self.url, **options)

    def __enter__(self) -> Ollama:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client.close()
        self._http.close()

    def version(self) -> str:
        """Return the server's version; also the check that a server is running."""
        with self._speaking("it was asked for the version", "the version"):
            response = self._http.get("/api/version")
            self._refused(response)
            return str(response.json().get("version", "unknown"))

    def exists(self, name: str) -> bool:
        """Return True if the server has a model of that name."""
        return self.description_sha256(name) is not None

    def description_sha256(self, name: str) -> str | None:
        """Return a hash that changes when a model is made again under its name, ``None`` if there is no such model."""
        with self._speaking("looking for the model", f"the model {name}"):
            response = self._http.post("/api/show", json={"model": name})
            if response.status_code != 404:
                self._refused(response)
        return None if response.status_code == 404 else hashlib.sha256(response.content).hexdigest()

    def digest(self, name: str) -> str | None:
        """Return the hash of a model's content, whatever its name; ``None`` if there is no such model."""
        with self._speaking("it was asked for its models", "the names of its models"):
            response = self._http.get("/api/tags")
            self._refused(response)
            return next((each["digest"] for each in response.json()["models"] if each["name"] == name), None)

    def upload(self, file: Path, advance: Callable[[int], None] = lambda done: None) -> str:
        """Upload a file unless the server has it; return its digest, ``sha256:<hex>``.

        Args:
            advance: called with the number of bytes sent so far.
        """
        digest = f"sha256:{sha256_of(file)}"
        with self._speaking("looking for the weights", "the weights"):
            known = self._http.head(f"/api/blobs/{digest}").status_code == 200
        if known:
            advance(file.stat().st_size)
            return digest
        headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        with self._speaking("the weights were sent", "the weights"):
            self._refused(self._http.post(f"/api/blobs/{digest}", content=_pieces(file, advance), headers=headers))
        return digest

    def create(self, name: str, body: dict[str, Any], say: Callable[[str], None] = lambda status: None) -> None:
        """Create a model from uploaded files.

        Errors after the first line come with status 200; only a line with the status ``success`` means success.

        Args:
            body: ``files`` {name: digest} and other fields of ``/api/create``; never ``from``.
            say: called with each status line.
        """
        if not {"from", "from_"}.isdisjoint(body) or not body.get("files"):
            raise ValueError("a model is made of uploaded files only; anything else could start a download")
        last = ""
        with self._speaking(f"{name} was made", f"to make {name}"):
            for part in self._client.create(name, **body, stream=True):
                last = part.status or ""
                say(last)
        if last != "success":
            raise UserError(
                f"{self.url}: Ollama ended without success while making {name} (its last word: {last or 'none'}); "
                "look at its log"
            )

    def generate(self, name: str, prompt: str, max_tokens: int) -> Reply:
        """Generate a greedy answer to a user's message, with the model's own template and system prompt."""
        options = {"temperature": 0, "seed": 0, "num_predict": max_tokens}
        with self._speaking(f"it was asked for an answer of {name}", f"an answer of {name}"):
            said = self._client.generate(name, prompt, options=options)
            return _reply(said.response, said)

    def chat(
        self,
        name: str,
        conversations: Sequence[Messages],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        parallel: int = 2,
        tries: int = 4,
        pause: float = 0.5,
    ) -> Iterator[tuple[int, Reply]]:
        """Yield (index, reply) of each conversation in the order in which they end; thinking is off.

        A conversation that the server fails has a reply without a text.

        Args:
            seed: one for all, or one for each conversation.
            parallel, tries, pause: as of ``OpenAIServer``.

        Raises:
            UserError: no server answers, or it does not have the model.
        """
        if not self.exists(name):
            raise UserError(f"{self.url}: Ollama has no model {name}; `ollama list` names those that it has")
        requests = Requests(self.url, self.seconds, tries, pause)

        def ask(number: int) -> Reply:
            limits = {"temperature": temperature, "seed": seed_of(seed, number), "num_predict": max_tokens}
            return requests.reply(lambda: self._chat(name, conversations[number], limits))

        yield from in_parallel(ask, range(len(conversations)), parallel)

    def _chat(self, name: str, messages: Messages, options: dict[str, Any]) -> Reply:
        import httpx
        from ollama import ResponseError

        try:
            said = self._client.chat(name, messages, options=options, think=False)
            return _reply(said.message.content, said)
        except ResponseError as error:
            again = 0.0 if error.status_code in BUSY else None
            raise RequestFailed(f"Ollama refuses: {_reason(error)}", again, error.status_code == 404) from error
        except (httpx.HTTPError, ConnectionError, UnicodeError):
            raise  # told by whoever counts the tries
        except Exception as error:  # whatever pydantic and json raise on another program's answer
            raise RequestFailed(_foreign(error)) from error

    def copy(self, source: str, name: str) -> None:
        """Copy a model to another name; a model that already has that name is replaced."""
        with self._speaking(f"it was asked for the name {name}", f"the name {name}"):
            self._client.copy(source, name)

    def delete(self, name: str) -> None:
        """Delete a model name; weights that no other model uses are deleted as well."""
        with self._speaking(f"it was asked to delete {name}", f"to delete {name}"):
            self._client.delete(name)

    def _refused(self, response: Any) -> None:
        """Raise the official client's error if a request of ours failed."""
        from ollama import ResponseError

        if response.status_code >= 300:
            raise ResponseError(response.text, response.status_code)

    @contextmanager
    def _speaking(self, doing: str, what: str) -> Iterator[None]:
        """Turn errors into a UserError of one sentence: of the connection, of Ollama, of another program there."""
        import httpx
        from ollama import ResponseError

        try:
            yield
        except UserError:
            raise
        except ResponseError as error:
            raise UserError(f"{self.url}: Ollama refuses {what}: {_reason(error)}") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, ConnectionError) as error:
            raise UserError(
                f"{self.url}: no Ollama answers there; start it (`ollama serve`), or name another with --host URL"
            ) from error
        except httpx.TimeoutException as error:
            raise UserError(f"{self.url}: Ollama fell silent while {doing}; look at its log") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise UserError(f"{self.url}: the connection to Ollama broke while {doing} ({reason})") from error
        except Exception as error:  # whatever pydantic and json raise on another program's answer
            raise UserError(f"{self.url}: {_foreign(error)}") from error


def _foreign(error: Exception) -> str:
    """Return a sentence on an answer that is not Ollama's."""
    said = f"it says {shortened(error.doc)}" if isinstance(error, JSONDecodeError) else first_line(error, 2)
    return f"what answers there is not Ollama ({said})"


def _reason(error: Any) -> str:
    """Return Ollama's own words, or the status of a page or nothing in their place."""
    said = visible(str(error.error)).strip()
    return f"status {error.status_code}" if not said or said.startswith("<") else said[:LONGEST]


def _reply(text: str | None, said: Any) -> Reply:
    """Read a response's counters: durations are in nanoseconds, zero values are left out."""
    load, prompt, decode = ((getattr(said, f"{name}_duration") or 0) / 1e9 for name in ("load", "prompt_eval", "eval"))
    tokens = said.eval_count or 0
    return Reply(
        text or "",
        prompt_tokens=said.prompt_eval_count or 0,
        completion_tokens=tokens,
        seconds=(said.total_duration or 0) / 1e9,
        first_token_s=load + prompt or None,
        tokens_per_second=rate(tokens, decode),
        load_s=load,
        stopped=said.done_reason == "stop",
    )


def _pieces(file: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with open(file, "rb") as stream:
        while piece := stream.read(PIECE):
            yield piece
            done += len(piece)
            advance(done)
