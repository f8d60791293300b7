"""Distributed training on torch: data-parallel processes, all-reduce and broadcast (torchrun, accelerate)."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import distributed

from ...errors import UserError, first_line


@dataclass(frozen=True)
class Processes:
    """Rank and world size of this process."""

    rank: int = 0
    size: int = 1


def join() -> Processes:
    """Join the process group that torchrun or accelerate launched; without one, return rank 0 of 1.

    Raises:
        UserError: the environment names a world size, but not how to reach the other processes.
    """
    try:
        return _join(int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, but this process cannot meet others ({first_line(error)}); "
            "launch it with torchrun, or unset WORLD_SIZE"
        ) from error


def _join(size: int) -> Processes:
    if size == 1:
        return Processes()
    if not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # Host tensors go through gloo in either case.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def all_reduce_sum(values: Sequence[float], processes: Processes) -> list[float]:
    """Return the all-reduce sums over all processes, in float64."""
    if processes.size == 1:
        return list(values)
    total = torch.tensor(list(values), dtype=torch.float64)
    distributed.all_reduce(total)
    return total.tolist()


def sum_all(tensors: Iterable[torch.Tensor], processes: Processes) -> None:
    """All-reduce tensors of one dtype in place, in one message."""
    if processes.size == 1:
        return
    tensors = list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def broadcast(tensor: torch.Tensor, processes: Processes) -> torch.Tensor:
    """Broadcast the tensor of rank 0; return it on the host. Shape and dtype are the same on every process."""
    if processes.size > 1:
        tensor = tensor.contiguous()
        # As bytes, since gloo does not support every dtype.
        distributed.broadcast(tensor.view(-1).view(torch.uint8), src=0)
    return tensor


def broadcast_bytes(message: bytes, processes: Processes) -> bytes:
    """Broadcast the bytes of rank 0; those that other processes pass are ignored."""
    if processes.size == 1:
        return message
    length = int(broadcast(torch.tensor(len(message)), processes))
    own = list(message) if processes.rank == 0 else [0] * length
    return bytes(broadcast(torch.tensor(own, dtype=torch.uint8), processes).tolist())
