"""Partitions callers into kinds: groups of agents and users that no rule at a class of endpoints distinguishes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from policyengine import kernel as k
from policyengine.analysis.diff.endpoint_classes import filler_texts
from policyengine.analysis.diff.rule_units import RuleUnit, may_concern, unit_conditions
from policyengine.analysis.diff.specialize import CallerAssumption
from policyengine.runtime.decision import OPERATOR_OBLIGATIONS
from policyengine.runtime.globs import Glob
from policyengine.solver.value_partition import SpecialValue
from policyengine.typesystem import EntityRef

MAX_CALLER_KINDS = 2_000  # maximum kinds of callers at one class of endpoints


@dataclass(frozen=True, slots=True)
class CallerKind:
    """A kind of caller; `agents` and `users` are all of its names (OTHER stands for all other names)."""

    settled: CallerAssumption
    agents: tuple[str, ...]
    users: tuple[str, ...]
    old: tuple[RuleUnit, ...]
    new: tuple[RuleUnit, ...]

    @property
    def words(self) -> str:
        agent, user = self.settled.agent, self.settled.user
        served = "nobody" if user is SpecialValue.ABSENT else format_names("user", user, self.users)
        if agent is SpecialValue.ABSENT:
            return served
        handed = "" if self.settled.hops == 0 else " (delegated)"
        agents = format_names("agent", agent, self.agents)
        return f"{agents}{handed} {'alone' if user is SpecialValue.ABSENT else f'for {served}'}"

    @property
    def notes(self) -> bool:
        """Whether obligations to operators differ, which apply even to a deny."""
        heard = [
            {
                unit.text
                for unit in units
                if isinstance(unit.part, k.ObligationEffect) and unit.part.kind in OPERATOR_OBLIGATIONS
            }
            for units in (self.old, self.new)
        ]
        return heard[0] != heard[1]

    @property
    def doors(self) -> bool:
        """Whether any rule can grant access."""
        return any(unit.guard is None and unit.kind != "delegate" for unit in (*self.old, *self.new))


def format_names(kind: str, name: str | SpecialValue, names: Sequence[str]) -> str:
    if not isinstance(name, str):
        return f"{'an' if kind == 'agent' else 'a'} {kind} without a readable name"
    listed = [NAME_TEMPLATES.get(one, f'{{}} "{one}"').format(kind) for one in names]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"


ANY, OTHER = "*", ""
NAME_TEMPLATES = {ANY: "any {}", OTHER: "any other {}"}


# ── Kinds of callers ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class DistinctNames:
    """The names of agents or users that the rules distinguish, with `other` for all other names. `mentioned` says
    whether conditions read the name itself; `exact` is False if they compare the name in a way that no list of names
    covers. `like` maps a name to the glob for which it stands.
    """

    all: tuple[str, ...]
    other: str
    like: Mapping[str, str]
    mentioned: bool
    exact: bool


def distinct_names(root: str, units: Iterable[RuleUnit]) -> DistinctNames:
    called: dict[str, None] = {}
    globs: list[str] = []
    mentioned, exact = False, True
    for unit in units:
        who = getattr(unit.block, "who", None)
        about = isinstance(unit.block, k.AgentBlock) if root == "agent" else isinstance(unit.block, k.UserBlock)
        if about and isinstance(who, k.ExactName):
            called[who.name] = None
        elif about and isinstance(who, k.NamePattern):
            globs.append(who.glob)
        for node in (one for condition in unit_conditions(unit) for one in principal_conditions(condition, root)):
            mentioned = True
            exact = exact and is_name_comparison(node, root)
            called.update(dict.fromkeys(string_constants(node)))
            globs += globs_in(node)
    globs = list(dict.fromkeys(globs))
    fitting = [one.replace("*", fill) for one in globs for fill in ("x", "")]
    fitting += [a.replace("*", b.replace("*", "x")) for a, b in product(globs, globs) if a != b]
    fitting += [a.partition("*")[0] + "x" + b.rpartition("*")[2] for a, b in product(globs, globs) if a != b]
    distinct: dict[tuple[bool, ...], str] = {}
    for name in fitting:
        if name and name not in called:
            distinct.setdefault(tuple(Glob(glob).matches(name) for glob in globs), name)
    other = next(
        (text for text, _ in zip(unused_names(root), range(1_000), strict=False)
         if text not in called and not any(Glob(glob).matches(text) for glob in globs)),
        "",
    )  # fmt: skip
    found = (*called, *(name for matching, name in distinct.items() if any(matching)))
    exact = exact and all(glob.count("*") == 1 and "*" in (glob[0], glob[-1]) for glob in globs if "*" in glob)
    like = {
        name: max(matching_globs(name, globs), key=len) for name in distinct.values() if matching_globs(name, globs)
    }
    return DistinctNames((*dict.fromkeys(found), *([other] if other else [])), other, like, mentioned, exact)


def globs_in(node: k.Expr) -> tuple[str, ...]:
    match node:
        case k.Relation("like", _, k.Constant(str() as pattern)):
            return (pattern,)
        case _:
            return ()


def matching_globs(name: str, globs: Iterable[str]) -> list[str]:
    return [glob for glob in globs if Glob(glob).matches(name)]


def unused_names(root: str) -> Iterator[str]:
    yield f"some-{root}"
    yield from filler_texts()


def principal_conditions(condition: k.Expr, root: str) -> Iterator[k.Expr]:
    """Yield the parts of a condition that depend on the identity of the principal, and not on its attributes."""
    pending = [condition]
    while pending:
        node = pending.pop()
        if isinstance(node, k.Attribute) and isinstance(node.base, k.Fact) and node.name != "id":
            continue
        if isinstance(node, k.HasRow) and isinstance(node.entity, k.Fact):
            continue
        inside = list(k.children(node))
        if is_principal_fact(node, root) or any(
            is_principal_fact(part, root) or is_id_attribute(part, root) for part in inside
        ):
            yield node
        pending += [part for part in inside if not is_principal_fact(part, root) and not is_id_attribute(part, root)]


def is_principal_fact(node: k.Expr, root: str) -> bool:
    return isinstance(node, k.Fact) and node.path in ((root,), (root, "id"), ("chain", "root"), ("chain", "agents"))


def is_id_attribute(node: k.Expr, root: str) -> bool:
    return isinstance(node, k.Attribute) and node.name == "id" and is_principal_fact(node.base, root)


def is_name_comparison(node: k.Expr, root: str) -> bool:
    """Return whether the node compares a name with other names, which sample names can represent."""
    match node:
        case k.Relation("==" | "!="):
            return True
        case (
            k.Relation("like" | "has" | "holds" | "in" | "below" | "child of")
            | k.IsPresent()
            | k.Default()
            | k.Collection()
            | k.Attribute()
        ):
            return not any(isinstance(part, k.Fact) and part.path == ("chain", "agents") for part in k.children(node))
        case _:
            return isinstance(node, k.DefinitionRef)


def string_constants(condition: k.Expr) -> Iterator[str]:
    for node in k.walk(condition):
        held = node.value if isinstance(node, k.Constant) else None
        for value in held if isinstance(held, tuple) else (held,):
            if isinstance(value, EntityRef):
                yield value.id
            elif isinstance(value, str) and value:
                yield value


def caller_kinds(old: Sequence[RuleUnit], new: Sequence[RuleUnit]) -> tuple[list[CallerKind], bool]:
    """Return every kind of caller that the rules distinguish, and whether the list is certainly complete."""
    agents, users = distinct_names("agent", (*old, *new)), distinct_names("user", (*old, *new))
    kinds_of_agents: list[str | SpecialValue] = [*agents.all, SpecialValue.ABSENT, SpecialValue.BROKEN]
    kinds_of_users: list[str | SpecialValue] = [*users.all, SpecialValue.ABSENT, SpecialValue.BROKEN]
    whole = len(kinds_of_agents) * len(kinds_of_users) <= MAX_CALLER_KINDS * 50
    of_agent = {name: grants_by_name(name, SpecialValue.ABSENT, old, new) for name in kinds_of_agents}
    of_user = {name: grants_by_name(SpecialValue.ABSENT, name, old, new) for name in kinds_of_users}
    grouped_agents = group_names(of_agent, agents)
    grouped_users = group_names(of_user, users)
    rest = [tuple(u for u in units if u.kind in ("anyone", "guard")) for units in (old, new)]
    result = []
    for (first, names), (second, served) in product(grouped_agents, grouped_users):
        (of_old, of_new), (for_old, for_new) = of_agent[first], of_user[second]
        settled = CallerAssumption(first, second)
        result.append(CallerKind(settled, names, served, (*of_old, *for_old, *rest[0]), (*of_new, *for_new, *rest[1])))
    return result[:MAX_CALLER_KINDS], agents.exact and users.exact and whole and len(result) <= MAX_CALLER_KINDS


def grants_by_name(
    agent: str | SpecialValue, user: str | SpecialValue, old: Sequence[RuleUnit], new: Sequence[RuleUnit]
) -> list[tuple[RuleUnit, ...]]:
    """Return the grants for an agent, or for a user, by name."""
    settled = CallerAssumption(agent, user)
    return [
        tuple(u for u in units if u.block is not None and u.kind != "anyone" and may_concern(u, settled))
        for units in (old, new)
    ]


def group_names(
    about_each: dict[str | SpecialValue, list[tuple[RuleUnit, ...]]], names: DistinctNames
) -> list[tuple[str | SpecialValue, tuple[str, ...]]]:
    """Group names to which the same rules apply; the first name represents the group."""
    other = ANY if names.all == (names.other,) else OTHER
    together: dict[object, list[str | SpecialValue]] = {}
    for name, (old, new) in about_each.items():
        rules = (frozenset(unit.text for unit in old), frozenset(unit.text for unit in new))
        apart = name if names.mentioned or not isinstance(name, str) else None
        together.setdefault((*rules, apart), []).append(name)
    return [
        (several[0], tuple(name_label(one, names, other) for one in several if isinstance(one, str)))
        for several in together.values()
    ]


def name_label(name: str, names: DistinctNames, other: str) -> str:
    return other if name == names.other else names.like.get(name, name)
