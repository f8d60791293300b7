"""Reader of the files that Weights & Biases writes offline, which it keeps in memory for as long as they are small.

A file is LevelDB's log: a header, then blocks of 32 KiB with messages of protobuf, each in one part or several.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEADER = 32 * 1024, 7
WHOLE, LAST = 1, 4


def messages(file: Path) -> Iterator[bytes]:
    """Yield the messages of a file, as far as it was written."""
    content, place, message = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += HEADER + length
        if place > len(content):
            return
        message += content[place - length : place]
        if kind in (WHOLE, LAST):
            yield message
            message = b""


def last_step(place: Path, run_id: str) -> int:
    """Return the last step of a run that earlier processes recorded below ``place``, 0 for none."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = place.glob(f"wandb/offline-run-*-{run_id}/*.wandb")
    return max((Record.FromString(each).history.step.num for file in files for each in messages(file)), default=0)
