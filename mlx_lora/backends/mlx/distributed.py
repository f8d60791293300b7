"""Distributed training on MLX: data-parallel processes, all-reduce and broadcast (`mx.distributed`, `mlx.launch`)."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


def all_reduce_sum(values: Sequence[float], group: mx.distributed.Group) -> list[float]:
    """Return the all-reduce sums over all processes; float32, exact for counts below 16 million."""
    if group.size() == 1:
        return list(values)
    return mx.distributed.all_sum(mx.array(list(values), mx.float32), group=group).tolist()  # type: ignore[return-value]


def broadcast(array: mx.array, group: mx.distributed.Group) -> mx.array:
    """Broadcast the array of rank 0; shape and dtype are the same on every process."""
    return mx.distributed.all_sum(array if group.rank() == 0 else mx.zeros_like(array), group=group)


def broadcast_bytes(message: bytes, group: mx.distributed.Group) -> bytes:
    """Broadcast the bytes of rank 0; those that other processes pass are ignored."""
    if group.size() == 1:
        return message
    length = int(broadcast(mx.array(len(message)), group).item())  # type: ignore[arg-type]
    own = mx.array(list(message), mx.uint8) if group.rank() == 0 else mx.zeros(length, mx.uint8)
    return bytes(broadcast(own, group).tolist())  # type: ignore[arg-type]
