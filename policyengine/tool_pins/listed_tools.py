"""The state of each tool that a server lists, compared with the pins: pinned, changed, new, shadowing, or unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policyengine.control_characters import one_line
from policyengine.tool_pins.definitions import DefinitionError, hash_definition
from policyengine.tool_pins.pin_file import PinSet

MAX_SHOWN_NAME = 128


class PinState(StrEnum):
    """The state of a tool compared with its pin. Only a pinned tool is reviewed."""

    PINNED = "pinned"
    CHANGED = "changed"
    NEW = "new"
    SHADOWING = "shadowing"
    REPEATED = "repeated"
    UNUSABLE = "unusable"
    UNLISTED = "unlisted"


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool as a server lists it now: its state, the hash of its definition, and a text that says why it is not
    pinned. `pinned` is one of the hashes in its pin, if there is a pin."""

    name: str
    state: PinState
    why: str = ""
    hash: str | None = None
    pinned: str | None = None

    @property
    def is_reviewed(self) -> bool:
        return self.state is PinState.PINNED

    @property
    def facts(self) -> Mapping[str, object]:
        """The facts `tool.pinned`, `tool.changed` and `tool.hash`."""
        hash = {} if self.hash is None else {"hash": self.hash}
        changed = self.pinned is not None and self.state not in (PinState.PINNED, PinState.UNLISTED)
        return {"pinned": self.is_reviewed, "changed": changed, **hash}


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """A tool in a list of a server: the hash of its definition, or `why` it has none. `repeats` says whether the list
    has the name twice."""

    name: str
    hash: str | None
    why: str = ""
    repeats: bool = False

    def compare(self, server: str, pins: PinSet) -> ListedTool:
        known = pins.hashes(server, self.name)
        pinned = min(known, default=None)
        if self.hash is None:
            return ListedTool(self.name, PinState.UNUSABLE, self.why, None, pinned)
        if self.repeats:
            return ListedTool(
                self.name, PinState.REPEATED, "the server lists two tools with this name", self.hash, pinned
            )
        if self.hash in known:
            return ListedTool(self.name, PinState.PINNED, "", self.hash, self.hash)
        if known:
            return ListedTool(self.name, PinState.CHANGED, "its definition is not the reviewed one", self.hash, pinned)
        if (other := pins.shadowed(server, self.name)) is not None:
            why = f"it was not reviewed, and its name looks like that of the tool `{one_line(other)[:MAX_SHOWN_NAME]}`"
            return ListedTool(self.name, PinState.SHADOWING, why, self.hash)
        return ListedTool(self.name, PinState.NEW, "it was not reviewed", self.hash)


def read_listing(definitions: Sequence[object]) -> list[ToolEntry | None]:
    """Return each item of a list of tools with its hash; None for an item without a name."""
    names = Counter(name for item in definitions if (name := definition_name(item)) is not None)
    return [
        None if (name := definition_name(item)) is None else hash_listed(name, item, repeats=names[name] > 1)
        for item in definitions
    ]


def definition_name(item: object) -> str | None:
    name = item.get("name") if isinstance(item, Mapping) else None
    return name if isinstance(name, str) else None


def hash_listed(name: str, definition: object, *, repeats: bool = False) -> ToolEntry:
    try:
        hash = hash_definition(definition if isinstance(definition, Mapping) else {})
    except DefinitionError as error:
        return ToolEntry(name, None, str(error), repeats)
    return ToolEntry(name, hash, "", repeats)


def unlisted_tool(name: str, server: str, pins: PinSet) -> ListedTool:
    pinned = min(pins.hashes(server, name), default=None)
    return ListedTool(name, PinState.UNLISTED, "the server does not list it", None, pinned)
