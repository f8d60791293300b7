"""Quickstart: a dataset, the base's answers, an adapter and its answers, judged by Gate 1."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import TrainingConfig, load_config
from ..data.dataset_card import DatasetCard
from ..files import replace_directory, write_json
from ..sources.eisv import make_dataset
from ..training.train import train
from .eisv_cases import with_shape
from .runner import prepare, run_suite
from .suite import load_suite
from .targets.opening import ModelTarget, load_target

RESULTS = "quickstart.json"
SHOWN = 5
# Enough for the adapter to keep the format when it is sampled, and few enough for minutes.
PER_SHAPE = 100
# Share of the examples that do not name the shape: it has to be inferred from the numbers.
HIDDEN = 0.33
NAMES = {
    "base": "base",
    "adapter": "adapter",
    "adapter_sampled": "adapter, sampled",
    "adapter_hidden": "shape not named",
}

Reports = dict[str, dict[str, Any]]
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def make_data(out: Path) -> DatasetCard:
    """Make the dataset in ``out/data``, in place of an earlier quickstart in ``out``, and return its card.

    Raises:
        UserError: ``out`` is something else.
    """
    replace_directory(out, RESULTS, "an earlier quickstart")
    return make_dataset(out / "data", min_per_shape=PER_SHAPE, hide_shape=HIDDEN)


def quickstart_config(out: Path, backend: str) -> TrainingConfig:
    """Return the config of the quickstart in a directory."""
    config = load_config("quickstart", [f"backend={backend}"])
    return replace(config, data=str(out / "data"), output_dir=str(out / "run"))


def train_and_judge(
    config: TrainingConfig, out: Path, progress: Progress, announce: Callable[[], None], quiet: bool
) -> Reports:
    """Judge the base, train the adapter and judge it, and write the reports.

    Args:
        out: the directory that :func:`make_data` filled.
        progress: makes a progress bar of a description and a number of cases.
        announce: called before the training.
        quiet: train without a progress bar.

    Returns:
        The reports of ``base``, ``adapter``, ``adapter_sampled`` at temperature 1, and ``adapter_hidden``, which is not
        told the shapes.
    """
    suite = prepare(load_suite("eisv_gate1"), out / "data" / "test.jsonl")

    def judge(target: ModelTarget, temperature: float = 0.0, named: bool = True) -> dict[str, Any]:
        evaluation = replace(suite, cases=with_shape(suite.cases, named))
        generation = replace(suite.suite.generation, temperature=temperature)
        with progress(f"asking {target.name}", len(suite.cases)) as advance:
            return run_suite(evaluation, target, generation=generation, advance=advance)

    base = judge(load_target(config.model_name, config.backend))
    announce()
    train(config, quiet=quiet)
    adapter = load_target(str(out / "run"), config.backend)
    reports = dict(zip(NAMES, (base, judge(adapter), judge(adapter, 1.0), judge(adapter, named=False)), strict=True))
    for name, report in reports.items():
        write_json(out / f"{name}.json", report)
    write_json(out / RESULTS, summary(reports))
    return reports


def summary(reports: Reports) -> Reports:
    """Return the reports without the single results."""
    return {name: {key: value for key, value in report.items() if key != "results"} for name, report in reports.items()}


def answer_rows(reports: Reports) -> list[tuple[str, str, str]]:
    """Return (shape, answer before, answer after) of a few shapes."""
    pairs = zip(reports["base"]["results"], reports["adapter"]["results"], strict=True)
    shown = {before["tags"][0]: (before["answer"], after["answer"]) for before, after in pairs}
    return [(shape, *answers) for shape, answers in list(shown.items())[:SHOWN]]


def score_rows(reports: Reports) -> list[tuple[str, ...]]:
    """Return the metrics of each report: coherence, balanced, valid, tokens in use, Gate 1."""
    return [
        (
            NAMES[name],
            *(f"{report[key]:.3f}" for key in ("mean_coherence", "balanced_coherence", "valid_rate")),
            f"{report['tokens_in_use']} of 15",
            "passed" if report["gate_passed"] else "failed",
        )
        for name, report in reports.items()
    ]
