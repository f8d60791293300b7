"""A run's directory: made, locked, and refused where the run in it is another."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..backends.adapter_format import ADAPTER_CONFIG, ADAPTER_FILE, LIVE, base_recorded
from ..config import TrainingConfig
from ..config_paths import located
from ..data.chat_template import TEMPLATE_DATE
from ..data.mixture import record_of
from ..errors import UserError
from ..files import (
    FORMAT,
    check_format,
    new_directory,
    open_lock,
    remove_any,
    temporary_beside,
    write_atomic,
    write_json,
    writing,
)
from ..models.fingerprint import another_base
from ..models.resolve import BUILT_IN, ResolvedModel, resolve_model
from ..user_files import read_bytes, read_text
from .report import REPORT_FILE
from .setup import Prepared

RUN_FILE, CONFIG_FILE, METRICS_FILE, LOCK_FILE = "run.json", "config.yaml", "metrics.jsonl", ".lock"
# The key of run.json that says that a base stored in less was computed with in float32.
WIDENED = "computed_in_float32"
# The chat template of the run, where it is not the base's own.
TEMPLATE_FILE = "chat_template.jinja"


def record(ready: Prepared) -> dict[str, Any]:
    systems = {m["content"] for e in ready.examples for m in e.messages if m["role"] == "system"}
    return {
        "format": FORMAT,
        "mlx_lora_version": __version__,
        "model": ready.model.reference,
        "model_revision": ready.model.revision,
        "base_fingerprint": ready.model.fingerprint,
        "data": record_of(ready.data, ready.mix),
        "data_sha256": ready.hashes,
        "learned_from": ready.config.learned_from(),
        # What the adapter is used to being told, if it was always the same.
        "system_prompt": systems.pop() if len(systems) == 1 else None,
        # The tokens that end an answer, and the day that the chat template printed if it asked.
        "eos_token_ids": ready.backend.base.ends,
        "template_date": TEMPLATE_DATE,
        WIDENED: ready.backend.widened,
    }


def make_directory(ready: Prepared) -> None:
    with new_directory(ready.out) as directory:
        write_json(directory / RUN_FILE, {**record(ready), "result": None})
        if ready.backend.base.given_template is not None:
            write_atomic(directory / TEMPLATE_FILE, ready.backend.base.given_template)


def check_place(out: Path, fresh: bool) -> None:
    """Raise UserError if a run cannot go on, or with ``fresh`` start over, in a directory that is there."""
    if (out / LIVE).is_symlink():
        raise UserError(f"{out}: this holds rounds of --increment; continue with --increment, or choose another --out")
    if not fresh:
        read_run(out)
        return
    if not out.is_dir() or (any(out.iterdir()) and not is_run(out)):
        raise UserError(f"{out}: --fresh replaces a run, and this is none; choose another --out")
    others = sorted(file.name for file in out.iterdir() if not _is_ours(file.name))
    if others:
        raise UserError(
            f"{out}: --fresh replaces a run, and {others[0]} in this directory is not of a run; "
            "move it away, or choose another --out"
        )


def remove_run(out: Path) -> None:
    """Remove the run in a directory, at once for everybody else.

    Raises:
        UserError: another process trains there.
    """
    with locked(out), writing(out):
        temporary = temporary_beside(out)
        remove_any(temporary)
        os.rename(out, temporary)
    remove_any(temporary)


def _is_ours(name: str) -> bool:
    known = {RUN_FILE, CONFIG_FILE, METRICS_FILE, TEMPLATE_FILE, ADAPTER_FILE, ADAPTER_CONFIG, REPORT_FILE}
    # The last is what macOS puts into every directory.
    known |= {"checkpoints", "tensorboard", LOCK_FILE, ".DS_Store"}
    leftover = name.startswith(".") and ".tmp" in name
    return name in known or leftover or name.startswith(f"{METRICS_FILE}.unreadable-")


def check_same(ready: Prepared, extend: bool) -> None:
    """Raises UserError, with what changed, if the directory's run is not the one asked for."""
    run = read_run(ready.out)
    # A key that is younger than the run had its default's effect.
    then = {**TrainingConfig().learned_from(), **run.get("learned_from", {})}
    # Earlier versions recorded paths as they were typed.
    then |= located(then)
    now = ready.config.learned_from()
    changed = [f"{key} was {then.get(key)!r} and is {now[key]!r}" for key in now if then.get(key) != now[key]]
    if extend:
        changed = [c for c in changed if not c.startswith(("num_epochs ", "max_steps "))]
    changed += _changed_data(ready, run.get("data_sha256", {}))
    if _template_changed(ready):
        changed.append(f"the chat template has changed since it was recorded in {TEMPLATE_FILE}")
    if run.get("template_date", TEMPLATE_DATE) != TEMPLATE_DATE:
        changed.append(f"templates printed the date {run['template_date']!r} and print {TEMPLATE_DATE!r}")
    if run.get("model_revision") != ready.model.revision:
        changed.append(f"the model's revision was {run.get('model_revision')} and is {ready.model.revision}")
    elif another_base(run.get("base_fingerprint"), ready.model.fingerprint):
        changed.append(f"the weights of {ready.model.name} are other ones")
    if changed:
        raise UserError(
            f"{ready.out}: a run is there already, and it is another: {'; '.join(changed)}; "
            "choose another --out, or start over with --fresh"
            + (", or go on with --extend" if all(c.startswith(("num_epochs ", "max_steps ")) for c in changed) else "")
        )


