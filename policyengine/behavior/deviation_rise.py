"""Finds the request of a run with which `behavior.deviation` rose most, in a log."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from policyengine.audit.reader import DecisionRecord
from policyengine.behavior.events import BehaviorEvent
from policyengine.behavior.fold_log import logged_event

DEVIATION = "deviation"


class DeviationRise(NamedTuple):
    """The rise of the deviation from `before` to `after` with the request of `record`, which has the number `number` in
    its run. The explained request has the deviation `value` and the number `place`. Numbers count the requests of the
    run in the log, which has all of them if `complete`."""

    record: DecisionRecord
    number: int
    before: Decimal
    after: Decimal
    value: Decimal
    place: int
    complete: bool

    def words(self) -> str:
        """Return the rise as a sentence."""
        request = f"request {self.number}, {self.record.endpoint or 'to no declared endpoint'} ({self.record.id})"
        where = "this request" if self.number == self.place else request
        run = "its run" if self.complete else "its run in this log, which does not have all requests of the run"
        rose = f"it rose most, from {self.before} to {self.after}, with {where}"
        return f"behavior.deviation = {self.value}, at request {self.place} of {run}: {rose}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "value": float(self.value), "request": self.place, "complete": self.complete,
            "rise": {
                "id": self.record.id, "endpoint": self.record.endpoint, "request": self.number,
                "from": float(self.before), "to": float(self.after),
            },
        }  # fmt: skip


def deviation_of(record: DecisionRecord) -> Decimal:
    """Return the deviation that a decision read; 0 if it read none."""
    value = None if record.behavior is None else record.behavior.facts.get(DEVIATION)
    return value if isinstance(value, Decimal) else Decimal(0)


class DeviationRun:
    """Collects the requests of the latest run of one caller. A run ends with another run key, and after `idle`
    milliseconds without a request."""

    def __init__(self, idle: int) -> None:
        self.run: list[DecisionRecord] = []
        self._idle = idle
        self._latest: BehaviorEvent | None = None
        self._number = 0  # of the latest event
        self._complete = True

    def add(self, record: DecisionRecord) -> None:
        """Add a decision of the caller."""
        assert record.behavior is not None
        event, latest, number = logged_event(record, record.behavior), self._latest, record.behavior.event
        follows = number in (0, self._number + 1)  # 0: nothing was learned from the decision
        if latest is None or event.run != latest.run or event.at - latest.at > self._idle:
            self.run, self._complete = [], follows
        self.run.append(record)
        self._complete = self._complete and follows
        self._latest, self._number = event, number or self._number

    def rise(self) -> DeviationRise:
        """Return the largest rise of the run; of equal rises, the first."""
        values = list(map(deviation_of, self.run))
        rises = [after - before for before, after in zip([Decimal(0), *values], values, strict=False)]
        place = rises.index(max(rises))
        before = values[place - 1] if place else Decimal(0)
        return DeviationRise(self.run[place], place + 1, before, values[place], values[-1], len(values), self._complete)


def find_deviation_rise(record: DecisionRecord, records: Iterable[DecisionRecord], idle: int) -> DeviationRise | None:
    """Return the largest rise of the deviation in the run of a decision; None if the decision read no deviation above
    0. `records` are in the order of the log; records after the decision are not read."""
    if record.behavior is None or deviation_of(record) <= 0:
        return None
    caller, found = logged_event(record, record.behavior).caller, DeviationRun(idle)
    for earlier in records:
        if earlier.id == record.id:
            break
        behavior = earlier.behavior
        if behavior is not None and behavior.event and logged_event(earlier, behavior).caller == caller:
            found.add(earlier)
    found.add(record)
    return found.rise()
