"""The file of a pipe that an event loop uses: it closes its descriptor once, even if the loop has closed the descriptor
before."""

from __future__ import annotations

import io
import os
from contextlib import suppress


class PipeFile(io.FileIO):
    """A raw file of a pipe. uvloop closes the descriptor of a pipe, and then the file; by then, another thread may have
    opened a file that has the same number. So the file closes only the pipe with which it was made."""

    def __init__(self, number: int, mode: str) -> None:
        self._pipe = os.fstat(number).st_ino
        super().__init__(number, mode, closefd=False)

    def close(self) -> None:
        if self.closed:
            return
        number = self.fileno()
        super().close()
        with suppress(OSError):
            if os.fstat(number).st_ino == self._pipe:
                os.close(number)
