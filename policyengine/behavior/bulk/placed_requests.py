"""The requests of some agents, in which groups are searched for, with their places in the order of the logs.

Agents can be distributed over processes: the requests that each process collects are merged by their places, with the
same result as if all requests were added to RecentRequests in their order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from policyengine.behavior.events import DENIED, Caller
from policyengine.behavior.lockstep.bounds import DAY, MAX_CALLER_EVENTS
from policyengine.behavior.recent_requests import (
    MAX_DAY_EVENTS,
    PART_REQUESTS,
    SEARCHED_DAYS,
    AgentName,
    RecentRequests,
    pack_requests,
)

PackedDay: TypeAlias = tuple[int, list[AgentName], bytes, bytes, bytes, bytes, bytes]
_DECODE_DAY: Final = msgspec.msgpack.Decoder(PackedDay).decode


class PlacedDay:
    """The requests of one day in columns, with their places."""

    def __init__(self) -> None:
        self.agents: dict[AgentName, int] = {}
        self.places, self.times = array("q"), array("I")
        self.numbers, self.endpoints, self.runs = array("I"), array("I"), array("I")

    def add(self, place: int, time: int, agent: AgentName, endpoint: int, run: int) -> None:
        number = self.agents.get(agent)
        if number is None:
            number = self.agents[agent] = len(self.agents)
        self.places.append(place)
        self.times.append(time)
        self.numbers.append(number)
        self.endpoints.append(endpoint)
        self.runs.append(run)
        if len(self.places) > 2 * MAX_DAY_EVENTS:
            self.sort()

    def merge(self, other: PlacedDay) -> None:
        """Add the requests of other agents."""
        numbers = [self.agents.setdefault(agent, len(self.agents)) for agent in other.agents]
        self.numbers.extend(map(numbers.__getitem__, other.numbers))
        for mine, theirs in zip(self._columns, other._columns, strict=True):
            mine.extend(theirs)
        if len(self.places) > 2 * MAX_DAY_EVENTS:
            self.sort()

    @property
    def _columns(self) -> tuple[array[int], array[int], array[int], array[int]]:
        """The columns without the numbers of agents."""
        return self.places, self.times, self.endpoints, self.runs

    def sort(self) -> None:
        """Sort the requests by their places, and drop requests beyond the limit of each agent and of the day. Agents
        are numbered in the order of their first requests."""
        agents, names = dict[AgentName, int](), list(self.agents)
        counts = [0] * len(names)
        chosen, numbers = array("I"), array("I")
        for index in sorted(range(len(self.places)), key=self.places.__getitem__):
            number = self.numbers[index]
            if counts[number] < MAX_CALLER_EVENTS:
                counts[number] += 1
                chosen.append(index)
                numbers.append(agents.setdefault(names[number], len(agents)))
                if len(chosen) == MAX_DAY_EVENTS:
                    break
        self.agents, self.numbers = agents, numbers
        self.places, self.times, self.endpoints, self.runs = (
            array(column.typecode, map(column.__getitem__, chosen)) for column in self._columns
        )

    def parts(self, day: int) -> Iterator[bytes]:
        """Yield the sorted requests, packed for RecentRequests."""
        names = list(self.agents)
        for begin in range(0, len(self.places), PART_REQUESTS):
            part = slice(begin, begin + PART_REQUESTS)
            columns = self.times[part], self.numbers[part], self.endpoints[part], self.runs[part]
            yield pack_requests(day, names, *columns)


class PlacedRequests:
    """Collects requests, with the same limits as RecentRequests.

    `merge` is associative, empty requests change nothing, and the result depends neither on how agents are distributed
    nor on the order in which requests are merged.
    """

    def __init__(self) -> None:
        self._days: dict[int, PlacedDay] = {}

    def add(self, place: int, at: int, caller: Caller, endpoint: int, run: int, outcome: int) -> None:
        """Add a decision, as `RecentRequests.add` does."""
        if outcome != DENIED:
            found = self._day(at // DAY)
            if found is not None:
                found.add(place, at % DAY, (caller.issuer, caller.agent), endpoint, run)

    def _day(self, day: int) -> PlacedDay | None:
        """Return the requests of a day; None if the day is too early."""
        found = self._days.get(day)
        if found is None and max(self._days, default=0) - day <= SEARCHED_DAYS:
            found = self._days[day] = PlacedDay()
            for old in [each for each in self._days if day - each > SEARCHED_DAYS]:
                del self._days[old]
        return found

    def merge(self, other: PlacedRequests) -> None:
        """Add the requests of other agents."""
        for day, requests in other._days.items():
            self._merge_day(day, requests)

    def _merge_day(self, day: int, requests: PlacedDay) -> None:
        found = self._day(day)
        if found is not None:
            found.merge(requests)

    def pack(self) -> Iterator[bytes]:
        """Yield the requests of each day as bytes, for another process."""
        for day, found in self._days.items():
            found.sort()
            columns = (found.places, found.times, found.numbers, found.endpoints, found.runs)
            packed = (column.tobytes() for column in columns)
            yield msgspec.msgpack.encode((day, list(found.agents), *packed))

    def merge_packed(self, raw: bytes) -> None:
        """Add the requests of a day that `pack` yielded in another process."""
        day, agents, *packed = _DECODE_DAY(raw)
        found = PlacedDay()
        found.agents = {agent: number for number, agent in enumerate(agents)}
        columns = (found.places, found.times, found.numbers, found.endpoints, found.runs)
        for column, content in zip(columns, packed, strict=True):
            column.frombytes(content)
        self._merge_day(day, found)

    def add_to(self, requests: RecentRequests) -> None:
        """Add all requests to `requests`, which contains earlier requests."""
        for day in sorted(self._days):
            self._days[day].sort()
            for part in self._days[day].parts(day):
                requests.merge(part)
