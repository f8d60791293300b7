"""Rows of an index in memory: which chunk and which collection each vector belongs to, brought up to date by parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .store import Store
from .vectors import map_rows

if TYPE_CHECKING:
    import numpy as np

# Collection code of a row that no search may return: removed, or not to be retrieved.
HIDDEN = -1


class Snapshot:
    """The state that the last search saw; a change of the index is read, not all of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._state: tuple[int, int] | None = None
        self._last = 0
        self.vectors: np.ndarray
        self.names: list[str] = []

    def refresh(self) -> None:
        """Read what has changed since; inside a transaction.

        Raises:
            FileNotFoundError: another process has just replaced the vector file; begin again.
            UserError: the vector file is damaged.
        """
        import numpy as np

        settings = self._store.settings()
        state, rows = (settings["vectors"], settings["deletions"]), settings["rows"]
        if state != self._state:
            self._state, self._last = None, 0
            self.chunks, self.codes = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int16)
            self.row_of: dict[int, int] = {}
        if self._state is None or rows != len(self.vectors):
            self.vectors = map_rows(self._store.vector_file(settings["vectors"]), rows, settings["dimension"])
            more = rows - len(self.chunks)
            self.chunks = np.concatenate([self.chunks, np.zeros(more, dtype=np.int64)])
            self.codes = np.concatenate([self.codes, np.full(more, HIDDEN, dtype=np.int16)])
        for chunk, row, collection in self._store.chunk_rows(self._last):
            self.chunks[row], self.codes[row] = chunk, HIDDEN if collection is None else self._code(collection)
            self.row_of[chunk] = row
            self._last = max(self._last, chunk)
        self.any_hidden = bool((self.codes == HIDDEN).any())
        self._state = state

    def _code(self, collection: str) -> int:
        if collection not in self.names:
            self.names.append(collection)
        return self.names.index(collection)

    def visible(self, collections: list[str] | None, chunks: list[int] | None) -> np.ndarray | None:
        """Return a mask of the rows that a search may return; None for all.

        Args:
            collections: the names to search, None for all.
            chunks: the chunks to search, None for all.
        """
        import numpy as np

        if collections is None and chunks is None and not self.any_hidden:
            return None
        mask = self.codes != HIDDEN
        if collections is not None:
            mask &= np.isin(self.codes, [self.names.index(name) for name in collections if name in self.names])
        if chunks is not None:
            chosen = np.zeros(len(mask), dtype=bool)
            chosen[[self.row_of[chunk] for chunk in chunks]] = True
            mask &= chosen
        return mask
