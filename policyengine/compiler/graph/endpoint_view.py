"""What stands at a place of the tree, as boxes: who may pass, by which scopes and conditions, and what shuts it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers, overlaps
from policyengine.compiler.graph.box import Box, Kind
from policyengine.compiler.tree import Opens, Uses
from policyengine.runtime.format_values import shown
from policyengine.spec.limits import pace_words

Block = k.AgentBlock | k.UserBlock | k.AnyoneBlock


@dataclass(frozen=True, slots=True)
class Standing:
    """Draws rules of a kernel. With an `endpoint` every rule says where it stands and what its block demands."""

    kernel: k.Kernel
    endpoint: k.Pattern | None = None

    def boxes(self, uses: Sequence[Uses], everywhere: Iterable[int] = (), always: Iterable[int] = ()) -> Iterator[Box]:
        """The rules of several patterns together: each block, each guard, each rate and budget is one box."""
        yield from self._binds(_numbers(use.binders for use in uses))
        yield from self._doors(uses)
        guards = _numbers((everywhere, *(use.guards for use in uses)))
        for number in guards:
            yield self._exempt(number) if self._leaves_out(number) else self._guard(number)
        if self.endpoint is None:
            yield from map(self._exempt, _numbers(use.excepts for use in uses))
        limits = [self.kernel.limits[number] for number in _numbers((always, *(use.limits for use in uses)))]
        yield from (self._limit(one) for one in limits if not self._excepted(one.place))

    def everywhere(self, numbers: Iterable[int], always: Iterable[int]) -> Iterator[Box]:
        yield from (self._guard(number) for number in numbers)
        yield from (self._limit(self.kernel.limits[number]) for number in always)

    def who(self, kind: Kind, block: Block, demands: bool = True, children: Iterable[Box] = ()) -> Box:
        """A block, and what it demands of whoever comes."""
        needed = () if isinstance(block, k.AnyoneBlock) or not demands else block.requirements
        return Box(kind, block.label, "; ".join(map(words, needed)), block.span.at, tuple(children))

    # ── Doors ─────────────────────────────────────────────────────────────────────────────────

    def _doors(self, uses: Sequence[Uses]) -> Iterator[Box]:
        opened: dict[tuple[str, int], list[Opens]] = defaultdict(list)
        handed: dict[int, list[int]] = defaultdict(list)
        for use in uses:
            for opens in use.opens:
                opened[opens.kind, opens.block].append(opens)
            for number, which in use.hands:
                handed[number].append(which)
                opened.setdefault(("agents", number), [])
        for kind, number in sorted(opened, key=lambda found: (ORDER.index(found[0]), found[1])):
            block = self._block(kind, number)
            children = [self._may(block, opens) for opens in opened[kind, number]]
            if kind == "agents":
                children += [[self._delegate(number, which)] for which in dict.fromkeys(handed[number])]
            boxes = _once([box for found in children for box in found])
            demands = kind != "agents" or self.endpoint is not None
            yield self.who(KINDS[kind], block, demands, boxes)

    def _block(self, kind: str, number: int) -> Block:
        blocks: dict[str, Sequence[Block]] = {
            "agents": self.kernel.agents,
            "users": self.kernel.users,
            "anyones": self.kernel.anyones,
        }
        return blocks[kind][number]

    def _may(self, block: Block, opens: Opens) -> list[Box]:
        grant = block.grants[opens.grant]
        when = f" when {words(grant.when)}" if grant.when is not None else ""
        found = []
        for opening in (grant.openings[number] for number in opens.openings):
            where = self._at((opening.pattern,))
            where = "" if where == f"on {words(opening)}" else where
            detail = ", ".join(filter(None, (where, _carried(block, opening.carriers))))
            found.append(Box(Kind.MAY, f"may {words(opening)}{when}", detail, grant.span.at))
        return found

    def _delegate(self, number: int, which: int) -> Box:
        delegate = self.kernel.agents[number].delegates[which]
        return Box(Kind.DELEGATE, words(delegate), self._at(delegate.patterns), delegate.span.at)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────

    def _guard(self, number: int) -> Box:
        guard = self.kernel.guards[number]
        children = tuple(Box(_kind(effect), cut(effect.words), "", effect.span.at) for effect in guard.effects)
        return Box(Kind.GUARD, f"guard {shown(guard.name)}", self._where(guard.place), guard.span.at, children)

    def _where(self, place: k.Place) -> str:
        excepts = [words(pattern) for pattern in place.excepts]
        where = self._at(place.patterns or ()) or ("everywhere" if self.endpoint and place.patterns is None else "")
        return " ".join(filter(None, (where, f"except {', '.join(excepts)}" if excepts else "")))

    def _exempt(self, number: int) -> Box:
        guard = self.kernel.guards[number]
        return Box(Kind.EXEMPT, f"guard {shown(guard.name)} does not apply here", "", guard.span.at)

    def _leaves_out(self, number: int) -> bool:
        """Whether a guard excepts the endpoint that was asked for, as a whole."""
        return self._excepted(self.kernel.guards[number].place)

    def _excepted(self, place: k.Place) -> bool:
        endpoint = self.endpoint
        return endpoint is not None and any(covers(pattern, endpoint) for pattern in place.excepts)

    # ── Rates and budgets ─────────────────────────────────────────────────────────────────────

    def _limit(self, limit: k.Limit) -> Box:
        """By whose count it is, and when; inside of it how much."""
        kind = Kind.BUDGET if isinstance(limit, k.Budget) else Kind.RATE
        by = f"per {', '.join(words(key) for key in limit.keys)}"
        when = f"when {words(limit.when)}" if limit.when is not None else ""
        detail = " ".join(filter(None, (by, self._where(limit.place), when)))
        children = tuple(Box(Kind.LIMIT, cut(text), "", at) for text, at in how_much(limit))
        return Box(kind, f"{kind} {shown(limit.name)}", detail, limit.span.at, children)

    # ── The rest ──────────────────────────────────────────────────────────────────────────────

    def _binds(self, numbers: Iterable[int]) -> Iterator[Box]:
        for binder in (self.kernel.binders[number] for number in numbers):
            if binder.facts:
                facts = ", ".join(f"{'.'.join(path)} = {words(expression)}" for path, expression in binder.facts)
                yield Box(Kind.BINDS, cut(f"with {facts}"), self._at((binder.pattern,)), binder.span.at)

    def _at(self, patterns: Iterable[k.Pattern]) -> str:
        """Which of a rule's patterns meet the endpoint; in the tree the place itself says it."""
        if self.endpoint is None:
            return ""
        found = dict.fromkeys(words(pattern) for pattern in patterns if overlaps(pattern, self.endpoint))
        return f"on {', '.join(found)}" if found else ""


