"""Callers that move, in columns of events: farms, mimics, schedules, and independent callers around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from policyengine.behavior.events import ALLOWED, Caller
from policyengine.behavior.lockstep.columns import EventColumns
from policyengine.behavior.lockstep.detection import find_groups
from policyengine.behavior.lockstep.group import LockstepFindings, LockstepGroup
from tests.depth import examples

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
BEGIN = 1_800_000_000_000 // DAY * DAY
NEVER = 2**62
KEY = b"deployment"
INDEPENDENT = examples(100, 200)


class Movements:
    """Collects the runs of callers in a window of a day. Around them, a hundred or more independent callers use
    the same workflow."""

    def __init__(self, seed: int = 1, independent: int = INDEPENDENT) -> None:
        self.random = Random(seed)
        self.callers: list[Caller] = []
        self.ready: list[int] = []
        self.events: list[tuple[int, int, int, int, int]] = []
        for _ in range(independent):
            self.move([self.caller()], self.beats(self.random.randrange(10, 60)))

    def caller(self, ready: int = NEVER) -> int:
        """Return the number of a new caller, which is ready at a time."""
        self.callers.append(Caller("https://issuer.example", f"agent {len(self.callers)}"))
        self.ready.append(ready)
        return len(self.callers) - 1

    def newcomers(self, count: int) -> list[int]:
        return [self.caller() for _ in range(count)]

    def residents(self, count: int) -> list[int]:
        return [self.caller(BEGIN - DAY) for _ in range(count)]

    def beats(self, count: int) -> list[int]:
        """Return irregular times of the day."""
        return sorted(self.random.randrange(HOUR // 2, DAY - HOUR) for _ in range(count))

    def move(
        self, callers: Iterable[int], beats: Iterable[int], jitter: int = SECOND, *, workflow: int = 1, late: int = 0
    ) -> None:
        """Let each caller run a workflow at each time, `late` and up to `jitter` milliseconds before or after it."""
        for caller in callers:
            for beat in beats:
                at = BEGIN + beat + late + self.random.randint(-jitter, jitter)
                run = self.random.getrandbits(32) | 1
                for step in range(4):
                    self.events.append((at, caller, 100 * workflow + step, run, ALLOWED))
                    at += self.random.randrange(400, 600)

    def columns(self, days: int = 1) -> EventColumns:
        columns = EventColumns(BEGIN, BEGIN + days * DAY)
        for event in self.events:
            columns.add(*event)
        return columns

    def find(self, earlier: Sequence[LockstepGroup] = (), days: int = 1) -> LockstepFindings:
        return find_groups(self.columns(days), self.callers, KEY, ready=self.ready, earlier=earlier)

    def pools(self) -> list[list[int]]:
        """Return the numbers of the callers that share limits, for each group."""
        return sorted(self.numbers(group.pooled) for group in self.find().groups if group.pooled)

    def numbers(self, callers: Iterable[Caller]) -> list[int]:
        return sorted(self.callers.index(caller) for caller in callers)
