"""Settings of a server: addresses, directories, limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server.

    Attributes:
        state: directory of the database, the uploaded files and the jobs.
        models: directory below which bases, runs and datasets are found by their relative paths.
        index: directory of the index that chat requests with ``retrieval`` are answered from.
        token: bearer token; ``None`` asks for none, which only loopback addresses may.
        allowed_hosts: values of the Host header, without port, beside the loopback ones.
        most_body_bytes: longest request body, uploads aside.
        most_upload_bytes: longest uploaded file.
        most_jobs_waiting: jobs that may wait; more are refused with 429.
        most_attempts: starts of a job's worker without a new step, after which the job has failed.
        most_requests_waiting: chat requests that may wait; more are refused with 429.
        most_tokens: longest answer of a chat request.
        most_bases: bases that are kept in memory for chat; the least recently used one makes place for another.
    """

    state: Path
    models: Path = field(default_factory=Path)
    host: str = "127.0.0.1"
    port: int = 8080
    index: Path | None = None
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    backend: str = "auto"
    most_body_bytes: int = 32 * 2**20
    most_upload_bytes: int = 512 * 2**20
    most_jobs_waiting: int = 1000
    most_attempts: int = 3
    most_requests_waiting: int = 64
    most_tokens: int = 4096
    most_bases: int = 2

    @property
    def is_local(self) -> bool:
        """True if no other machine can reach the server."""
        return self.host in LOOPBACK

    @property
    def files(self) -> Path:
        """Directory of the uploaded files, each under its id."""
        return self.state / "files"

    @property
    def jobs(self) -> Path:
        """Directory of the jobs, each under its id."""
        return self.state / "jobs"
