"""Generation of an adapter at rest: an immutable directory of a run's files with ``manifest.json``."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backends.adapter_format import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    GENERATIONS,
    check_can_begin_from,
    generation_path,
    published,
    read_description,
)
from ..errors import UserError
from ..files import FORMAT, check_format, new_directory, sha256_of, write_atomic, write_json
from ..models.resolve import check_safetensors
from ..user_files import read_text
from .directory import BEGIN, CONFIG_FILE, read_run
from .refs import FILES, MANIFEST


def make_generation(run: Path, out: Path, number: int, about: Mapping[str, Any]) -> Path:
    """Copy a run's files into a new generation of ``out``, which appears when it is complete.

    Args:
        about: keys of the manifest that the caller knows: round, cycle, gate, parent.

    Raises:
        UserError: the run is not one, or the file system refuses.
    """
    generation = out / GENERATIONS / f"{number:04d}"
    record = read_run(run)
    with new_directory(generation) as directory:
        for name in FILES:
            if (run / name).exists():
                shutil.copyfile(run / name, directory / name)
        write_atomic(directory / ADAPTER_CONFIG, _description(run, out))
        config = run / CONFIG_FILE
        manifest = {
            "format": FORMAT,
            "generation": number,
            "parent": None,
            "round": None,
            "cycle": None,
            "base_fingerprint": record.get("base_fingerprint"),
            "data_sha256": record.get("data_sha256"),
            "config_sha256": sha256_of(config) if config.is_file() else None,
            "gate": None,
            **about,
            "sha256": {file.name: sha256_of(file) for file in sorted(directory.iterdir())},
        }
        write_json(directory / MANIFEST, manifest)
    return generation


def generation_numbers(out: Path) -> list[int]:
    """Return the numbers of the generations that exist, in ascending order."""
    try:
        found = [entry for entry in (out / GENERATIONS).iterdir() if re.fullmatch("[0-9]{4,9}", entry.name)]
    except OSError:
        return []
    return sorted(int(entry.name) for entry in found if entry.is_dir())


def started_from(run: Path, out: Path) -> int | None:
    """Return the generation of ``out`` whose adapter a run started from, if it recorded one."""
    begin = Path(str(read_run(run).get(BEGIN) or ""))
    known = begin.parent.name == GENERATIONS and begin.name.isdecimal()
    return int(begin.name) if known and generation_path(out, int(begin.name)) == begin.resolve() else None


def _description(run: Path, out: Path) -> bytes:
    """Return the run's ``adapter_config.json``: the live generation's where only dropout differs.

    So a program that opens this file and then the weights, each by its link, has two that fit.
    """
    own, before = run / ADAPTER_CONFIG, published(out) / ADAPTER_CONFIG
    try:
        now, then = read_description(run), read_description(published(out))
        check_can_begin_from(then, now)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return own.read_bytes()
    return (before if set(now) == set(then) else own).read_bytes()


def read_manifest(generation: Path) -> dict[str, Any]:
    """Read the manifest of a generation; empty if it is missing or broken.

    Raises:
        UserError: it has a later version's format.
    """
    try:
        content = json.loads(read_text(generation / MANIFEST))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    check_format(content, generation / MANIFEST)
    return content


def parent_of(generation: Path) -> int | None:
    """Return the parent that a manifest gives; earlier versions wrote the name of its directory."""
    parent = str(read_manifest(generation).get("parent"))
    return int(parent) if re.fullmatch("[0-9]{1,9}", parent) else None


def recorded_sha256(generation: Path) -> str:
    """Return the sha256 of a generation's adapter by its manifest; empty if there is none."""
    recorded = read_manifest(generation).get("sha256")
    return str(recorded.get(ADAPTER_FILE, "")) if isinstance(recorded, dict) else ""


def check_whole(generation: Path, thorough: bool = True) -> None:
    """Raise UserError if a generation's adapter is damaged.

    Args:
        thorough: compare its sha256 with the manifest's; otherwise only its header and its size.
    """
    file = generation / ADAPTER_FILE
    if not file.is_file():
        raise UserError(f"{generation}: this generation has no {ADAPTER_FILE}; choose another one")
    check_safetensors(file)
    if thorough and sha256_of(file) != recorded_sha256(generation):
        raise UserError(f"{file}: this is not the adapter that {MANIFEST} describes; choose another generation")
