"""Checkpoints: atomic, verified when read, and rotated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..backends import Backend
from ..errors import UserError
from ..files import FORMAT, check_format, new_directory, set_aside, sha256_of, write_json
from ..user_files import read_text

STATE, ARRAYS = "state.json", "state.safetensors"
# Keys of state.json that differ from the attributes of TrainerState.
KEYS = {"evals_since_best": "worse"}


@dataclass
class TrainerState:
    """The state of a run that is not on the device; with the arrays it determines the rest of the run.

    Order and dropout follow from seed and step, so no random state is needed.

    Attributes:
        step: optimizer steps done.
        best_step, best_loss: the step and value of the lowest validation loss.
        evals_since_best: evaluations since then; the key `worse` of state.json.
        tokens: supervised tokens trained on.
        seconds: time spent training, over all sessions.
        meter: sums since the last line of metrics.
        monitor: state of the training diagnostics.
        metrics_bytes, telemetry_bytes: lengths of metrics.jsonl and telemetry.jsonl at this moment.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    last_validation: float | None = None
    evals_since_best: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    meter: dict[str, float] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)
    metrics_bytes: int = 0
    telemetry_bytes: int = 0


class Checkpoints:
    """The checkpoints of a run, ``step-00000120`` and so on in one directory.

    Args:
        limit: maximum number kept, with the best one as well.
        writes: True if this process writes them.
    """

    def __init__(self, directory: Path, limit: int, writes: bool = True) -> None:
        self.directory, self.limit, self.writes = directory, limit, writes

    def path(self, step: int) -> Path:
        """Return the directory of the checkpoint of a step."""
        return self.directory / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints, ascending."""
        return sorted(int(path.name[5:]) for path in self.directory.glob("step-" + "[0-9]" * 8))

    def save(self, backend: Backend, state: TrainerState) -> None:
        """Write a checkpoint, then remove those beyond the limit; the best one stays.

        Raises:
            UserError: the disk is full, or refuses; older checkpoints are untouched.
        """
        if not self.writes:
            return
        self._clean()
        with new_directory(self.path(state.step)) as directory:
            backend.save_state(directory / ARRAYS)
            content = {KEYS.get(name, name): value for name, value in asdict(state).items()}
            write_json(directory / STATE, {"format": FORMAT, **content, "sha256": sha256_of(directory / ARRAYS)})
        others = [step for step in self.steps() if step not in (state.step, state.best_step)]
        for step in others[: max(0, len(others) + 1 - self.limit)]:
            shutil.rmtree(self.path(step))

    def _clean(self) -> None:
        """Remove half-written files of a killed process."""
        for leftover in self.directory.glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _read(self, step: int) -> TrainerState | None:
        """Return the state of a checkpoint, or ``None`` if it is not intact; fields of later versions are ignored.

        Raises:
            UserError: a later version's format.
        """
        path = self.path(step)
        try:
            content = json.loads(read_text(path / STATE))
            check_format(content, path / STATE)
            if content["sha256"] != sha256_of(path / ARRAYS) or content["step"] != step:
                return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        keys = ((f.name, KEYS.get(f.name, f.name)) for f in fields(TrainerState))
        known = {name: content[key] for name, key in keys if key in content}
        fits = all(_fits(value, getattr(TrainerState(), key)) for key, value in known.items())
        return TrainerState(**known) if fits else None

    def newest(self) -> Iterator[tuple[int, TrainerState | None]]:
        """Yield (step, state) from the newest on; ``None`` for a checkpoint that is damaged."""
        for step in reversed(self.steps()):
            yield step, self._read(step)

    def load(self, backend: Backend, step: int) -> None:
        """Load the arrays of an intact checkpoint onto the device."""
        backend.load_state(self.path(step) / ARRAYS)

    def intact(self, step: int) -> bool:
        """Return True if there is a checkpoint of this step, undamaged."""
        try:
            return self._read(step) is not None
        except UserError:
            return False

    def set_aside(self, step: int) -> Path:
        """Rename an unreadable checkpoint, so that training does not find it again, and return its new path."""
        return set_aside(self.path(step))


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, dict):
        return isinstance(value, dict)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number or (value is None and default is None)
