"""Client of ``mlx-lora serve``: start training, follow it, and wait for it, with httpx alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .engines.http import is_local
from .errors import UserError

if TYPE_CHECKING:
    import httpx

# Seconds that a server may be away: one that was stopped comes back and finds its jobs.
PATIENCE = 60.0
# The server sends a comment every 15 seconds while nothing happens.
SILENCE = 60.0


class ServerError(UserError):
    """The server's own sentence on a request that it refused.

    Attributes:
        status: of HTTP; 0 where there was no answer.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Client of a server.

    Attributes:
        patience: seconds that :meth:`wait` and :meth:`events` wait for a server that does not answer.
    """

    def __init__(self, base_url: str = "http://127.0.0.1:8080", token: str | None = None, timeout: float = 30) -> None:
        """Connect to a server when it is first asked.

        Args:
            base_url: its address, with or without ``/v1``.
            token: content of its token file; ``None`` for a server without one.
            timeout: seconds for one answer.

        Raises:
            UserError: httpx is not installed.
        """
        try:
            import httpx
        except ImportError as error:
            raise UserError("mlx_lora.client needs an extra: pip install 'mlx-lora[servers]'") from error
        self.url, self.patience, self._timeout = base_url.rstrip("/").removesuffix("/v1"), PATIENCE, timeout
        headers = {} if token is None else {"Authorization": f"Bearer {token.strip()}"}
        # A proxy is for other machines.
        self._http = httpx.Client(headers=headers, timeout=timeout, trust_env=not is_local(self.url))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def train(self, payload: Mapping[str, Any]) -> str:
        """Start a job of ``/v1/train`` and return its id.

        Raises:
            ServerError: the server refuses the payload, or does not answer.
        """
        return self._json("POST", "/v1/train", json=payload)["job_id"]

    def status(self, job_id: str) -> dict[str, Any]:
        """Return the state of a job: its ``status`` is ``running``, ``completed`` or ``failed``.

        Raises:
            ServerError: there is no such job, or the server does not answer.
        """
        return self._json("GET", f"/v1/train/{quote(job_id, safe='')}")

    def wait(self, job_id: str, poll: float = 5, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end of a job and return its state, ``completed`` or ``failed``.

        Args:
            poll: seconds between two requests.
            timeout: seconds to wait; the job goes on after that.

        Raises:
            ServerError: there is no such job, or the server has not answered for ``patience`` seconds.
            TimeoutError: the job still runs.
        """
        until = None if timeout is None else time.monotonic() + timeout
        absence = _Absence(self.patience)
        while True:
            with absence:
                state = self.status(job_id)
                if state["status"] != "running":
                    return state
            pause = poll if until is None else min(poll, until - time.monotonic())
            if pause <= 0:
                raise TimeoutError(f"{job_id} still runs after {timeout:g} s; wait for it again")
            time.sleep(pause)

    def events(self, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Yield the events of a job as they come, until it ends; a broken connection is resumed.

        Args:
            after: the ``sequence`` of the last event that is known.

        Raises:
            ServerError: there is no such job, or the server has not answered for ``patience`` seconds.
        """
        absence = _Absence(self.patience)
        while True:
            with absence:
                for kind, data in self._stream(job_id, after):
                    absence.over()
                    if kind == "end":
                        return
                    if data:
                        event = json.loads(data)
                        after = event["sequence"]
                        yield event
            time.sleep(0.5)

    def _stream(self, job_id: str, after: int) -> Iterator[tuple[str, str]]:
        import httpx

        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        url = f"{self.url}/v1/jobs/{quote(job_id, safe='')}/events"
        times = httpx.Timeout(self._timeout, read=SILENCE)
        try:
            with self._http.stream("GET", url, headers=headers, timeout=times) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refusal(response)
                yield "open", ""
                yield from server_sent_events(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        import httpx

        try:
            response = self._http.request(method, self.url + path, **options)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error
        if not response.is_success:
            raise self._refusal(response)
        try:
            return response.json()
        except ValueError:
            raise ServerError(f"{self.url}: its answer is not JSON; is this mlx-lora serve?", 0) from None

    def _no_answer(self, error: Exception) -> ServerError:
        said = str(error) or type(error).__name__
        return ServerError(f"{self.url}: the server does not answer ({said}); start it with `mlx-lora serve`", 0)

    def _refusal(self, response: httpx.Response) -> ServerError:
        try:
            said = response.json()["error"]
            said = said["message"] if isinstance(said, dict) else said
        except (ValueError, LookupError, TypeError):
            said = response.reason_phrase
        return ServerError(f"{self.url}: {said} (status {response.status_code})", response.status_code)


class _Absence:
    """Patience with a server that does not answer: its errors pass, until they have lasted too long."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None

    def over(self) -> None:
        self._since = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> bool:
        if error is None:
            self.over()
        if not isinstance(error, ServerError) or error.status not in (0, 429, 502, 503, 504):
            return False
        self._since = time.monotonic() if self._since is None else self._since
        return time.monotonic() - self._since < self._patience


def server_sent_events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (event, data) of each server-sent event in a stream's lines; comments are passed over."""
    kind, data = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield kind, "\n".join(data)
            kind, data = "message", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
