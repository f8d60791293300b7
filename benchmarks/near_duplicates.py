"""Recall and precision of the near-duplicate index beside MinHash, on random pairs of texts around the threshold.

    pip install rensa && python benchmarks/near_duplicates.py [--pairs 10000] [--out benchmarks/near_duplicates]

Each pair is a text of words of Zipf's distribution and a copy in which some of them are replaced, as many as bring the
similarity near the threshold. All texts are looked up in one index, one after the other. A row of data check has two
sides, prompt and answer; an answer of an agent's buffer has one, and counts words instead of bigrams.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from record import record

from mlx_lora.data.dedup import BIGRAMS_ALIKE, WORDS_ALIKE, NearDuplicates, bigram_multiset, word_set

Row = tuple[str, ...]
Features = Callable[[str], set[int]]
# The MinHash index that `data check` had: 25 bands of 8 hashes, 4 of at most 300 proposed rows compared in full.
BANDS, ROWS, SEED, COMPARED, PROPOSED, GROUP = 25, 8, 7, 4, 300, 1000
WORDS = [f"w{i}" for i in range(20_000)]
ZIPF = [1 / (i + 10) for i in range(20_000)]


def jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b)


def minhash(rows: Sequence[Row], features: Features, threshold: float) -> set[tuple[int, int]]:
    """Return the pairs (i, j < i) that MinHash finds."""
    from rensa import RMinHash

    sides = len(rows[0])
    hashes = BANDS * ROWS // sides
    mix = np.random.default_rng(SEED).integers(0, 2**64, (BANDS, ROWS), dtype=np.uint64)
    buckets: dict[int, list[int]] = {}
    sets = [[features(side) for side in row] for row in rows]
    digests = np.empty((len(rows), sides, hashes), dtype=np.uint32)
    for side in range(sides):
        tokens = [[str(value) for value in row[side]] for row in sets]
        digests[:, side] = [one.digest() for one in RMinHash.from_token_sets(tokens, hashes, SEED)]
    bands = digests.reshape(len(rows), sides, BANDS, -1).swapaxes(1, 2).reshape(-1, BANDS, ROWS)
    found = set()
    for i, keys in enumerate((bands * mix).sum(axis=2, dtype=np.uint64).tolist()):
        smallest_first = sorted((buckets[key] for key in keys if key in buckets), key=len)
        proposed = np.array(list(dict.fromkeys(islice(chain.from_iterable(smallest_first), PROPOSED))), dtype=np.int64)
        agreed = (digests[proposed] == digests[i]).sum(axis=2).min(axis=1)
        likeliest = proposed[np.argsort(-agreed, kind="stable")[:COMPARED]].tolist()
        pairs = {(i, j) for j in likeliest if min(map(jaccard, sets[i], sets[j])) >= threshold}
        found |= pairs
        if not pairs:
            for key in keys:
                buckets.setdefault(key, []).append(i)
    return found


def partition(rows: Sequence[Row], features: Features, threshold: float) -> set[tuple[int, int]]:
    """Return the pairs that the package's index finds."""
    index, indexed, found = NearDuplicates(threshold, features), [], set()
    for i, text in enumerate(index.texts(rows)):
        pairs = {(i, indexed[number]) for number, _ in index.similar(text)}
        found |= pairs
        if not pairs:
            index.index(text)
            indexed.append(i)
    return found


def make_rows(chance: random.Random, pairs: int, sides: int, features: Features, threshold: float) -> list[Row]:
    """Return rows of which each second one is a copy of the one before, within 0.1 of the threshold."""
    rows: list[Row] = []
    while len(rows) < 2 * pairs:
        row, copy = [], []
        for _ in range(sides):
            words = chance.choices(WORDS, ZIPF, k=chance.randrange(15, 150))
            changed = list(words)
            for place in chance.sample(range(len(words)), chance.randrange(1, 2 + len(words) // 7)):
                changed[place] = chance.choices(WORDS, ZIPF)[0]
            row.append(" ".join(words))
            copy.append(" ".join(changed))
        if abs(min(jaccard(features(a), features(b)) for a, b in zip(row, copy, strict=True)) - threshold) < 0.1:
            rows += [tuple(row), tuple(copy)]
    return rows


def measure(pairs: int, sides: int, features: Features, threshold: float) -> list[dict]:
    rows = make_rows(random.Random(13), pairs, sides, features, threshold)
    sets = [[features(side) for side in row] for row in rows]

    def is_near(i: int, j: int) -> bool:
        return min(map(jaccard, sets[i], sets[j])) >= threshold - 1e-9

    near = {(i + 1, i) for i in range(0, len(rows), 2) if is_near(i + 1, i)}
    results = []
    for name, search in (("partition", partition), ("MinHash", minhash)):
        start = time.process_time()
        found = search(rows, features, threshold)
        results.append(
            {
                "index": name,
                "near_pairs": len(near),
                "recall": round(len(near & found) / len(near), 5),
                "precision": round(sum(is_near(*pair) for pair in found) / len(found), 5),
                "cpu_seconds": round(time.process_time() - start, 1),
            }
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = {
        "pairs": given.pairs,
        f"prompt and answer, bigrams, {BIGRAMS_ALIKE}": measure(given.pairs, 2, bigram_multiset, BIGRAMS_ALIKE),
        f"one answer, words, {WORDS_ALIKE}": measure(given.pairs, 1, word_set, WORDS_ALIKE),
    }
    record(given.out, **found)


if __name__ == "__main__":
    main()
