"""Outlines of rules: the endpoints and principals of each rule of a bundle, read from the first fields of its data
without decoding its conditions. An outline is not a second copy, so it cannot differ from the decoded rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import msgpack

from policyengine import kernel as k
from policyengine.compiler.bundle.schema import BundleSchema
from policyengine.compiler.bundle.tables import BundleDataError, PatternNumber
from policyengine.compiler.tree import Head, TreeBuilder

# How blocks with a head of this class are found, and the field that holds the name, glob or group.
HEADS: dict[type, tuple[str, str]] = {
    k.ExactName: ("name", "name"),
    k.InGroup: ("group", "group"),
    k.NamePattern: ("glob", "glob"),
    k.PrincipalCondition: ("condition", ""),
    k.AnyUser: ("always", ""),
}


class OutlineReader:
    """Adds rules to a tree by their outlines."""

    def __init__(self, schema: BundleSchema) -> None:
        target = schema.prefix(k.GrantTarget, pattern=PatternNumber)
        grant = schema.prefix(k.Grant, openings=sequence_of(target))
        delegate = schema.prefix(k.DelegationGrant, patterns=tuple[PatternNumber, ...])
        place = schema.prefix(k.Place, patterns=tuple[PatternNumber, ...] | None, excepts=tuple[PatternNumber, ...])
        event = schema.prefix(k.EventPattern, place=place)
        self._agent = msgpack.Decoder(schema.prefix(
            k.AgentBlock, who=schema.form(k.AgentBlock, "who").wire(), grants=sequence_of(grant),
            requirements=schema.form(k.AgentBlock, "requirements").wire(), delegates=sequence_of(delegate),
        ))  # fmt: skip
        who = schema.form(k.UserBlock, "who").wire()
        self._user = msgpack.Decoder(schema.prefix(k.UserBlock, who=who, grants=sequence_of(grant)))
        self._anyone = msgpack.Decoder(schema.prefix(k.AnyoneBlock, grants=sequence_of(grant)))
        self._guard = msgpack.Decoder(schema.prefix(k.Guard, place=place))
        self._binder = msgpack.Decoder(schema.prefix(k.Binder, pattern=PatternNumber))
        limits = schema.prefix(k.Rate, place=place) | schema.prefix(k.Budget, place=place)
        self._limit = msgpack.Decoder(limits)
        self._watch = msgpack.Decoder(schema.prefix(k.EventRetention, event=event))
        self._heads = {schema.classes[kind].struct: head for kind, head in HEADS.items()}
        self._acts_for = schema.classes[k.ActsFor].struct

    def add_rules(self, builder: TreeBuilder, rules: Any) -> None:
        """Add all rules of a bundle. Raises MsgspecError, and BundleDataError for a pattern that does not exist."""
        try:
            for raw in rules.agents:
                agent = self._agent.decode(raw)
                delegates = [numbers_of(delegate.patterns) for delegate in agent.delegates]
                builder.add_agent(self._head(agent.who), self._has_condition(agent), grants_of(agent), delegates)
            for raw in rules.users:
                user = self._user.decode(raw)
                builder.add_user(self._head(user.who), grants_of(user))
            for raw in rules.anyones:
                builder.add_anyone(grants_of(self._anyone.decode(raw)))
            for raw in rules.guards:
                builder.add_guard(*place_numbers(self._guard.decode(raw).place))
            for raw in rules.binders:
                builder.add_binder(self._binder.decode(raw).pattern.number)
            for raw in rules.limits:
                builder.add_limit(*place_numbers(self._limit.decode(raw).place))
            for raw in rules.watches:
                builder.add_watch(place_numbers(self._watch.decode(raw).event.place)[0] or ())
        except IndexError:
            raise BundleDataError("a reference to a missing pattern") from None

    def _has_condition(self, agent: Any) -> bool:
        """Return whether a requirement of an agent block has a condition."""
        for requirement in agent.requirements:
            if type(requirement) is self._acts_for and requirement.condition is not None:
                return True
        return False

    def _head(self, raw: Any) -> Head:
        how, member = self._heads[type(raw)]
        return how, getattr(raw, member) if member else ""


def sequence_of(item: Any) -> Any:
    """Return the type of a tuple with any number of these items."""
    return tuple[item, ...]


def grants_of(block: Any) -> list[list[int]]:
    """Return the patterns of each grant of a block."""
    return [[target.pattern.number for target in grant.openings] for grant in block.grants]


def place_numbers(place: Any) -> tuple[list[int] | None, list[int]]:
    return None if place.patterns is None else numbers_of(place.patterns), numbers_of(place.excepts)


def numbers_of(patterns: Sequence[PatternNumber]) -> list[int]:
    return [pattern.number for pattern in patterns]
