"""Float32 in place of narrower floats on a CPU: MLX has a BLAS for float32 alone, and is many times slower without."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ...memory import memory_sizes

NARROW = {mx.bfloat16: "bfloat16", mx.float16: "float16"}
# The share of the machine's memory that a base may take in float32. Not of what is free: a run resumes in the same.
SHARE = 0.5


def widen(model: nn.Module, name: str) -> tuple[bool, list[str]]:
    """Make a base's narrow floats float32 if this is a CPU and they fit; a quantized base stays as it is.

    Returns:
        True if they are float32 now, and the sentence that says so, or why they are not.
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
        # One by one, so that no more than one tensor is there in both.
        wide = narrow.pop(key).astype(mx.float32)
        mx.eval(wide)
        model.update(tree_unflatten([(key, wide)]))
    return True, [f"{name}: its {stored} weights are computed with in float32, which is faster on a CPU"]
