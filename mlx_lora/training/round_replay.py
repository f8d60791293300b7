"""Replay in incremental training: half of each batch of a round is stored rows of earlier rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..config import TrainingConfig
from ..data.checks.dataset_table import prompt_of
from ..data.dataset import Example, read_split, read_trainable, write_dataset
from ..data.replay import draw_replay
from ..data.sampler import steps_per_epoch
from ..errors import UserError

REPLAY, SHARE = "replay", 0.5
FORGETS = (
    "this round trains on new examples alone and unlearns what earlier ones taught: of seven measured rounds all but "
    "the last fell, to 0.38 on average where --replay, which puts rows of earlier rounds into each batch, keeps 1.00"
)


def with_replay(config: TrainingConfig, directory: Path, earlier: Mapping[str, Path]) -> TrainingConfig:
    """Write ``directory/replay`` unless it is there, and return the config that trains a round with it.

    An epoch still sees each new example once, and as many replayed ones in the same batches.

    Args:
        directory: of the round; its own examples are in ``data``.
        earlier: number → dataset of each earlier round.

    Raises:
        UserError: no earlier round has a row that can be replayed, or one is broken.
    """
    data, place = directory / "data", directory / REPLAY
    new = read_trainable(data)
    if not place.exists():
        write_dataset(place, _replay(config, new, read_split(data, "valid"), earlier), {"source": REPLAY})
    per_step = (config.batch_size, config.gradient_accumulation_steps)
    per_epoch = steps_per_epoch(2 * len(new), *per_step)
    steps = config.num_epochs * per_epoch
    # The epochs of the mix are other ones: they are as long as both datasets together.
    epochs = -(-steps // steps_per_epoch(len(new) + len(read_trainable(place)), *per_step))
    return replace(
        config,
        data=[{"path": str(data), "weight": 1 - SHARE}, {"path": str(place), "weight": SHARE}],
        balance_batches=True,
        keep_best_by="worst",
        num_epochs=epochs,
        max_steps=min(steps, config.max_steps or steps),
        eval_steps=config.eval_steps or per_epoch,
    )


def held_out_before(earlier: Iterable[Path]) -> set[str]:
    """Return the prompts of the validation rows of earlier rounds."""
    return {_prompt(example) for path in earlier for example in read_split(path, "valid")}


def without(examples: Sequence[Example], prompts: set[str]) -> list[Example]:
    """Return the examples with other prompts than these."""
    return [example for example in examples if _prompt(example) not in prompts]


def _replay(
    config: TrainingConfig, new: Sequence[Example], held_out: Sequence[Example], earlier: Mapping[str, Path]
) -> dict[str, list[Example]]:
    """Return the rows to replay, and those of earlier rounds that validate; no prompt is on both sides."""
    taken = {_prompt(example) for example in held_out}
    stored = {key: read_trainable(path) for key, path in earlier.items()}
    rounds = {key: without(rows, taken) for key, rows in stored.items()}
    sizes = [len(rows) for rows in rounds.values() if rows]
    if not sizes:
        raise UserError(
            "--replay: no earlier round has a row here that can be replayed: their data is gone, or all of it is "
            "validation data now; leave out --replay"
        )
    # As many as the round sees; beyond the number of new ones only while no row is there twice.
    most = max(len(new), len(sizes) * min(sizes))
    drawn = draw_replay(rounds, min(sum(sizes), most, config.num_epochs * len(new)), config.seed)
    taken |= {_prompt(example) for rows in [new, *stored.values()] for example in rows}
    valid: list[Example] = []
    # Without rows of the new round beside them, they would choose the state that has learned least.
    for key, path in earlier.items() if held_out else ():
        rows = without(read_split(path, "valid"), taken)
        taken |= {_prompt(example) for example in rows}
        valid += [replace(example, meta={**example.meta, "night": key}) for example in rows]
    return {"train": drawn, "valid": valid}


def _prompt(example: Example) -> str:
    return prompt_of(example.messages, example.tools)
