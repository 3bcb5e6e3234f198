"""A review of the tools of a server: what differs from the pins, and the pins after some of it was accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from policyengine.tool_pins.definitions import Definition, DefinitionError, hash_definition
from policyengine.tool_pins.differences import MemberDifference, definition_differences
from policyengine.tool_pins.instruction_hints import InstructionHint, find_hints
from policyengine.tool_pins.listed_tools import PinState, definition_name, hash_listed
from policyengine.tool_pins.pin_file import MAX_DEFINITIONS, PinSet, ToolPin

REMOVED = "the server does not list it any more"
STATES_BY_URGENCY = (
    PinState.UNUSABLE, PinState.REPEATED, PinState.CHANGED, PinState.SHADOWING, PinState.NEW, PinState.PINNED,
)  # fmt: skip
# States of tools that cannot be accepted as they are.
UNACCEPTABLE_STATES = frozenset({PinState.UNUSABLE, PinState.REPEATED})


@dataclass(frozen=True, slots=True)
class ToolReview:
    """A tool to review: its definitions as the server lists them, the definition whose state is the most urgent to
    review, and its pin. A tool that is no longer listed has no definitions."""

    name: str
    state: PinState
    why: str
    definitions: tuple[Definition, ...] = ()
    definition: Definition = field(default_factory=dict)
    pin: ToolPin | None = None

    @property
    def is_acceptable(self) -> bool:
        return self.state not in UNACCEPTABLE_STATES

    @property
    def digest(self) -> str:
        """The hash of the definition or, if the server lists several, of their hashes; empty without a
        definition."""
        hashes = sorted({hash for one in self.definitions if (hash := hash_listed(self.name, one).hash) is not None})
        if len(hashes) == 1:
            return hashes[0]
        return f"sha256:{sha256(' '.join(hashes).encode()).hexdigest()}" if hashes else ""

    def differences(self) -> list[MemberDifference]:
        if not self.definitions or self.state is PinState.UNUSABLE:
            return []
        return definition_differences(closest_definition(self.definition, self.pin), self.definition)

    def hints(self, others: Collection[str]) -> list[InstructionHint]:
        """Return the hints in the definition; `others` are the names of other tools."""
        return [] if self.state is PinState.UNUSABLE else find_hints(self.definition, others)


def review_tools(listings: Mapping[str, Sequence[object]], server: str, pins: PinSet) -> list[ToolReview]:
    """Return the tools that are not pinned as they are listed; `listings` are by version of the protocol."""
    found: dict[str, list[Definition]] = {}
    repeated: set[str] = set()
    for listing in listings.values():
        names = Counter(name for item in listing if (name := definition_name(item)) is not None)
        repeated |= {name for name, count in names.items() if count > 1}
        for item in listing:
            if isinstance(item, Mapping) and (name := definition_name(item)) is not None:
                found.setdefault(name, []).append(item)
    reviews = [
        review_tool(name, definitions, server, pins, repeats=name in repeated) for name, definitions in found.items()
    ]
    gone = [name for name in pins.servers.get(server, {}) if name not in found]
    removed = [ToolReview(name, PinState.UNLISTED, REMOVED, pin=pins.pin(server, name)) for name in gone]
    return [*(review for review in reviews if review.state is not PinState.PINNED), *removed]


def review_tool(
    name: str, definitions: Sequence[Definition], server: str, pins: PinSet, *, repeats: bool
) -> ToolReview:
    compared = [(hash_listed(name, one, repeats=repeats).compare(server, pins), one) for one in definitions]
    worst, definition = min(compared, key=lambda pair: STATES_BY_URGENCY.index(pair[0].state))
    return ToolReview(name, worst.state, worst.why, tuple(definitions), definition, pins.pin(server, name))


def closest_definition(definition: Definition, pin: ToolPin | None) -> Definition:
    """Return the reviewed definition that differs least; an empty one without a pin."""
    reviewed = () if pin is None else pin.definitions.values()
    return min(reviewed, key=lambda one: len(definition_differences(one, definition)), default={})


def pin_definitions(definitions: Sequence[Definition], reviewed: str, by: str) -> ToolPin | None:
    """Return the pin of all definitions of one tool; None if one of them cannot be pinned, or if there are too many."""
    try:
        hashed: dict[str, Definition] = {hash_definition(one): one for one in definitions}
    except DefinitionError:
        return None
    return ToolPin(hashed, reviewed, by) if 1 <= len(hashed) <= MAX_DEFINITIONS else None


def accept_reviews(pins: PinSet, server: str, reviews: Sequence[ToolReview], reviewed: str, by: str) -> PinSet:
    """Return the pins after these reviews: each tool is pinned as it is listed, and tools that are gone lose their
    pins."""
    tools: dict[str, Any] = dict(pins.servers.get(server, {}))
    for review in reviews:
        pin = pin_definitions(review.definitions, reviewed, by)
        if pin is not None:
            tools[review.name] = pin
        elif not review.definitions:
            tools.pop(review.name, None)
    return pins.with_server(server, tools)
