"""Standard output and standard error of the command: a reader that leaves early ends nothing."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class _Pipe(io.FileIO):
    """A descriptor whose reader may be gone: from then on what is written is dropped, and the exit status is true."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if not isinstance(error, BrokenPipeError):
                raise  # once: a full disk is said, and the flush at exit meets no second one
            return len(data)


def tolerate_closed_pipes() -> None:
    """Replace both streams of the process by ones that survive ``| head`` and any text."""
    # Streams that something else has replaced stay.
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _tolerant(sys.__stdout__, sys.__stdout__.isatty())
    if sys.__stderr__ is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _tolerant(sys.__stderr__, True)


def _tolerant(stream: TextIO, line_buffering: bool) -> TextIO:
    stream.flush()
    buffer = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
    # An encoding without the letter, as in LANG=C, is no reason to fail.
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=line_buffering)
