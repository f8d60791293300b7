"""Training as examples arrive: each round learns what no round before has, from the adapter the last one left."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..backends.adapters import ADAPTER_CONFIG, ADAPTER_FILE
from ..config import TrainingConfig
from ..data.example import read_split, read_trainable, write_dataset
from ..data.increment import finish_round, read_state, start_round, state_path
from ..data.mix import datasets_of
from ..errors import UserError
from ..files import write_atomic, writing
from .directory import RUN_FILE, TEMPLATE_FILE, locked
from .run import train
from .trainer import TrainingResult

ROUNDS = "rounds"
PUBLISHED = (ADAPTER_CONFIG, ADAPTER_FILE, "report.html", RUN_FILE, TEMPLATE_FILE)


def train_increment(
    config: TrainingConfig, minimum: int, quiet: bool = False
) -> tuple[Path, TrainingResult] | str | None:
    """One round in ``output_dir/rounds/N``; when it is complete, its adapter becomes that of ``output_dir``.

    Examples are told apart by the ``item_id`` or ``experience_id`` of their meta. An interrupted round goes on.

    Args:
        minimum: new items that a round needs.

    Returns:
        The run's directory and measurements, or the sentence that says that there is too little to train on, or
        ``None`` as in :func:`~mlx_lora.training.run.train`.

    Raises:
        UserError: an example without an id, or see ``train``.
    """
    if not config.data or not config.output_dir:
        raise UserError("--increment needs a dataset and a directory: give --data DIR and --out adapters/NAME")
    out = Path(config.output_dir)
    # Before the directory is made: what is refused leaves none.
    sources, _ = datasets_of(config.data)
    examples = [example for path in sources for example in read_trainable(path)]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        state = state_path(out)
        taken = start_round(state, examples, minimum)
        if isinstance(taken, str):
            return taken
        directory = out / ROUNDS / f"{read_state(state).rounds + 1:04d}"
        if not taken.resumed and directory.exists():
            shutil.rmtree(directory)
        if not directory.exists():
            valid = [example for path in sources for example in read_split(path, "valid")]
            write_dataset(directory / "data", {"train": taken.examples, "valid": valid}, {"source": "increment"})
        # By the rounds that are complete: a kill after publishing must not make a round start from its own end.
        begin = str(out) if read_state(state).rounds else config.init_adapter
        trained = train(
            replace(config, data=str(directory / "data"), output_dir=str(directory / "run"), init_adapter=begin),
            quiet=quiet,
        )
        if trained is None or trained[1].stopped == "time budget":
            return trained
        _publish(trained[0], out)
        finish_round(state, examples)
        return out, trained[1]


def _publish(run: Path, out: Path) -> None:
    """The round's adapter as the directory's own; each file complete, the weights last."""
    for name in (*PUBLISHED[2:], *PUBLISHED[:2]):
        if name != TEMPLATE_FILE or (run / name).exists():
            write_atomic(out / name, (run / name).read_bytes())


def progress_of(out: Path) -> dict[str, Any]:
    """How far the rounds in a directory have come, for ``--json``."""
    done = read_state(state_path(out))
    return {"rounds": done.rounds, "trained_items": len(done.trained)}
