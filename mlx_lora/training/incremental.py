"""Incremental training: each round trains on the examples that are new, from the adapter of the last round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..backends.adapter_format import ADAPTER_FILE, has_generations
from ..config import TrainingConfig
from ..data.dataset import Example, read_split, read_trainable, write_dataset
from ..data.mixture import datasets_of
from ..errors import UserError
from ..files import set_aside, writing
from ..runs.directory import RUN_FILE, locked, read_run
from ..runs.events import TrainingResult
from ..runs.generations import Generations
from ..runs.incremental_state import (
    ROUNDS,
    Round,
    abandon_round,
    finish_round,
    item_id,
    read_state,
    start_round,
    state_path,
)
from .round_replay import FORGETS, held_out_before, with_replay, without
from .train import train

DATA = "data"


def train_increment(
    config: TrainingConfig,
    minimum: int,
    *,
    fresh: bool = False,
    extend: bool = False,
    quiet: bool = False,
    replay: bool = False,
) -> tuple[Path, TrainingResult] | str | None:
    """Train one round in ``output_dir/rounds/N``; when it is complete, its adapter becomes that of ``output_dir``.

    Examples are identified by the ``item_id`` or ``experience_id`` of their meta. An interrupted round resumes, after
    a kill at any moment: each file that is written is complete or absent, and completed work is not repeated.

    Args:
        minimum: new items that a round needs.
        fresh: discard an interrupted round, and restart it.
        extend: refused, since each round is a run of its own.
        replay: fill half of each batch with rows of earlier rounds, from the second round on.

    Returns:
        The run's directory and measurements, or the sentence that says that there is too little to train on, or
        ``None`` as in :func:`~mlx_lora.training.train.train`.

    Raises:
        UserError: an example without an id, or see ``train``.
    """
    if extend:
        raise UserError("--increment goes on by itself: leave out --extend, or start in another --out")
    if not config.data or not config.output_dir:
        raise UserError("--increment needs a dataset and a directory: give --data DIR and --out adapters/NAME")
    out = Path(config.output_dir)
    state = state_path(out)
    if (out / RUN_FILE).exists() and not (state.exists() or (out / ROUNDS).exists() or has_generations(out)):
        raise UserError(
            f"{out}: this is a run without --increment, which a round would replace; choose another --out, and start "
            f"from this adapter with --set init_adapter={out}"
        )
    # Before the directory is made: a refused round leaves none.
    sources, _ = datasets_of(config.data)
    examples = [example for path in sources for example in read_trainable(path)]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        rounds = read_state(state).rounds
        if fresh:
            abandon_round(state)
        _adopt(out, rounds)
        taken = start_round(state, examples, minimum)
        if isinstance(taken, str):
            return taken
        directory = _round_directory(out, rounds + 1)
        earlier = _earlier(out, rounds) if replay else {}
        _write_data(directory, taken, sources, earlier)
        config, notes = _round_config(config, directory, rounds, earlier, replay)
        begin = _begin(out, directory / "run", config.init_adapter)
        trained = train(
            replace(config, output_dir=str(directory / "run"), init_adapter=begin),
            quiet=quiet,
            notes=notes,
        )
        if trained is None or not trained[1].finished:
            return trained
        _publish(trained[0], out, rounds + 1)
        finish_round(state, examples)
        return out, trained[1]


def _round_directory(out: Path, number: int) -> Path:
    return out / ROUNDS / f"{number:04d}"


def _earlier(out: Path, rounds: int) -> dict[str, Path]:
    """Return number → dataset of each complete round whose data is still here."""
    places = (_round_directory(out, number) for number in range(1, rounds + 1))
    return {place.name: place / DATA for place in places if (place / DATA).is_dir()}


def _round_config(
    config: TrainingConfig, directory: Path, rounds: int, earlier: Mapping[str, Path], replay: bool
) -> tuple[TrainingConfig, list[str]]:
    """Return the config of a round, with its data, and notes for the user."""
    if rounds and replay:
        gone = [f"{number:04d}" for number in range(1, rounds + 1) if f"{number:04d}" not in earlier]
        lost = f"the data of {len(gone)} earlier rounds ({', '.join(gone)}) is gone, so that it is not replayed"
        return with_replay(config, directory, earlier), [lost] if gone else []
    return replace(config, data=str(directory / DATA)), [FORGETS] if rounds else []


def _write_data(directory: Path, taken: Round, sources: Sequence[Path], earlier: Mapping[str, Path]) -> None:
    """Write the examples of a round, unless they are there; the rest of a discarded one is set aside.

    Validation rows that ``earlier`` rounds have are theirs, unless there are no others.
    """
    data = directory / DATA
    if directory.exists() and not (taken.resumed and (not data.exists() or _items(data) == _ids(taken.examples))):
        set_aside(directory, "given-up")
    if not data.exists():
        valid = [example for path in sources for example in read_split(path, "valid")]
        valid = without(valid, held_out_before(earlier.values())) or valid
        write_dataset(data, {"train": taken.examples, "valid": valid}, {"source": "increment"})


def _items(data: Path) -> set[str]:
    """Return the ids of a round's examples; none where they cannot be read."""
    try:
        return _ids(read_split(data, "train"))
    except UserError:
        return set()


