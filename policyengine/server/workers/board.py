"""What the workers of one server know of each other: how many connections each has, and how far a stop has come.

It stands in memory that they share. Each cell has one writer, but the one that says that all of them stop.
"""

from __future__ import annotations

from mmap import mmap

CELL_BYTES = 8  # bytes of a cell
LOAD, QUIET, CLOSED = range(3)  # the cells of a worker
CELLS_PER_WORKER = 3


class WorkerBoard:
    """Made before workers are forked; each of them then takes its place."""

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._cells = memoryview(mmap(-1, CELL_BYTES * (1 + workers * CELLS_PER_WORKER))).cast("Q")
        self._mine = 1

    def take(self, place: int) -> None:
        self._mine = 1 + place * CELLS_PER_WORKER
        self._cells[self._mine + LOAD] = self._cells[self._mine + QUIET] = self._cells[self._mine + CLOSED] = 0

    # ── Sharing connections ───────────────────────────────────────────────────────────────────

    def load(self, connections: int) -> None:
        self._cells[self._mine + LOAD] = connections + 1  # 0: it accepts none

    @property
    def others_are_freer(self) -> bool:
        """Whether another worker that accepts connections has fewer, by more than the one that comes and goes."""
        mine = self._cells[self._mine + LOAD]
        return self._workers > 1 and any(0 < one < mine - 1 for one in self._cells[1 + LOAD :: CELLS_PER_WORKER])

    # ── Stopping ──────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """All workers are to stop, and nobody takes their places."""
        self._cells[0] = 1

    @property
    def stopping(self) -> bool:
        return bool(self._cells[0])

    def quiet(self, is_quiet: bool) -> None:
        """Whether nobody comes to this worker any more."""
        self._cells[self._mine + QUIET] = is_quiet

    @property
    def all_quiet(self) -> bool:
        return all(self._cells[1 + QUIET :: CELLS_PER_WORKER])

    def closed(self) -> None:
        """This worker accepts no connections any more."""
        self._cells[self._mine + LOAD], self._cells[self._mine + CLOSED] = 0, 1

    def has_closed(self, place: int) -> bool:
        return bool(self._cells[1 + place * CELLS_PER_WORKER + CLOSED])
