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
from .peft_process import PeftFailed, ask, has_torch
from .tensors import format_of

LAYER = re.compile(r"^(?P<prefix>.*\blayers)\.(?P<layer>\d+)\.(?P<within>.+)$")
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


def path_in_files(path: str, known: Iterable[str]) -> str:
    """A module of mlx-lm by its name in the base's files; its own name where the files have no other for it."""
    prefix = prefix_of(path)
    if path in known or prefix is None:
        return path
    others = {other for name in known if (other := prefix_of(name)) and is_same_part(other, prefix)}
    found = [name for other in others if (name := renamed(path, prefix, other)) in known]
    return found[0] if len(found) == 1 else path


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


def text_part(model: Any) -> TextPart:
    """The linear layers of a model of mlx-lm."""
    import mlx.nn as nn

    prefix, modules = "", {}
    for path, module in model.named_modules():
        if module is model.layers[0]:
            prefix = path.rpartition(".")[0]
        if isinstance(module, (nn.Linear, nn.QuantizedLinear)):
            rows, columns = module.weight.shape
            bits = module.bits if isinstance(module, nn.QuantizedLinear) else 32
            modules[path] = (rows, columns * 32 // bits)
    return TextPart(prefix, len(model.layers), {p: s for p, s in modules.items() if prefix_of(p) == prefix})


def transformers_names(base: ResolvedModel, adapted: Shapes, in_files: Shapes) -> tuple[dict[str, str], set[str]]:
    """The adapted modules' names in transformers by their names in mlx-lm; and the names of all linear layers there.

    Args:
        adapted: the adapted modules of mlx-lm.
        in_files: every matrix of the base's files.

    Raises:
        UserError: a multimodal base, and its class cannot be asked, or its modules are not those of mlx-lm.
    """
    prefixes = {prefix_of(path) for path in adapted}
    config = json.loads(read_text(base.path / "config.json"))
    if "text_config" not in config and set(adapted) <= set(in_files):
        return {path: path for path in adapted}, set(in_files)
    (prefix,) = prefixes if len(prefixes) == 1 else (None,)
    if prefix is None:
        raise UserError(f"{base.name}: an adapter on modules outside of its text layers cannot be named for PEFT")
    if has_torch():
        known = class_modules(base)
        return _by_prefix(adapted, prefix, class_prefix(base, adapted, in_files, known)), set(known)
    stored = {other for path in adapted if (other := prefix_of(path_in_files(path, in_files)))}
    (other,) = stored if len(stored) == 1 else ("",)
    # Files that have the order of the classes were saved by one.
    if re.fullmatch(r"model\.\w+\.layers", other) and format_of(base.path) == "pt":
        return _by_prefix(adapted, prefix, other), set(in_files)
    raise UserError(
        f"{base.name}: this base is multimodal, and PEFT names its modules as the class in transformers does, which "
        "cannot be asked without torch; install it with `pip install 'mlx-lora[torch]'`, or use `mlx-lora fuse`"
    )


def _by_prefix(paths: Iterable[str], prefix: str, other: str) -> dict[str, str]:
    return {path: renamed(path, prefix, other) for path in paths}


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

    Raises:
        UserError: there is none, or they cannot be told apart.
    """
    text = next(prefix for path in adapted if (prefix := prefix_of(path)))
    stored = prefix_of(path_in_files(next(iter(adapted)), in_files)) or text
    part = {path: shape for path, shape in in_files.items() if prefix_of(path) == stored}

    def found(shapes: Shapes, prefix: str, other: str) -> int:
        return sum(known.get(renamed(path, prefix, other)) == shape for path, shape in shapes.items())

    candidates = {prefix for path in known if (prefix := prefix_of(path))}
    fitting = {other: found(part, stored, other) for other in candidates if found(adapted, text, other) == len(adapted)}
    best = [other for other, count in fitting.items() if count == max(fitting.values())]
    if len(best) != 1:
        raise UserError(
            f"{base.name}: its class in transformers has {'no' if not best else 'more than one set of'} layers like "
            f"mlx-lm's {text}, so the adapter's modules cannot be named for PEFT; use `mlx-lora fuse` instead"
        )
    return best[0]


def mlx_names(file: Path, base: ResolvedModel, paths: Iterable[str], text: str) -> dict[str, str]:
    """Modules' names in mlx-lm by their names in a PEFT file.

    Args:
        text: the prefix of the layers in mlx-lm.

    Raises:
        UserError: a module is in no layer, or not in the text part of the base.
    """
    names = {}
    for path in paths:
        prefix = prefix_of(path)
        if prefix is None:
            raise UserError(f"{file}: {path} is in no layer, which mlx-lm's format cannot hold")
        if not is_same_part(prefix, text):
            raise UserError(
                f"{file}: {path} is not in the text layers of {base.name}, which are all that mlx-lm runs of it "
                f"({text}): this adapter is on another part, or belongs to another base"
            )
        names[path] = renamed(path, prefix, text)
    if len(set(names.values())) != len(names):
        raise UserError(f"{file}: two of its modules would be the same in mlx-lm's {text}, so this adapter is broken")
    return names
