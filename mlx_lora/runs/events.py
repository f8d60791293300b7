"""Training events: the lines of ``metrics.jsonl``, a dataclass for each kind, with one writer and one reader.

A line holds the kind as ``event``, the fields of its class, and the ``time`` in seconds since the epoch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from ..files import FORMAT, writing
from ..user_files import read_text


@dataclass(kw_only=True)
class Event:
    """Training event of the kind ``event``."""

    event: ClassVar[str]


Kind = TypeVar("Kind", bound=Event)
Listener = Callable[[Event], None]


@dataclass(kw_only=True)
class Start(Event):
    """Start or resumption of a run.

    Attributes:
        step: optimizer steps done before.
        trained_modules: coverage of the adapter, in words.
        processes: processes that train together.
        weighted_examples, weighted_tokens: training examples of another weight than 1, supervised tokens in them.
        span_tokens: supervised tokens with a weight of their own.
    """

    event = "start"
    format: int = FORMAT
    step: int
    model: str
    backend: str = "mlx"
    trainable_parameters: int
    trained_modules: str = ""
    train_examples: int
    valid_examples: int
    total_steps: int
    processes: int = 1
    weighted_examples: int = 0
    weighted_tokens: int = 0
    span_tokens: int = 0


@dataclass(kw_only=True)
class Progress(Event):
    """Measurements since the last line of progress; losses are means over supervised tokens, in nats.

    Attributes:
        loss, unweighted_loss: the training loss, with and without the weights of examples and spans.
        grad_norm: the largest gradient norm, before clipping.
        tokens_per_second, supervised_tokens_per_second: of the steps alone, with padding and without prompts.
        peak_memory_gb: peak memory of the process so far, in 10^9 bytes.
    """

    event = "progress"
    step: int
    epoch: int
    learning_rate: float
    loss: float
    unweighted_loss: float
    grad_norm: float
    tokens_per_second: float
    supervised_tokens_per_second: float
    peak_memory_gb: float


@dataclass(kw_only=True)
class Evaluation(Event):
    """Validation loss: the mean unweighted cross-entropy over supervised tokens, in nats.

    Attributes:
        losses: that of each part of the split.
    """

    event = "evaluation"
    step: int
    epoch: int
    validation_loss: float
    losses: dict[str, float] = field(default_factory=dict)

    def kept_by(self, criterion: str) -> float:
        """Return the loss by which the best state is chosen: the mean, or that of the worst part."""
        return max(self.losses.values(), default=self.validation_loss) if criterion == "worst" else self.validation_loss


@dataclass(kw_only=True)
class Checkpoint(Event):
    """Checkpoint that is about to be written."""

    event = "checkpoint"
    step: int


@dataclass(kw_only=True)
class TrainingWarning(Event):
    """Warning to the user, one sentence."""

    event = "warning"
    step: int
    message: str


@dataclass(kw_only=True)
class TrainingResult(Event):
    """End of a run: its last measurements; losses are means over supervised tokens, in nats.

    Attributes:
        validation_loss: of the last evaluation.
        best_step: the optimizer step of the adapter that was written.
        tokens: supervised tokens trained on.
        seconds: time spent training, over all sessions.
        stopped: the reason for early termination, if any.
    """

    event = "complete"
    steps: int
    loss: float
    validation_loss: float | None
    best_step: int
    tokens: int
    seconds: float
    stopped: str | None = None

    @property
    def finished(self) -> bool:
        """True unless the time budget ended the run, which then resumes."""
        return self.stopped != "time budget"


EVENTS: dict[str, type[Event]] = {
    kind.event: kind for kind in (Start, Progress, Evaluation, Checkpoint, TrainingWarning, TrainingResult)
}


def append_event(file: Path, event: Event) -> None:
    """Append an event to a ``metrics.jsonl``.

    Raises:
        UserError: the file system refuses.
    """
    line = json.dumps({"event": event.event, **asdict(event), "time": time.time()}, ensure_ascii=False)
    with writing(file), open(file, "a", encoding="utf-8") as opened:
        opened.write(line + "\n")


def read_events(file: Path) -> list[Event]:
    """Return the events of a ``metrics.jsonl``.

    A line truncated by a power cut is left out, and so are kinds and keys of later versions.
    """
    return parse_events(read_text(file, 2**30).splitlines())


def parse_events(lines: Iterable[str | bytes]) -> list[Event]:
    """Return the events of the lines that hold one; others are left out."""
    found = []
    for line in lines:
        try:
            content = json.loads(line)
            found.append(from_keys(EVENTS[content["event"]], content))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def from_keys(kind: type[Kind], content: dict[str, Any]) -> Kind:
    """Build an event from its keys; further keys are ignored.

    Raises:
        TypeError: a key is missing, or its value is of another type.
    """
    types = schema(kind)  # type: ignore[arg-type]  # a class is hashable, whatever its instances are
    known = {name: content[name] for name in types if name in content}
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, types[name]):
            raise TypeError(f"{name} is {value!r}")
    return kind(**known)


@cache
def schema(kind: type[Event]) -> dict[str, tuple[type, ...]]:
    """Return the types that each key of a kind may have in JSON; a float may be written without a fraction."""
    hints = get_type_hints(kind)
    types = {field.name: _types(hints[field.name]) for field in fields(kind)}
    return {name: (*each, int) if float in each else each for name, each in types.items()}


def _types(hint: Any) -> tuple[type, ...]:
    return (dict,) if get_origin(hint) is dict else get_args(hint) or (hint,)


def of_kind(events: Iterable[Event], kind: type[Kind]) -> list[Kind]:
    """Return the events of one kind, in order."""
    return [event for event in events if isinstance(event, kind)]


def last_of_kind(events: Iterable[Event], kind: type[Kind]) -> Kind | None:
    """Return the last event of one kind, ``None`` if there is none."""
    return next(iter(of_kind(events, kind)[-1:]), None)
