"""Near-duplicate index: texts of a high Jaccard similarity, found without comparing all pairs (partition filter)."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Minimum Jaccard similarity of two near-duplicates: of the sets of their words, as NearDuplicates counts unless told
# otherwise, and of the multisets of their word bigrams, as near_pairs does. Of bigrams, one changed word costs two of
# n + 1 on each side, so that 17 words may differ in one of them, 35 in two.
WORDS_ALIKE, BIGRAMS_ALIKE = 0.85, 0.8
# Maximum number of earlier texts that one is compared with, those first that share its rarest parts.
CANDIDATES = 200
LONGEST = 1_000_000
CHUNK = 2_000
# Of a very long text, near_pairs compares the beginning.
LONGEST_ROW = 20_000
# Chinese, Japanese and Korean are written without spaces: there each character counts as a word.
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_PART = re.compile(f"[{CJK}]|[^\\s{CJK}]+")
# Trailing punctuation, which does not distinguish rows.
_STOPS = ".,;:!?…。、！？"
_STOP = re.compile(f"[{_STOPS}]")
_FACTOR, _64_BITS = 0x9E3779B97F4A7C15, 2**64 - 1
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@lru_cache(maxsize=CHUNK)  # successive checks need the words of the same text
def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, lower-cased, without punctuation."""
    return tuple(_WORD.findall(text.lower()))


@lru_cache(maxsize=1_000_000)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def word_set(text: str) -> set[int]:
    """Return the hashes of the words of a text (:func:`words_of`)."""
    return set(map(_hash, words_of(text)))


def bigram_multiset(text: str) -> set[int]:
    """Return the hashes of the word bigrams of a text, its ends included; a repeated bigram's carry its number.

    Words are lower-cased; the punctuation within them counts, since in code it makes the difference.
    """
    lower = text.lower()
    words = (lower.split() if text.isascii() else _PART.findall(lower))[:LONGEST_ROW]
    if _STOP.search(lower):
        words = [word for part in words if (word := part.rstrip(_STOPS))]
    hashes = [_hash(word) for word in ("\n", *words, "\n")]
    pairs = [(a * _FACTOR + b) & _64_BITS for a, b in pairwise(hashes)]
    distinct = set(pairs)
    if len(distinct) == len(pairs):
        return distinct
    counts: Counter[int] = Counter()
    for i, pair in enumerate(pairs):
        pairs[i] = (pair + counts[pair] * _FACTOR) & _64_BITS
        counts[pair] += 1
    return set(pairs)


@dataclass
class _Text:
    """Text to look up: of each side the hashes of its features and their signature; of all sides the keys."""

    sides: list[set[int]]
    bits: list[int]
    keys: tuple[list[int], ...]


