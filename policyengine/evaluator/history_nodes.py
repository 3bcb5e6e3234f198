"""Nodes that read the history: they scan the fetched events. Each event counts, does not count, or may count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from policyengine import kernel as k
from policyengine.clock import epoch_microseconds
from policyengine.evaluator.conditions import Condition
from policyengine.evaluator.nodes import Node, is_absent, merge
from policyengine.evaluator.relation_nodes import fold
from policyengine.evaluator.state import MAYBE, YES, State
from policyengine.runtime.history import History, PastEvent, events_between, unread_reason
from policyengine.runtime.values import Unknown
from policyengine.spec.history import (
    MAX_KEY_LENGTH,
    NOBODY,
    TOO_SHORT,
    as_past_fact,
    fold_fields,
    join_key,
    not_reported,
    output_value,
)
from policyengine.spec.rate_units import to_microseconds
from policyengine.typesystem import EntityRef, Type

NO_AGENT: Final = Unknown.missing("agent.id")


def key_of(parts: list[Any]) -> str | Unknown:
    """Return the key of a history; Unknown if a part is unknown. This is a faster version of `join_key`."""
    texts = []
    for part in parts:
        if type(part) is not str:
            return join_key(parts)
        texts.append(encode_basestring_ascii(part))
    text = f"[{', '.join(texts)}]"
    return text if len(text) <= MAX_KEY_LENGTH else join_key(parts)


class EventRules:
    """A pattern of past requests as nodes. `where` is the condition on an event, None if all events count. `equalities`
    are pairs of the position of a fact and the value that it must equal; they exclude most events early. `noted` are
    the facts of the current request that `where` reads; `user` is the user's id.
    """

    __slots__ = ("equalities", "keys", "noted", "pattern", "user", "watch", "where")

    def __init__(
        self,
        pattern: k.EventPattern,
        keys: tuple[Node, ...] | None,
        where: Condition | None,
        equalities: tuple[tuple[int, Node], ...],
        noted: tuple[Node, ...],
        user: Node,
    ) -> None:
        self.user = user
        self.pattern = pattern
        self.watch = pattern.watch
        self.keys = keys
        self.where = where
        self.equalities = equalities
        self.noted = noted

    def key(self, st: State) -> str | Unknown:
        """Return the key of the history as text; unknown if a part of the key is unknown."""
        if self.keys is not None:
            return key_of([node.get(st) for node in self.keys])
        owner = st if st.presenter is None else st.presenter
        user = self.user.get(st)
        if owner.caller_key is not None and owner.caller_key[0] is user:
            return owner.caller_key[1]
        agent: Any = owner.name if owner.by_agent else NO_AGENT
        parts = ["" if type(one) is not str and is_absent(one) else one for one in (owner.issuer, agent, user)]
        if not parts[1] and not parts[2] and is_absent(agent) and is_absent(user):
            return Unknown.of("agent.id", NOBODY)
        key = key_of(parts)
        owner.caller_key = user, key
        return key

    def fetched(self, st: State, fact: str) -> Any:
        """Return the history that the store returned, or Unknown."""
        key = self.key(st)
        if st.recorder is not None:
            for node in self.noted:
                node.get(st)
        if isinstance(key, Unknown):
            return key
        return st.history.get((self.watch, key)) or Unknown.of(fact, unread_reason(st.history))

    def candidates(self, st: State, history: History) -> Sequence[PastEvent]:
        """Return the events that no equality with a known text excludes."""
        for place, node in self.equalities:
            wanted = node.get(st)
            if isinstance(wanted, str | EntityRef):
                return history.among(place, wanted)
        return history.events

    def counts(self, st: State, event: PastEvent) -> Any:
        """Return whether the event counts: True, False or Unknown."""
        if self.where is None:
            return True
        return value_at(st, event, self.where)


def value_at(st: State, event: PastEvent, node: Node) -> Any:
    """Return the value of a node at a past event. An approval is not bound to facts of past events, so none
    is recorded.
    """
    before, recorder = st.past, st.recorder
    st.past, st.recorder = event, None
    value = node.get(st)
    st.past, st.recorder = before, recorder
    return value


class HistoryNode(Condition):
    """A history condition or an aggregate: the events of its window, latest first, each with whether it counts. With
    `counts_all`, every event of the window counts.
    """

    __slots__ = ("counts_all", "event", "fact", "since", "within")

    def __init__(self, event: EventRules, since: EventRules | None, within: timedelta, fact: str) -> None:
        self.event = event
        self.since = since
        self.within = to_microseconds(within)
        self.fact = fact
        self.counts_all = event.where is None and since is None

    def events(self, st: State) -> tuple[list[tuple[PastEvent, Any]], list[Unknown]] | Unknown:
        """Return the events of the window and the unknowns that gaps in the history cause; Unknown if the history is
        unknown.
        """
        main = self.event.fetched(st, self.fact)
        since = None if self.since is None else self.since.fetched(st, self.fact)
        if type(main) is Unknown or type(since) is Unknown:
            return main if type(main) is Unknown else since  # type: ignore[return-value]  # one of them is
        start, events = self._window(st, self.event, main)
        found = [(event, self.event.counts(st, event)) for event in reversed(events)]
        if since is not None:
            found = list(self._after_last_since(st, found, since))
        gap = [Unknown.of(self.fact, TOO_SHORT)] if main.complete_after > start else []
        return found, gap

    def window(self, st: State) -> tuple[Sequence[PastEvent], Sequence[PastEvent], int] | None:
        """Return the events of the window, the events of `since` in it, and how many `since` events the store holds;
        None if one of the histories is unknown.
        """
        main = self.event.fetched(st, self.fact)
        since = None if self.since is None else self.since.fetched(st, self.fact)
        if type(main) is Unknown or type(since) is Unknown:
            return None
        events = self._window(st, self.event, main)[1]
        if self.since is None or since is None:
            return events, [], 0
        return events, self._window(st, self.since, since)[1], len(since.events)

    def _window(self, st: State, event: EventRules, history: History) -> tuple[int, Sequence[PastEvent]]:
        """Return the start of the window and its events. A question about an earlier time ignores later events."""
        start, asked = self._bounds(st, history)
        return start, events_between(event.candidates(st, history), start, asked)

    def _bounds(self, st: State, history: History) -> tuple[int, int | None]:
        """Return the time after which the window starts, and the time of the question if it is an earlier one."""
        asked = None if st.request.options.at is None else epoch_microseconds(st.now)
        return (history.now if asked is None else asked) - self.within, asked

    def _after_last_since(
        self, st: State, found: list[tuple[PastEvent, Any]], since: History
    ) -> Iterator[tuple[PastEvent, Any]]:
        """Yield the events. An event counts only if no `since` event happened at the same time or later."""
        assert self.since is not None
        resets = list(reversed(self._window(st, self.since, since)[1]))
        later: list[Any] = []
        for event, counts in found:
            while resets and resets[0].serial >= event.serial:
                later.append(self.since.counts(st, resets.pop(0)))
            lost = [Unknown.of(self.fact, TOO_SHORT)] if event.at <= since.complete_after else []
            reset = fold([*later, *lost], settling=True)
            none = reset if type(reset) is Unknown else not reset
            yield event, fold([counts, none], settling=False)


class HistoryTest(HistoryNode):
    """`after EV within D since EV2`."""

    __slots__ = ()

    def get(self, st: State) -> Any:
        if self.since is not None:
            found = self.events(st)
            if isinstance(found, Unknown):
                return found
            counting, gap = found
            return fold([*(counts for _, counts in counting), *gap], settling=True)
        main = self.event.fetched(st, self.fact)
        return main if type(main) is Unknown else self._happened(st, main)

    def _happened(self, st: State, main: History) -> Any:
        """Return whether any event of the window counts; usually, the latest event does."""
        start, asked = self._bounds(st, main)
        unknown: list[Any] = []
        if self.counts_all:
            if main.count_between(start, asked):
                return True
        else:
            for event in reversed(self._window(st, self.event, main)[1]):
                counts = self.event.counts(st, event)
                if counts is True:
                    return True
                if type(counts) is Unknown:
                    unknown.append(counts)
        if main.complete_after > start:
            unknown.append(Unknown.of(self.fact, TOO_SHORT))
        return merge(unknown) if unknown else False

    def test(self, st: State) -> int:
        value = self.get(st)
        if type(value) is Unknown:
            st.doubts.append(value)
            return MAYBE
        return YES if value else 0


class AggregateValue(HistoryNode):
    """`count of …`, `sum past.f of …`, `distinct past.f of …`; `field` is the fact, or the fact with its default."""

    __slots__ = ("field", "node")

    def __init__(
        self, event: EventRules, since: EventRules | None, within: timedelta, fact: str, node: k.Aggregate,
        field: Node | None,
    ) -> None:  # fmt: skip
        super().__init__(event, since, within, fact)
        self.node = node
        self.field = field

    def test(self, st: State) -> int:
        raise TypeError("an aggregate is not a condition")

    def get(self, st: State) -> Any:
        if self.counts_all and self.node.function == "count":
            return self.count(st)
        found = self.events(st)
        if isinstance(found, Unknown):
            return found
        counting, gap = found
        some = [(event, counts) for event, counts in counting if counts is not False]
        fields = [self._field(st, event) for event, _ in some]
        unknown = [one for one in (*fields, *(counts for _, counts in some), *gap) if type(one) is Unknown]
        return merge(unknown) if unknown else fold_fields(self.node, tuple(fields))

    def count(self, st: State) -> Any:
        """Return the number of events of the window; Unknown if it cannot be known."""
        main = self.event.fetched(st, self.fact)
        if type(main) is Unknown:
            return main
        start, asked = self._bounds(st, main)
        return Unknown.of(self.fact, TOO_SHORT) if main.complete_after > start else main.count_between(start, asked)

    def _field(self, st: State, event: PastEvent) -> Any:
        if self.field is None:
            return True
        return value_at(st, event, self.field)


class PastValue(Node):
    """A fact of the event on which a condition is tested. `place` is its position among the facts that the store keeps
    of an event.
    """

    __slots__ = ("name", "output", "place", "status", "type")

    def __init__(self, place: int, name: str, type: Type, *, status: bool, output: bool) -> None:
        self.place = place
        self.name = name
        self.type = type
        self.status = status
        self.output = output

    def get(self, st: State) -> Any:
        event = st.past
        if event is None:
            return Unknown.of(self.name, "no earlier request is matched here")
        if self.status:
            return not_reported(self.name) if event.status is None else event.status
        if self.output:
            if self.place < len(event.output):
                return output_value(event.output[self.place], self.type, self.name)
            return not_reported(self.name)
        return as_past_fact(event.facts[self.place], self.name)


def past_value(node: k.PastFact, event: k.EventPattern | None, name: str) -> PastValue:
    """Return the node for a past fact inside a condition on this pattern."""
    if event is None:
        return PastValue(-1, name, node.type, status=False, output=False)
    match node.fact:
        case k.Fact(("past", "status")):
            return PastValue(-1, name, node.type, status=True, output=False)
        case k.Fact(path) if path[:2] == ("past", "output"):
            return PastValue(event.outputs.index(path[2:]), name, node.type, status=False, output=True)
        case fact:
            return PastValue(event.facts.index(fact), name, node.type, status=False, output=False)
