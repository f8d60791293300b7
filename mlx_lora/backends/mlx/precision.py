"""Precision on a CPU: float32 in place of narrower floats, since MLX has a BLAS for float32 alone."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ...memory import memory_sizes

NARROW = {mx.bfloat16: "bfloat16", mx.float16: "float16"}
# Share of total memory that a base may take in float32. Free memory would vary: a run must resume in the same dtype.
SHARE = 0.5


def widen(model: nn.Module, name: str) -> tuple[bool, list[str]]:
    """Convert a base's narrow floats to float32 if this is a CPU and they fit; leave a quantized base as it is.

    Returns:
        True if they are float32 now, and a note that says so, or why they are not.
    """
    found = dict(tree_flatten(model.parameters()))
    narrow = {key: value for key, value in found.items() if value.dtype in NARROW}
    if mx.default_device() != mx.Device(mx.cpu) or not narrow or any(v.dtype == mx.uint32 for v in found.values()):
        return False, []
    stored = " and ".join(sorted({NARROW[value.dtype] for value in narrow.values()}))
    size, memory = 4 * sum(value.size for value in found.values()), memory_sizes()[0]
    if size > SHARE * memory:
        return False, [
            f"{name}: its {stored} weights are computed with as they are, which is slow on a CPU: in float32 they "
            f"would take {size / 1e9:.1f} of {memory / 1e9:.0f} GB"
        ]
    del found
    for key in list(narrow):
        # One by one, so that at most one tensor exists in both types.
        wide = narrow.pop(key).astype(mx.float32)
        mx.eval(wide)
        model.update(tree_unflatten([(key, wide)]))
    return True, [f"{name}: its {stored} weights are computed with in float32, which is faster on a CPU"]
