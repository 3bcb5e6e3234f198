"""Writes the lines of a log to standard output."""

from __future__ import annotations

import os
from collections.abc import Sequence

from policyengine.audit.sinks.transport import SinkError, SinkLine

STDOUT = 1


class StdoutTransport:
    """Writes to a file descriptor. The first batch begins with a newline, because a process that was killed may have
    left part of a line in the same stream."""

    def __init__(self, file: int = STDOUT) -> None:
        self._file, self._begun = file, False

    def send(self, lines: Sequence[SinkLine]) -> int:
        """Write the lines. Raises SinkError."""
        data = memoryview((b"" if self._begun else b"\n") + b"".join(line.raw + b"\n" for line in lines))
        self._begun = False  # after a failure, the stream may end in part of a line
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise SinkError(f"it cannot be written: {(error.strerror or str(error)).lower()}") from None
        self._begun = True
        return 0

    def close(self) -> None:
        self._begun = False
