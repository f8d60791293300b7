"""The one error a user's input or surroundings can cause: one sentence, exit status 2, no traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Control characters but newline and tab, with which data could steer a terminal, and unpaired surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]|\r(?!\n)")


# Characters of what a library says: some quote the whole of a file.
LONGEST = 300


class UserError(Exception):
    """Says which file and line, what is wrong and what to do, in one sentence."""


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


def first_line(error: BaseException | None, lines: int = 1) -> str:
    """The beginning of what an error says, for a sentence of our own; the error's kind where it says nothing."""
    if isinstance(error, KeyError):
        return f"{error} is missing"[-LONGEST:]
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(said[:lines]) or type(error).__name__
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


@contextmanager
def guarded(said: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a library raises on a foreign file into one sentence.

    Everything but an interrupt and our own errors is caught: a broken file makes libraries recurse, exit or panic
    (RecursionError, SystemExit, and Rust panics, which are BaseExceptions).

    Args:
        said: the file or model and what cannot be done with it.
        advice: what to do, appended after the library's own words.

    Raises:
        UserError: the sentence.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise UserError(f"{said} ({first_line(error, 2)}){advice}") from error
