"""Dataset of EISV trajectories: Lumen's database and synthetic windows → a dataset directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from ...data.dataset import Example
from ...data.dataset_card import DatasetCard, write_card
from ...data.import_report import ImportReport, NothingLeft
from ...errors import UserError
from ...files import check_absent
from .anima_db import iter_trajectory_records, read_eisv_series
from .examples import (
    TrainingExample,
    build_training_dataset,
    dataset_stats,
    feedback_labeller,
    format_chat_messages,
    hide_shapes,
    split_dataset,
)


def make_dataset(
    out: str | Path,
    *,
    anima_db: str | Path | None = None,
    window_size: int = 10,
    stride: int = 5,
    min_per_shape: int = 50,
    labels: Literal["feedback", "generator"] = "feedback",
    hide_shape: float = 0.0,
    skip_invalid: bool = False,
    seed: int = 42,
) -> DatasetCard:
    """Write a new dataset directory and return its card.

    Args:
        labels: "feedback" for varied and coherent ones (:func:`feedback_labeller`), "generator" for the published ones.
        hide_shape: share of the examples whose text does not name the shape, so that it must be inferred.

    Raises:
        UserError: the directory exists, the database cannot be used (:func:`read_eisv_series`), or there would be
            no example.
    """
    check_absent(out)
    report = ImportReport("eisv")
    records: Iterable[dict[str, Any]] = ()
    real, database = 0, None
    if anima_db is not None:
        series, notes = read_eisv_series(anima_db, skip_invalid=skip_invalid, report=report)
        if len(series) < window_size:
            raise NothingLeft(
                f"{anima_db}: it holds {len(series)} states, too few for one window of {window_size}; "
                "use a smaller --window-size or let Lumen run longer",
                report,
            )
        real = len(range(0, len(series) - window_size + 1, stride))
        records = iter_trajectory_records(series, window_size, stride)
        database = {"path": str(anima_db), **notes}
    label = feedback_labeller(seed) if labels == "feedback" else None
    examples = build_training_dataset(records, min_per_shape, seed, label=label)
    if not examples:
        raise UserError("there would be no example: give --anima-db, or a --min-per-shape above 0")
    examples = hide_shapes(examples, hide_shape, seed)
    stats = dataset_stats(examples, real)
    splits = zip(("train", "valid", "test"), split_dataset(examples, seed=seed), strict=True)
    counts = {
        "total": stats.total,
        "real": stats.real_count,
        "synthetic": stats.synthetic_count,
        "per_shape": stats.per_shape,
    }
    details = {
        "labels": labels,
        "hide_shape": hide_shape,
        "seed": seed,
        "window_size": window_size,
        "stride": stride,
        "min_per_shape": min_per_shape,
        "anima_db": database,
    }
    summary = f"{stats.real_count} real and {stats.synthetic_count} synthetic examples"
    shapes = [(shape, str(count)) for shape, count in stats.per_shape.items()]
    rows = {name: [_row(example) for example in split] for name, split in splits}
    if not rows["valid"]:
        report.notes.append("A shape needs 8 examples to have one in the validation split; raise --min-per-shape.")
    return write_card(out, rows, report, counts, details, summary, (f"{out}: {summary}", ("shape", "examples"), shapes))


def make_eisv_dataset(out: str | Path, **options: Any) -> dict[str, Any]:
    """Write a dataset as :func:`make_dataset` does, and return the content of its card."""
    return make_dataset(out, **options).to_dict()


def _row(example: TrainingExample) -> Example:
    return Example(format_chat_messages(example), meta={"shape": example.shape, "pattern": example.pattern})
