"""Interface of a scorer, and the reader of a check's options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...errors import UserError, nearest, shortened
from ..cases import Case


@dataclass
class Score:
    """Judgement of one answer.

    Attributes:
        reason: one sentence why the case failed; "" when it passed.
        metrics: values in [0, 1], or counts; a suite averages them over its cases.
    """

    passed: bool
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


class Scorer(Protocol):
    """Function that judges the answer to a case."""

    def __call__(self, case: Case, answer: str) -> Score:
        """Judge an answer."""


@dataclass
class CheckSpec:
    """Check as a suite's file writes it; ``where`` is ``FILE:LINE``, for errors."""

    name: str
    options: Any
    where: str


# (options, where, profile, folder of the suite's file) -> scorer
Factory = Callable[[Any, str, str | None, Path], Scorer]
# (cases, answers, scores) -> metrics over the whole suite
Summarize = Callable[[Sequence[Case], Sequence[str], Sequence[Score]], dict[str, Any]]

# Kinds of option values: the sentence's noun, and the test.
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda value: isinstance(value, str) and bool(value)),
    "texts": (
        "a text or a list of texts, none empty",
        lambda value: all(isinstance(v, str) and v for v in as_list(value)) and bool(as_list(value)),
    ),
    "flag": ("true or false", lambda value: isinstance(value, bool)),
    "share": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "seconds": ("a number of seconds above 0", lambda value: _is_number(value) and 0 < value <= 86_400),
    "object": ("a mapping", lambda value: isinstance(value, Mapping)),
    "any": ("a value", lambda value: True),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of one."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def read_options(options: Any, where: str, name: str, kinds: Mapping[str, str], main: str | None = None) -> dict:
    """Return a check's options as a dictionary that has the given keys only.

    Args:
        kinds: option -> kind of its value, a key of ``_KINDS``.
        main: the option that a value other than a mapping stands for: ``contains: text``.

    Raises:
        UserError: an unknown key, or a value of another kind.
    """
    if options is None or options is True:
        return {}
    if not isinstance(options, Mapping):
        if main is None:
            keys = f"a mapping ({', '.join(kinds)})" if kinds else "without options"
            raise UserError(f"{where}: {name} is written {keys}, not {shortened(options)}")
        options = {main: options}
    for key, value in options.items():
        if key not in kinds:
            if not kinds:
                raise UserError(f"{where}: {name} has no options, and {shortened(key)} is given")
            raise UserError(f"{where}: {name} has no option {shortened(key)}; the nearest is {nearest(key, kinds)!r}")
        noun, fits = _KINDS[kinds[key]]
        if not fits(value):
            raise UserError(f"{where}: {name}: {key} must be {noun}, not {shortened(value)}")
    return dict(options)


def case_error(where: str, case: Case, said: str) -> UserError:
    """Return the error of a case that a check cannot judge."""
    return UserError(f"{where}: case {shortened(case.id)} {said}")


def expected_texts(case: Case, where: str, name: str) -> list[str]:
    """Return the texts of ``expect``.

    Raises:
        UserError: there is none.
    """
    texts = as_list(case.expect)
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise case_error(
            where, case, f"has no text in expect, and {name} has none either; write what the answer should contain"
        )
    return texts


def prompt_text(case: Case) -> str:
    """Return the text of the last message, "" if it has none."""
    content = case.messages[-1].get("content") if case.messages else ""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def quoted(texts: Iterable[str], most: int = 3) -> str:
    """Return texts for a sentence, quoted and shortened, the first ``most`` of them."""
    found = list(texts)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(shortened(text) for text in found[:most]) + more
