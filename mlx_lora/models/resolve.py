"""Model resolution: from a name to a local directory of safetensors, built-in, local, or from the hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line, guarded
from ..user_files import open_regular, read_text
from .fingerprint import base_fingerprint
from .parameters import read_header

BUILT_IN = {"builtin/tiny-lumen": Path(__file__).parent / "tiny_lumen"}
# Safetensors weights and tokenizer files; never pickles, never code.
HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken"]
# Maximum size of a base's files, by suffix; the largest tokenizers have some 40 MB.
MOST_BYTES = dict.fromkeys((".json", ".txt", ".model", ".tiktoken", ".jinja"), 2**28) | {".safetensors": None}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass
class ResolvedModel:
    """Base model in a local directory.

    Attributes:
        name: name as the user gave it.
        path: absolute path of the local directory.
        revision: commit on the hub, ``None`` for a local or built-in model.
        config_overrides: keys that mlx-lm would not find in ``config.json``.
        chat_template, system_role: as in the config.
    """

    name: str
    path: Path
    revision: str | None
    config_overrides: dict[str, Any]
    chat_template: str | None = None
    system_role: str = "merge"

    @property
    def reference(self) -> str:
        """Name that resolves to this model from any working directory: an absolute path for a local one."""
        return self.name if self.name in BUILT_IN or self.revision is not None else str(self.path)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the weights; an adapter continues only on the base that it was trained on."""
        with guarded(f"{self.name}: this model's weights cannot be read", "; download the model again"):
            return base_fingerprint(self.path)


def is_local(name: str) -> bool:
    """Return True if a name is that of a directory on this machine."""
    return name not in BUILT_IN and Path(name).expanduser().is_dir()


def resolve_model(
    name: str,
    revision: str | None = None,
    *,
    chat_template: str | None = None,
    system_role: str = "merge",
    local: bool = False,
) -> ResolvedModel:
    """Resolve a model and check its files before anything is loaded.

    Args:
        local: True if the name is known to be a local directory, so that the hub is not queried.

    Raises:
        UserError: not found, gated, no network, no safetensors, only pickled weights, or a broken file.
    """
    if name in BUILT_IN:
        path, commit = BUILT_IN[name], None
    elif is_local(name):
        path, commit = Path(name).expanduser().absolute(), None
    elif local:
        raise UserError(
            f"{name}: this adapter was trained on a base in a local directory of that name, and there is none here; "
            "run the command where it was trained, or correct the name in the adapter's run.json"
        )
    elif name.startswith(("builtin/", ".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{name}: there is no such model directory; the built-in model is {', '.join(BUILT_IN)}")
    else:
        path = _from_hub(name, revision)
        commit = path.name
    with guarded(f"{name}: this model's files cannot be read", "; download the model again"):
        check_files(path)
        config = _read_config(path)
        check_weights(path)
        _check_layers(path, config)
        return ResolvedModel(name, path, commit, _rope_overrides(config), chat_template, system_role)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_PATTERNS))
    except errors.GatedRepoError:
        reason = f"this model is gated; accept its licence at https://huggingface.co/{name}, then run `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"the hub has no revision {revision!r} of this model; check model_revision"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private; check the name, or run `hf auth login`"
    except errors.LocalEntryNotFoundError as error:
        # Also raised if the hub answered with an error.
        answered = isinstance(error.__cause__, errors.HfHubHTTPError)
        reason = (
            _failed(error.__cause__)
            if answered
            else (
                "this model is not on this machine and the hub cannot be reached; connect to the network, "
                f"or use a local directory or {', '.join(BUILT_IN)}"
            )
        )
    except errors.HFValidationError:
        reason = "this is neither a local directory nor a name on the hub (owner/model)"
    except (errors.HfHubHTTPError, OSError) as error:
        reason = _failed(error)
    raise UserError(f"{name}: {reason}") from None


def _failed(error: BaseException | None) -> str:
    return f"downloading it from the hub failed ({first_line(error)}); try again"


def check_files(path: Path) -> None:
    """Raise UserError if a file that a library would read is a pipe, a device, or far larger than any model's."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        suffix = Path(entry.name).suffix
        if suffix not in MOST_BYTES or entry.is_dir():
            continue
        try:
            with open_regular(entry.path, MOST_BYTES[suffix]):
                pass
        except FileNotFoundError:  # a broken link
            continue
        except OSError as error:
            raise UserError(
                f"{entry.path}: this file of the model cannot be read ({error.strerror or error}); "
                "download the model again"
            ) from None


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    try:
        config = json.loads(read_text(file))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no config.json, so this is no model directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: the model's config is not readable JSON ({error}); download the model again"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f"{file}: the model's config names no model_type; download the model again")
    if "model_file" in config or ("auto_map" in config and config["model_type"] not in _known_types()):
        raise UserError(f"{file}: this model brings its own code, which is never run here; use another model")
    return config


def _known_types() -> set[str]:
    """Return the architectures that mlx-lm supports, without importing them."""
    import importlib.util

    spec = importlib.util.find_spec("mlx_lm")
    places = spec.submodule_search_locations if spec else None
    return {file.stem for place in places or () for file in (Path(place) / "models").glob("*.py")}


def check_weights(path: Path) -> None:
    """Check that every safetensors file has the length that its header declares.

    Raises:
        UserError: no safetensors, only pickles, a missing shard, or a broken file.
    """
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        pickled = next((f.name for pattern in PICKLES for f in sorted(path.glob(pattern))), None)
        if pickled:
            raise UserError(
                f"{path / pickled}: these weights are pickled, which can run code when opened; "
                "convert the model to safetensors first"
            )
        raise UserError(
            f"{path}: there are no weights (model*.safetensors) in this directory; download the model again"
        )
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            wanted = set(json.loads(read_text(index))["weight_map"].values())
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: the list of weight files is broken; download the model again") from error
        missing = sorted(wanted - {file.name for file in files})
        if missing:
            raise UserError(f"{path}: the weight file {missing[0]} is missing; download the model again")
    for file in files:
        check_safetensors(file)


def _check_layers(path: Path, config: dict[str, Any]) -> None:
    """Raise UserError if the config declares more layers than the weights have: libraries would build them all."""
    tensors = sum(len(read_header(file)) for file in path.glob("model*.safetensors"))
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for key in ("num_hidden_layers", "num_layers", "n_layers", "n_layer"):
        for part in parts:
            if isinstance(part.get(key), (int, float)) and part[key] > tensors:
                raise UserError(
                    f"{path / 'config.json'}: it says {key} {part[key]} and the weights are {tensors} tensors; "
                    "download the model again"
                )


def check_safetensors(file: Path) -> None:
    """Raise UserError if the file is truncated or not a safetensors file; only its header is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(file), safe_open(str(file), framework="numpy") as tensors:
            tensors.keys()
    except (SafetensorError, OSError, OverflowError) as error:
        raise UserError(
            f"{file}: this safetensors file is truncated or broken ({first_line(error)}); download it again"
        ) from error


def _rope_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """Return transformers 5's ``rope_parameters`` as ``rope_theta`` and ``rope_scaling``, which mlx-lm reads."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope or "rope_theta" in config:
        return {}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    plain = scaling.get("rope_type", "default") == "default"
    return {"rope_theta": rope["rope_theta"], **({} if plain else {"rope_scaling": scaling})}
