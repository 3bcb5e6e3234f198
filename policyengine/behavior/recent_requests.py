"""The requests of the last days, in which groups of callers are searched for: in memory, and as bytes for a file.

Requests are kept by day, because a search begins when a day has ended.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from msgspec import MsgspecError, Struct, msgpack

from policyengine.behavior.events import DENIED, MAX_TIME, Caller
from policyengine.behavior.lockstep.bounds import DAY, MAX_CALLER_EVENTS, MAX_CALLERS
from policyengine.behavior.lockstep.columns import MAX_TAG, EventColumns
from policyengine.behavior.row import BehaviorRow

AgentName: TypeAlias = tuple[str, str]  # issuer and name
TaughtRow: TypeAlias = tuple[Caller, str, BehaviorRow]
SEARCHED_DAYS: Final = 3  # schedules that repeat only daily are recognized from the third day on
MAX_DAY_EVENTS: Final = 2**20
PART_REQUESTS: Final = 65_536  # maximum requests of one part


class RequestsError(Exception):
    """The error for packed requests that are damaged; the text says why."""


class RequestsPart(Struct, array_like=True, frozen=True):
    """Requests of some callers (issuer and agent) on one day, in columns of little-endian 32-bit numbers."""

    day: int
    callers: tuple[AgentName, ...]
    times: bytes
    numbers: bytes
    endpoints: bytes
    runs: bytes


class DayRequests:
    """The requests of one day, in columns. All instances and versions of an agent are one caller. `left_out` counts the
    requests beyond MAX_DAY_EVENTS, MAX_CALLERS, and MAX_CALLER_EVENTS of one caller."""

    def __init__(self, day: int) -> None:
        self.day = day
        self.columns = EventColumns(day * DAY, (day + 1) * DAY)
        self.left_out = 0
        self._numbers: dict[AgentName, int] = {}
        self._counts = array("I")  # of the requests of each caller

    def callers(self) -> list[AgentName]:
        """Return all callers. The index of each caller is its number."""
        return list(self._numbers)

    def add(self, at: int, issuer: str, agent: str, endpoint: int, run: int) -> None:
        """Add a request at a time of this day."""
        columns = self.columns
        # A caller without a request that was added has no number, so that the numbers follow from the requests alone.
        number = MAX_CALLERS if len(columns.runs) >= MAX_DAY_EVENTS else self._number(issuer, agent)
        if number == MAX_CALLERS or self._counts[number] >= MAX_CALLER_EVENTS:
            self.left_out += 1
            return
        self._counts[number] += 1
        columns.times.append(at - columns.begin)
        columns.callers.append(number)
        columns.endpoints.append(endpoint)
        columns.runs.append(run)  # last: `count` counts runs

    def extend(
        self,
        callers: Sequence[AgentName],
        times: array[int],
        numbers: array[int],
        endpoints: array[int],
        runs: array[int],
    ) -> bool:
        """Add requests in columns; `numbers` are those of `callers`. Return False, and add nothing, if a maximum would
        be exceeded, so that each request must be added on its own."""
        if self.count + len(times) > MAX_DAY_EVENTS or len(self._counts) + len(callers) > MAX_CALLERS:
            return False
        counts = Counter(numbers)
        if any(self._count_of(callers[number]) + count > MAX_CALLER_EVENTS for number, count in counts.items()):
            return False
        known = [self._number(*name) for name in callers]
        for number, count in counts.items():
            self._counts[known[number]] += count
        self.columns.times.extend(times)
        self.columns.callers.extend(map(known.__getitem__, numbers))
        self.columns.endpoints.extend(endpoints)
        self.columns.runs.extend(runs)
        return True

    def _count_of(self, name: AgentName) -> int:
        """Return the number of requests of a caller."""
        number = self._numbers.get(name)
        return 0 if number is None else self._counts[number]

    def _number(self, issuer: str, agent: str) -> int:
        """Return the number of a caller; a new caller gets the next number, or MAX_CALLERS if all are in use."""
        number = self._numbers.get((issuer, agent), MAX_CALLERS)
        if number == MAX_CALLERS and len(self._counts) < MAX_CALLERS:
            number = self._numbers[issuer, agent] = len(self._counts)
            self._counts.append(0)
        return number

    @property
    def count(self) -> int:
        """The number of requests. Another thread may be adding one, whose last column counts."""
        return len(self.columns.runs)

    def pack(self, begin: int, end: int) -> bytes:
        """Return the requests with the numbers from `begin` to `end` (exclusive), as bytes."""
        columns, part = self.columns, slice(begin, end)
        chosen = columns.callers[part]  # first: their callers have numbers below
        return pack_requests(
            self.day, self.callers(), columns.times[part], chosen, columns.endpoints[part], columns.runs[part]
        )


def pack_requests(
    day: int,
    callers: Sequence[AgentName],
    times: array[int],
    numbers: array[int],
    endpoints: array[int],
    runs: array[int],
) -> bytes:
    """Return requests in columns as a RequestsPart; `numbers` are those of `callers`."""
    used = sorted(set(numbers))
    places = {number: place for place, number in enumerate(used)}
    placed = array("I", map(places.__getitem__, numbers))
    columns = (column.tobytes() for column in (times, placed, endpoints, runs))
    return msgpack.encode(RequestsPart(day, tuple(callers[number] for number in used), *columns))


class RecentRequests:
    """The requests of the latest day that has any, and of the SEARCHED_DAYS days before it. Requests of earlier days
    are left out, whether they come before or after later ones. It is not thread-safe."""

    def __init__(self) -> None:
        self.days: dict[int, DayRequests] = {}

    def __len__(self) -> int:
        return sum(requests.count for requests in self.days.values())

    @property
    def left_out(self) -> int:
        """The number of requests that were left out because there were too many."""
        return sum(requests.left_out for requests in self.days.values())

    def add(self, at: int, caller: Caller, endpoint: int, run: int, outcome: int) -> None:
        """Add a decision. Denied requests are left out: a caller that may do nothing could otherwise move with any
        other caller."""
        if outcome != DENIED:
            day = at // DAY
            requests = self.days.get(day) or self._day(day)
            if requests is not None:
                requests.add(at, caller.issuer, caller.agent, endpoint, run)

    def _day(self, day: int) -> DayRequests | None:
        """Return the requests of a day; None if the day is too early."""
        found = self.days.get(day)
        if found is None and max(self.days, default=0) - day <= SEARCHED_DAYS:
            found = self.days[day] = DayRequests(day)
            for old in [each for each in self.days if day - each > SEARCHED_DAYS]:
                del self.days[old]
        return found

    def forget_after(self, day: int) -> None:
        """Forget the requests of the days after a day, which were dated by a wrong clock."""
        for later in [each for each in self.days if each > day]:
            del self.days[later]

    def merge(self, raw: bytes) -> None:
        """Add packed requests. Raises RequestsError."""
        try:
            part = msgpack.decode(raw, type=RequestsPart)
        except MsgspecError as error:
            raise RequestsError(str(error)) from None
        columns = [part.times, part.numbers, part.endpoints, part.runs]
        if not 0 <= part.day <= MAX_TIME // DAY or len({len(column) for column in columns}) > 1 or len(part.times) % 4:
            raise RequestsError("the columns have different lengths")
        times, numbers, endpoints, runs = (array("I", column) for column in columns)
        if len(numbers) and (max(numbers) >= len(part.callers) or max(times) >= DAY):
            raise RequestsError("a number is out of range")
        requests, begin = self._day(part.day), part.day * DAY
        if requests is None or requests.extend(part.callers, times, numbers, endpoints, runs):
            return
        for at, number, endpoint, run in zip(times, numbers, endpoints, runs, strict=True):
            requests.add(begin + at, *part.callers[number], endpoint, run)

    def window(self, until: int) -> tuple[EventColumns, list[AgentName]]:
        """Return the requests of the days before a day, with their callers by number. Decisions may be added to other
        days meanwhile. No object is created for each caller, because many new objects would start a full garbage
        collection, for which decisions wait."""
        columns, numbers = EventColumns((until - SEARCHED_DAYS) * DAY, until * DAY), dict[AgentName, int]()
        for day in sorted(self.days):
            if until - SEARCHED_DAYS <= day < until:
                requests = self.days[day]
                count = requests.count  # first: a caller that appears now has no number below
                known = [numbers.setdefault(name, len(numbers)) for name in requests.callers()]
                columns.extend(requests.columns, count, known)
        return columns, list(numbers)[:MAX_CALLERS]


class FirstReady:
    """The first day on which a caller of each agent was ready."""

    def __init__(self) -> None:
        self._days: dict[AgentName, int] = {}

    def note(self, caller: Caller, day: int) -> None:
        """Note the day on which a caller became ready; 0 if it never was."""
        if day:
            name = caller.issuer, caller.agent
            self._days[name] = min(self._days.get(name, MAX_TAG), day)

    def note_all(self, rows: Iterable[TaughtRow]) -> Iterator[TaughtRow]:
        """Note the callers of rows, and yield them."""
        for caller, group, row in rows:
            self.note(caller, row.ready_day)
            yield caller, group, row

    def pack(self) -> bytes:
        """Return the days as bytes, for another process."""
        return msgpack.encode([(*name, day) for name, day in self._days.items()])

    def merge_packed(self, raw: bytes) -> None:
        """Add the days that `pack` returned in another process."""
        for issuer, agent, day in msgpack.decode(raw, type=list[tuple[str, str, int]]):
            self.note(Caller(issuer, agent), day)

    def times(self) -> Mapping[AgentName, int]:
        """Return the times in milliseconds since 1970, by issuer and name."""
        return {name: day * DAY for name, day in self._days.items()}


def first_ready(rows: Iterable[tuple[Caller, int]]) -> Mapping[AgentName, int]:
    """Return the time since which each agent is ready, in milliseconds since 1970, from the days on which its callers
    became ready."""
    found = FirstReady()
    for caller, day in rows:
        found.note(caller, day)
    return found.times()


def packed_days(days: Mapping[int, DayRequests], begins: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[bytes]:
    """Yield the requests of each day between two numbers, packed in parts."""
    for day, end in ends.items():
        for begin in range(begins.get(day, 0), end, PART_REQUESTS):
            yield days[day].pack(begin, min(begin + PART_REQUESTS, end))
