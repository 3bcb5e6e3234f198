"""Lines of a log in the form that it has on disk, and a transport that records what is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policyengine.audit.sinks.cursor import FOLDER_MODE, write_cursor
from policyengine.audit.sinks.log_follower import start_cursor
from policyengine.audit.sinks.transport import SinkLine

DIRECTORY = b'{"v":1,"directory":"sha256:00","entities":[{"type":"user","id":"alice","attributes":{"pin":"1234"}}]}\n'


def decision(number: int | str, **members: object) -> bytes:
    """Return the line of a decision."""
    tree = {
        "v": 1,
        "time": "2027-01-15T08:00:00.000001Z",
        "call": "decide",
        "decision": {"id": f"D{number}", "outcome": "allow", "revision": "sha256:1", "package": "shop", "reasons": []},
        "request": {"request": {"method": "GET", "path": "/health"}},
        **members,
    }
    return json.dumps(tree, separators=(",", ":")).encode() + b"\n"


def ids(lines: Iterable[bytes]) -> list[str]:
    """Return the IDs of the decisions on lines."""
    return [json.loads(line)["decision"]["id"] for line in lines]


def numbered(*numbers: int) -> list[str]:
    return [f"D{number}" for number in numbers]


def append(log: Path, *lines: bytes) -> None:
    with log.open("ab") as file:
        file.write(b"".join(lines))


def begin(log: Path, folder: Path, sink: str = "s") -> None:
    """Create the log, if it is missing, and the cursor of a sink at its end."""
    log.touch()
    folder.mkdir(FOLDER_MODE, exist_ok=True)
    write_cursor(folder, sink, start_cursor(log))


@dataclass
class Clock:
    """Seconds that only the test moves."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class RecordedTransport:
    """Accepts lines, unless `answer` raises an error for them."""

    answer: Callable[[Sequence[SinkLine]], int] = lambda lines: 0
    batches: list[list[bytes]] = field(default_factory=list)
    closed: int = 0

    def send(self, lines: Sequence[SinkLine]) -> int:
        dropped = self.answer(lines)
        self.batches.append([line.raw for line in lines])
        return dropped

    def close(self) -> None:
        self.closed += 1

    @property
    def ids(self) -> list[str]:
        """The IDs of all accepted decisions, in order."""
        return [id for batch in self.batches for id in ids(batch)]
