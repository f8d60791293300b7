"""Texts that nearly repeat an earlier one: MinHash proposes pairs, their true similarity decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

# Jaccard similarity of the sets of word triples from which two texts count as nearly the same.
LEAST = 0.8
WORDS = 3
# 20 bands of 8 hashes propose a pair of similarity 0.8 with probability 0.97, of 0.9 with 1.00, of 0.5 with 0.08
# (1 - (1 - s^8)^20).
BANDS, HASHES = 20, 160
SEED = 7
# Where everything resembles everything, the best of so many proposals are compared in full, of the first so many.
COMPARED, PROPOSED = 3, 1000
# Of a very long text, its beginning stands for the whole.
LONGEST = 20_000
GROUP = 1000
# Chinese, Japanese and Korean are written without spaces: there each character counts as a word.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_CJK}]|[^\\s{_CJK}]+")


def triples(text: str) -> list[str]:
    """The distinct triples of neighbouring words, lower-cased; of a text of fewer words, the text itself."""
    words = (text.lower().split() if text.isascii() else _WORD.findall(text.lower()))[:LONGEST]
    grams = {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}
    return list(grams)


def nearest_before(
    texts: Sequence[str],
    also: Callable[[int, int], bool] = lambda i, j: True,
    advance: Callable[[int], None] = lambda more: None,
) -> list[tuple[int, int, float]]:
    """(i, j, similarity) for each text i that nearly repeats an earlier text j which itself repeats none.

    Args:
        also: what must be true of the pair besides.
        advance: called now and then with how many more texts are done.
    """
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(LEAST, HASHES, BANDS)
    digests = np.empty((len(texts), HASHES), dtype=np.uint64)
    found = []
    for start in range(0, len(texts), GROUP):
        group = [triples(text) for text in texts[start : start + GROUP]]
        for i, hashes in enumerate(RMinHash.from_token_sets(group, HASHES, SEED), start):
            digests[i] = hashes.digest()
            proposed = np.asarray(index.query(hashes)[:PROPOSED], dtype=np.int64)
            best, similarity = -1, 0.0
            if len(proposed):  # the likeliest first
                likely = np.argsort(-(digests[proposed] == digests[i]).sum(axis=1), kind="stable")[:COMPARED]
                mine = set(group[i - start])
                for j in proposed[likely].tolist():
                    true = jaccard(mine, set(triples(texts[j])))
                    if true >= LEAST and true > similarity and also(i, j):
                        best, similarity = j, true
            if best >= 0:
                found.append((i, best, similarity))
            else:
                index.insert(i, hashes)
        advance(len(group))
    return found


def jaccard(a: set[str], b: set[str]) -> float:
    """Size of the intersection over size of the union, 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0
