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
        indices: list[int] = []
        for i, count in enumerate(epoch_counts(self.sizes, self.weights)):
            size, offset = self.sizes[i], sum(self.sizes[:i])
            start, end = (number - 1) * count, number * count
            passes = range(start // size, (end - 1) // size + 1)
            order = np.concatenate([self._order(i, done) for done in passes])[start % size :][:count]
            indices += (offset + order).tolist()
        return indices

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
