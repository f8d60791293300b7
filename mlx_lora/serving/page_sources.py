"""Sources of the page: what it shows of one server, with what is remembered of it between requests."""

from __future__ import annotations

from .page_data import Runs
from .page_datasets import Datasets
from .page_files import Models
from .settings import ServerSettings
from .state import State


class PageSources:
    """Directories that the page shows of one server."""

    def __init__(self, settings: ServerSettings, state: State) -> None:
        self.models = Models(settings.models, settings.state)
        self.runs = Runs(settings, state, self.models)
        self.datasets = Datasets(settings, state, self.models)
