"""Composition plan: buckets and the number of rows each should have; sums are computed, never quoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ...config import PRESET_DIRECTORIES
from ...config.settings_file import read_settings
from ...errors import UserError, shortened

PLAN_DIRECTORIES = tuple(directory / "plans" for directory in PRESET_DIRECTORIES)


@dataclass
class Plan:
    """Rows wanted by bucket.

    Attributes:
        stated_total: the sum according to its authors.
    """

    buckets: dict[str, int]
    stated_total: int | None = None

    @property
    def total(self) -> int:
        """Sum of the buckets."""
        return sum(self.buckets.values())


@dataclass
class BucketCheck:
    """Row counts of a bucket: planned, found in the files, and kept as examples."""

    bucket: str
    planned: int
    found: int
    kept: int


@dataclass
class PlanCheck:
    """Comparison of a plan with the rows, bucket by bucket; buckets that are not in the plan have 0 planned."""

    total: int
    stated_total: int | None
    buckets: list[BucketCheck]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a dict, for the card and ``--json``."""
        return asdict(self)

    def notes(self) -> list[str]:
        """Return the deviations from the plan, a sentence each."""
        notes = []
        if self.stated_total not in (None, self.total):
            notes.append(f"The plan's buckets sum to {self.total:,} rows, not to the {self.stated_total:,} it states.")
        for b in self.buckets:
            if not b.planned:
                notes.append(f"Bucket {b.bucket} is not in the plan: {b.found:,} rows, {b.kept:,} kept.")
            elif b.kept < b.planned:
                notes.append(f"Bucket {b.bucket} has {b.kept:,} of {b.planned:,} rows ({b.found:,} before checks).")
        return notes


def load_plan(path: str | Path) -> Plan:
    """Load a plan from a YAML or JSON file, or a published one by name (coder, coder-reporting).

    The file is ``{"buckets": {name: rows}, "stated_total": rows}``, or the buckets alone.

    Raises:
        UserError: no such file, not YAML or JSON, or counts that are not whole numbers.
    """
    file = next((f for d in PLAN_DIRECTORIES if (f := d / f"{path}.yaml").is_file()), Path(path))
    try:
        content = read_settings(file)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such plan; give a YAML or JSON file, or the name coder") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this plan is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"{path}: this plan cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: this plan is not valid {file.suffix.lstrip('.') or 'YAML'}; correct it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a plan is a mapping of buckets to numbers of rows")
    whole = isinstance(content.get("buckets"), dict)
    buckets: dict[str, int] = content["buckets"] if whole else content
    stated = content.get("stated_total") if whole else None
    _check_counts(path, buckets)
    if stated is not None:
        _check_counts(path, {"stated_total": stated})
    return Plan(dict(buckets), stated)


def _check_counts(path: str | Path, counts: Mapping[Any, Any]) -> None:
    for name, count in counts.items():
        if not isinstance(name, str) or isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise UserError(
                f"{path}: the plan's {shortened(name)} must be a name with a whole number of rows, "
                f"not {shortened(count)}"
            )


def check_plan(plan: Plan, found: Mapping[str, int], kept: Mapping[str, int]) -> PlanCheck:
    """Compare a plan with the rows found and kept, by bucket."""
    names = list(dict.fromkeys([*plan.buckets, *found]))
    checks = [BucketCheck(name, plan.buckets.get(name, 0), found.get(name, 0), kept.get(name, 0)) for name in names]
    return PlanCheck(plan.total, plan.stated_total, checks)
