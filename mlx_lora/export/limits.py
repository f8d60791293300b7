"""Tolerances of an exported file against the adapter, by file type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportLimits:
    """Tolerances of a file type against the adapter; see :class:`~mlx_lora.export.logit_metrics.Agreement`."""

    relative: float
    divergence: float
    top1: float


# About five times the values of small models with weights far sharper than any trained model's; a missing permutation,
# bias or RoPE scaling is far beyond.
LIMITS = {
    "f32": ExportLimits(1e-3, 1e-6, 0.99),
    "f16": ExportLimits(0.03, 1e-3, 0.95),
    "bf16": ExportLimits(0.15, 0.01, 0.9),
    "q8_0": ExportLimits(0.25, 0.05, 0.7),
    "q6_k": ExportLimits(0.3, 0.1, 0.7),
    "q5": ExportLimits(0.4, 0.2, 0.65),
    "q4": ExportLimits(0.6, 0.35, 0.5),
}
COARSEST = ExportLimits(1.0, 1.0, 0.3)


def limits_of(kind: str) -> ExportLimits:
    """Return the tolerances of a type, by its whole name or its number of bits."""
    return LIMITS.get(kind) or LIMITS.get(kind.removeprefix("i")[:2]) or COARSEST
