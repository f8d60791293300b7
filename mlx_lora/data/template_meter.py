"""Limits of a chat template's rendering: its steps and bytes, and what filters and methods are about to make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import UserError

# Of one rendering. A step is one repeated evaluation of an expression, some hundred nanoseconds.
MOST_STEPS = 10_000_000
MOST_BYTES = 2**28
# Larger input may take more of both: bytes for each of its bytes, and steps for each of its pages.
BYTES_EACH, PAGE = 128, 12
# Values up to this, and twice the input, are not counted.
FREE = 2**16
# Numbers: no template needs more bits, digits or columns.
MOST_BITS, MOST_DIGITS, MOST_COLUMNS = 4096, 300, 10_000
WIDE = re.compile(r"\d{5,}|%[^a-zA-Z%]*\*")
SIZED = (str, bytes, list, tuple, dict, set, frozenset)
# Filters and methods whose result can be far larger than what they are given.
COSTS = {
    "batch",
    "center",
    "format",
    "indent",
    "join",
    "pprint",
    "replace",
    "round",
    "slice",
    "sum",
    "tojson",
    "wordwrap",
}
METHODS = {"center", "expandtabs", "join", "ljust", "replace", "rjust", "to_bytes", "translate", "zfill"}


class TooMuch(UserError):
    """A chat template that does not terminate, or needs too much memory."""


class Meter:
    """The steps and bytes that are left to a rendering, and the size of the largest value that it has made."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.steps, self.bytes, self.largest, self.factor = MOST_STEPS, MOST_BYTES, 0, 1
        self._given, self._input = given, -1

    @property
    def input(self) -> int:
        """Bytes of the input; measured on first use."""
        if self._input < 0:
            self._input = total_of(dict(self._given))
            self.steps += MOST_STEPS * (self._input >> PAGE)
            self.bytes += BYTES_EACH * self._input
        return self._input

    def step(self, count: int) -> None:
        """Count steps, each as many as the largest value has pages."""
        self.steps -= count * self.factor
        if self.steps < 0 and self.input >= 0 and self.steps < 0:
            raise TooMuch("it takes too many steps; its loops have no sensible end")

    def take(self, count: int) -> None:
        """Count bytes that are about to be made."""
        self.bytes -= count
        if self.bytes < 0 and self.input >= 0 and self.bytes < 0:
            raise TooMuch(f"it makes more than {MOST_BYTES >> 20} MiB of text")

    def note(self, size: int) -> None:
        """Record the size of a value that was made."""
        if size > self.largest:
            self.largest, self.factor = size, 1 + (size >> PAGE)
        if size > FREE and size > FREE + 2 * self.input:
            self.take(size)


def total_of(value: Any) -> int:
    """Return the approximate bytes of a printed value, each list as often as it is held."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, SIZED):
        return 0
    total, waiting = 0, [value]
    while waiting and total <= 4 * MOST_BYTES:
        item = waiting.pop()
        total += 64 + (len(item) if isinstance(item, (str, bytes)) else 0)
        if isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
    return total


def filter_bytes(name: str, value: Any, options: tuple[Any, ...]) -> int:
    """Return an upper bound of the bytes that a filter makes."""
    taken, numbers = total_of(value), sum(abs(option) for option in options if isinstance(option, int))
    if name == "format":
        check_columns(str(value))
        return taken + total_of(options)
    if name == "sum" and any(isinstance(option, (list, tuple)) for option in options):
        raise TooMuch("it sums lists")
    if name == "round" and numbers > MOST_DIGITS:
        raise TooMuch(f"it rounds to more than {MOST_DIGITS} digits")
    if name == "replace":
        return taken + _replaced(str(value), *map(str, options[:2]))
    if name == "join":
        pieces = len(value) if hasattr(value, "__len__") else 100_000
        return taken + pieces * total_of(options)
    if name in ("indent", "tojson") and numbers:
        lines = str(value).count("\n") + 1 if name == "indent" else taken // 32
        return taken + numbers * lines + total_of(options) * lines
    if name == "tojson":
        return taken
    return taken + 64 * numbers


def method_bytes(owner: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return an upper bound of the bytes that a method of a plain value makes."""
    options = (*args, *kwargs.values())
    taken, numbers = total_of(owner), sum(abs(option) for option in options if isinstance(option, int))
    if name == "replace":
        return taken + (_replaced(owner, *options[:2]) if isinstance(owner, str) else 0)
    if name == "join":
        pieces = len(args[0]) if args and hasattr(args[0], "__len__") else 100_000
        return total_of(args) + taken * pieces
    if name == "translate":
        table = options[0] if options and isinstance(options[0], dict) else {}
        return taken * (1 + max(map(total_of, table.values()), default=0))
    if name == "expandtabs":
        return taken + (numbers or 8) * (str(owner).count("\t") + 1)
    return taken + numbers


def _replaced(text: str, old: Any = "", new: Any = "") -> int:
    """Return an upper bound of the characters that a replacement adds."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return 0
    return (text.count(old) if old else len(text) + 1) * len(new)


def check_columns(text: str) -> None:
    """Raise TooMuch if a format has columns wider than any template needs."""
    if WIDE.search(text):
        raise TooMuch(f"it prints columns of {MOST_COLUMNS:,} characters or more")
