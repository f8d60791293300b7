"""A real server in a process of its own, for every test that needs one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from mlx_lora.processes import python_environment

SECONDS = 60
# Until the scheduler and the chat are there, stand-ins of theirs.
STAND_INS = str(Path(__file__).with_name("stand_ins.py"))
PROGRAM = [
    sys.executable,
    "-P",
    *([STAND_INS] if find_spec("mlx_lora.serving.chat") is None else ["-m", "mlx_lora"]),
]


@dataclass
class RunningServer:
    """Server that runs.

    Attributes:
        url: without ``/v1``.
        errors: what it has printed on standard error so far; a traceback there is a defect.
    """

    url: str
    token: str | None
    state_dir: Path
    process: subprocess.Popen[str]
    errors: list[str] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def client(self, **changes: Any) -> httpx.Client:
        """Client with the token, whose paths are those below the server's address."""
        return httpx.Client(**{"base_url": self.url, "headers": self.headers, "timeout": SECONDS, **changes})


@contextmanager
def running_server(
    tmp_path: Path, *, state: Path | None = None, env: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[RunningServer]:
    """Run ``mlx-lora serve`` on a free port until the block ends, and then end it as systemd does, by SIGTERM.

    Args:
        state: its directory, by default one in ``tmp_path``; the next server of a test on the same one finds its jobs.
        settings: options of the command: ``models=PATH`` is ``--models PATH``, ``no_token=True`` is ``--no-token``.
    """
    state = state or tmp_path / "state"
    words = ["--port", "0", "--state", str(state)]
    for name, value in {"models": tmp_path, **settings}.items():
        option = "--" + name.replace("_", "-")
        words += [option] if value is True else [option, str(value)]
    process = subprocess.Popen(
        [*PROGRAM, "serve", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**python_environment(), **(env or {})},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
    reader.start()
    try:
        printed = [process.stdout.readline() for _ in range(3)]
        found = re.match(r"API: (http://\S+)/v1$", printed[0].strip())
        if found is None:
            process.wait(SECONDS)
            reader.join()
        assert found, f"the server did not start: {''.join(printed)}{''.join(errors)}"
        token = (
            None if settings.get("no_token") else Path(settings.get("token_file", state / "token")).read_text().strip()
        )
        yield RunningServer(found[1], token, state, process, errors)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join(SECONDS)
        process.stdout.close()
        process.stderr.close()
