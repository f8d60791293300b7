"""Answers and bodies of the page's routes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from ..api import Lenient, Strict
from ..records import Status

NAME = "a relative path below the models directory"
# A chart of this many pixels is readable; a wider one than this is no screen's.
NARROWEST, WIDEST = 280, 2400


class NameQuery(Lenient):
    """Name of what is shown."""

    name: str = Field(max_length=1000, description=f"{NAME}, or the id of a job")


class NightQuery(NameQuery):
    """Night of an adapter."""

    cycle: str = Field(pattern="^[0-9]{1,9}$", description="number of the night, such as 0007")


class ChartQuery(NameQuery):
    """Charts of a run.

    Attributes:
        low, high: the steps to draw, by default all.
    """

    width: int = Field(720, ge=NARROWEST, le=WIDEST)
    log: bool = False
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)


class CheckBody(Strict):
    """Dataset to check."""

    name: str = Field(max_length=1000, description=f"{NAME}, or the id of a job")


class PromoteBody(Strict):
    """Generation to make live."""

    name: str = Field(max_length=1000, description=NAME)
    generation: int = Field(ge=1, le=999_999_999)
    reason: str = Field("on the page", max_length=2000)


class RollbackBody(Strict):
    """Generation to return to: by default the previous one; 0 is the base."""

    name: str = Field(max_length=1000, description=NAME)
    generation: int | None = Field(None, ge=0, le=999_999_999)
    reason: str = Field("on the page", max_length=2000)


class DiffBody(Strict):
    """Two answers."""

    before: str = Field(max_length=100_000)
    after: str = Field(max_length=100_000)


class RunRow(BaseModel):
    """Run in the table."""

    name: str
    label: str
    kind: Literal["run", "night", "round", "job"]
    model: str
    status: Literal["finished", "unfinished"] | Status
    step: int
    total_steps: int | None
    epoch: int | None
    loss: float | None
    validation_loss: float | None
    tokens_per_second: float | None
    peak_memory_gb: float | None
    changed: float
    job: str | None


class RunList(BaseModel):
    """All runs; ``whole`` is false where there are more directories than are looked into."""

    runs: list[RunRow]
    whole: bool
    directory: str


class RunDetail(BaseModel):
    """One run without its curves."""

    run: RunRow
    cards: list[list[str]]
    warnings: list[str]
    gate: dict[str, Any] | None
    samples: list[dict[str, Any]]
    settings: list[list[str]]
    data: list[list[str]]
    directory: str


class Chart(BaseModel):
    """Chart as SVG, empty where nothing was measured in its steps."""

    title: str
    svg: str


class ChartList(BaseModel):
    """Charts of a run."""

    charts: list[Chart]


class JobRow(BaseModel):
    """Job in the queue.

    Attributes:
        position: place in the queue, 0 is next.
        wish: ``pause`` or ``cancel``, while it is asked for and not yet so.
    """

    id: str
    contract: str
    model: str
    suffix: str | None
    status: Status
    wish: str | None
    position: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    progress: dict[str, Any]
    trained_tokens: int | None
    fine_tuned_model: str | None
    error: dict[str, Any] | None


class JobRows(BaseModel):
    """Jobs, the newest first; ``more`` older ones are left out."""

    jobs: list[JobRow]
    more: int


class AdapterList(BaseModel):
    """Adapters with generations or nights."""

    adapters: list[dict[str, Any]]


class AdapterDetail(BaseModel):
    """One adapter.

    Attributes:
        broken: the sentence on the line that breaks the chain of its history.
        notes: of a change that was just made.
    """

    name: str
    directory: str
    live: int | None
    previous: int | None
    best: int | None
    trial: int | None
    pinned: list[int]
    running: bool
    next_due: str
    broken: str | None
    generations: list[dict[str, Any]]
    nights: list[dict[str, Any]]
    history: list[dict[str, Any]]
    matrices: list[dict[str, str]]
    notes: list[str] = []


class NightPage(BaseModel):
    """Report of a night: HTML whose values are escaped."""

    html: str


class DatasetList(BaseModel):
    """Datasets."""

    datasets: list[dict[str, Any]]


class DatasetDetail(BaseModel):
    """One dataset with its first rows."""

    name: str
    directory: str
    source: str
    changed: float
    files: list[dict[str, Any]]
    examples: list[dict[str, Any]]


class Findings(BaseModel):
    """Findings of ``mlx-lora data check``."""

    rows: int
    distinct_rows: int
    findings: list[dict[str, Any]]
    notes: list[str] = []


class Diff(BaseModel):
    """Both answers in pieces: (differs from the other answer, text)."""

    before: list[list[bool | str]]
    after: list[list[bool | str]]
