"""Near-duplicate search: MinHash proposes pairs of rows, and the Jaccard similarity of each text decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, islice, pairwise

import numpy as np

# Minimum Jaccard similarity of the multisets of word bigrams of two near-duplicate texts: one changed
# word costs two of n + 1 pairs on each side, so that 17 words may differ in one of them, 35 in two.
THRESHOLD = 0.8
# 25 bands of 8 hashes, divided among a row's texts, propose a row whose prompt and answer are both 0.8 alike with
# probability 0.99, one of an equal answer and a prompt that is 0.3 alike with 0.18 (1 - (1 - p^4 a^4)^25).
BANDS, ROWS = 25, 8
SEED = 7
# Where everything resembles everything, PROPOSED candidates of the rarest bands are compared, the best in full.
COMPARED, PROPOSED = 4, 300
# A very long text is represented by its beginning.
LONGEST = 20_000
GROUP = 1000
# Chinese, Japanese and Korean are written without spaces: there each character counts as a word.
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
# Trailing punctuation, which does not distinguish rows.
_STOPS = ".,;:!?…。、！？"
_STOP = re.compile(f"[{_STOPS}]")


def words(text: str) -> list[str]:
    """Split a text into lower-case words, without trailing punctuation."""
    lower = text.lower()
    raw = (lower.split() if text.isascii() else _WORD.findall(lower))[:LONGEST]
    return [word for part in raw if (word := part.rstrip(_STOPS))] if _STOP.search(lower) else raw


def bigrams(text: str) -> set[str]:
    """Return the word bigrams of a text, its ends included; a repeated bigram carries its number."""
    pairs = [f"{a} {b}" for a, b in pairwise(["\n", *words(text), "\n"])]
    distinct = set(pairs)
    if len(distinct) == len(pairs):
        return distinct
    counts: dict[str, int] = {}
    for i, pair in enumerate(pairs):
        counts[pair] = number = counts.get(pair, 0) + 1
        if number > 1:
            pairs[i] = f"{pair}\n{number}"
    return set(pairs)


def jaccard(a: set[str], b: set[str]) -> float:
    """Return the Jaccard similarity of two sets: intersection over union, 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_pairs(
    rows: Sequence[tuple[str, ...]], advance: Callable[[int], None] = lambda more: None
) -> list[tuple[int, int, float]]:
    """Find (i, j, similarity) of each row i that nearly repeats an earlier row j which itself repeats none.

    A row is one text or several (prompt and answer), each of which must be alike on its own: the least of their
    similarities is the pair's. Of one i there can be several pairs.

    Args:
        advance: called at intervals with the number of further rows done.
    """
    from rensa import RMinHash

    sides = len(rows[0]) if rows else 1
    hashes = BANDS * ROWS // sides
    digests = np.empty((len(rows), sides, hashes), dtype=np.uint32)
    mix = np.random.default_rng(SEED).integers(0, 2**64, (BANDS, ROWS), dtype=np.uint64)
    buckets: dict[int, list[int]] = {}
    found = []
    for start in range(0, len(rows), GROUP):
        group = [[bigrams(text) for text in row] for row in rows[start : start + GROUP]]
        stop = start + len(group)
        for side in range(sides):
            sets = RMinHash.from_token_sets([list(grams[side]) for grams in group], hashes, SEED)
            digests[start:stop, side] = [minhash.digest() for minhash in sets]
        bands = digests[start:stop].reshape(len(group), sides, BANDS, -1).swapaxes(1, 2).reshape(-1, BANDS, ROWS)
        keys = (bands * mix).sum(axis=2, dtype=np.uint64).tolist()
        for i, grams in enumerate(group, start):
            pairs = []
            for j in _most_similar(digests, i, [buckets[key] for key in keys[i - start] if key in buckets]):
                similarity = min(jaccard(a, bigrams(b)) for a, b in zip(grams, rows[j], strict=True))
                if similarity >= THRESHOLD:
                    pairs.append((i, j, similarity))
            found += pairs
            if not pairs:
                for key in keys[i - start]:
                    buckets.setdefault(key, []).append(i)
        advance(len(group))
    return found


def _most_similar(digests: np.ndarray, i: int, proposals: Sequence[Sequence[int]]) -> list[int]:
    """Return the proposed rows whose least similar text agrees with row i's in the most hashes."""
    if not proposals:
        return []
    smallest_first: list[Sequence[int]] = sorted(proposals, key=len)
    chosen = dict.fromkeys(islice(chain.from_iterable(smallest_first), PROPOSED))
    proposed = np.fromiter(chosen, dtype=np.int64)
    agreed = (digests[proposed] == digests[i]).sum(axis=2).min(axis=1)
    return proposed[np.argsort(-agreed, kind="stable")[:COMPARED]].tolist()
