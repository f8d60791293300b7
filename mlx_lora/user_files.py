"""User file reader: regular files of a bounded size, so that no pipe or device blocks a command."""

from __future__ import annotations

import errno
import os
import stat
import sys
from io import BufferedReader
from pathlib import Path

from .errors import UserError

# Maximum bytes of settings that a person wrote.
MOST_SETTINGS = 2**18
# Maximum bytes of JSON and text that is parsed as a whole; parsed, it takes up to some twenty times this.
MOST_TEXT = 32 * 2**20


class UnusableFile(OSError):
    """The reason that a file is not read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.strerror = reason


def open_regular(path: str | Path, most: int | None = None) -> BufferedReader:
    """Open a regular file for reading, without waiting for the other end of a pipe.

    Args:
        most: maximum size in bytes.

    Raises:
        OSError: there is no such file, it is not a regular one, it is larger, or it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFile("this is not a file but a pipe or a device")
        if most is not None and status.st_size > most:
            raise UnusableFile(f"it has {status.st_size:,} bytes, and at most {most:,} are read")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, most: int = MOST_TEXT) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: see ``open_regular``.
    """
    with open_regular(path, most) as file:
        # Some files, as those of /proc, report a size of 0.
        content = file.read(most + 1)
    if len(content) > most:
        raise UnusableFile(f"it has more than {most:,} bytes")
    return content


def read_text(path: str | Path, most: int = MOST_TEXT, encoding: str = "utf-8") -> str:
    """Return the text of a regular file, its line ends as ``\\n``.

    Raises:
        OSError: see ``open_regular``.
        UnicodeDecodeError: it is in another encoding.
    """
    return read_bytes(path, most).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_standard_input(most: int = MOST_TEXT) -> bytes:
    """Return the content of standard input.

    Raises:
        UserError: it is too long, as /dev/zero is.
    """
    content = sys.stdin.buffer.read(most + 1)
    if len(content) > most:
        raise UserError(f"standard input has more than {most:,} bytes; write it to several commands")
    return content
