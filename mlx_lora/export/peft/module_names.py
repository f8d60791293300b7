"""Module names of a base in mlx-lm, in its files, and in its transformers class (the names in PEFT's files).

A text model has the same names everywhere. In a multimodal checkpoint the text part is ``language_model.model.layers``
in mlx-lm, that or ``model.language_model.layers`` in the files, and the latter in most classes since transformers 4.52.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...models.resolve import ResolvedModel
from ...user_files import read_text
from ..adapter import Shapes, linear_layers
from ..hub_names import hub_names
from ..tensors import format_of, stored_tensors
from .process import PeftFailed, ask, has_torch

# The layer index is the first number in a path: ``model.layers.0.mlp``, ``transformer.h.0.mlp``.
LAYER = re.compile(r"^(?P<prefix>(?:[^.\d][^.]*\.)*[^.\d][^.]*)\.(?P<layer>\d+)\.(?P<within>.+)$")


def prefix_of(path: str) -> str | None:
    """Return the part before the layer index, ``model.layers``; ``None`` for a module outside the layers."""
    match = LAYER.match(path)
    return match["prefix"] if match else None


def renamed(path: str, prefix: str, other: str) -> str:
    """Return a module's path with another prefix."""
    return other + path.removeprefix(prefix)


def is_same_part(prefix: str, text: str) -> bool:
    """Return True if a prefix can be another name of the text part: the same words in another order, or fewer.

    A vision tower has words of its own.
    """
    return not Counter(prefix.split(".")) - Counter(text.split("."))


def paths_in_files(base: ResolvedModel, paths: Iterable[str]) -> dict[str, str]:
    """Map mlx-lm's modules to their paths in the base's files; those that are not a tensor there are left out."""
    same = hub_names(base, stored_tensors(base.path)).same
    found = {path: same.get(f"{path}.weight", "") for path in paths}
    return {path: name.removesuffix(".weight") for path, name in found.items() if name.endswith(".weight")}


@dataclass
class TextPart:
    """Adaptable text part of a model in mlx-lm.

    Attributes:
        prefix: the path of the layers, ``model.layers``.
        depth: number of layers.
        modules: (out, in) of each linear layer in them, by its path.
    """

    prefix: str
    depth: int
    modules: Shapes


def text_part(model: Any) -> TextPart:
    """Return the text part of a model of mlx-lm: the linear layers inside its decoder layers."""
    prefix = next(path for path, module in model.named_modules() if module is model.layers[0]).rpartition(".")[0]
    modules = {path: shape for path, shape in linear_layers(model).items() if prefix_of(path) == prefix}
    return TextPart(prefix, len(model.layers), modules)


def transformers_names(base: ResolvedModel, adapted: Shapes, in_files: Shapes) -> tuple[dict[str, str], set[str]]:
    """Map adapted modules of mlx-lm to their names in transformers; also return all linear layers there.

    Args:
        adapted: the adapted modules of mlx-lm.
        in_files: every matrix of the base's files.

    Raises:
        UserError: a multimodal base whose class cannot be inspected, or whose modules do not match mlx-lm's.
    """
    stored = paths_in_files(base, adapted)
    for path in adapted:
        if path not in stored:
            raise UserError(
                f"{base.name}: its files hold {path} split, stacked or transposed, and PEFT cannot adapt it as one "
                "linear layer; use `mlx-lora fuse` instead"
            )
    config = json.loads(read_text(base.path / "config.json"))
    if "text_config" not in config:
        return stored, set(in_files)
    shapes = {stored[path]: shape for path, shape in adapted.items()}
    prefixes = {prefix_of(path) for path in shapes}
    (prefix,) = prefixes if len(prefixes) == 1 else (None,)
    if prefix is None:
        raise UserError(f"{base.name}: an adapter on modules outside of its text layers cannot be named for PEFT")
    if has_torch():
        known = class_modules(base)
        other = class_prefix(base, shapes, in_files, known)
        return {path: renamed(name, prefix, other) for path, name in stored.items()}, set(known)
    # Files whose names have the class's order of words were saved from that class.
    if re.fullmatch(r"model\.\w+\.layers", prefix) and format_of(base.path) == "pt":
        return stored, set(in_files)
    raise UserError(
        f"{base.name}: this base is multimodal, and PEFT names its modules as the class in transformers does, which "
        "cannot be asked without torch; install it with `pip install 'mlx-lora[torch]'`, or use `mlx-lora fuse`"
    )


def class_modules(base: ResolvedModel) -> Shapes:
    """Return the linear layers of the class that the base's config names, instantiated without weights.

    Raises:
        UserError: transformers has no such class, or cannot instantiate it.
    """
    try:
        found = ask({"action": "modules", "base": str(base.path.absolute())})["modules"]
    except PeftFailed as error:
        raise UserError(f"{base.name}: transformers cannot tell the names of its modules ({error})") from error
    return {path: (shape[0], shape[1]) for path, shape in found.items()}


def class_prefix(base: ResolvedModel, adapted: Shapes, in_files: Shapes, known: Shapes) -> str:
    """Return the prefix of the text layers in the class.

    All adapted modules exist under it with their shapes; among several such prefixes, it is the one with most of the
    text part's other matrices.

    Args:
        adapted: the adapted modules by their paths in the files.

    Raises:
        UserError: there is none, or several fit equally well.
    """
    text = next(prefix for path in adapted if (prefix := prefix_of(path)))
    part = {path: shape for path, shape in in_files.items() if prefix_of(path) == text}

    def found(shapes: Shapes, prefix: str, other: str) -> int:
        return sum(known.get(renamed(path, prefix, other)) == shape for path, shape in shapes.items())

    candidates = {prefix for path in known if (prefix := prefix_of(path))}
    fitting = {other: found(part, text, other) for other in candidates if found(adapted, text, other) == len(adapted)}
    best = [other for other, count in fitting.items() if count == max(fitting.values())]
    if len(best) != 1:
        raise UserError(
            f"{base.name}: its class in transformers has {'no' if not best else 'more than one set of'} layers like "
            f"the {text} of its files, so the adapter's modules cannot be named for PEFT; use `mlx-lora fuse` instead"
        )
    return best[0]


def mlx_names(file: Path, base: ResolvedModel, paths: Iterable[str], part: TextPart) -> dict[str, str]:
    """Map module names in a PEFT file to mlx-lm's.

    Raises:
        UserError: a module is outside the layers, or not in the text part of the base.
    """
    places = {_place(stored): path for path, stored in paths_in_files(base, part.modules).items()}
    names = {}
    for path in paths:
        prefix = prefix_of(path)
        if prefix is None:
            raise UserError(f"{file}: {path} is in no layer, which mlx-lm's format cannot hold")
        if not is_same_part(prefix, part.prefix):
            raise UserError(
                f"{file}: {path} is not in the text layers of {base.name}, which are all that mlx-lm runs of it "
                f"({part.prefix}): this adapter is on another part, or belongs to another base"
            )
        names[path] = places.get(_place(path)) or renamed(path, prefix, part.prefix)
    if len(set(names.values())) != len(names):
        raise UserError(
            f"{file}: two of its modules would be the same in mlx-lm's {part.prefix}, so this adapter is broken"
        )
    return names


def _place(path: str) -> tuple[str, str] | None:
    """Return a module's layer index and its path within the layer."""
    match = LAYER.match(path)
    return (match["layer"], match["within"]) if match else None
