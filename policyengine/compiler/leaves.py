"""Leaves: gathered from the kernel by the numbers in its tree when first needed, and kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine.compiler import reads
from policyengine.compiler.branches import MOST_BRANCHES, Paths
from policyengine.compiler.charging import LimitWriter, Take, Taker, by_agent_alone, plain_meters
from policyengine.compiler.emit import Writer
from policyengine.compiler.facts import Bound, Path, Piece, Recall, Setting
from policyengine.compiler.leaf import Covering, Doors, Leaf, Side
from policyengine.compiler.requirements import Trust
from policyengine.compiler.rules import (
    Act,
    Door,
    DoorWriter,
    GuardWriter,
    OutsideTask,
    Rule,
    Shapes,
    TaskWriter,
    not_sure,
)
from policyengine.compiler.sizes import Limiting
from policyengine.compiler.tree import Numbers, Principals, Tree
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.limits import SteadyRate
from policyengine.runtime.patterns import Glob
from policyengine.runtime.snapshot import Entities
from policyengine.spec.required_history import history_conditions
from policyengine.spec.tasks import RESOURCE, task_constraints
from policyengine.spec.trace import Block

Meters: TypeAlias = tuple[SteadyRate, ...]
# By the number of a block, of its `may`, the numbers of the openings that cover an endpoint.
Opened: TypeAlias = Mapping[int, Mapping[int, Iterable[int]]]


@dataclass(frozen=True, slots=True)
class Making:
    """Makes the rules of blocks, by their numbers: those that open, and those that tell why not."""

    shapes: Shapes
    trust: Trust
    blocks: Sequence[Block]
    opens: Opened
    setting: Setting
    carried: bool

    def opening(self, numbers: Sequence[int]) -> Rule:
        doors = [self._door(number) for number in numbers]
        return self.shapes.function(lambda writer: self._writer(writer).opens(doors), self.setting)

    def telling(self, numbers: Sequence[int]) -> Rule:
        doors = [self._door(number) for number in numbers]
        return self.shapes.function(lambda writer: self._writer(writer).tells(doors), self.setting)

    def _writer(self, writer: Writer) -> DoorWriter:
        return DoorWriter(writer, self.trust, self.carried)

    def _door(self, number: int) -> Door:
        block, opened = self.blocks[number], self.opens.get(number, {})
        grants = [(block.grants[which], sorted(opened[which])) for which in sorted(opened)]
        return Door(block, tuple((grant, tuple(grant.openings[one] for one in which)) for grant, which in grants))


class Leaves:
    """Gathers leaves from the kernel by the numbers in its tree."""

    def __init__(
        self,
        kernel: k.Kernel,
        tree: Tree,
        entities: Entities,
        taking: Callable[[tuple[SteadyRate, ...]], Take] | None = None,
        recall: Recall | None = None,
    ) -> None:
        self.kernel, self.tree, self._taking, self.recall = kernel, tree, taking, recall
        self._histories: dict[int, bool] = {}
        self.shapes = Shapes()
        self.trust = Trust(
            frozenset(kernel.issuers),
            frozenset(name for name, issuer in kernel.issuers.items() if issuer.scopes_none),
            dict(kernel.attesters),
        )
        self._recording = frozenset(name for name, issuer in kernel.issuers.items() if issuer.records_chains)
        self._claimed: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for name, issuer in kernel.issuers.items():
            for claim, (root, attribute) in issuer.claims:
                self._claimed[root, attribute][name] = claim
        self._columns: dict[object, reads.Column] = {}
        self._entities = entities
        self._limiting = Limiting(kernel, entities)
        self._facts = reads.facts_of_directory(kernel, entities)
        self._leaves: dict[tuple[str, Numbers, Numbers], Leaf] = {}
        self._standings: dict[tuple[str, str], Side] = {}
        self._who = {"agents": about(tree.agents), "users": about(tree.users)}
        self.everyone = {"agents": tree.agents, "users": tree.users}
        self._tools = tuple((Glob(tool.glob), number) for tool, number in tree.tools if "*" in tool.glob)
        self._exact_tools: dict[str, list[int]] = defaultdict(list)
        for tool, number in tree.tools:
            if "*" not in tool.glob:
                self._exact_tools[tool.glob].append(number)
        self._tool_leaves: dict[str, Leaf] = {}
        self._actions: dict[tuple[str, str], list[int]] = defaultdict(list)
        for action, number in tree.actions:
            self._actions[action.verb, action.type].append(number)
        self._has = entities.__contains__
        self.known_names = frozenset(name for side in (tree.agents, tree.users) for name, _ in side.names)
        self.known_groups = frozenset(group for group, _ in tree.agents.groups)
        self.paths = Paths(tree, self.leaf)

    def leaf(self, kind: str, patterns: Iterable[int], loose: Iterable[int] = ()) -> Leaf:
        """The leaf where these patterns match; what the `loose` ones bind is known to what closes."""
        key = (kind, tuple(sorted(set(patterns))), tuple(sorted(set(loose))))
        found = self._leaves.get(key)
        if found is None:
            found = self._made(*key)
            if len(self._leaves) < MOST_BRANCHES:
                self._leaves[key] = found
        return found

    def at(self, endpoint: Endpoint) -> Leaf:
        """The leaf at an endpoint that has been read."""
        match endpoint:
            case HttpEndpoint(method, _, segments):
                return self._at_path(method, segments)
            case ToolEndpoint():
                return self.at_tool(endpoint.qualified)
            case ActionEndpoint(verb, type):
                return self.at_action(verb, type)
            case _:
                return self.leaf("http", ())

    def at_tool(self, qualified: str) -> Leaf:
        found = self._tool_leaves.get(qualified)
        if found is None:
            exact = self._exact_tools.get(qualified, ())
            found = self.leaf("tool", (*exact, *(number for glob, number in self._tools if glob.matches(qualified))))
            if exact:
                self._tool_leaves[qualified] = found
        return found

    def knows_tool(self, qualified: str) -> bool:
        return qualified in self._exact_tools

    def knows_action(self, verb: str, type: str) -> bool:
        return (verb, type) in self._actions

    def at_action(self, verb: str, type: str) -> Leaf:
        return self.leaf(
            f"action {type}" if type in self.kernel.entities else "action", self._actions.get((verb, type), ())
        )

    def _at_path(self, method: str, segments: Sequence[str]) -> Leaf:
        branch = self.paths.root
        for segment in segments:
            then = branch.next.get(segment) or self.paths.step(branch, segment)
            if then is None:
                return self.paths.at(branch, method, ended=False)
            branch = then
        return self.paths.at(branch, method, ended=True)

    # ── One leaf ──────────────────────────────────────────────────────────────────────────────

    def _made(self, kind: str, patterns: Numbers, loose: Numbers) -> Leaf:
        uses = [self.tree.uses[number] for number in patterns]
        opens: dict[str, dict[int, dict[int, set[int]]]] = {
            name: defaultdict(lambda: defaultdict(set)) for name in ("agents", "users", "anyones")
        }
        for one in (opening for use in uses for opening in use.opens):
            opens[one.kind][one.block][one.grant].update(one.openings)
        excepted = {number for use in uses for number in use.excepts}
        guards = tuple(sorted({*self.tree.everywhere, *(number for use in uses for number in use.guards)} - excepted))
        binders = tuple(sorted({number for use in uses for number in use.binders}))
        more = {number for one in loose for number in self.tree.uses[one].binders}
        every = tuple(sorted({*binders, *more}))
        spared = {number for use in uses for number in use.spared}
        limits = tuple(sorted({*self.tree.always, *(number for use in uses for number in use.limits)} - spared))
        watches = tuple(sorted({number for use in uses for number in use.watches}))
        hands = frozenset(number for use in uses for number, _ in use.hands)
        setting = self._setting(kind, [self.kernel.binders[number] for number in binders])
        closing = self._setting(kind, [self.kernel.binders[number] for number in every]) if more else setting
        acts: list[Act | OutsideTask] = []
        parts = [
            *(getattr(self.kernel, name)[number] for name, numbers in opens.items() for number in numbers),
            *(self.kernel.guards[number] for number in guards),
            *(self.kernel.limits[number] for number in limits),
        ]
        anyones = sorted(opens["anyones"])
        to_anyone = self._doors("anyones", opens["anyones"], setting, carried=True)
        agents = self._doors("agents", opens["agents"], setting, carried=False)
        users = self._doors("users", opens["users"], setting, carried=False)
        served = self._doors("users", opens["users"], setting, carried=True)
        return Leaf(
            agents=self._side("agents", opens["agents"], agents.opening),
            users=self._side("users", opens["users"], users.opening),
            served=self._side("users", opens["users"], served.opening),
            anyone=to_anyone.opening(anyones) if anyones else None,
            told_agents=self._side("agents", opens["agents"], agents.telling),
            told_users=self._side("users", opens["users"], users.telling),
            told_served=self._side("users", opens["users"], served.telling),
            told_anyone=to_anyone.telling(anyones) if anyones else None,
            standing_agents=self._standing_at("agents", setting),
            standing_users=self._standing_at("users", setting),
            guards=self._guards(guards, bool(watches), closing, acts),
            task=self._task(closing, acts),
            acts=acts,
            **self._limits([self.kernel.limits[number] for number in limits], closing),
            records=self._records([self.kernel.watches[number] for number in watches], closing),
            recalls=bool(watches) or any(map(self._recalls, parts)),
            counting=any(counts_denials(self.kernel.limits[number]) for number in limits)
            or any(self.kernel.watches[number].event.denied for number in watches),
            verdicts={},
            sizes=self._limiting.limit(
                [
                    *(self.kernel.guards[number] for number in guards),
                    *(self.kernel.limits[number] for number in limits),
                    *(self.kernel.binders[number] for number in every),
                ],
                list(self._grants(opens)),
            ),
            takes_parts=any(isinstance(one.how, Piece) for one in closing.bound.values()),
            covering=Covering(
                frozenset(opens["agents"]), frozenset(opens["users"]), frozenset(opens["anyones"]), hands,
                guards, every, limits, watches,
            ),
        )  # fmt: skip

    def _grants(self, opens: Mapping[str, Opened]) -> Iterator[tuple[Block, k.Grant]]:
        """Those that have a condition, with their blocks."""
        for kind, blocks in opens.items():
            for number, opened in blocks.items():
                block: Block = getattr(self.kernel, kind)[number]
                yield from ((block, block.grants[one]) for one in opened if block.grants[one].when is not None)

    def _task(self, setting: Setting, acts: list[Act | OutsideTask]) -> Rule | None:
        binds_resource = setting.kind == "action" or RESOURCE in setting.bound
        found = list(task_constraints(setting.kind, binds_resource, self.kernel.entities))
        return self.shapes.function(lambda writer: TaskWriter(writer, acts).outside(found), setting) if found else None

    def _guards(
        self, numbers: Sequence[int], watched: bool, setting: Setting, acts: list[Act | OutsideTask]
    ) -> Rule | None:
        if watched and self.recall is None:
            return not_sure  # what a store elsewhere remembers is written down by the careful way alone
        if not numbers:
            return None
        guards = [self.kernel.guards[number] for number in numbers]
        return self.shapes.function(lambda writer: GuardWriter(writer, acts).guards(guards), setting)

    def _limits(self, limits: Sequence[k.Limit], setting: Setting) -> dict[str, Any]:
        """The function of the limits; a taker beside it where it gives their keys alone."""
        meters = plain_meters(limits) if self._taking is not None else ()
        if self._taking is None or not meters:
            made = self.shapes.function(lambda writer: LimitWriter(writer).limits(limits), setting)
            return {"limits": made if limits else None, "taker": None, "take": None, "by_agent": False}
        made = self.shapes.function(lambda writer: LimitWriter(writer).keys(limits), setting)
        take = self._taking(meters)
        return {"limits": made, "taker": Taker(meters), "take": take, "by_agent": by_agent_alone(limits)}

    def _records(self, watches: Sequence[k.EventRetention], setting: Setting) -> Rule | None:
        """What is remembered of an allowed request, as a function."""
        watches = [watch for watch in watches if not watch.event.denied]
        if self.recall is None or not watches:
            return None
        return self.shapes.function(lambda writer: writer.records(watches), setting)

    def _recalls(self, part: k.Node) -> bool:
        """Whether a part of the policy asks for the past."""
        found = self._histories.get(id(part))
        if found is None:
            found = self._histories[id(part)] = next(history_conditions(part), None) is not None
        return found

    def _side(self, kind: str, opens: Iterable[int], make: Callable[[Sequence[int]], Rule]) -> Side:
        names: dict[str, list[int]] = defaultdict(list)
        groups: dict[str, list[int]] = defaultdict(list)
        globs: list[tuple[str, int]] = []
        others: list[int] = []
        for number in sorted(opens):
            match self._who[kind].get(number):
                case ("name", name):
                    names[name].append(number)
                case ("group", group):
                    groups[group].append(number)
                case ("glob", glob):
                    globs.append((glob, number))
                case _:
                    others.append(number)
        return Side(
            Doors(names, make),
            Doors(groups, make),
            tuple((Glob(glob), make([number])) for glob, number in globs),
            make(others) if others else None,
        )

    def _standing_at(self, kind: str, setting: Setting) -> Side:
        """One for all endpoints, but for those that bind what a block could ask for."""
        if any(path[0] not in ("params", "resource") for path in setting.bound):
            return self._standing(kind, setting)
        key = (kind, setting.kind)
        if key not in self._standings:
            self._standings[key] = self._standing(kind, replace(setting, bound={}))
        return self._standings[key]

    def _standing(self, kind: str, setting: Setting) -> Side:
        """Every block of the policy, to tell whether one stands: without doors."""
        make = self._doors(kind, {}, setting, carried=True).telling
        everyone: Principals = self.everyone[kind]
        return Side(
            Doors(dict(everyone.names), make),
            Doors(dict(everyone.groups), make),
            tuple((Glob(glob), make([number])) for glob, number in everyone.globs),
            make(everyone.others) if everyone.others else None,
        )

    def _doors(self, kind: str, opens: Opened, setting: Setting, *, carried: bool) -> Making:
        return Making(self.shapes, self.trust, getattr(self.kernel, kind), opens, setting, carried)

    # ── What generated code may take as given ─────────────────────────────────────────────────

    def _setting(self, kind: str, binders: Sequence[k.Binder]) -> Setting:
        word, _, type = kind.partition(" ")
        bound: dict[Path, Bound] = {("resource",): Bound("resource", type)} if type else {}
        given: dict[Path, Bound] = {}
        for path, one in (pair for binder in binders for pair in bindings(binder)):
            given[path] = one if given.get(path, one) == one else Bound("doubt")
        return Setting(
            word, {**bound, **given}, self._column, self._kin, self._recording, self._claimed, self.recall
        )  # fmt: skip

    def _column(self, node: k.Attribute, ids: bool, as_set: bool, type: str | None) -> reads.Column:
        key = (node.name, node.type, node.levels, ids, as_set, type)
        found = self._columns.get(key)
        if found is None:
            read = reads.attribute(self._facts, node, ids=ids, as_set=as_set)
            found = self._columns[key] = reads.Column(read, self._has, type)
        return found

    def _kin(self, relation: str, type: str | None) -> reads.Column:
        found = self._columns.get((relation, type))
        if found is None:
            found = self._columns[relation, type] = reads.Column(reads.kin(self._entities, relation), self._has, type)
        return found


def about(principals: Principals) -> dict[int, tuple[str, str]]:
    """Whom each block is about; one that must be asked each time is not there."""
    return {
        **{number: ("name", name) for name, numbers in principals.names for number in numbers},
        **{number: ("group", group) for group, numbers in principals.groups for number in numbers},
        **{number: ("glob", glob) for glob, number in principals.globs},
    }


def bindings(binder: k.Binder) -> Iterator[tuple[Path, Bound]]:
    """What a pattern binds. The first part of a path stands before its first slash and is empty."""
    pieces: dict[str, Piece] = {}
    if isinstance(binder.pattern, k.HttpPattern):
        for index, segment in enumerate(binder.pattern.segments, start=1):
            if segment.capture is not None:
                pieces[segment.capture] = Piece(index, len(segment.prefix), len(segment.suffix))
    for name, piece in pieces.items():
        yield ("params", name), Bound(piece)
    if binder.resource is not None:
        yield ("resource",), Bound(pieces[binder.resource[1]], binder.resource[0])
    for path, expression in binder.facts:
        yield path, Bound(expression)


def counts_denials(limit: k.Limit) -> bool:
    return isinstance(limit, k.Rate) and limit.counting_denials
