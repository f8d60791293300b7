"""Dataset mixture: the examples of each dataset that an epoch sees, a function of sizes, weights and seed.

An epoch has as many examples as all datasets together. Of dataset i it sees the share weight_i / sum of weights,
rounded so that the sum stays the same. Each dataset is sampled without replacement, in a new order for each pass:
the next epoch continues where the last one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .dataset import dataset_files
from .hub import is_hub


def epoch_counts(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Return the examples of each dataset in an epoch: shares of the total by largest remainder (Hamilton's method).

    Raises:
        UserError: a share is less than one example.
    """
    total = sum(sizes)
    exact = [weight / sum(weights) * total for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    if 0 in counts:
        i = counts.index(0)
        raise UserError(
            f"data: the weight {weights[i]:g} of dataset {i + 1} is less than one example in an epoch of {total}; "
            "raise it or leave the dataset out"
        )
    return counts


def batch_quotas(counts: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return the examples that each batch of an epoch draws from each dataset.

    A batch's share of a dataset is rounded down, and the places left go to the datasets that are furthest behind their
    shares of all batches so far.

    Args:
        counts: examples of each dataset in the epoch.
    """
    total = sum(counts)
    given, quotas = [0] * len(counts), list[list[int]]()
    for done in range(0, total, batch_size):
        size = min(batch_size, total - done)
        quota = [min(size * count // total, count - got) for count, got in zip(counts, given, strict=True)]
        for _ in range(size - sum(quota)):
            left = [i for i, count in enumerate(counts) if given[i] + quota[i] < count]
            # In integers, since a tie must not depend on rounding; a share rounded up is full.
            next_one = min(
                (quota[i] * total >= size * counts[i], (given[i] + quota[i]) * total - (done + size) * counts[i], i)
                for i in left
            )
            quota[next_one[-1]] += 1
        given = [got + more for got, more in zip(given, quota, strict=True)]
        quotas.append(quota)
    return quotas


@dataclass
class Mix:
    """Datasets whose training examples are concatenated in one list.

    Attributes:
        sizes: the number of examples of each.
        weights: each one's share of an epoch, in any unit.
    """

    sizes: list[int]
    weights: list[float]
    seed: int

    def epoch(self, number: int) -> list[int]:
        """Return indices into the list, dataset after dataset, for an epoch (counted from 1); some may occur twice."""
        return [i for indices in self.drawn(number) for i in indices]

    def drawn(self, number: int) -> list[list[int]]:
        """Return the indices of an epoch by dataset, pass after pass."""
        drawn: list[list[int]] = []
        for i, count in enumerate(epoch_counts(self.sizes, self.weights)):
            size, offset = self.sizes[i], sum(self.sizes[:i])
            start, end = (number - 1) * count, number * count
            passes = range(start // size, (end - 1) // size + 1)
            order = np.concatenate([self._order(i, done) for done in passes])[start % size :][:count]
            drawn.append((offset + order).tolist())
        return drawn

    def _order(self, dataset: int, done: int) -> np.ndarray:
        """Return a dataset's permutation after ``done`` passes over it."""
        return np.random.Generator(np.random.PCG64([self.seed, dataset, done])).permutation(self.sizes[dataset])


def datasets_of(data: str | Sequence[dict[str, Any]]) -> tuple[list[Path], list[float]]:
    """Return the directories of a config's ``data``, and the weight of each."""
    shares: Sequence[dict[str, Any]] = [{"path": data, "weight": 1.0}] if isinstance(data, str) else data
    return [Path(share["path"]) for share in shares], [float(share["weight"]) for share in shares]


def record_of(data: Sequence[Path], mix: Mix | None) -> str | list[dict[str, Any]]:
    """Return a run's record of its data: the directory; of a mix, each one with its examples in an epoch."""
    paths = [str(path if is_hub(path) else path.resolve()) for path in data]
    if mix is None:
        return paths[0]
    counts = epoch_counts(mix.sizes, mix.weights)
    return [
        {"path": path, "weight": weight, "examples": size, "in_an_epoch": count}
        for path, weight, size, count in zip(paths, mix.weights, mix.sizes, counts, strict=True)
    ]


def files_of(data: Sequence[Path]) -> dict[str, Path]:
    """Return the file of each split; of several datasets, under the directory's path."""
    if len(data) == 1:
        return dataset_files(data[0])
    return {f"{path}/{split}": file for path in data for split, file in dataset_files(path).items()}
