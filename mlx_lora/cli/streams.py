"""Standard output and standard error of the command: a closed pipe (``| head``) is not an error."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


class _Pipe(io.FileIO):
    """A descriptor whose reader may be gone: further output is then dropped, and the exit status is unchanged."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if not isinstance(error, BrokenPipeError):
                raise  # once: a full disk is reported, and the flush at exit raises no second error
            return len(data)


def tolerate_closed_pipes() -> None:
    """Replace both streams of the process by ones that survive ``| head`` and any text."""
    # Streams that other code has replaced stay.
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _tolerant(sys.__stdout__, sys.__stdout__.isatty())
    if sys.__stderr__ is not None and sys.stderr is sys.__stderr__:
        sys.stderr = _tolerant(sys.__stderr__, True)


def _tolerant(stream: TextIO, line_buffering: bool) -> TextIO:
    stream.flush()
    buffer = io.BufferedWriter(_Pipe(stream.fileno(), "w", closefd=False))
    # A character missing from the encoding, as with LANG=C, is not a failure.
    return io.TextIOWrapper(buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=line_buffering)
