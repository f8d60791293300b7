"""Collapse stop: a sequential test that ends a comparison while its answers arrive."""

from __future__ import annotations

from dataclasses import dataclass, field

# Shares of losses among discordant pairs that are tested, the midpoints of 40 parts of (½, 1).
GRID = tuple(0.5 + (i + 0.5) / 80 for i in range(40))
# E ≥ 20 happens to a candidate that is no worse at most once in 20 comparisons, at any time (Ville's inequality).
STOP_AT = 20.0


@dataclass
class CollapseStop:
    """E-value of "the candidate loses more discordant pairs than it wins", updated after each answer.

    E = (1/J)·Σ_j Π_i 2·θ_j^u·(1 − θ_j)^(1 − u) over the discordant pairs i, with u = 1 where the candidate lost.
    """

    answers: int = 0
    wins: int = 0
    losses: int = 0
    stopped_after: int | None = None
    _products: list[float] = field(default_factory=lambda: [1.0] * len(GRID), repr=False)

    @property
    def e_value(self) -> float:
        """The evidence so far; 1 without a discordant pair."""
        return sum(self._products) / len(GRID)

    def add(self, candidate_passed: bool, reference_passed: bool) -> bool:
        """Count a pair of answers and return True if the comparison should stop; it stays stopped."""
        self.answers += 1
        if candidate_passed != reference_passed:
            lost = reference_passed
            self.losses, self.wins = self.losses + lost, self.wins + (not lost)
            self._products = [
                product * 2 * (theta if lost else 1 - theta)
                for product, theta in zip(self._products, GRID, strict=True)
            ]
            if self.stopped_after is None and self.e_value >= STOP_AT:
                self.stopped_after = self.answers
        return self.stopped_after is not None
