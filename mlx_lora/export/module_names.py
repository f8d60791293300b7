"""Names of a base's modules in mlx-lm, in its files, and in the class of transformers, whose names PEFT's files have.

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

from ..errors import UserError
from ..models.resolve import ResolvedModel
from ..user_files import read_text
from .hub_names import hub_names
from .peft.process import PeftFailed, ask, has_torch
from .tensors import format_of, stored_tensors

# The first number in a path: ``model.layers.0.mlp``, ``transformer.h.0.mlp``.
LAYER = re.compile(r"^(?P<prefix>(?:[^.\d][^.]*\.)*[^.\d][^.]*)\.(?P<layer>\d+)\.(?P<within>.+)$")
# (out, in) of matrices, by the module's path.
Shapes = dict[str, tuple[int, int]]


def prefix_of(path: str) -> str | None:
    """The part before the number of the layer, ``model.layers``; ``None`` for a module in no layer."""
    match = LAYER.match(path)
    return match["prefix"] if match else None


def renamed(path: str, prefix: str, other: str) -> str:
    """A module's path with another prefix."""
    return other + path.removeprefix(prefix)


def is_same_part(prefix: str, text: str) -> bool:
    """Return True if a prefix can be another name of the text part: the same words in another order, or fewer.

    A vision tower has words of its own.
    """
    return not Counter(prefix.split(".")) - Counter(text.split("."))


def paths_in_files(base: ResolvedModel, paths: Iterable[str]) -> dict[str, str]:
    """Modules of mlx-lm by their paths in the base's files; those that are no tensor there are left out."""
    same = hub_names(base, stored_tensors(base.path)).same
    found = {path: same.get(f"{path}.weight", "") for path in paths}
    return {path: name.removesuffix(".weight") for path, name in found.items() if name.endswith(".weight")}


@dataclass
class TextPart:
    """What mlx-lm can adapt of a model.

    Attributes:
        prefix: the path of the layers, ``model.layers``.
        depth: their number.
        modules: (out, in) of each linear layer in them, by its path.
    """

    prefix: str
    depth: int
    modules: Shapes


def linear_layers(model: Any) -> Shapes:
    """The linear layers of a model of mlx-lm."""
    import mlx.nn as nn

    modules = {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.QuantizedLinear)):
            rows, columns = module.weight.shape
            bits = module.bits if isinstance(module, nn.QuantizedLinear) else 32
            modules[path] = (rows, columns * 32 // bits)
    return modules


def text_part(model: Any) -> TextPart:
    """The linear layers of a model of mlx-lm that are in its layers."""
    prefix = next(path for path, module in model.named_modules() if module is model.layers[0]).rpartition(".")[0]
    modules = {path: shape for path, shape in linear_layers(model).items() if prefix_of(path) == prefix}
    return TextPart(prefix, len(model.layers), modules)


def transformers_names(base: ResolvedModel, adapted: Shapes, in_files: Shapes) -> tuple[dict[str, str], set[str]]:
    """The adapted modules' names in transformers by their names in mlx-lm; and the names of all linear layers there.

    Args:
        adapted: the adapted modules of mlx-lm.
        in_files: every matrix of the base's files.

    Raises:
        UserError: a multimodal base, and its class cannot be asked, or its modules are not those of mlx-lm.
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
    # Files that have the order of the classes were saved by one.
    if re.fullmatch(r"model\.\w+\.layers", prefix) and format_of(base.path) == "pt":
        return stored, set(in_files)
    raise UserError(
        f"{base.name}: this base is multimodal, and PEFT names its modules as the class in transformers does, which "
        "cannot be asked without torch; install it with `pip install 'mlx-lora[torch]'`, or use `mlx-lora fuse`"
    )


def class_modules(base: ResolvedModel) -> Shapes:
    """The linear layers of the class that the base's config names, made without weights.

    Raises:
        UserError: transformers has no such class, or cannot make it.
    """
    try:
        found = ask({"action": "modules", "base": str(base.path)})["modules"]
    except PeftFailed as error:
        raise UserError(f"{base.name}: transformers cannot tell the names of its modules ({error})") from error
    return {path: (shape[0], shape[1]) for path, shape in found.items()}


def class_prefix(base: ResolvedModel, adapted: Shapes, in_files: Shapes, known: Shapes) -> str:
    """What stands before the number of a text layer in the class.

    It is the one under which all adapted modules are found in their shapes; of several, the one under which most of
    the text part's other matrices are.

    Args:
        adapted: the adapted modules by their paths in the files.

    Raises:
        UserError: there is none, or they cannot be told apart.
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
    """Modules' names in mlx-lm by their names in a PEFT file.

    Raises:
        UserError: a module is in no layer, or not in the text part of the base.
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
    """The number of a module's layer and its path within."""
    match = LAYER.match(path)
    return (match["layer"], match["within"]) if match else None
