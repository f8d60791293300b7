"""Parameter name mapping between mlx-lm and a base's files, derived from the model's own ``sanitize``.

mlx-lm renames, stacks, splits and transposes the hub's tensors when it loads them, each model in its own way. A tensor
that passes through unchanged is recognised by its identity. If numbers only move, ``sanitize`` is a selection, whose
transpose (its vector-Jacobian product) maps a change of mlx-lm's weights back to the tensors of the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UserError, guarded
from ..models.resolve import ResolvedModel
from .tensors import Stored

# Integers from here to its double are exact in float32, and none is a small multiple of another.
FIRST = 1 << 20


@dataclass
class HubNames:
    """Mapping of mlx-lm's parameters to the tensors of a base's files.

    Attributes:
        same: the tensor that a parameter is equal to, by the parameter's name.
        made: parameters that are split, stacked or otherwise computed from tensors.
        sanitize: mlx-lm's function, on arrays by the files' names.
        stored: the files' tensors.
    """

    base: str
    same: dict[str, str]
    made: set[str]
    sanitize: Callable[[dict[str, Any]], dict[str, Any]]
    stored: dict[str, Stored] = field(repr=False)

    def known(self, parameter: str) -> bool:
        """Return True if the files have a parameter."""
        return parameter in self.same or parameter in self.made

    def taken_back(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Return the changes of the files' tensors, by name, that change ``made`` parameters as given.

        Args:
            changes: MLX arrays by the parameters' names; lazy, computed when the results are.

        Raises:
            UserError: ``sanitize`` computes the parameters instead of only moving numbers of the files.
        """
        import mlx.core as mx

        if not changes:
            return {}
        wanted, floating = list(changes), [name for name, tensor in self.stored.items() if is_floating(tensor)]
        others = {name: _blank(tensor) for name, tensor in self.stored.items() if name not in floating}

        def chosen(*arrays: Any) -> list[Any]:
            made = self.sanitize({**others, **dict(zip(floating, arrays, strict=True))})
            return [made[name].astype(mx.float32) for name in wanted]

        blanks = [_blank(self.stored[name]) for name in floating]
        with guarded(f"{self.base}: mlx-lm's way of reading its weights cannot be followed backwards"):
            sources = self._sources(chosen, wanted, floating, blanks)
            _, found = mx.vjp(chosen, blanks, list(changes.values()))
            return {name: value for name, value in zip(floating, found, strict=True) if name in sources}

    def _sources(
        self, chosen: Callable[..., list[Any]], wanted: list[str], floating: list[str], blanks: list[Any]
    ) -> set[str]:
        """Return the tensors that the wanted parameters take their numbers from.

        Every tensor is filled with its own random number; sums and multiples of these numbers are not among them.
        """
        import mlx.core as mx

        numbers = np.random.default_rng(0).permutation(FIRST)[: len(floating)] + FIRST
        filled = [mx.full(blank.shape, float(n)) for n, blank in zip(numbers.tolist(), blanks, strict=True)]
        _, marked = mx.jvp(chosen, blanks, filled)
        counts = np.zeros(FIRST, dtype=np.int64)
        for parameter in wanted:
            # Only one is in memory at a time.
            marks = np.array(marked.pop(0)).ravel()
            places = marks.astype(np.int64) - FIRST
            if not ((marks == places + FIRST) & np.isin(places, numbers - FIRST)).all():
                raise UserError(
                    f"{self.base}: mlx-lm computes {parameter} from numbers of the files instead of taking them as "
                    "they are, so a change of it cannot be written into the files; train other modules"
                )
            counts += np.bincount(places, minlength=FIRST)
        times = dict(zip(floating, counts[numbers - FIRST].tolist(), strict=True))
        for name, count in times.items():
            if count > self.stored[name].size:
                raise UserError(
                    f"{self.base}: several modules of mlx-lm share the weights {name} of the files, so they cannot "
                    "have an adapter each; train other modules"
                )
        return {name for name, count in times.items() if count}


def hub_names(base: ResolvedModel, stored: dict[str, Stored]) -> HubNames:
    """Derive the name mapping of a base; its weights are not read.

    Raises:
        UserError: mlx-lm cannot load it.
    """
    from mlx_lm.utils import _get_classes, load_config

    def sanitize(weights: dict[str, Any]) -> dict[str, Any]:
        # A new model each time: sanitize may remove the model's head, and fails if it is already gone.
        with guarded(f"{base.name}: mlx-lm cannot load this model"):
            config = {**load_config(base.path), **base.config_overrides}
            kind, arguments = _get_classes(config=config)
            model = kind(arguments.from_dict(config))
            return model.sanitize(weights) if hasattr(model, "sanitize") else weights

    blank = {name: _blank(tensor) for name, tensor in stored.items()}
    names = {id(array): name for name, array in blank.items()}
    made = sanitize(dict(blank))
    same = {parameter: names[id(array)] for parameter, array in made.items() if id(array) in names}
    return HubNames(base.name, same, set(made) - set(same), sanitize, stored)


def is_floating(tensor: Stored) -> bool:
    """Return True if a tensor holds weights, rather than packed or counted ones."""
    return tensor.dtype in ("F32", "F16", "BF16")


def _blank(tensor: Stored) -> Any:
    """Return an array of a tensor's shape that takes no memory."""
    import mlx.core as mx

    kinds: dict[str, Any] = {"U32": mx.uint32, "I64": mx.int64, "I32": mx.int32, "I16": mx.int16, "I8": mx.int8}
    # MLX treats 8-bit floats as bytes.
    kinds |= dict.fromkeys(("U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), mx.uint8) | {"BOOL": mx.bool_}
    return mx.zeros(tensor.shape, kinds.get(tensor.dtype, mx.float32))
