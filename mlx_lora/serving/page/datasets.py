"""Datasets as the page shows them, and the findings of ``mlx-lora data check``, which runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import threading
from itertools import islice
from pathlib import Path
from typing import Any

from ...data.dataset import read_card, split_files
from ...data.formats import DataRow, read_rows
from ...errors import UserError, visible
from ...processes import last_lines, python_command, run_captured
from ..api_error import ApiError
from ..settings import ServerSettings
from ..state import State
from .files import Models, Remembered, is_dataset, stamp

# Longest file whose lines are counted.
MOST_COUNTED = 2**28
ROWS, LONGEST = 5, 4000
# Seconds for a check: near-duplicates of some hundred thousand rows take minutes.
PATIENCE = 900


class Datasets:
    """The datasets below the models directory, and those of jobs."""

    def __init__(self, settings: ServerSettings, state: State, models: Models) -> None:
        self.settings, self.state, self.models = settings, state, models
        self._lines, self._findings = Remembered(1000), Remembered(100)
        self._checking = threading.Lock()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each dataset, the one that changed last first."""
        places = {**self.models.find().datasets}
        for job in self.state.list_jobs():
            if (data := self._of_job(job.id)).is_dir():
                places[job.id] = data
        return sorted((self._row(*place) for place in places.items()), key=lambda row: row["changed"], reverse=True)

    def find(self, name: str) -> Path | None:
        """Return the directory of a dataset: a relative path, or the id of the job that it was made for."""
        if self.state.find_job(name) is not None:
            place: Path | None = self._of_job(name)
        else:
            place = self.models.path(name)
        return place if place is not None and is_dataset(place) else None

    def detail(self, name: str, path: Path) -> dict[str, Any]:
        """Return a dataset's row with its first rows.

        Raises:
            UserError: it cannot be read.
        """
        splits = split_files(path)
        examples = [_example(row) for row in islice(read_rows(splits[0][1]), ROWS)] if splits else []
        return {**self._row(name, path), "directory": str(path), "examples": examples}

    def check(self, name: str, path: Path) -> dict[str, Any]:
        """Return what ``data check --json`` prints; unchanged files are not checked again.

        Raises:
            ApiError: another check runs, or this one failed.
        """
        marks = tuple((file.name, *stamp(file)) for _, file in split_files(path))
        if not self._checking.acquire(blocking=False):
            raise ApiError(429, "another dataset is being checked; wait for it", "busy")
        try:
            return self._findings.get(name, marks, lambda: _check(path))
        finally:
            self._checking.release()

    def _row(self, name: str, path: Path) -> dict[str, Any]:
        try:
            splits = split_files(path)
        except (UserError, OSError):
            splits = []
        files = [
            {"split": split, "file": visible(file.name), "bytes": stamp(file)[1], "rows": self._count(file)}
            for split, file in splits
        ]
        changed = max((stamp(file)[0] for _, file in splits), default=0) / 1e9
        source = visible(str(read_card(path).get("source") or ""))
        return {"name": name, "files": files, "source": source, "changed": changed}

    def _count(self, file: Path) -> int | None:
        """Return the number of lines of a JSONL file; ``None`` for other files and for very long ones."""
        mark = stamp(file)
        if file.suffix != ".jsonl" or not 0 <= mark[1] <= MOST_COUNTED:
            return None
        return self._lines.get(str(file), mark, lambda: _lines_of(file))

    def _of_job(self, job_id: str) -> Path:
        return self.settings.jobs / job_id / "data"


def _lines_of(file: Path) -> int | None:
    try:
        with open(file, "rb") as opened:
            return sum(1 for line in opened if line.strip())
    except OSError:
        return None


def _example(row: DataRow) -> dict[str, Any]:
    messages = [
        {"role": visible(str(message.get("role"))), "text": visible(str(message.get("content") or ""))[:LONGEST]}
        for message in row.messages
    ]
    return {"where": visible(row.where), "error": visible(row.error or ""), "messages": messages}


def _check(path: Path) -> dict[str, Any]:
    command = python_command("mlx_lora", "data", "check", str(path.absolute()), "--json")
    try:
        done = run_captured(command, seconds=PATIENCE)
    except subprocess.TimeoutExpired:
        sentence = f"the check took more than {PATIENCE // 60} minutes; run `mlx-lora data check` on this directory"
        raise ApiError(503, sentence, "timeout") from None
    if done.returncode not in (0, 1):
        said = " ".join(last_lines(done.stderr)) or "the check ended without a word"
        raise ApiError(400, visible(said.removeprefix("Error: ")), "invalid_dataset", "name")
    return json.loads(done.stdout)
