"""Record of a run (``run.json``): written when it starts, compared when it resumes."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import TrainingConfig
from ..config.paths import located
from ..data.chat_template import TEMPLATE_DATE
from ..data.mixture import record_of
from ..errors import UserError
from ..files import FORMAT, new_directory, write_atomic, write_json
from ..models.fingerprint import another_base
from ..runs.directory import BEGIN, RUN_FILE, RUN_ID, TEMPLATE_FILE, WIDENED
from ..user_files import read_bytes
from .setup import TrainingSetup


def record(ready: TrainingSetup) -> dict[str, Any]:
    """Return the content of ``run.json``."""
    systems = {m["content"] for e in ready.examples for m in e.messages if m["role"] == "system"}
    return {
        "format": FORMAT,
        "mlx_lora_version": __version__,
        "model": ready.model.reference,
        "model_revision": ready.model.revision,
        "base_fingerprint": ready.model.fingerprint,
        BEGIN: None if ready.begin is None else str(ready.begin),
        "data": record_of(ready.data, ready.mix),
        "data_sha256": ready.hashes,
        "learned_from": ready.config.training_fingerprint(),
        # The system prompt that the adapter is trained with, if it was always the same.
        "system_prompt": systems.pop() if len(systems) == 1 else None,
        # The end-of-turn tokens, and the date that the chat template printed if it asked.
        "eos_token_ids": ready.backend.base.ends,
        "template_date": TEMPLATE_DATE,
        WIDENED: ready.backend.widened,
    }


def new_run_id() -> str:
    """Return a name for a run that no other has."""
    return secrets.token_hex(8)


def make_directory(ready: TrainingSetup) -> None:
    """Create the run directory with ``run.json`` and the given chat template."""
    with new_directory(ready.out) as directory:
        write_json(directory / RUN_FILE, {**record(ready), RUN_ID: new_run_id(), "result": None})
        if ready.backend.base.given_template is not None:
            write_atomic(directory / TEMPLATE_FILE, ready.backend.base.given_template)


def check_same(ready: TrainingSetup, run: dict[str, Any], extend: bool) -> None:
    """Raise UserError, with the differences, if the directory's run is not the requested one.

    Args:
        run: its ``run.json``.
    """
    # A key that is newer than the run had its default's effect.
    then = {**TrainingConfig().training_fingerprint(), **run.get("learned_from", {})}
    # Earlier versions recorded paths as they were typed.
    then |= located(then)
    now = ready.config.training_fingerprint()
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
        longer = all(c.startswith(("num_epochs ", "max_steps ")) for c in changed)
        raise UserError(
            f"{ready.out}: a run is there already, and it is another: {'; '.join(changed)}; "
            f"choose another --out, or start over with --fresh{', or continue with --extend' if longer else ''}"
        )


def _changed_data(ready: TrainingSetup, recorded: dict[str, str]) -> list[str]:
    """Return the changes in the dataset since its hashes were recorded, by file."""
    then = {_placed(split): sha for split, sha in recorded.items()}
    now = {_placed(split): split for split in ready.hashes}
    changed = [
        f"{ready.files[split]} {'has changed' if place in then else 'is new'}"
        for place, split in now.items()
        if then.get(place) != ready.hashes[split]
    ]
    return changed + [f"the data has no {split} any more" for split in recorded if _placed(split) not in now]


def _placed(split: str) -> str:
    """Return the key of a split's hash, without the working directory that it was typed in."""
    return str(Path(split).absolute())


def _template_changed(ready: TrainingSetup) -> bool:
    given, file = ready.backend.base.given_template, ready.out / TEMPLATE_FILE
    return given is not None and not (file.exists() and read_bytes(file) == given.encode("utf-8"))