def _changed_data(ready: Prepared, recorded: dict[str, str]) -> list[str]:
    """What has changed in the dataset since its hashes were recorded, by file."""
    then = {_placed(split): sha for split, sha in recorded.items()}
    now = {_placed(split): split for split in ready.hashes}
    changed = [
        f"{ready.files[split]} {'has changed' if place in then else 'is new'}"
        for place, split in now.items()
        if then.get(place) != ready.hashes[split]
    ]
    return changed + [f"the data has no {split} any more" for split in recorded if _placed(split) not in now]


def _placed(split: str) -> str:
    """The key of a split's hash, without the working directory that it was typed in."""
    return str(Path(split).absolute())


def _template_changed(ready: Prepared) -> bool:
    given, file = ready.backend.base.given_template, ready.out / TEMPLATE_FILE
    return given is not None and not (file.exists() and read_bytes(file) == given.encode("utf-8"))


def base_of(run: dict[str, Any], directory: Path) -> ResolvedModel:
    """The base that a run was trained on, with the run's own chat template.

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
    """Return the sentence that says so if a run's adapter was trained on other weights than the base has now.

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


def is_run(directory: Path) -> bool:
    """Whether a directory is a run's, or at least an adapter's, rather than a model's."""
    return (directory / RUN_FILE).exists() or (directory / ADAPTER_CONFIG).exists()


def check_exists(name: str) -> None:
    """Raises UserError if a name can only be meant as a run directory, and there is none.

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


def read_trained(directory: Path) -> dict[str, Any]:
    """The ``run.json`` of a run that has an adapter.

    Raises:
        UserError: it has none yet, or see ``read_run``.
    """
    if not (directory / ADAPTER_FILE).exists():
        raise UserError(f"{directory}: this run has no {ADAPTER_FILE}; train it to the end first")
    return read_run(directory)


def read_run(directory: Path) -> dict[str, Any]:
    """The ``run.json`` of a run directory.

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
                raise ValueError(f"its {key} is no object")
        return content
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{directory}: this exists and is no run ({RUN_FILE} is missing or broken: {error}); choose another name"
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run directory; the lock ends with the process, however that ends.

    Raises:
        UserError: another process trains there.
    """
    with open(open_lock(out / LOCK_FILE), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{out}: another process is training there; wait for it, or choose another --out") from None
        yield