def _ids(examples: Sequence[Example]) -> set[str]:
    return {item_id(example) for example in examples}


def _begin(out: Path, run: Path, first: str | None) -> str | None:
    """Return the adapter that a round starts from: the live generation, and of an interrupted round the same as before.

    Args:
        first: the adapter that the first round starts from.
    """
    if (run / RUN_FILE).exists():
        # A kill after publishing must not make a round start from its own end.
        begin = read_run(run).get("learned_from", {}).get("init_adapter")
        return str(out) if begin in (str(out), str(out.absolute())) else first
    return str(out) if Generations(out).live is not None else first


def _publish(run: Path, out: Path, number: int) -> None:
    """Make a finished round's adapter the live generation, once: a rollback since then stays."""
    generations, reason = Generations(out), f"round {number} of train --increment"
    generation = generations.add(run, {"round": number})
    if not generations.was_promoted(generation):
        generations.promote(generation, reason)


def _adopt(out: Path, rounds: int) -> None:
    """Publish the last complete round where there are no generations: earlier versions wrote the files themselves."""
    if not rounds or has_generations(out):
        return
    run = _round_directory(out, rounds) / "run"
    if not (run / ADAPTER_FILE).exists():
        run = out
    if (run / ADAPTER_FILE).exists():
        _publish(run, out, rounds)


def outcome(trained: tuple[Path, TrainingResult] | str, out: str | None, increment: bool) -> tuple[dict[str, Any], str]:
    """Return the end of a training run as the object of ``--json`` and as a line.

    Args:
        trained: of :func:`train_increment` or :func:`~mlx_lora.training.train.train`.
        out: the requested run directory.
        increment: True for a round.
    """
    if isinstance(trained, str):
        return {"path": out, "trained": False, "reason": trained}, trained
    directory, result = trained
    rounds: dict[str, Any] = {}
    if increment:
        done = read_state(state_path(directory))
        # Of the round, since what is live may have been rolled back; its data is two datasets where one is replay.
        run = _round_directory(directory, done.rounds) / "run" if done.rounds else directory
        data = read_run(run).get("data")
        replayed = data[1]["examples"] if isinstance(data, list) else 0
        rounds = {"rounds": done.rounds, "trained_items": len(done.trained), "replayed": replayed}
    validation = "" if result.validation_loss is None else f", validation loss {result.validation_loss:.4f}"
    stopped = f", stopped by {result.stopped}" if result.stopped else ""
    line = f"{directory}: loss {result.loss:.4f}{validation}{stopped}, {result.steps} steps in {result.seconds:.0f} s"
    return {"path": str(directory), **asdict(result), **rounds}, line
