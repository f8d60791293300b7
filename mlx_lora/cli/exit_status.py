"""Exit statuses of the command: 2 for an error, said in one sentence; 130 after Ctrl-C, 143 after SIGTERM."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from ..errors import UserError
from .output import say

# Signals that ended the command; click does not report which interrupt it was.
_received: list[int] = []


def _terminate(number: int, frame: Any) -> NoReturn:
    """Raise KeyboardInterrupt as Ctrl-C does, so that no half-written file is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _received.append(number)
    raise KeyboardInterrupt


@contextmanager
def exit_with_status() -> Iterator[None]:
    """End the process with one sentence and the status of the exception that the block raises."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"), err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        how, number = ("terminated", _received[0]) if _received else ("interrupted", signal.SIGINT)
        _complain(f"{how}; what was complete is kept, nothing is half-written")
        sys.exit(128 + number)
    except OSError as error:
        # Errors of the file system where a path is only inspected: permissions, names that are too long.
        place = error.filename or "the file system"
        _complain(f"{place}: {error.strerror or error}; check the path and its permissions")
        sys.exit(2)
    except MemoryError:
        _complain("there is not enough memory for this; close other programs, or use less data or a smaller model")
        sys.exit(2)


def _complain(sentence: str) -> None:
    """Print one line on standard error, with any names and data in it made printable."""
    say("mlx-lora: " + sentence.replace("\n", "\\n"), err=True)
