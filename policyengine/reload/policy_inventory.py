"""The inventory of a set of policies by name and file, and the items that another set of policies lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.entities.store import EntityStore, describe_lost_types
from policyengine.kernel.fingerprint import CanonicalWriters
from policyengine.runtime.format_values import format_value
from policyengine.source import Source
from policyengine.syntax.parse import parse

FILES, PACKAGES, GUARDS, LIMITS = "removed-files", "removed-packages", "removed-guards", "removed-limits"
DELEGATION, ENTITIES, TRUNCATED_FILES = "removed-delegation-limits", "removed-entities", "cut-files"
NOUNS = {FILES: "file", PACKAGES: "package", GUARDS: "guard", LIMITS: "limit", DELEGATION: "delegation limit"}
# Kinds of items that restrict access.
RESTRICTION_KINDS = {
    "guard": GUARDS,
    "rate": LIMITS,
    "budget": LIMITS,
}
MAX_NAMED_ITEMS = 3
ItemKey: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Loss:
    """A missing item: `kind` is the word that allows the loss, `words` its name and location."""

    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class InventoryItem:
    """One declaration: `content` is a digest of the declaration without its name, and `parts` are the kinds of its
    effects or limits."""

    kind: str
    package: str
    name: str
    content: bytes
    parts: frozenset[str]
    file: str
    at: str

    @property
    def key(self) -> ItemKey:
        return self.kind, self.package, self.name

    @property
    def title(self) -> str:
        quoted = f" `{self.name}`" if self.kind == "block" else f" {format_value(self.name)}"
        return f"{self.kind}{quoted if self.name else ''}{f' of {self.package}' if self.package else ''}"

    @property
    def words(self) -> str:
        return f"{self.kind} {format_value(self.name)} of {self.package}, which was at {self.at}"


@dataclass(frozen=True, slots=True)
class PolicyInventory:
    """The inventory. `delegation` holds the bounds of chains: `depth`, `lifetime`, `no cycles`. `texts` holds the text
    of each file."""

    packages: frozenset[str] = frozenset()
    items: tuple[InventoryItem, ...] = ()
    delegation: frozenset[str] = frozenset()
    texts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, kernel: k.Kernel, sources: Iterable[Source] = ()) -> PolicyInventory:
        """Return the inventory of a kernel. A bundle has no sources, but cannot be truncated either."""
        texts = {source.label or source.name: source.text for source in sources}
        items, delegation = tuple(collect_items(kernel)), frozenset(delegation_bounds(kernel.delegation))
        return cls(frozenset(kernel.packages), items, delegation, texts)

    @property
    def files(self) -> frozenset[str]:
        return frozenset(item.file for item in self.items)

    def losses(self, after: PolicyInventory) -> Iterator[Loss]:
        """Yield the items that `after` has neither under the same name nor under another name."""
        yield from self._cut_files(after)
        yield from self._lost_files(after)
        yield from (Loss(PACKAGES, f"package {name}") for name in sorted(self.packages - after.packages))
        yield from self._lost_rules(after)
        yield from (Loss(DELEGATION, f"delegation {one}") for one in sorted(self.delegation - after.delegation))

    def changes(self, after: PolicyInventory) -> Iterator[str]:
        """Describe the additions, changes and removals of `after`, beginning with whole packages."""
        yield from (f"package {name} added" for name in sorted(after.packages - self.packages))
        yield from (f"package {name} removed" for name in sorted(self.packages - after.packages))
        old, new = group_items(self.items), group_items(after.items)
        for key in dict.fromkeys((*old, *new)):
            before, now = old.get(key, {}), new.get(key, {})
            gone = [item for content, item in before.items() if content not in now]
            come = [item for content, item in now.items() if content not in before]
            yield from (f"{item.title} changed, at {item.at}" for _, item in zip(gone, come, strict=False))
            yield from (f"{item.title} added, at {item.at}" for item in come[len(gone) :])
            yield from (f"{item.title} removed, which was at {item.at}" for item in gone[len(come) :])
        yield from (f"delegation {one} added" for one in sorted(after.delegation - self.delegation))
        yield from (f"delegation {one} removed" for one in sorted(self.delegation - after.delegation))

    def _cut_files(self, after: PolicyInventory) -> Iterator[Loss]:
        for file, text in after.texts.items():
            line = None if file not in self.texts else truncation_line(self.texts[file], text)
            if line is not None:
                yield Loss(
                    TRUNCATED_FILES,
                    f"the end of `{file}`, from line {line} on: the file is cut off inside a declaration",
                )

    def _lost_rules(self, after: PolicyInventory) -> Iterator[Loss]:
        there, moved = {item.key: item for item in after.items}, self._find_moved(after)
        for item in self.items:
            if item.kind not in RESTRICTION_KINDS:
                continue
            found = there.get(item.key)
            if found is not None:
                gone = sorted(lost_parts(item, found))
                yield from (Loss(RESTRICTION_KINDS[item.kind], f"`{part}` in {item.words}") for part in gone)
            elif (item.kind, item.content) not in moved:
                yield Loss(RESTRICTION_KINDS[item.kind], item.words)

    def _lost_files(self, after: PolicyInventory) -> Iterator[Loss]:
        """Yield lost files: files that have no item in `after`, unless their items have moved to another file."""
        before, moved = {(item.file, item.key) for item in self.items}, self._find_moved(after)
        keys = {item.key for item in after.items if item.name and (item.file, item.key) not in before}
        for file in sorted(self.files - after.files):
            gone = [
                item
                for item in self.items
                if item.file == file and item.key not in keys and (item.kind, item.content) not in moved
            ]
            if gone:
                rest = ", which no longer declares rules: its" if file in after.texts else ", and with it"
                yield Loss(FILES, f"file `{file}`{rest} {list_items(gone)}")

    def _find_moved(self, after: PolicyInventory) -> frozenset[tuple[str, bytes]]:
        """Return the contents that have another name in `after`; they may be renamed items of this inventory."""
        keys = {item.key for item in self.items if item.name}
        return frozenset((item.kind, item.content) for item in after.items if item.key not in keys)


def group_items(items: Iterable[InventoryItem]) -> dict[ItemKey, dict[bytes, InventoryItem]]:
    """Return the items by key and content, because blocks of one agent share a key."""
    found: dict[ItemKey, dict[bytes, InventoryItem]] = {}
    for item in items:
        found.setdefault(item.key, {})[item.content] = item
    return found


def list_items(items: list[InventoryItem]) -> str:
    named = [f"{item.kind} {format_value(item.name)}" if item.name else item.kind for item in items[:MAX_NAMED_ITEMS]]
    more = len(items) - MAX_NAMED_ITEMS
    return ", ".join([*named, *([f"{more:,} more"] if more > 0 else [])])


def truncation_line(before: str, after: str) -> int | None:
    """Return the line at which a file was truncated inside a declaration, or None. Truncated text can still be a valid
    policy: without its end, `define d = a and b` is `define d = a`.
    """
    kept = after.rstrip()
    if len(kept) >= len(before.rstrip()) or not before.startswith(kept):
        return None
    source = Source("before", before)
    module, _ = parse(source)
    spans = () if module is None else (one.span for one in module.declarations)
    return next((source.position(len(kept))[0] for span in spans if span.start < len(kept) < span.end), None)


def lost_parts(before: InventoryItem, after: InventoryItem) -> frozenset[str]:
    """Return the effects that a rule no longer has. Replacing a confirm with a deny is not a loss."""
    gone = before.parts - after.parts
    return gone - {"confirm"} if "deny" in after.parts - before.parts else gone


# ── Items of a kernel ─────────────────────────────────────────────────────────────────────────


def collect_items(kernel: k.Kernel) -> Iterator[InventoryItem]:
    write = CanonicalWriters()
    for guard in kernel.guards:
        yield build_item(write, guard, "guard", guard.package, guard.name, map(effect_kind, guard.effects))
    for limit in kernel.limits:
        kind = "rate" if isinstance(limit, k.Rate) else "budget"
        yield build_item(write, limit, kind, limit.package, limit.name, limit_parts(limit))
    for profile in kernel.profiles:
        yield build_item(write, profile, "profile", profile.package, profile.name)
    for blocks in (kernel.agents, kernel.users, kernel.anyones):
        for block in blocks:
            yield build_item(write, block, "block", block.package, block.label)
    for kind, named in (("entity", kernel.entities), ("issuer", kernel.issuers), ("attester", kernel.attesters)):
        yield from (build_item(write, one, kind, "", name) for name, one in named.items())
    for kind, parts in (("facts", kernel.binders), ("delegation", kernel.delegation), ("map", kernel.maps)):
        yield from (build_item(write, part, kind, "", "") for part in parts)


def build_item(
    write: CanonicalWriters, part: k.Node, kind: str, package: str, name: str, parts: Iterable[str] = ()
) -> InventoryItem:
    source = part.span.source
    digest = sha256(write(without_name(part)).encode("utf-8", "surrogatepass")).digest()
    return InventoryItem(kind, package, name, digest, frozenset(parts), source.label or source.name, part.span.at)


def without_name(part: k.Node) -> k.Node:
    """Return the node without its name, so that a renamed rule has the same digest."""
    match part:
        case k.Guard() | k.Rate():
            return replace(part, name="", package="")
        case k.Budget():
            return replace(part, name="", package="", quotas=tuple(replace(one, words="") for one in part.quotas))
        case k.AgentBlock() | k.UserBlock() | k.AnyoneBlock():
            return replace(part, package="")
        case _:
            return part


def effect_kind(effect: k.Effect) -> str:
    match effect:
        case k.Deny():
            return "deny"
        case k.Confirm():
            return "confirm"
        case k.ObligationEffect():
            return effect.kind
        case _:
            assert_never(effect)


def limit_parts(limit: k.Limit) -> Iterator[str]:
    match limit:
        case k.Rate():
            yield from ("pace",) if limit.pace is not None else ()
            yield from ("at once",) if limit.at_once is not None else ()
            yield from ("clamp",) if limit.clamps else ()
        case k.Budget():
            yield from (one.function for one in limit.quotas)


def delegation_bounds(limits: Iterable[k.DelegationLimits]) -> Iterator[str]:
    for limit in limits:
        yield from ("depth",) if limit.depth is not None else ()
        yield from ("lifetime",) if limit.lifetime is not None else ()
        yield from ("no cycles",) if limit.no_cycles else ()


# ── Entity rows ───────────────────────────────────────────────────────────────────────────────


def lost_rows(before: EntityStore, after: EntityStore) -> list[Loss]:
    return [Loss(ENTITIES, words) for words in describe_lost_types(before, after)]


def summarize_losses(losses: Iterable[Loss]) -> str:
    """Return a summary such as `2 guards and 1 file are gone`."""
    every = [loss.kind for loss in losses]
    cut, types, kinds = every.count(TRUNCATED_FILES), every.count(ENTITIES), [kind for kind in every if kind in NOUNS]
    cut_off = [f"{cut:,} file{' is' if cut == 1 else 's are'} cut off"] if cut else []
    rows = [f"rows of {types:,} entity type{' are' if types == 1 else 's are'} gone"] if types else []
    return "; ".join([*cut_off, *([describe_removed(kinds)] if kinds else []), *rows])


def describe_removed(kinds: Sequence[str]) -> str:
    counts = [(noun, kinds.count(kind)) for kind, noun in NOUNS.items() if kind in kinds]
    words = [f"{many:,} {noun}{'' if many == 1 else 's'}" for noun, many in counts]
    joined = " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"{joined} {'is' if len(kinds) == 1 else 'are'} gone"
