"""Several processes that train one adapter, each on its own examples (torch.distributed, torchrun, accelerate)."""

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
    """This process among those that were launched together."""

    rank: int = 0
    size: int = 1


def join() -> Processes:
    """Meet the processes that torchrun or accelerate launched with this one; alone where none did.

    Raises:
        UserError: the environment speaks of other processes, and not of how to meet them.
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
        # What lies on the host goes through gloo, in either case.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(distributed.destroy_process_group)
    return Processes(distributed.get_rank(), distributed.get_world_size())


def summed(values: Sequence[float], processes: Processes) -> list[float]:
    """Sums over all processes, in float64."""
    if processes.size == 1:
        return list(values)
    total = torch.tensor(list(values), dtype=torch.float64)
    distributed.all_reduce(total)
    return total.tolist()


def sum_all(tensors: Iterable[torch.Tensor], processes: Processes) -> None:
    """Replace tensors of one dtype by their sums over all processes, in one message."""
    if processes.size == 1:
        return
    tensors = list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def from_leader(tensor: torch.Tensor, processes: Processes) -> torch.Tensor:
    """The first process's tensor, on the host; shape and dtype are the same everywhere."""
    if processes.size > 1:
        tensor = tensor.contiguous()
        # As bytes, since gloo does not know every dtype.
        distributed.broadcast(tensor.view(-1).view(torch.uint8), src=0)
    return tensor


def message_from_leader(message: bytes, processes: Processes) -> bytes:
    """The first process's bytes, whatever the others give."""
    if processes.size == 1:
        return message
    length = int(from_leader(torch.tensor(len(message)), processes))
    own = list(message) if processes.rank == 0 else [0] * length
    return bytes(from_leader(torch.tensor(own, dtype=torch.uint8), processes).tolist())
