"""The shared board of all workers: how many connections each worker has, and how far its shutdown has progressed. The
board is shared memory. Each cell has one writer, except the cell that stops all workers.
"""

from __future__ import annotations

from mmap import mmap

CELL_BYTES = 8  # bytes per cell
LOAD, QUIET, CLOSED = range(3)  # the cells of each worker
CELLS_PER_WORKER = 3


class WorkerBoard:
    """The board. It is created before the workers are forked; each worker then takes its place on it."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._cells = memoryview(mmap(-1, CELL_BYTES * (1 + workers * CELLS_PER_WORKER))).cast("Q")
        self._mine = 1

    def take(self, place: int) -> None:
        self._mine = 1 + place * CELLS_PER_WORKER
        self._cells[self._mine + LOAD] = self._cells[self._mine + QUIET] = self._cells[self._mine + CLOSED] = 0

    # ── Sharing connections ───────────────────────────────────────────────────────────────────

    def load(self, connections: int) -> None:
        self._cells[self._mine + LOAD] = connections + 1  # 0 means that the worker accepts no connections

    @property
    def others_are_freer(self) -> bool:
        """Whether another accepting worker has at least two connections fewer. A difference of one connection is not
        significant.
        """
        mine = self._cells[self._mine + LOAD]
        return self.workers > 1 and any(0 < one < mine - 1 for one in self._cells[1 + LOAD :: CELLS_PER_WORKER])

    # ── Stopping ──────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Stop all workers, without replacing them."""
        self._cells[0] = 1

    @property
    def stopping(self) -> bool:
        return bool(self._cells[0])

    def quiet(self, is_quiet: bool) -> None:
        """Record whether clients have stopped connecting to this worker."""
        self._cells[self._mine + QUIET] = is_quiet

    @property
    def all_quiet(self) -> bool:
        return all(self._cells[1 + QUIET :: CELLS_PER_WORKER])

    def closed(self) -> None:
        """Record that this worker has closed its listeners."""
        self._cells[self._mine + LOAD], self._cells[self._mine + CLOSED] = 0, 1

    def has_closed(self, place: int) -> bool:
        return bool(self._cells[1 + place * CELLS_PER_WORKER + CLOSED])
