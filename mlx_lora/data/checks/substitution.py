"""Name substitution: rows that differ in one name (a word, or two capitalised ones) replaced wherever it occurs.

Such rows can be short, and the name can occur often, so that similarity does not find them. Instead each word of a row
is blanked out in turn: two rows with the same hash thereafter differ in that word alone.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..dedup import CJK

# Words of a prompt that make it a statement about a name which the answer repeats ("Anna has 3 apples"), and one in
# which a name that the answer does not repeat is a small part.
LEAST_WORDS, LEAST_WORDS_ALONE = 4, 8
# Longer rows that differ in a name are similar enough for :mod:`~mlx_lora.data.dedup`.
MOST_CHARACTERS = 8000
SEED = 7
# Words, the parts of names such as ButtonProps and data_file, and single other characters.
_TOKEN = re.compile(f"[{CJK}]|[^\\W_{CJK}](?:[^\\W_{CJK}A-Z]|(?<![a-z0-9])[A-Z])*|[^\\w\\s]|_")


def tokens(text: str) -> list[str]:
    """Split a text into words, parts of compound identifiers, and single other characters."""
    return _TOKEN.findall(text)


def is_name(token: str) -> bool:
    """Return True for a word with letters; numbers carry the content of a row, and so does each Chinese character."""
    return any(c.isalpha() for c in token) and (token.isascii() or len(token) > 1)


def renamed_pairs(rows: Sequence[tuple[str, str]]) -> list[tuple[int, int, str, str]]:
    """Find (i, j, name of i, name of j) of each row (prompt, answer) that equals an earlier one up to one name.

    The name is in the prompt, and is replaced in the answer too wherever it occurs there. Of one i the first j counts.
    """
    ids: dict[str, int] = {}
    shapes: dict[tuple[int, int], list[tuple[int, list[int]]]] = defaultdict(list)
    for i, row in enumerate(rows):
        if sum(map(len, row)) <= MOST_CHARACTERS:
            prompt, answer = map(tokens, row)
            if len(prompt) < LEAST_WORDS:
                continue
            line = [ids.setdefault(token, len(ids)) for token in prompt + answer]
            shapes[len(prompt), len(answer)].append((i, line))
    vocabulary = _Vocabulary(list(ids))
    first: dict[int, tuple[int, str, str]] = {}
    for (prompt_length, _), members in shapes.items():
        if len(members) > 1:
            places = [i for i, _ in members]
            lines = np.array([line for _, line in members], dtype=np.int64)
            for a, b, name, other in _within(lines, prompt_length, vocabulary):
                i, j = places[a], places[b]
                if i not in first or j < first[i][0]:
                    first[i] = (j, name, other)
    return [(i, *pair) for i, pair in sorted(first.items())]


class _Vocabulary:
    """Per token id: a random value to hash with, and the kind of word."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.random = np.random.default_rng(SEED)
        self.value: np.ndarray = self.random.integers(0, 2**64, len(names), dtype=np.uint64)
        self.name = np.array([is_name(name) for name in names], dtype=bool)
        self.capital = np.array([name[0].isupper() for name in names], dtype=bool)
        self.word = np.array([name[0].isalnum() for name in names], dtype=bool)


def _within(lines: np.ndarray, prompt: int, words: _Vocabulary) -> Iterator[tuple[int, int, str, str]]:
    """Yield pairs of rows of one shape, (later, earlier, its name, the earlier's); ``lines`` [rows, tokens] of ids."""
    hashes, blanked = _blanked(lines, prompt, words)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    sizes = np.diff(np.append(starts, len(ordered)))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        earlier, *name = blanked[order[start]].tolist()
        for place in order[start + 1 : start + size].tolist():
            later, *other = blanked[place].tolist()
            if _renamed(lines[later], lines[earlier], other, name):
                said = (" ".join(words.names[word] for word in each if word >= 0) for each in (other, name))
                yield later, earlier, *said


def _renamed(line: np.ndarray, earlier: np.ndarray, name: list[int], other: list[int]) -> bool:
    """Return True if the two lines are equal up to the name; the hashes alone could be equal by chance."""
    changed = np.zeros(len(line), dtype=bool)
    for word, replaced in zip(name, other, strict=True):
        here = line == word
        if word >= 0 and not np.array_equal(here, earlier == replaced):
            return False
        changed |= here
    return name != other and np.array_equal(line[~changed], earlier[~changed])


def _blanked(lines: np.ndarray, prompt: int, words: _Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of rows with one name blanked out, and [.., 3] the row and the 1 or 2 words (or -1)."""
    rows, length = lines.shape
    size = len(words.names)
    weights: Any = words.random.integers(0, 2**64, length, dtype=np.uint64)
    blanks: np.ndarray = words.random.integers(0, 2**64, 2, dtype=np.uint64)
    whole = (words.value[lines] * weights).sum(axis=1, dtype=np.uint64)
    # Occurrences of each word of each row, next to each other.
    keys = (np.arange(rows)[:, None] * size + lines).ravel()
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    place = order % length
    weight = np.add.reduceat(weights[place], starts)
    distinct = keys[order][starts]
    row, word = np.divmod(distinct, size)
    asked, repeated = place[starts] < prompt, np.maximum.reduceat(place, starts) >= prompt
    counted = words.word[lines[:, :prompt]].sum(axis=1)
    long = np.where(repeated, counted[row] >= LEAST_WORDS, counted[row] >= LEAST_WORDS_ALONE)
    one = words.name[word] & asked & long
    single = whole[row] + (blanks[0] - words.value[word]) * weight

    # First and last names: neighbours in the prompt.
    left, right = lines[:, : prompt - 1], lines[:, 1:prompt]
    capital = words.capital & words.name
    r, p = np.nonzero(capital[left] & capital[right] & (left != right) & (counted[:, None] >= LEAST_WORDS_ALONE))
    u, v = left[r, p], right[r, p]
    at_u, at_v = np.searchsorted(distinct, r * size + u), np.searchsorted(distinct, r * size + v)
    double = single[at_u] + (blanks[1] - words.value[v]) * weight[at_v]
    names = np.concatenate([np.stack([row, word, np.full_like(word, -1)], 1)[one], np.stack([r, u, v], 1)])
    hashes = np.concatenate([single[one], double])
    by_row = np.argsort(names[:, 0], kind="stable")
    return hashes[by_row], names[by_row]
