"""State of incremental training: the ids of trained, pending and new examples.

The state lies next to the adapter it describes. A round takes its examples at the start (:func:`start_round`) and
marks them when the run is complete (:func:`finish_round`): what appears in between is for the next round, an
interrupted round resumes with the same examples, and one that failed for good is abandoned (:func:`abandon_round`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ..data.dataset import Example
from ..errors import UserError
from ..files import FORMAT, check_format, write_json
from ..user_files import read_bytes

STATE_FILE = "increment.json"
# Directory of the rounds, beside it.
ROUNDS = "rounds"
ID_KEYS = ("item_id", "experience_id")
TIME_KEYS = ("created_at", "timestamp")
MINIMUM = 10


@dataclass
class IncrementState:
    """Items that an adapter was trained on so far.

    Attributes:
        trained: ids of the items of all complete rounds.
        newest: (created_at, id) of the newest of them; for people and reports, since items can arrive late and the
            set alone decides what is new.
        pending: ids of the round that was started and is not complete.
        rounds: complete rounds.
    """

    trained: set[str] = field(default_factory=set)
    newest: tuple[str, str] | None = None
    pending: list[str] = field(default_factory=list)
    rounds: int = 0


@dataclass
class Round:
    """Examples of one round, and whether it resumes an interrupted one."""

    examples: list[Example]
    resumed: bool = False


def state_path(run: str | Path) -> Path:
    """Return the path of the state of a run directory's adapter."""
    return Path(run) / STATE_FILE


def read_state(path: str | Path) -> IncrementState:
    """Read the state in a file; where there is none yet, nothing was trained on.

    Raises:
        UserError: it cannot be read, is not such a state, or is one of a later version's format.
    """
    path = Path(path)
    try:
        data = json.loads(read_bytes(path, 2**30))
        check_format(data, path)
        strings = [*data["trained"], *data["pending"], *(data["newest"] or ())]
        newest = tuple(data["newest"]) if data["newest"] is not None else None
        if not all(isinstance(s, str) for s in strings) or (newest is not None and len(newest) != 2):
            raise ValueError("ids must be text")
        return IncrementState(set(data["trained"]), newest, list(data["pending"]), int(data["rounds"]))
    except FileNotFoundError:
        return IncrementState()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: this is not a state of incremental training ({type(error).__name__}: {error}); put a copy of it "
            "back, or remove it to train on everything again"
        ) from None


def write_state(path: str | Path, state: IncrementState) -> None:
    """Replace the file by the state, or leave it as it was; its directory must exist.

    Raises:
        UserError: the file system refuses.
    """
    write_json(path, {"format": FORMAT, **asdict(state), "trained": sorted(state.trained)})


def item_id(example: Example, where: str = "an example") -> str:
    """Return the id of the item that an example was made of.

    Raises:
        UserError: its meta has none.
    """
    for key in ID_KEYS:
        identity = example.meta.get(key)
        if isinstance(identity, str) and identity:
            return identity
    raise UserError(
        f"{where} has no {' or '.join(ID_KEYS)} in its meta, so it cannot be told whether it was trained on; "
        "make the dataset with `mlx-lora data`, or train without --increment"
    )


def new_examples(examples: Sequence[Example], state: IncrementState) -> list[Example]:
    """Return the examples of items that no complete round has seen, in their order; several may share an item.

    Raises:
        UserError: an example without an id, by its number (counted from 1).
    """
    return [example for i, example in enumerate(examples, 1) if item_id(example, f"example {i}") not in state.trained]


def item_count(examples: Iterable[Example]) -> int:
    """Return the number of items the examples were made of."""
    return len({item_id(example) for example in examples})


def too_few(examples: Sequence[Example], minimum: int = MINIMUM) -> str | None:
    """Return a sentence if there are too few new examples to start a round, else ``None``."""
    count = item_count(examples)
    if count >= max(1, minimum):
        return None
    return f"{count} new of the {minimum} that a round needs: nothing to train on yet, the adapter stays as it is"


def start_round(path: str | Path, examples: Sequence[Example], minimum: int = MINIMUM) -> Round | str:
    """Start a round with the new examples and record their ids, or resume the round that was interrupted.

    An interrupted round whose items are no longer all in the dataset is abandoned, and a new one started.

    Returns:
        The round, or a sentence that gives the number of new examples where it is too low (a success, not an error).

    Raises:
        UserError: a broken state, or an example without an id.
    """
    state = read_state(path)
    new = new_examples(examples, state)
    pending = set(state.pending)
    if pending and pending <= {item_id(e) for e in new}:
        return Round([e for e in new if item_id(e) in pending], resumed=True)
    sentence = too_few(new, minimum)
    state.pending = [] if sentence else list(dict.fromkeys(item_id(e) for e in new))
    if pending or state.pending:
        write_state(path, state)
    return sentence or Round(new)


def finish_round(path: str | Path, examples: Sequence[Example]) -> IncrementState:
    """Mark the pending items as trained on; ``examples`` give their times.

    Called once the adapter is in place; called again, it changes nothing.

    Raises:
        UserError: a broken state, or the file system refuses.
    """
    state = read_state(path)
    if not state.pending:
        return state
    pending = set(state.pending)
    times = [(_time(e), _time_text(e), item_id(e)) for e in examples if item_id(e) in pending and _time_text(e)]
    if state.newest is not None:
        times.append((_parsed(state.newest[0]), *state.newest))
    newest = max(times, key=lambda t: (t[0], t[2]), default=None)
    state = IncrementState(state.trained | pending, newest[1:] if newest else None, rounds=state.rounds + 1)
    write_state(path, state)
    return state


def abandon_round(path: str | Path) -> None:
    """Clear the pending items: they are new again for the next round."""
    state = read_state(path)
    if state.pending:
        state.pending = []
        write_state(path, state)


def _time_text(example: Example) -> str:
    return next((str(example.meta[key]) for key in TIME_KEYS if example.meta.get(key) is not None), "")


def _time(example: Example) -> float:
    return _parsed(_time_text(example))


def _parsed(text: str) -> float:
    """Return seconds since the epoch of ISO-8601 text (no zone = UTC) or a number; −∞ for what is neither."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    return seconds if math.isfinite(seconds) else -math.inf