ORDER = ("agents", "users", "anyones")
KINDS = {"agents": Kind.AGENT, "users": Kind.USER, "anyones": Kind.ANYONE}


def how_much(limit: k.Limit) -> Iterator[tuple[str, str]]:
    """What a limit lets through, line by line, each with its place."""
    if isinstance(limit, k.Budget):
        yield from ((quota.words, quota.span.at) for quota in limit.quotas)
        return
    if limit.pace is not None:
        yield pace_words(limit.pace), limit.span.at
    if limit.cost is not None:
        yield f"cost {words(limit.cost)}", limit.cost.span.at
    parts = (*limit.raises, *limit.clamps, *((limit.at_once,) if limit.at_once is not None else ()))
    yield from ((words(part), part.span.at) for part in parts)
    if limit.counting_denials:
        yield "counting denials", limit.span.at


def words(part: k.Part) -> str:
    """A part of the policy as it is written, on one line."""
    return cut(" ".join(part.span.text.split()))


LONGEST = 400


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _once(boxes: list[Box]) -> list[Box]:
    return boxes if len(boxes) < 2 else list(dict.fromkeys(boxes))


def _numbers(found: Iterable[Iterable[int]]) -> list[int]:
    return list(dict.fromkeys(number for numbers in found for number in numbers))


def _carried(block: Block, carriers: Sequence[str]) -> str:
    """What the credential must carry: of a user only where no agent asks."""
    if isinstance(block, k.AnyoneBlock):
        return ""
    scopes = " or ".join(map(shown, carriers))
    needed = f"scope {scopes}" if carriers else "an issuer that says `scopes none`"
    return f"without an agent: {needed}" if isinstance(block, k.UserBlock) else needed


def _kind(effect: k.Effect) -> Kind:
    match effect:
        case k.Deny():
            return Kind.DENY
        case k.Confirm():
            return Kind.CONFIRM
        case k.Oblige():
            return Kind.OBLIGE
