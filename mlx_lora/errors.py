"""User errors: any error that input or surroundings cause is one sentence and exit status 2, without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Control characters except newline and tab, with which data could control a terminal, and unpaired surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]|\r(?!\n)")


# Maximum characters of a library's message: some quote a whole file.
LONGEST = 300


class UserError(Exception):
    """An error that says which file and line, what is wrong and what to do, in one sentence."""


def visible(text: str) -> str:
    """Return a text that can be printed: control characters and unpaired surrogates as ``\\uXXXX``, as in JSON."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(value: Any, length: int = 60) -> str:
    """Return ``repr`` of a value for a message, however large the value is."""
    try:
        text = repr(value[:length] if isinstance(value, str) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; thousands of brackets
        return f"a large {type(value).__name__}"
    return text if len(text) <= length else text[:length] + "…"


def nearest(name: Any, names: Iterable[str]) -> str:
    """Return the name that is most like another, for a message; there must be one."""
    return difflib.get_close_matches(shortened(name).strip("'\""), list(names), n=1, cutoff=0.0)[0]


def first_line(error: BaseException | None, lines: int = 1) -> str:
    """Return the first lines of an error's message, for a sentence of our own; the error's type if it has none."""
    if isinstance(error, KeyError):
        return f"{error} is missing"[-LONGEST:]
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(said[:lines]) or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


@contextmanager
def guarded(said: str, advice: str = "") -> Iterator[None]:
    """Turn any exception that a library raises on a foreign file into one sentence.

    Everything but an interrupt and our own errors is caught: a broken file makes libraries recurse, exit or panic
    (RecursionError, SystemExit, and Rust panics, which are BaseExceptions).

    Args:
        said: the file or model and the operation that fails.
        advice: the recommended action, appended after the library's own message.

    Raises:
        UserError: the sentence.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{said} ({first_line(error, 2)}){advice}") from error
