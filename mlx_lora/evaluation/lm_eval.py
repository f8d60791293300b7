"""Tasks of lm-evaluation-harness (``lm_eval``), run on any target with log-probabilities."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import UserError, guarded
from ..files import check_directory, write_atomic, write_json
from .targets.opening import open_target
from .targets.raw_texts import raw_texts

RESULTS = "lm_eval_results.json"
SAMPLES = "samples_{}.jsonl"
# Keys of lm-eval's results that a summary keeps, under their own names.
KEPT = ("results", "groups", "versions", "n-shot", "higher_is_better", "n-samples")


def run_tasks(
    tasks: str,
    target: str,
    *,
    limit: int | None = None,
    out: Path | None = None,
    backend: str | None = None,
    notes: Callable[[Sequence[str]], None] = lambda notes: None,
) -> dict[str, Any]:
    """Run tasks of lm-eval on a target, and return the results under lm-eval's keys.

    Args:
        tasks: names, groups or YAML files of tasks, separated by commas.
        limit: only the first cases of each task.
        out: directory for the results, and for each task's samples in lm-eval's layout.

    Raises:
        UserError: lm-eval is not installed, an unknown task, data that cannot be loaded, or the target has no
            log-probabilities.
    """
    if find_spec("lm_eval") is None:
        raise UserError("--lm-eval needs the package lm-eval; install it with `pip install 'mlx-lora[lm-eval]'`")
    if out is not None:
        check_directory(out)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    manager = _manager(names)
    with closing(open_target(target, backend or "auto")) as opened:
        notes(opened.notes)
        texts = raw_texts(opened)
        from lm_eval import simple_evaluate

        from .lm_eval_model import TargetLM

        with guarded(f"--lm-eval {tasks}: lm-eval cannot run this"):
            found: Any = simple_evaluate(TargetLM(texts), tasks=names, task_manager=manager, limit=limit)
    summary = {
        "target": opened.name,
        "limit": limit,
        "warnings": opened.warnings,
        **{key: found[key] for key in KEPT if found.get(key)},
    }
    summary = _finite(json.loads(json.dumps(summary, default=str)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RESULTS, summary)
        for name, samples in found["samples"].items():
            write_atomic(out / SAMPLES.format(name), "".join(map(_line, samples)).encode("utf-8", "replace"))
    return summary


def table_of(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return rows (task, metric, value, standard error) of a summary."""
    rows = []
    for task, metrics in summary["results"].items():
        for key, value in metrics.items():
            name, _, filtering = key.partition(",")
            if filtering and not name.endswith("_stderr") and isinstance(value, (int, float)):
                error = metrics.get(f"{name}_stderr,{filtering}")
                shown = f"{error:.4g}" if isinstance(error, (int, float)) else ""
                rows.append((task, name if filtering == "none" else f"{name} ({filtering})", f"{value:.6g}", shown))
    return rows


def _manager(names: Sequence[str]) -> Any:
    """Return lm-eval's task manager; its own tasks are listed only if one that is not a file is asked for.

    Raises:
        UserError: no task, an unknown one, or no such file.
    """
    from lm_eval.tasks import TaskManager

    if not names:
        raise UserError("--lm-eval: name at least one task, or a task's YAML file")
    files = [Path(name).is_file() for name in names]
    manager = TaskManager(include_defaults=not all(files))
    for name, is_file in zip(names, files, strict=True):
        if not is_file and name not in manager.all_tasks:
            raise UserError(f"--lm-eval: lm-eval has no task {name}, and there is no such file; `lm-eval ls tasks`")
    return manager


def _line(sample: Mapping[str, Any]) -> str:
    """Return a sample as lm-eval writes it: arguments by number, targets and responses as texts."""
    from lm_eval.utils import handle_non_serializable, sanitize_list

    arguments = {
        f"gen_args_{i}": {f"arg_{j}": value for j, value in enumerate(given)}
        for i, given in enumerate(sample["arguments"])
    }
    texts = {key: sanitize_list(sample[key]) for key in ("resps", "filtered_resps")}
    row = {**sample, "arguments": arguments, **texts, "target": str(sample["target"])}
    return json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """Return JSON content with null in place of numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