class NearDuplicates:
    """Index of texts, each compared with those added before it.

    Two sets of n and m features with a Jaccard similarity of at least t differ in at most d = (n + m)(1 − t)/(1 + t)
    features. If all possible features are partitioned into d + 1 parts, the two sets agree completely in at least one
    part. So each text is indexed by its features in each part, and compared only with texts of an equal key. A part
    holds some four to six of a text's features, whatever its length, so that unrelated texts seldom collide. A pair
    can be missed only where a text collides with more than :data:`CANDIDATES` others.

    Sizes are grouped into classes, each 1/t times larger than the one before: only texts of one class or of two
    neighbouring classes can be similar. A class has enough parts for two texts of its own, and for one of its own
    and one of the class above.

    A text may have several sides (prompt and answer), each of which must be similar on its own; then all of them
    together are, and the parts are those of all features of all sides.

    Args:
        threshold: Jaccard similarity of the sets of features from which a text counts as a duplicate.
        features: hashes of the features of a text, or of a side of it; by default of its words.
    """

    def __init__(self, threshold: float = WORDS_ALIKE, features: Callable[[str], set[int]] = word_set):
        self.threshold = threshold
        self._features = features
        self._difference = (1 - threshold) / (1 + threshold)
        bounds = [1]  # class c holds the sizes from bounds[c] to below bounds[c + 1]
        while bounds[-1] < LONGEST:
            bounds.append(int(bounds[-1] / threshold) + 1)
        longest = [a + b - 2 for a, b in pairwise(bounds[1:])]
        self._bounds = bounds
        self._parts = [int(size * self._difference + 1e-9) + 1 for size in longest]  # of each class
        self._names: list[str] = []
        self._texts: list[list[tuple[int, array[int]]]] = []  # of each side: 256 bits, hashes of the features
        self._buckets: dict[int, int | list[int]] = {}  # most hold one text: a number, not a list, saves memory
        self._used: set[int] = set()  # classes that hold a text

    def add(self, name: str, text: str) -> str | None:
        """Return the name of an earlier near-duplicate; if there is none, index the text under ``name``."""
        return self.add_all([(name, text)])[0]

    def add_all(self, texts: Sequence[tuple[str, str]]) -> list[str | None]:
        """Add many (name, text) in order, as :meth:`add` does; the keys of thousands are computed at once."""
        found: list[str | None] = []
        for (name, _), text in zip(texts, self.texts([(text,) for _, text in texts]), strict=True):
            twin = next((self._names[number] for number, _ in self.similar(text)), None)
            if twin is None and text.sides[0]:
                self.index(text)
                self._names.append(name)
            found.append(twin)
        return found

    def texts(self, rows: Sequence[tuple[str, ...]]) -> Iterator[_Text]:
        """Yield each text, given by its sides, ready for :meth:`similar` and :meth:`index`."""
        import numpy as np

        for start in range(0, len(rows), CHUNK):
            chunk = [[self._features(side) for side in row] for row in rows[start : start + CHUNK]]
            count = len(chunk[0])
            sizes = np.array([[len(side) for side in row] for row in chunk])
            values = np.fromiter(chain.from_iterable(chain.from_iterable(chunk)), dtype=np.uint64, count=sizes.sum())
            bits = _signatures(values, sizes.ravel())
            # The same feature on another side is another feature.
            values ^= np.repeat(np.tile(np.arange(count, dtype=np.uint64), len(chunk)), sizes.ravel()) << np.uint64(8)
            keys = zip(*(self._keys(values, sizes.sum(axis=1), shift) for shift in (0, -1, 1)), strict=True)
            for place, (row, of_classes) in enumerate(zip(chunk, keys, strict=True)):
                yield _Text(row, bits[place * count : (place + 1) * count], of_classes)

    def similar(self, text: _Text) -> Iterator[tuple[int, float]]:
        """Yield (number, similarity) of indexed texts whose every side is similar, the least similarity counting."""
        own = self._class_of(sum(map(len, text.sides)))
        buckets = [
            [bucket] if isinstance(bucket, int) else bucket
            for size_class, keys in zip((own, own - 1, own + 1), text.keys, strict=True)
            if size_class in self._used
            for bucket in map(self._buckets.get, keys)
            if bucket is not None
        ]
        seen: set[int] = set()
        for bucket in sorted(buckets, key=len):
            for number in bucket[-CANDIDATES:]:
                if number not in seen:
                    seen.add(number)
                    similarity = self._similarity(text, self._texts[number])
                    if similarity >= self.threshold - 1e-9:
                        yield number, similarity
            if len(seen) > CANDIDATES:
                break

    def index(self, text: _Text) -> None:
        """Add a text under the next number, from 0."""
        own = self._class_of(sum(map(len, text.sides)))
        self._used.add(own)
        number = len(self._texts)
        self._texts.append([(bits, array("Q", side)) for bits, side in zip(text.bits, text.sides, strict=True)])
        for key in text.keys[0]:
            bucket = self._buckets.setdefault(key, number)
            if isinstance(bucket, list):
                bucket.append(number)
            elif bucket != number:
                self._buckets[key] = [bucket, number]

    def _similarity(self, text: _Text, other: list[tuple[int, array[int]]]) -> float:
        """Return the least similarity of the sides, 0 where one is below the threshold."""
        least = 1.0
        for side, bits, (other_bits, values) in zip(text.sides, text.bits, other, strict=True):
            size = len(side) + len(values)
            # Two sets never differ in more bits than features, so that the signature is a safe filter.
            if (bits ^ other_bits).bit_count() > size * self._difference + 1e-9:
                return 0.0
            common = len(side.intersection(values))
            if common < self.threshold * (size - common) - 1e-9:
                return 0.0
            least = min(least, common / (size - common) if size else 1.0)
        return least

    def _class_of(self, size: int) -> int:
        return min(bisect_right(self._bounds, size) - 1, len(self._parts) - 2)

    def _keys(self, values: np.ndarray, sizes: np.ndarray, shift: int) -> Iterator[list[int]]:
        """Return a key per text and part, in the parts of its own class or of one ``shift`` classes away.

        Args:
            values: uint64 [features of all texts], their hashes.
            sizes: int [texts], how many of them belong to each.
        """
        import numpy as np

        classes = np.array([max(0, self._class_of(size) + shift) for size in sizes.tolist()], dtype=np.int64)
        counts = np.array(self._parts)[classes]
        starts = [0, *accumulate(counts.tolist())]
        part = values % np.repeat(counts.astype(np.uint64), sizes)
        keys = np.zeros(starts[-1], dtype=np.uint64)
        np.add.at(keys, np.repeat(np.array(starts[:-1]), sizes) + part.astype(np.int64), values)
        # The same features in another part or class must give another key.
        number = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
        keys += np.repeat(classes, counts).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        keys += number.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        plain = keys.tolist()
        return (plain[a:b] for a, b in pairwise(starts))


def _signatures(values: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Return a 256-bit signature of each set, of which every feature sets one bit; arguments as in ``_keys``."""
    import numpy as np

    bits = np.zeros((len(sizes), 4), dtype="<u8")
    place = (np.repeat(np.arange(len(sizes)), sizes), ((values >> np.uint64(6)) & np.uint64(3)).astype(np.int64))
    np.bitwise_or.at(bits, place, np.uint64(1) << (values & np.uint64(63)))
    return [int.from_bytes(row.tobytes(), "little") for row in bits]


def near_pairs(
    rows: Sequence[tuple[str, ...]], advance: Callable[[int], None] = lambda more: None
) -> list[tuple[int, int, float]]:
    """Find (i, j, similarity) of each row i that nearly repeats an earlier row j which itself repeats none.

    A row is one text or several (prompt and answer), each of which must be alike on its own: the least of their
    similarities is the pair's. Of one i there can be several pairs.

    Args:
        advance: called at intervals with the number of further rows done.
    """
    index = NearDuplicates(BIGRAMS_ALIKE, bigram_multiset)
    indexed: list[int] = []
    found = []
    for i, text in enumerate(index.texts(rows)):
        pairs = [(i, indexed[number], similarity) for number, similarity in index.similar(text)]
        found += pairs
        if not pairs:
            index.index(text)
            indexed.append(i)
        if (i + 1) % CHUNK == 0 or i + 1 == len(rows):
            advance(i % CHUNK + 1)
    return found
