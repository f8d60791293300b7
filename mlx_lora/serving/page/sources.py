"""Sources of the page: what it shows of one server, with what is remembered of it between requests."""

from __future__ import annotations

from ..settings import ServerSettings
from ..state import State
from .data import Runs
from .datasets import Datasets
from .files import Models


class PageSources:
    """Directories that the page shows of one server."""

    def __init__(self, settings: ServerSettings, state: State) -> None:
        self.models = Models(settings.models, settings.state)
        self.runs = Runs(settings, state, self.models)
        self.datasets = Datasets(settings, state, self.models)
