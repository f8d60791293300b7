"""Near-duplicate detection by Jaccard similarity of words, without comparing all pairs (partition filter)."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

THRESHOLD = 0.85
# Maximum number of earlier texts that one is compared with, those first that share its rarest parts.
CANDIDATES = 200
LONGEST = 1_000_000
CHUNK = 2_000

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@lru_cache(maxsize=CHUNK)  # successive checks need the words of the same text
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, lower-cased, without punctuation."""
    return tuple(_WORD.findall(text.lower()))


@lru_cache(maxsize=1_000_000)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _bits(values: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Return a 256-bit signature of each text, of which every word sets one bit; arguments as in ``_keys``."""
    import numpy as np

    bits = np.zeros((len(sizes), 4), dtype="<u8")
    place = (np.repeat(np.arange(len(sizes)), sizes), ((values >> np.uint64(6)) & np.uint64(3)).astype(np.int64))
    np.bitwise_or.at(bits, place, np.uint64(1) << (values & np.uint64(63)))
    return [int.from_bytes(row.tobytes(), "little") for row in bits]


class NearDuplicates:
    """Index of texts, each compared with those added before it.

    Two sets of n and m words with a Jaccard similarity of at least t differ in at most d = (n + m)(1 − t)/(1 + t)
    words. If the vocabulary is partitioned into d + 1 parts, the two sets agree completely in at least one part. So
    each text is indexed by its words in each part, and compared only with texts of an equal key. A part holds some
    four to six of a text's words, whatever its length, so that unrelated texts seldom collide. A pair can be missed
    only where a text collides with more than :data:`CANDIDATES` others.

    Sizes are grouped into classes, each 1/t times larger than the one before: only texts of one class or of two
    neighbouring classes can be similar. A class has enough parts for two texts of its own, and for one of its own
    and one of the class above.

    Args:
        threshold: Jaccard similarity of the sets of words from which a text counts as a duplicate.
    """

    def __init__(self, threshold: float = THRESHOLD):
        self.threshold = threshold
        self._difference = (1 - threshold) / (1 + threshold)
        bounds = [1]  # class c holds the sizes from bounds[c] to below bounds[c + 1]
        while bounds[-1] < LONGEST:
            bounds.append(int(bounds[-1] / threshold) + 1)
        longest = [a + b - 2 for a, b in pairwise(bounds[1:])]
        self._bounds = bounds
        self._parts = [int(size * self._difference + 1e-9) + 1 for size in longest]  # of each class
        self._texts: list[tuple[str, int, array[int]]] = []  # name, 256 bits, hashes of the words
        self._buckets: dict[int, int | list[int]] = {}  # most hold one text: a number, not a list, saves memory
        self._used: set[int] = set()  # classes that hold a text

    def add(self, name: str, text: str) -> str | None:
        """Return the name of an earlier near-duplicate; if there is none, index the text under ``name``."""
        return self.add_all([(name, text)])[0]

    def add_all(self, texts: Sequence[tuple[str, str]]) -> list[str | None]:
        """Add many (name, text) in order, as :meth:`add` does; the keys of thousands are computed at once."""
        import numpy as np

        found: list[str | None] = []
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            hashes = [frozenset(map(_hash, words_of(text))) for _, text in chunk]
            sizes = np.array([len(words) for words in hashes])
            values = np.fromiter(chain.from_iterable(hashes), dtype=np.uint64, count=int(sizes.sum()))
            keys = zip(*(self._keys(values, sizes, shift) for shift in (0, -1, 1)), strict=True)
            bits = _bits(values, sizes)
            for (name, _), words, own_bits, of_classes in zip(chunk, hashes, bits, keys, strict=True):
                found.append(self._add(name, words, own_bits, of_classes) if words else None)
        return found

    def _class_of(self, size: int) -> int:
        return min(bisect_right(self._bounds, size) - 1, len(self._parts) - 2)

    def _keys(self, values: np.ndarray, sizes: np.ndarray, shift: int) -> Iterator[list[int]]:
        """Return a key per text and part, in the parts of its own class or of one ``shift`` classes away.

        Args:
            values: uint64 [words of all texts], their hashes.
            sizes: int [texts], how many of them belong to each.
        """
        import numpy as np

        classes = np.array([max(0, self._class_of(size) + shift) for size in sizes.tolist()], dtype=np.int64)
        counts = np.array(self._parts)[classes]
        starts = [0, *accumulate(counts.tolist())]
        part = values % np.repeat(counts.astype(np.uint64), sizes)
        keys = np.zeros(starts[-1], dtype=np.uint64)
        np.add.at(keys, np.repeat(np.array(starts[:-1]), sizes) + part.astype(np.int64), values)
        # The same words in another part or class must give another key.
        number = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        keys += np.repeat(classes, counts).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        keys += number.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        plain = keys.tolist()
        return (plain[a:b] for a, b in pairwise(starts))

    def _add(self, name: str, words: frozenset[int], bits: int, of_classes: Sequence[list[int]]) -> str | None:
        own = self._class_of(len(words))
        buckets = [
            [bucket] if isinstance(bucket, int) else bucket
            for size_class, keys in zip((own, own - 1, own + 1), of_classes, strict=True)
            if size_class in self._used
            for bucket in map(self._buckets.get, keys)
            if bucket is not None
        ]
        found = self._find(words, bits, buckets)
        if found is not None:
            return found
        self._used.add(own)
        number = len(self._texts)
        self._texts.append((name, bits, array("Q", words)))
        for key in of_classes[0]:
            bucket = self._buckets.setdefault(key, number)
            if isinstance(bucket, list):
                bucket.append(number)
            elif bucket != number:
                self._buckets[key] = [bucket, number]
        return None

    def _find(self, words: frozenset[int], bits: int, buckets: list[list[int]]) -> str | None:
        seen: set[int] = set()
        for bucket in sorted(buckets, key=len):
            for number in bucket[-CANDIDATES:]:
                if number in seen:
                    continue
                seen.add(number)
                name, other_bits, other = self._texts[number]
                size = len(words) + len(other)
                # Two sets never differ in more bits than words, so that the signature is a safe filter.
                if (bits ^ other_bits).bit_count() <= size * self._difference + 1e-9:
                    common = sum(value in words for value in other)
                    if common >= self.threshold * (size - common) - 1e-9:
                        return name
            if len(seen) > CANDIDATES:
                break
        return None
