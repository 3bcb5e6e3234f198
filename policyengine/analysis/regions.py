"""Regions: kinds of callers at classes of endpoints, and whether the answer to them is the same under both policies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import assert_never

from policyengine.analysis.diagrams import Diagram, Diagrams
from policyengine.analysis.endpoints import fillings
from policyengine.analysis.families import families, states_by_member
from policyengine.analysis.rewriting import DEPTH, ISSUER, RESOURCE, SEGMENT, SOUND, Settled, fact
from policyengine.analysis.sides import Said, Unit, can_be_about
from policyengine.kinds import EntityRef
from policyengine.runtime.patterns import Glob
from policyengine.semantics import kernel as k
from policyengine.semantics.cells import Plain, State
from policyengine.semantics.formulas import (
    All,
    Fixed,
    Formula,
    Leaf,
    Negation,
    Pair,
    Some,
    Space,
    Subject,
    Truth,
    numbers_in,
    read,
)
from policyengine.semantics.possibilities import answer, negated, states_of, value_of

ON_TRUE: frozenset[Truth] = frozenset({True})
UNLESS_FALSE: frozenset[Truth] = frozenset({True, None})
DENY: frozenset[tuple[str, ...]] = frozenset({("deny",)})
# Where they are still facts, the caller is nobody, or nobody with a name: names that are known have become constants.
WHO = (("agent",), ("user",), ("agent", "id"), ("user", "id"))
WITHOUT_VALUE = (State.ABSENT, State.BROKEN)
STRICT = (
    k.Contains, k.Below, k.InNetwork, k.InWindow, k.Like, k.Matches, k.Overlaps, k.Subset, k.Compare, k.Arithmetic,
    k.Negative, k.Apply, Pair,
)  # fmt: skip
NO_HOPS = Fraction(0)
MOST_CALLERS = 2_000  # kinds of callers at one class of endpoints


@dataclass(frozen=True, slots=True)
class Caller:
    """A kind of caller; `agents` and `users` are all names that are of it (OTHER stands for all others)."""

    settled: Settled
    agents: tuple[str, ...]
    users: tuple[str, ...]
    old: tuple[Unit, ...]
    new: tuple[Unit, ...]

    @property
    def words(self) -> str:
        agent, user = self.settled.agent, self.settled.user
        served = "nobody" if user is State.ABSENT else named("user", user, self.users)
        if agent is State.ABSENT:
            return served
        handed = "" if self.settled.hops == 0 else " (handed on)"
        return f"{named('agent', agent, self.agents)}{handed} {'alone' if user is State.ABSENT else f'for {served}'}"

    @property
    def same(self) -> bool:
        """Nothing that can decide about the caller differs."""
        return {unit.text for unit in self.old} == {unit.text for unit in self.new}

    @property
    def doors(self) -> bool:
        """Whether anything can open at all."""
        return any(unit.guard is None and unit.kind != "delegate" for unit in (*self.old, *self.new))


def named(kind: str, name: str | State, names: Sequence[str]) -> str:
    if not isinstance(name, str):
        return f"{'an' if kind == 'agent' else 'a'} {kind} without a name that can be read"
    listed = [WORDS.get(one, f'{{}} "{one}"').format(kind) for one in names]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


ANY, OTHER = "*", ""
WORDS = {ANY: "any {}", OTHER: "any other {}"}


# ── Kinds of callers ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Names:
    """Names of agents or users that the rules tell apart, `other` among them for all the rest.

    `mentioned`: conditions ask for the name itself. `exact` is False where they ask in ways that names cannot stand for.
    """

    all: tuple[str, ...]
    other: str
    mentioned: bool
    exact: bool


def names_in(root: str, units: Iterable[Unit]) -> Names:
    called: dict[str, None] = {}
    globs: list[str] = []
    mentioned, exact = False, True
    for unit in units:
        who = getattr(unit.block, "who", None)
        about = isinstance(unit.block, k.AgentBlock) if root == "agent" else isinstance(unit.block, k.UserBlock)
        if about and isinstance(who, k.Called):
            called[who.name] = None
        elif about and isinstance(who, k.CalledLike):
            globs.append(who.glob)
        for node in (one for condition in conditions_of(unit) for one in asking_name(condition, root)):
            mentioned = True
            exact = exact and is_plain(node, root)
            called.update(dict.fromkeys(texts_in(node)))
            globs += [node.pattern] if isinstance(node, k.Like) else []
    globs = list(dict.fromkeys(globs))
    fitting = [one.replace("*", fill) for one in globs for fill in ("x", "")]
    fitting += [a.replace("*", b.replace("*", "x")) for a, b in product(globs, globs) if a != b]
    fitting += [a.partition("*")[0] + "x" + b.rpartition("*")[2] for a, b in product(globs, globs) if a != b]
    distinct: dict[tuple[bool, ...], str] = {}
    for name in fitting:
        if name and name not in called:
            distinct.setdefault(tuple(Glob(glob).matches(name) for glob in globs), name)
    other = next(
        (text for text, _ in zip(others(root), range(1_000), strict=False)
         if text not in called and not any(Glob(glob).matches(text) for glob in globs)),
        "",
    )  # fmt: skip
    found = (*called, *(name for matching, name in distinct.items() if any(matching)))
    exact = exact and all(glob.count("*") == 1 and "*" in (glob[0], glob[-1]) for glob in globs if "*" in glob)
    return Names((*dict.fromkeys(found), *([other] if other else [])), other, mentioned, exact)


def others(root: str) -> Iterator[str]:
    yield f"some-{root}"
    yield from fillings()


def conditions_of(unit: Unit) -> Iterator[k.Expr]:
    part, block = unit.part, unit.block
    when = part.condition if isinstance(part, k.Deny | k.Confirm | k.Oblige) else part.when
    if when is not None:
        yield when
    if block is not None and not isinstance(block, k.AnyoneBlock):
        if isinstance(block.who, k.Where):
            yield block.who.condition
        yield from (r.condition for r in block.requirements if isinstance(r, k.ActsFor) and r.condition is not None)


def asking_name(condition: k.Expr, root: str) -> Iterator[k.Expr]:
    """The parts of a condition that ask who it is, and not what that one has."""
    pending = [condition]
    while pending:
        node = pending.pop()
        if isinstance(node, k.Attribute) and isinstance(node.base, k.Fact) and node.name != "id":
            continue
        inside = list(k.parts(node))
        if is_name(node, root) or any(is_name(part, root) or is_id_of(part, root) for part in inside):
            yield node
        pending += [part for part in inside if not is_name(part, root) and not is_id_of(part, root)]


def is_name(node: k.Expr, root: str) -> bool:
    return isinstance(node, k.Fact) and node.path in ((root,), (root, "id"), ("chain", "root"), ("chain", "agents"))


def is_id_of(node: k.Expr, root: str) -> bool:
    return isinstance(node, k.Attribute) and node.name == "id" and is_name(node.base, root)


def is_plain(node: k.Expr, root: str) -> bool:
    """Comparing a name with others is all that names can stand for."""
    match node:
        case k.Compare(operator):
            return operator in ("==", "!=")
        case k.Like() | k.Contains() | k.Below() | k.Present() | k.Default() | k.Collection() | k.Attribute():
            return not any(isinstance(part, k.Fact) and part.path == ("chain", "agents") for part in k.parts(node))
        case _:
            return isinstance(node, k.Named)


def texts_in(condition: k.Expr) -> Iterator[str]:
    for node in k.walk(condition):
        held = node.value if isinstance(node, k.Constant) else None
        for one in held if isinstance(held, tuple) else (held,):
            if isinstance(one, EntityRef):
                yield one.id
            elif isinstance(one, str) and one:
                yield one


def callers(old: Sequence[Unit], new: Sequence[Unit]) -> tuple[list[Caller], bool]:
    """Every kind of caller that the rules tell apart, and whether these surely are all."""
    agents, users = names_in("agent", (*old, *new)), names_in("user", (*old, *new))
    kinds_of_agents = [*agents.all, State.ABSENT, State.BROKEN]
    kinds_of_users = [*users.all, State.ABSENT, State.BROKEN]
    whole = len(kinds_of_agents) * len(kinds_of_users) <= MOST_CALLERS * 50
    of_agent = {name: about(name, State.ABSENT, old, new) for name in kinds_of_agents}
    of_user = {name: about(State.ABSENT, name, old, new) for name in kinds_of_users}
    grouped_agents = grouped(of_agent, agents)
    grouped_users = grouped(of_user, users)
    rest = [tuple(u for u in units if u.kind in ("anyone", "guard")) for units in (old, new)]
    result = []
    for (first, names), (second, served) in product(grouped_agents, grouped_users):
        (of_old, of_new), (for_old, for_new) = of_agent[first], of_user[second]
        settled = Settled(first, second)
        result.append(Caller(settled, names, served, (*of_old, *for_old, *rest[0]), (*of_new, *for_new, *rest[1])))
    return result[:MOST_CALLERS], agents.exact and users.exact and whole and len(result) <= MOST_CALLERS


def about(agent: str | State, user: str | State, old: Sequence[Unit], new: Sequence[Unit]) -> list[tuple[Unit, ...]]:
    """The doors by name of one of the two: agents' where an agent is given, users' where a user is."""
    settled = Settled(agent, user)
    return [
        tuple(u for u in units if u.block is not None and u.kind != "anyone" and can_be_about(u, settled))
        for units in (old, new)
    ]


def grouped(
    about_each: dict[str | State, list[tuple[Unit, ...]]], names: Names
) -> list[tuple[str | State, tuple[str, ...]]]:
    """Names of which the rules say the same, together; the first stands for them."""
    other = ANY if names.all == (names.other,) else OTHER
    together: dict[object, list[str | State]] = {}
    for name, (old, new) in about_each.items():
        rules = (frozenset(unit.text for unit in old), frozenset(unit.text for unit in new))
        apart = name if names.mentioned or not isinstance(name, str) else None
        together.setdefault((*rules, apart), []).append(name)
    return [
        (several[0], tuple(other if one == names.other else one for one in several if isinstance(one, str)))
        for several in together.values()
    ]


# ── One region: both answers as diagrams ──────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Derived:
    """What a fact is, by the states of others."""

    sources: tuple[int, ...]
    of: Callable[..., Plain]


def by_place(states: Sequence[Plain]) -> Callable[..., Plain]:
    return lambda place: states[int(place)]


def depth_by_issuer(recorded: Sequence[str]) -> Callable[..., Plain]:
    """Nobody handed the work on: known only where the issuer records chains."""
    return lambda issuer: NO_HOPS if issuer in recorded else State.BROKEN


def operands_of(subject: Subject) -> tuple[k.Expr, ...]:
    """What must have a value so that this has one."""
    match subject:
        case Pair(left, right):
            return left, right
        case k.Attribute(base) | k.Member(base):
            return (base,)
        case _ if isinstance(subject, STRICT):
            return tuple(k.parts(subject))  # type: ignore[arg-type]  # no Pair any more
        case _:
            return ()


class Comparison:
    """Both policies' answers to one kind of caller, as functions of the same facts. Raises TooLarge."""

    def __init__(self, settled: Settled, old: Said, new: Said, issuers: Iterable[str], *, sound: bool | None) -> None:
        """`sound`: whether chains can be sound at all (None: they can)."""
        self.settled, self.sound = settled, sound
        self.space = Space()
        self._issuer = self.space.number(fact(ISSUER))
        self.space.constants[self._issuer].update(issuers)
        formulas = [self._read(said) for said in (old, new)]
        self._states: dict[int, tuple[Plain, ...]] = {}
        self.derived: dict[int, Derived] = {}
        self._derive()
        self.diagrams = Diagrams(self.states)
        self.old, self.new = (self._answer(*one) for one in formulas)

    def _derive(self) -> None:
        """What is known where other facts are: depths by the issuer, families together, comparisons by what they ask."""
        for family in families(self.space):
            if not any(self.missing(self.space.subjects[number]) for number in family.members):
                first = family.members[0]
                self._states[first] = tuple(Fraction(place) for place in range(len(family.states)))
                for number, states in states_by_member(family).items():
                    self.derived[number] = Derived((first,), by_place(states))
        for number, subject in enumerate(self.space.subjects):
            if isinstance(subject, k.Fact) and subject.path[0] == DEPTH:
                self.derived[number] = Derived((self._issuer,), depth_by_issuer(subject.path[1:]))
            elif number not in self.derived and (asked := self._operands(subject)):
                self.derived[number] = Derived((number, *asked), self._strictly(number, subject, asked))

    def _operands(self, subject: Subject) -> tuple[int, ...]:
        """The facts without which this one has no value, as far as they are asked for themselves."""
        parts = operands_of(subject)
        numbers = (self.space.numbers[part] for part in parts if part in self.space.numbers)
        return tuple(number for number in numbers if number not in self.derived)

    def _strictly(self, number: int, subject: Subject, asked: tuple[int, ...]) -> Callable[..., Plain]:
        every = self.states(number)
        parts = [part for part in operands_of(subject) if not isinstance(part, k.Constant)]
        total = isinstance(subject, Pair) and len(asked) == len(parts)

        def of(own: Plain, *operands: Plain) -> Plain:
            if any(one in WITHOUT_VALUE for one in operands):
                return own if own in WITHOUT_VALUE else State.BROKEN
            return every[0] if total and own in WITHOUT_VALUE else own

        return of

    def state(self, number: int, path: Mapping[int, int]) -> Plain | None:
        """The state of a fact on a path; None where the path tells nothing of it."""
        derived = self.derived.get(number)
        sources = (number,) if derived is None else derived.sources
        if not any(source in path for source in sources):
            return None
        states = [self.states(source)[path.get(source, 0)] for source in sources]
        return states[0] if derived is None else derived.of(*states)

    def _read(
        self, said: Said
    ) -> tuple[Formula, Formula, dict[tuple[str, ...], Formula], dict[tuple[str, ...], Formula]]:
        opens, denies = read(said.opens, self.space), read(said.denies, self.space)
        confirms, duties = (
            {key: read(one, self.space) for key, one in several.items()} for several in (said.confirms, said.duties)
        )
        return opens, denies, confirms, duties

    def _answer(
        self, opens: Formula, denies: Formula, confirms: dict[tuple[str, ...], Formula],
        duties: dict[tuple[str, ...], Formula],
    ) -> Diagram:  # fmt: skip
        made = self.diagrams
        passes = made.choose(self.when(denies, UNLESS_FALSE), made.no, self.when(opens, ON_TRUE))
        stops = self._set(confirms)
        asked = made.some(self.when(one, UNLESS_FALSE) for one in confirms.values())
        return made.choose(passes, made.choose(asked, stops, self._set(duties)), made.end(DENY))

    def _set(self, several: dict[tuple[str, ...], Formula]) -> Diagram:
        found: Diagram = self.diagrams.end(frozenset())
        for key, one in several.items():
            held, nothing = self.diagrams.end(frozenset({key})), self.diagrams.end(frozenset())
            found = self.diagrams.joined(found, self.diagrams.choose(self.when(one, UNLESS_FALSE), held, nothing))
        return found

    # ── Formulas to diagrams ──────────────────────────────────────────────────────────────────

    def when(self, formula: Formula, wanted: frozenset[Truth]) -> Diagram:
        """Whether the formula has one of the wanted values, which are true or false, or either of them or unknown."""
        made = self.diagrams
        match formula:
            case Fixed(value):
                return made.yes if value in wanted else made.no
            case Negation(inner):
                return self.when(inner, frozenset(map(negated, wanted)))
            case All(items):
                return (made.every if True in wanted else made.some)(self.when(item, wanted) for item in items)
            case Some(items):
                return (made.some if True in wanted else made.every)(self.when(item, wanted) for item in items)
            case Leaf():
                return self.leaf(formula, wanted)
            case _:
                assert_never(formula)

    def leaf(self, leaf: Leaf, wanted: frozenset[Truth]) -> Diagram:
        numbers = sorted(set(numbers_in(leaf.term)))
        asked = sorted({source for one in numbers for source in self.sources(one)})
        world: list[Plain] = [State.BROKEN] * len(self.space.subjects)

        def below(path: dict[int, int]) -> Diagram:
            if len(path) == len(asked):
                for number in numbers:
                    world[number] = self.told(number, path)
                found = answer(value_of(leaf.term, world), leaf.word, leaf.constants)
                return self.diagrams.yes if found in wanted else self.diagrams.no
            fact = asked[len(path)]
            return self.diagrams.ask(fact, [below({**path, fact: place}) for place in range(len(self.states(fact)))])

        return below({})

    def sources(self, number: int) -> tuple[int, ...]:
        derived = self.derived.get(number)
        return (number,) if derived is None else derived.sources

    def told(self, number: int, path: Mapping[int, int]) -> Plain:
        """The state of a fact of which the path tells."""
        state = self.state(number, path)
        assert state is not None
        return state

    # ── The states that facts can have here ───────────────────────────────────────────────────

    def states(self, number: int) -> Sequence[Plain]:
        if number not in self._states:
            subject, every = self.space.subjects[number], states_of(number, self.space)
            self._states[number] = tuple(one for one in every if self.possible(subject, one)) or (every[-1],)
        return self._states[number]

    def possible(self, subject: Subject, state: Plain) -> bool:
        without = state in WITHOUT_VALUE
        if is_root(subject, SOUND[0], SOUND[1]):
            return not without and (self.sound is not False or state is False)
        if is_root(subject, SEGMENT) or is_segment_resource(subject):
            return not without and state != ""
        if (
            isinstance(subject, k.Fact)
            and subject.path in WHO
            and self.space.numbers[subject] not in self.space.absence
        ):
            return without
        if isinstance(subject, k.Fact) and subject.path in WHO:
            return state is getattr(self.settled, subject.path[0])
        if self.missing(subject):
            return without
        return not (without and isinstance(subject, k.InWindow) and is_root(subject.instant, "time"))

    def missing(self, subject: Subject) -> bool:
        """Surely without a value: it is, or asks about, somebody who is not there."""
        match subject:
            case k.Fact(path) if path[0] == "agent" and self.settled.agent is State.ABSENT:
                return True
            case k.Fact(path):
                return path in WHO or path in (("approval", "by"), ("approval", "age"))
            case k.Attribute(base) | k.Member(base):
                return self.missing(base)
            case Pair(left, right):
                return self.missing(left) or self.missing(right)
            case _ if isinstance(subject, STRICT):
                return any(self.missing(part) for part in k.parts(subject))  # type: ignore[arg-type]  # no Pair any more
            case _:
                return False


def is_root(subject: Subject, *path: str) -> bool:
    return isinstance(subject, k.Fact) and subject.path[: len(path)] == path


def is_segment_resource(subject: Subject) -> bool:
    return isinstance(subject, k.Fact) and subject.path[0] == RESOURCE and len(subject.path) > 2
