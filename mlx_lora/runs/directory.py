"""Run directory: its files, its lock, ``run.json``, and the base that its adapter was trained on."""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, base_recorded, has_generations
from ..errors import UserError
from ..files import check_format, file_lock, remove_any, temporary_beside, writing
from ..models.fingerprint import another_base
from ..models.resolve import BUILT_IN, ResolvedModel, resolve_model
from ..user_files import read_text

RUN_FILE, CONFIG_FILE, METRICS_FILE, LOCK_FILE = "run.json", "config.yaml", "metrics.jsonl", ".lock"
REPORT_FILE, SAMPLES_FILE, TELEMETRY_FILE = "report.html", "samples.json", "telemetry.jsonl"
# The key of run.json that names the run to loggers; another one after --fresh.
RUN_ID = "id"
# The key of run.json that says that a base stored in a lower precision was computed with in float32.
WIDENED = "computed_in_float32"
# The key of run.json that has the directory of the adapter's files that the run started from.
BEGIN = "init_adapter"
# The chat template of the run, where it is not the base's own.
TEMPLATE_FILE = "chat_template.jinja"


def is_run(directory: Path) -> bool:
    """Return True if a directory is a run's, or at least an adapter's, rather than a model's."""
    return (directory / RUN_FILE).exists() or (directory / ADAPTER_CONFIG).exists()


def check_exists(name: str) -> None:
    """Raise UserError if a name can only be meant as a run directory, and there is none.

    Paths are, and so are names in a directory that holds runs; others may be a model's on the hub.
    """
    place = Path(name).expanduser()
    if place.exists() or name.startswith("builtin/"):
        return
    beside = place.parent
    in_runs = beside != Path(".") and beside.is_dir() and any(is_run(other) for other in beside.iterdir())
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or in_runs:
        raise UserError(
            f"{name}: there is no such run or model directory; name a run that `train` made, or a base model"
        )


def read_run(directory: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run directory.

    Raises:
        UserError: it is missing or broken, or of a later version's format.
    """
    file = directory / RUN_FILE
    try:
        content = json.loads(read_text(file))
        check_format(content, file)
        if not isinstance(content["model"], str):
            raise ValueError("it names no model")
        for key in ("learned_from", "data_sha256"):
            if not isinstance(content.get(key, {}), dict):
                raise ValueError(f"its {key} is not an object")
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{directory}: this exists and is not a run directory ({RUN_FILE} is missing or broken: {error}); "
            "choose another name"
        ) from error


def read_trained(directory: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run that has an adapter.

    Raises:
        UserError: it has none yet, or see ``read_run``.
    """
    if not (directory / ADAPTER_FILE).exists():
        raise UserError(f"{directory}: this run has no {ADAPTER_FILE}; train it to the end first")
    return read_run(directory)


def base_of(run: dict[str, Any], directory: Path) -> ResolvedModel:
    """Return the base model that a run was trained on, with the run's own chat template.

    Args:
        run: the ``run.json`` of ``directory``.

    Raises:
        UserError: see ``resolve_model``; a base without a revision was a local directory, and stays one.
    """
    name, revision, template = run["model"], run.get("model_revision"), directory / TEMPLATE_FILE
    learned = run.get("learned_from")
    role = learned.get("system_role") if isinstance(learned, dict) else None
    return resolve_model(
        name,
        revision,
        chat_template=str(template) if template.exists() else None,
        system_role="refuse" if role == "refuse" else "merge",
        local=revision is None and name not in BUILT_IN,
    )


def other_base(run: dict[str, Any], directory: Path, model: ResolvedModel) -> str | None:
    """Return a warning if a run's adapter was trained on other weights than the base model has now, else ``None``.

    Args:
        run: the ``run.json`` of ``directory``.
    """
    recorded = run.get("base_fingerprint") or base_recorded(directory)
    if not another_base(recorded, model.fingerprint):
        return None
    return (
        f"this adapter was trained on other weights than those of {model.name} now, and fits no other base; "
        "put its own base back there, or correct the name in the adapter's run.json"
    )


def locked(out: Path) -> AbstractContextManager[None]:
    """Lock the run directory while a block runs.

    Raises:
        UserError: another process trains there.
    """
    return file_lock(out / LOCK_FILE, f"{out}: another process is training there; wait for it, or choose another --out")


def check_place(out: Path, fresh: bool) -> dict[str, Any] | None:
    """Return the ``run.json`` of the run that resumes in a directory; ``None`` where one starts, or starts over.

    Raises:
        UserError: a run can do neither there.
    """
    if not out.exists():
        return None
    if has_generations(out):
        raise UserError(
            f"{out}: this holds generations of an adapter; continue with --increment or `sleep run`, "
            "or choose another --out"
        )
    if not fresh:
        return read_run(out)
    if not out.is_dir() or (any(out.iterdir()) and not is_run(out)):
        raise UserError(f"{out}: --fresh replaces a run, and this is not a run directory; choose another --out")
    others = sorted(file.name for file in out.iterdir() if not _is_ours(file.name))
    if others:
        raise UserError(
            f"{out}: --fresh replaces a run, and {others[0]} in this directory is not of a run; "
            "move it away, or choose another --out"
        )
    return None


def remove_run(out: Path) -> None:
    """Remove the run in a directory, atomically for other processes.

    Raises:
        UserError: another process trains there.
    """
    with locked(out), writing(out):
        temporary = temporary_beside(out)
        remove_any(temporary)
        os.rename(out, temporary)
    remove_any(temporary)


def _is_ours(name: str) -> bool:
    known = {RUN_FILE, CONFIG_FILE, METRICS_FILE, TELEMETRY_FILE, TEMPLATE_FILE, REPORT_FILE, SAMPLES_FILE}
    known |= {ADAPTER_FILE, ADAPTER_CONFIG}
    # macOS puts the last one into every directory.
    known |= {"checkpoints", "tensorboard", "wandb", LOCK_FILE, ".DS_Store"}
    leftover = name.startswith(".") and ".tmp" in name
    return name in known or leftover or name.startswith(f"{METRICS_FILE}.unreadable-")
