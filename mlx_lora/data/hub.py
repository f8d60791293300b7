"""Hugging Face Hub datasets, and directories in their layouts: ``hf:OWNER/NAME[/CONFIG][:SPLIT]``.

``hf:NAME`` is a dataset without an owner; two parts are always owner and name, so a config is the third. A name that
begins with ``/``, ``.`` or ``~`` is a directory on this machine, with data files or saved by ``save_to_disk``. SPLIT is
a split expression of the datasets library, e.g. ``train[:1000]``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line

PREFIX = "hf:"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+){0,2}")
EXTRA = "pip install 'mlx-lora[hub-data]'"


@dataclass(frozen=True)
class HubSpec:
    """A dataset's name, or its directory, with its config and split where they are given."""

    name: str
    config: str | None = None
    split: str | None = None

    @property
    def local(self) -> bool:
        """True if the name is a local directory."""
        return self.name.startswith(("/", ".", "~"))

    @property
    def stem(self) -> str:
        """The last part of the name, as the stem of a file."""
        return self.name.rstrip("/").rsplit("/", 1)[-1]

    def with_split(self, split: str) -> Path:
        """Return the path that names one split of the dataset."""
        return Path(f"{PREFIX}{self.name}{f'/{self.config}' if self.config else ''}:{split}")


def is_hub(path: str | Path) -> bool:
    """Return True if a path names a dataset of the datasets library."""
    return str(path).startswith(PREFIX)


def parse_hub(path: str | Path) -> HubSpec:
    """Return the parts of ``hf:OWNER/NAME[/CONFIG][:SPLIT]``.

    Raises:
        UserError: it is not of this form.
    """
    name, _, split = str(path).removeprefix(PREFIX).partition(":")
    if HubSpec(name).local and "/" not in split:
        return HubSpec(name, None, split or None)
    if not _NAME.fullmatch(name) or "/" in split:
        raise UserError(f"{path}: write hf:OWNER/NAME, hf:OWNER/NAME/CONFIG, either with :SPLIT, or hf:./DIR")
    parts = name.split("/")
    return HubSpec("/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or None)


def split_names(path: str | Path) -> list[str]:
    """Return the names of a dataset's splits; none where it has no splits (one dataset saved by ``save_to_disk``).

    Raises:
        UserError: it cannot be loaded.
    """
    with _library(path) as datasets:
        loaded = _load(datasets, parse_hub(path), None)
        return list(loaded) if isinstance(loaded, dict) else []


def read_hub(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one split.

    Raises:
        UserError: it cannot be loaded, or has several splits and none is named.
    """
    spec = parse_hub(path)
    with _library(path) as datasets:
        rows = _load(datasets, spec, spec.split)
    if isinstance(rows, dict):
        if len(rows) != 1:
            raise UserError(f"{path}: this dataset has the splits {', '.join(rows)}; name one, as in {path}:SPLIT")
        rows = next(iter(rows.values()))
    with _library(path):
        yield from rows


def hub_hash(path: str | Path) -> str:
    """Return the sha256 of the rows of one split; the library's own fingerprint depends on the times of files."""
    digest = hashlib.sha256()
    for row in read_hub(path):
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _load(datasets: Any, spec: HubSpec, split: str | None) -> Any:
    if not spec.local:
        return datasets.load_dataset(spec.name, spec.config, split=split)
    directory = Path(spec.name).expanduser()
    if not directory.is_dir():
        raise UserError(f"{PREFIX}{spec.name}: there is no such directory; check the path")
    if any((directory / name).exists() for name in ("dataset_dict.json", "state.json")):
        saved = datasets.load_from_disk(str(directory))
        return saved[split] if isinstance(saved, dict) and split else saved
    return datasets.load_dataset(str(directory), split=split)


@contextmanager
def _library(path: str | Path) -> Iterator[Any]:
    """Import the datasets library without its bars and warnings; turn any exception of it into one sentence."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path}: reading it needs the datasets library; install it with {EXTRA}") from None
    bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield datasets
    except (UserError, GeneratorExit):
        raise
    except Exception as error:  # a library's readers of foreign files raise any exception
        raise UserError(
            f"{path}: this dataset cannot be loaded ({first_line(error)}); check its name, config and split, and the "
            "connection"
        ) from error
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
