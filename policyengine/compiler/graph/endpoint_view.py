"""Draws one place of the tree as boxes: who may pass, with which scopes and conditions, and which guards apply."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers, overlaps
from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.tree import Opens, Uses
from policyengine.runtime.format_values import format_value
from policyengine.spec.limits import format_pace

Block = k.AgentBlock | k.UserBlock | k.AnyoneBlock


@dataclass(frozen=True, slots=True)
class EndpointView:
    """Draws rules of a kernel. With an `endpoint`, every rule shows its patterns and the requirements of its block."""

    kernel: k.Kernel
    endpoint: k.Pattern | None = None

    def boxes(self, uses: Sequence[Uses], everywhere: Iterable[int] = (), always: Iterable[int] = ()) -> Iterator[Box]:
        """Yield the rules of several patterns together: one box for each block, guard, rate and budget."""
        yield from self._binds(_distinct_numbers(use.binders for use in uses))
        yield from self._grants(uses)
        guards = _distinct_numbers((everywhere, *(use.guards for use in uses)))
        for number in guards:
            yield self._exempt(number) if self._leaves_out(number) else self._guard(number)
        if self.endpoint is None:
            yield from map(self._exempt, _distinct_numbers(use.excepts for use in uses))
        limits = [self.kernel.limits[number] for number in _distinct_numbers((always, *(use.limits for use in uses)))]
        yield from (self._limit(one) for one in limits if not self._is_excepted(one.place))

    def everywhere(self, numbers: Iterable[int], always: Iterable[int]) -> Iterator[Box]:
        yield from (self._guard(number) for number in numbers)
        yield from (self._limit(self.kernel.limits[number]) for number in always)

    def block_box(self, kind: BoxKind, block: Block, demands: bool = True, children: Iterable[Box] = ()) -> Box:
        """Return the box of a block with its requirements."""
        needed = () if isinstance(block, k.AnyoneBlock) or not demands else block.requirements
        return Box(kind, block.label, "; ".join(map(source_words, needed)), block.span.at, tuple(children))

    # ── Grants ────────────────────────────────────────────────────────────────────────────────

    def _grants(self, uses: Sequence[Uses]) -> Iterator[Box]:
        opened: dict[tuple[str, int], list[Opens]] = defaultdict(list)
        handed: dict[int, list[int]] = defaultdict(list)
        for use in uses:
            for opens in use.opens:
                opened[opens.kind, opens.block].append(opens)
            for number, which in use.hands:
                handed[number].append(which)
                opened.setdefault(("agents", number), [])
        for kind, number in sorted(opened, key=lambda found: (BLOCK_ORDER.index(found[0]), found[1])):
            block = self._block(kind, number)
            children = [self._may(block, opens) for opens in opened[kind, number]]
            if kind == "agents":
                children += [[self._delegate(number, which)] for which in dict.fromkeys(handed[number])]
            boxes = _distinct([box for found in children for box in found])
            demands = kind != "agents" or self.endpoint is not None
            yield self.block_box(BLOCK_KINDS[kind], block, demands, boxes)

    def _block(self, kind: str, number: int) -> Block:
        blocks: dict[str, Sequence[Block]] = {
            "agents": self.kernel.agents,
            "users": self.kernel.users,
            "anyones": self.kernel.anyones,
        }
        return blocks[kind][number]

    def _may(self, block: Block, opens: Opens) -> list[Box]:
        grant = block.grants[opens.grant]
        when = f" when {source_words(grant.when)}" if grant.when is not None else ""
        found = []
        for opening in (grant.openings[number] for number in opens.openings):
            where = self._at((opening.pattern,))
            where = "" if where == f"on {source_words(opening)}" else where
            detail = ", ".join(filter(None, (where, describe_carriers(block, opening.carriers))))
            found.append(Box(BoxKind.MAY, f"may {source_words(opening)}{when}", detail, grant.span.at))
        return found

    def _delegate(self, number: int, which: int) -> Box:
        delegate = self.kernel.agents[number].delegates[which]
        return Box(BoxKind.DELEGATE, source_words(delegate), self._at(delegate.patterns), delegate.span.at)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────

    def _guard(self, number: int) -> Box:
        guard = self.kernel.guards[number]
        children = tuple(
            Box(_effect_kind(effect), shorten_label(effect.words), "", effect.span.at) for effect in guard.effects
        )
        return Box(
            BoxKind.GUARD, f"guard {format_value(guard.name)}", self._where(guard.place), guard.span.at, children
        )

    def _where(self, place: k.Place) -> str:
        excepts = [source_words(pattern) for pattern in place.excepts]
        where = self._at(place.patterns or ()) or ("everywhere" if self.endpoint and place.patterns is None else "")
        return " ".join(filter(None, (where, f"except {', '.join(excepts)}" if excepts else "")))

    def _exempt(self, number: int) -> Box:
        guard = self.kernel.guards[number]
        return Box(BoxKind.EXEMPT, f"guard {format_value(guard.name)} does not apply here", "", guard.span.at)

    def _leaves_out(self, number: int) -> bool:
        """Return whether a guard excludes the whole selected endpoint."""
        return self._is_excepted(self.kernel.guards[number].place)

    def _is_excepted(self, place: k.Place) -> bool:
        endpoint = self.endpoint
        return endpoint is not None and any(covers(pattern, endpoint) for pattern in place.excepts)

    # ── Rates and budgets ─────────────────────────────────────────────────────────────────────

    def _limit(self, limit: k.Limit) -> Box:
        """Return the box of a limit with its key, place and condition; its children are the bounds."""
        kind = BoxKind.BUDGET if isinstance(limit, k.Budget) else BoxKind.RATE
        by = f"per {', '.join(source_words(key) for key in limit.keys)}"
        when = f"when {source_words(limit.when)}" if limit.when is not None else ""
        detail = " ".join(filter(None, (by, self._where(limit.place), when)))
        children = tuple(Box(BoxKind.LIMIT, shorten_label(text), "", at) for text, at in describe_limit(limit))
        return Box(kind, f"{kind} {format_value(limit.name)}", detail, limit.span.at, children)

    # ── The rest ──────────────────────────────────────────────────────────────────────────────

    def _binds(self, numbers: Iterable[int]) -> Iterator[Box]:
        for binder in (self.kernel.binders[number] for number in numbers):
            if binder.facts:
                facts = ", ".join(f"{'.'.join(path)} = {source_words(expression)}" for path, expression in binder.facts)
                yield Box(BoxKind.BINDS, shorten_label(f"with {facts}"), self._at((binder.pattern,)), binder.span.at)

    def _at(self, patterns: Iterable[k.Pattern]) -> str:
        """Return the patterns of a rule that overlap the endpoint; empty in the tree, where the position shows them."""
        if self.endpoint is None:
            return ""
        found = dict.fromkeys(source_words(pattern) for pattern in patterns if overlaps(pattern, self.endpoint))
        return f"on {', '.join(found)}" if found else ""


BLOCK_ORDER = ("agents", "users", "anyones")
BLOCK_KINDS = {"agents": BoxKind.AGENT, "users": BoxKind.USER, "anyones": BoxKind.ANYONE}


def describe_limit(limit: k.Limit) -> Iterator[tuple[str, str]]:
    """Yield the lines that describe a limit, each with its source location."""
    if isinstance(limit, k.Budget):
        yield from ((quota.words, quota.span.at) for quota in limit.quotas)
        return
    if limit.pace is not None:
        yield format_pace(limit.pace), limit.span.at
    if limit.cost is not None:
        yield f"cost {source_words(limit.cost)}", limit.cost.span.at
    parts = (*limit.raises, *limit.clamps, *((limit.at_once,) if limit.at_once is not None else ()))
    yield from ((source_words(part), part.span.at) for part in parts)
    if limit.counting_denials:
        yield "counting denials", limit.span.at


def source_words(part: k.Node) -> str:
    """Return the text of a part of the policy, on one line."""
    return shorten_label(" ".join(part.span.text.split()))


MAX_LABEL_LENGTH = 400


def shorten_label(text: str) -> str:
    return text if len(text) <= MAX_LABEL_LENGTH else f"{text[: MAX_LABEL_LENGTH - 1]}…"


def _distinct(boxes: list[Box]) -> list[Box]:
    return boxes if len(boxes) < 2 else list(dict.fromkeys(boxes))


def _distinct_numbers(found: Iterable[Iterable[int]]) -> list[int]:
    return list(dict.fromkeys(number for numbers in found for number in numbers))


def describe_carriers(block: Block, carriers: Sequence[str]) -> str:
    """Return the scopes that the credential must carry; a user needs them only without an agent."""
    if isinstance(block, k.AnyoneBlock):
        return ""
    scopes = " or ".join(map(format_value, carriers))
    needed = f"scope {scopes}" if carriers else "an issuer with `scopes none`"
    return f"without an agent, the credential needs {needed}" if isinstance(block, k.UserBlock) else needed


def _effect_kind(effect: k.Effect) -> BoxKind:
    match effect:
        case k.Deny():
            return BoxKind.DENY
        case k.Confirm():
            return BoxKind.CONFIRM
        case k.ObligationEffect():
            return BoxKind.OBLIGE
