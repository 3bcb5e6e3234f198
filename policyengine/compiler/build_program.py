"""Builds the program of a kernel: collects the rules of an endpoint by its patterns when first needed, and
keeps them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from threading import RLock
from typing import Any, TypeAlias, assert_never

from policyengine import kernel as k
from policyengine.compiler.branches import MOST_BRANCHES, Paths
from policyengine.compiler.build_nodes import GIVEN, PLAIN, STRICT, NodeBuilder, Scope
from policyengine.compiler.lazy_sequence import LazySequence
from policyengine.compiler.tree import Covering, Numbers, Principals, Tree
from policyengine.evaluator import nodes as n
from policyengine.evaluator import program as p
from policyengine.evaluator.bindings import AgreedValue, CaptureValue, ConstantValue, ExpressionValue, ResourceValue
from policyengine.evaluator.blocks import Block, DelegationGrant, Grant
from policyengine.evaluator.charges import is_preparable
from policyengine.evaluator.conditions import AT_MOST, All, AnyOf, Condition, Equal, OneOf, OrderTest, Truth
from policyengine.evaluator.count_keys import count_key_node
from policyengine.evaluator.history_nodes import EventRules
from policyengine.evaluator.nodes import BoundValue
from policyengine.evaluator.principals import PrincipalRules
from policyengine.evaluator.requirements import ActsAloneTest, ActsForTest, IssuedByTest, Requirement, ValidityTest
from policyengine.evaluator.rules import (
    CONFIRM,
    DENY,
    OBLIGATION,
    ApprovalScope,
    Effect,
    LimitRule,
    MessagePart,
    ProofRemedy,
    RecordRule,
    TaskRule,
)
from policyengine.evaluator.state import UNREAD
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.format_values import format_bare_value, format_value
from policyengine.runtime.globs import Glob
from policyengine.runtime.limits import LimitCharge
from policyengine.runtime.values import Invalid, coerce
from policyengine.spec.approval_digest import (
    ACTION_OBJECTS,
    HTTP_OBJECTS,
    TOOL_OBJECTS,
    describe_fact,
    describe_object,
    exclusions_of,
)
from policyengine.spec.evaluate import is_capture
from policyengine.spec.facts import RESOURCE
from policyengine.spec.kleene import describe
from policyengine.spec.match_endpoint import match_segment
from policyengine.spec.rate_units import floors_of, to_microseconds
from policyengine.spec.reason_texts import PROOFS
from policyengine.spec.required_history import awaits_outcome, event_patterns, history_conditions
from policyengine.spec.tasks import task_constraints
from policyengine.typesystem import RefType, Scalar
from policyengine.vocabulary import CLUSTER_SIZE, ENTITY_ROOTS, STRINGS

KernelBlock: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock
# Block number → number of its `may` → numbers of the openings that cover an endpoint.
Opened: TypeAlias = Mapping[int, Mapping[int, Iterable[int]]]
CONFLICT = Invalid("two patterns bind it differently")
OTHER_CASE_BINDING = Invalid("the path is bound in another case")
MAX_SAMPLES, MAX_SAMPLE_LENGTH = 1_024, 512  # maximum number of endpoints, and of characters of a path
KINDS = {k.Deny: DENY, k.Confirm: CONFIRM, k.ObligationEffect: OBLIGATION}


class ProgramBuilder:
    """Builds the program of a kernel, and the rules of each endpoint at its first request.

    `rules` holds the rules built so far, by the kind of endpoint, the patterns that match it, and the patterns that
    match it only in another letter case. `samples` has one recently used endpoint for each of these rules; it is
    emptied when it is full.
    """

    def __init__(self, kernel: k.Kernel, tree: Tree) -> None:
        self.kernel, self.tree = kernel, tree
        self.nodes = NodeBuilder()
        self.program = p.PolicyProgram(kernel)
        self.rules: dict[tuple[str, Numbers, Numbers], p.EndpointRules] = {}
        self.samples: dict[p.EndpointRules, Endpoint] = {}
        self._requirements: dict[int, tuple[k.Node, Requirement]] = {}
        self._histories: dict[int, tuple[k.HistoryCondition | k.Aggregate, ...]] = {}
        self._tools = tuple((Glob(tool.glob), number) for tool, number in tree.tools if "*" in tool.glob)
        self._exact_tools: dict[str, list[int]] = defaultdict(list)
        for tool, number in tree.tools:
            if "*" not in tool.glob:
                self._exact_tools[tool.glob].append(number)
        self._actions: dict[tuple[str, str], list[int]] = defaultdict(list)
        for action, number in tree.actions:
            self._actions[action.verb, action.type].append(number)
        self._lock = RLock()  # slots are numbered by one thread at a time
        self._heads = {"agents": heads_by_block(tree.agents), "users": heads_by_block(tree.users)}
        self.paths = Paths(tree, self._rules_of)
        self._fill_program()

    def _fill_program(self) -> None:
        program, fact = self.program, partial(self.nodes.slot)
        program.agent_id = fact(("agent", "id"), Scalar.STRING)
        program.agent_issuer = fact(("agent", "issuer"), Scalar.STRING)
        program.agent_groups = fact(("agent", "groups"), STRINGS)
        program.credential_issuer = fact(("credential", "issuer"), Scalar.STRING)
        program.scopes = fact(("credential", "scopes"), STRINGS)
        program.user_id = fact(("user", "id"), Scalar.STRING)
        for root in ENTITY_ROOTS:
            types = frozenset(self.kernel.entities if root == "resource" else (root,))
            program.holders[root] = fact((root,), RefType(types))
        program.everyone = self._everybody("agents", self.tree.agents)
        program.everyuser = self._everybody("users", self.tree.users)
        program.make_rules = self.rules_at
        program.reads_history = bool(self.kernel.watches)  # compiled code requires a bool
        if program.reads_history:
            kernel = self.kernel
            blocks: tuple[Sequence[KernelBlock], ...] = (kernel.agents, kernel.users, kernel.anyones)
            program.blocks_read_history = any(map(self._may_read_history, blocks))
        self._renew()

    def _renew(self) -> None:
        """Update the program after slots were added."""
        slots = self.nodes.by_path
        self.program.user_slots = (*slots.get(("user", "id"), ()), *slots.get(("user",), ()))
        self.program.hop_slots = tuple(self.nodes.hop_slots)
        self.program.blank = [UNREAD] * self.nodes.count

    def value_node(self, expression: k.Expr, scope: Scope) -> n.Node:
        """Return the node of an expression in a scope."""
        with self._lock:
            found = self.nodes.value(expression, scope)
            self._renew()  # the node may have new slots
            return found

    # ── Endpoints ─────────────────────────────────────────────────────────────────────────────

    def rules_at(self, endpoint: Endpoint) -> p.EndpointRules:
        """Return the rules at a parsed endpoint, and keep the endpoint as a sample of them."""
        found, samples = self._rules_at(endpoint), self.samples
        if found not in samples and len(getattr(endpoint, "path", "")) <= MAX_SAMPLE_LENGTH:
            if len(samples) >= MAX_SAMPLES:
                samples.clear()
            samples[found] = endpoint
        return found

    def _rules_at(self, endpoint: Endpoint) -> p.EndpointRules:
        match endpoint:
            case HttpEndpoint():
                return self._walk_path(endpoint)
            case ToolEndpoint():
                name = endpoint.qualified
                globs = (number for glob, number in self._tools if glob.matches(name))
                return self._rules_of("tool", (*self._exact_tools.get(name, ()), *globs))
            case ActionEndpoint(verb, type_):
                kind = f"action {type_}" if type_ in self.kernel.entities else "action"
                return self._rules_of(kind, self._actions.get((verb, type_), ()))
            case _:
                return self._rules_of("http", ())

    def _walk_path(self, endpoint: HttpEndpoint) -> p.EndpointRules:
        """Return the rules at a path, found segment by segment, and keep the branch before the last segment."""
        method, segments = endpoint.method, endpoint.segments
        branch, last = self.paths.root, len(segments) - 1
        head = endpoint.path.rpartition("/")[0]
        for place, segment in enumerate(segments):
            if place == last:
                self.program.keep_head(head, branch)
            then = branch.next.get(segment) or self.paths.step(branch, segment)
            if then is None:
                if place < last:
                    self.program.keep_head(head, self.paths.beyond(branch))
                return self.paths.at(branch, method, ended=False)
            branch = then
        return self.paths.at(branch, method, ended=True)

    def _rules_of(self, kind: str, patterns: Iterable[int], loose: Iterable[int] = ()) -> p.EndpointRules:
        """Return the rules of an endpoint that these patterns match. Only guards see the bindings of the `loose`
        patterns.
        """
        key = (kind, tuple(sorted(set(patterns))), tuple(sorted(set(loose))))
        found = self.rules.get(key)
        if found is None:
            with self._lock:
                found = self._make(*key)
                self._renew()
                if len(self.rules) < MOST_BRANCHES:
                    self.rules[key] = found
        return found

    def _make(self, kind: str, patterns: Numbers, loose: Numbers) -> p.EndpointRules:
        uses, kernel = [self.tree.uses[number] for number in patterns], self.kernel
        opens: dict[str, dict[int, dict[int, set[int]]]] = {
            name: defaultdict(lambda: defaultdict(set)) for name in ("agents", "users", "anyones")
        }
        hands: dict[int, set[int]] = defaultdict(set)
        for use in uses:
            for one in use.opens:
                opens[one.kind][one.block][one.grant].update(one.openings)
            for number, delegate in use.hands:
                hands[number].add(delegate)
        guards = numbers_of(self.tree.everywhere, uses, "guards", "excepts")
        limits = numbers_of(self.tree.always, uses, "limits", "spared")
        binders = numbers_of((), uses, "binders", "")
        more = numbers_of(binders, [self.tree.uses[number] for number in loose], "binders", "")
        exact = self._bindings([kernel.binders[number] for number in binders])
        bindings = self._bindings([kernel.binders[number] for number in more])
        if len(more) > len(binders) and RESOURCE in bindings and RESOURCE not in exact:
            exact = {**exact, RESOURCE: ConstantValue(OTHER_CASE_BINDING)}
        word = kind.partition(" ")[0]
        sources = [kernel.binders[number] for number in more]
        covering = Covering(
            frozenset(opens["agents"]), frozenset(opens["users"]), frozenset(opens["anyones"]), frozenset(hands),
            guards, more, limits, numbers_of((), uses, "watches", ""),
        )  # fmt: skip
        conditional = tuple(conditional_grants(kernel, opens))
        anyones = [
            self._block("anyones", number, opens=opens["anyones"], hands={}) for number in sorted(opens["anyones"])
        ]
        delegating: dict[int, dict[int, set[int]]] = {number: {} for number in hands}
        return p.EndpointRules(
            is_action=word == "action",
            anyones=tuple(anyones),
            agents=self._principals("agents", opens["agents"], {}),
            users=self._principals("users", opens["users"], {}),
            delegators=self._principals("agents", delegating, hands),
            effects=tuple(self._effects([kernel.guards[number] for number in guards], word, sources)),
            limits=tuple(self._limit(kernel.limits[number]) for number in limits),
            records=tuple(self._record(kernel.watches[number]) for number in covering.watches),
            tasks=tuple(self._tasks(word, word == "action" or RESOURCE in bindings)),
            bindings=bindings or None,
            exact_bindings=exact if len(more) > len(binders) else None,
            windows=self._windows(guards, limits),
            covering=covering,
            conditional_grants=conditional,
            patterns=patterns,
        )

    # ── Bindings ──────────────────────────────────────────────────────────────────────────────

    def _bindings(self, binders: Sequence[k.Binder]) -> dict[n.Path, BoundValue]:
        found: dict[n.Path, list[BoundValue]] = defaultdict(list)
        for binder in binders:
            for path, binding in self._bound(binder):
                found[path].append(binding)
        return {
            path: several[0] if len(several) == 1 else AgreedValue(several, CONFLICT) for path, several in found.items()
        }

    def _bound(self, binder: k.Binder) -> Iterator[tuple[n.Path, BoundValue]]:
        captures: dict[str, CaptureValue] = {}
        if isinstance(binder.pattern, k.HttpPattern):
            for index, segment in enumerate(binder.pattern.segments):
                if segment.capture is not None:
                    captures[segment.capture] = CaptureValue(index, capture_function(segment))
        for name, capture in captures.items():
            yield ("params", name), capture
        if binder.resource is not None:
            yield RESOURCE, ResourceValue(binder.resource[0], captures[binder.resource[1]])
        for path, expression in binder.facts:
            yield path, ExpressionValue(self.nodes.value(expression, GIVEN), expression)

    # ── Blocks ────────────────────────────────────────────────────────────────────────────────

    def _principals(self, kind: str, opens: Opened, hands: Mapping[int, Iterable[int]]) -> PrincipalRules:
        """Return the rules of these blocks, indexed by their heads in the tree."""
        names: dict[str, list[int]] = defaultdict(list)
        groups: dict[str, list[int]] = defaultdict(list)
        globs: list[tuple[Glob, int]] = []
        others: list[int] = []
        for number in sorted(opens):
            match self._heads[kind].get(number):
                case ("name", name):
                    names[name].append(number)
                case ("group", group):
                    groups[group].append(number)
                case ("glob", glob):
                    globs.append((Glob(glob), number))
                case _:
                    others.append(number)
        return self._rules_by_head(names, groups, globs, others, partial(self._block, kind, opens=opens, hands=hands))

    def _rules_by_head(
        self, names: Mapping[str, Sequence[int]], groups: Mapping[str, Sequence[int]],
        globs: Iterable[tuple[Glob, int]], others: Iterable[int], make: Callable[[int], Block],
    ) -> PrincipalRules:  # fmt: skip
        def made(number: int) -> Block:
            with self._lock:
                found = make(number)
                self._renew()  # the conditions of the block may have new slots
                return found

        by_name = {name: tuple(numbers) for name, numbers in names.items()}
        by_group = {group: tuple(numbers) for group, numbers in groups.items()}
        return PrincipalRules(by_name, by_group, tuple(globs), tuple(others), made)

    def _everybody(self, kind: str, principals: Principals) -> PrincipalRules:
        """Return the rules of every block of a kind, without grants: they show whether any block accepts a
        principal.
        """
        globs = [(Glob(glob), number) for glob, number in principals.globs]
        make = partial(self._block, kind, opens={}, hands={})
        return self._rules_by_head(principals.names, principals.groups, globs, principals.others, make)

    def _block(self, kind: str, number: int, *, opens: Opened, hands: Mapping[int, Iterable[int]]) -> Block:
        block: KernelBlock = getattr(self.kernel, kind)[number]
        opened, delegated = opens.get(number, {}), sorted(hands.get(number, ()))
        who = None if isinstance(block, k.AnyoneBlock) else block.who
        where = self.nodes.condition(who.condition) if isinstance(who, k.PrincipalCondition) else None
        asked = () if isinstance(block, k.AnyoneBlock) else block.requirements
        granted = [block.grants[which] for which in sorted(opened)]
        delegates = [block.delegates[which] for which in delegated] if isinstance(block, k.AgentBlock) else []
        return Block(
            number,
            block.package,
            where,
            tuple(self._requirement(one) for one in asked),
            tuple(self._requirement(one) for one in asked if isinstance(one, ON_HOPS)),
            tuple(self._grant(one, sorted(opened[which])) for which, one in zip(sorted(opened), granted, strict=True)),
            tuple(self._delegate(one) for one in delegates),
            tuple(self._events((who, asked, granted, delegates))) if self.kernel.watches else (),
        )

    def _grant(self, grant: k.Grant, openings: Sequence[int]) -> Grant:
        carriers = dict.fromkeys(scope for place in openings for scope in grant.openings[place].carriers)
        return Grant(tuple(carriers), None if grant.when is None else self.nodes.condition(grant.when), grant)

    def _delegate(self, delegate: k.DelegationGrant) -> DelegationGrant:
        when = None if delegate.when is None else self.nodes.condition(delegate.when)
        match delegate.to:
            case k.ExactName(name):
                return DelegationGrant(name, None, None, when, delegate)
            case k.NamePattern(glob):
                return DelegationGrant(None, Glob(glob), None, when, delegate)
            case k.InGroup(group):
                return DelegationGrant(None, None, group, when, delegate)
            case _:
                assert_never(delegate.to)

    def _requirement(self, requirement: k.Requirement) -> Requirement:
        known = self._requirements.get(id(requirement))
        if known is None:
            kind = None
            if not isinstance(requirement, ON_HOPS):
                kind = "attestation" if isinstance(requirement, k.AttestedBy) else "credential"
            made = Requirement(self._requirement_condition(requirement), kind, requirement.span.text, requirement)
            known = self._requirements[id(requirement)] = requirement, made
        return known[1]

    def _requirement_condition(self, requirement: k.Requirement) -> Condition:
        fact = self.nodes.slot
        match requirement:
            case k.IssuedBy(issuers):
                return IssuedByTest(issuers)
            case k.ActsAlone():
                return ActsAloneTest(fact(("credential", "subject"), Scalar.STRING))
            case k.ActsFor(condition):
                when = None if condition is None else self.nodes.condition(condition)
                return ActsForTest(fact(("credential", "subject"), Scalar.STRING), when)
            case k.ValidityPeriod(start, end):
                return ValidityTest(start, end)
            case k.CredentialKinds(kinds):
                return OneOf(fact(("credential", "kind"), Scalar.STRING), frozenset(kinds))
            case k.CredentialLifetime(limit):
                return OrderTest(fact(("credential", "lifetime"), Scalar.DURATION), limit, AT_MOST)
            case k.CredentialAge(limit):
                return OrderTest(fact(("credential", "age"), Scalar.DURATION), limit, AT_MOST)
            case k.ProofOfPossession():
                return Truth(fact(("credential", "bound"), Scalar.BOOL))
            case k.AttestedBy(names):
                verified = Truth(fact(("attestation", "verified"), Scalar.BOOL))
                trusted = AnyOf(tuple(self._attester_condition(self.kernel.attesters[name]) for name in names))
                return All((verified, trusted))
            case _:
                assert_never(requirement)

    def _attester_condition(self, attester: k.Attester) -> Condition:
        def text(name: str) -> n.FactNode:
            return self.nodes.slot(("attestation", name), Scalar.STRING)

        tests: list[Condition] = [Equal(text("by"), attester.name, False)]
        if attester.age is not None:
            age = self.nodes.slot(("attestation", "age"), Scalar.DURATION)
            tests.append(OrderTest(age, attester.age, AT_MOST))
        if attester.models:
            tests.append(AnyOf(tuple(self._model(*model) for model in attester.models)))
        if attester.environments:
            tests.append(OneOf(text("environment"), frozenset(attester.environments)))
        return All(tuple(tests))

    def _model(self, name: str, digest: str | None) -> Condition:
        named = Equal(self.nodes.slot(("attestation", "model"), Scalar.STRING), name, False)
        if digest is None:
            return named
        return All((named, Equal(self.nodes.slot(("attestation", "model_hash"), Scalar.STRING), digest, False)))

    # ── Guards ────────────────────────────────────────────────────────────────────────────────

    def _effects(self, guards: Iterable[k.Guard], word: str, binders: Sequence[k.Binder]) -> Iterator[Effect]:
        bit = 0
        for guard in guards:
            for index, effect in enumerate(guard.effects):
                condition = None if effect.condition is None else self.nodes.condition(effect.condition)
                message = None if effect.message is None else tuple(map(self._message_part, effect.message))
                proofs = tuple(self._proofs(effect)) if isinstance(effect, k.Deny) else ()
                binding = self._binding(effect, word, binders) if isinstance(effect, k.Confirm) else None
                yield Effect(KINDS[type(effect)], bit, guard, index, effect, condition, message, proofs, binding)
                bit += 1

    def _message_part(self, part: str | k.MessageFact) -> str | MessagePart:
        if isinstance(part, str):
            return part
        show = format_bare_value if is_capture(part.expression) else format_value
        return MessagePart(self.nodes.value(part.expression), show, part.to_caller)

    def _proofs(self, deny: k.Deny) -> Iterator[ProofRemedy]:
        """Yield the proofs that may lift a deny: those whose fact the condition of the deny reads."""
        if deny.condition is None:
            return
        types = {node.path: node.type for node in k.walk(deny.condition) if isinstance(node, k.Fact)}
        for kind, need, path, better in PROOFS:
            if path in types:
                slots = tuple(self.nodes.by_path.get(path, ()))
                yield ProofRemedy(kind, need, slots, coerce(better, types[path], ".".join(path)))

    def _binding(self, confirm: k.Confirm, word: str, binders: Sequence[k.Binder]) -> ApprovalScope:
        objects = {"tool": TOOL_OBJECTS, "action": ACTION_OBJECTS}.get(word, HTTP_OBJECTS)
        if confirm.bound is not None:
            objects = confirm.bound.objects
        named = () if confirm.bound is None else confirm.bound.facts
        described = sorted([*map(describe_object, objects), *map(describe_fact, named)])
        shown = (part.expression for part in confirm.message or () if isinstance(part, k.MessageFact))
        reads = [] if confirm.condition is None else [self.nodes.condition(confirm.condition, STRICT)]
        reads += [self.nodes.value(node, STRICT) for node in (*shown, *named)]  # type: ignore[misc]
        sources = tuple(
            (path, self.nodes.value(expression, STRICT)) for binder in binders for path, expression in binder.facts
        )
        of = confirm.approvers.of
        approvers = self.nodes.value(of.expression) if isinstance(of, k.MemberOf) else None
        return ApprovalScope(
            tuple((one, exclusions_of(one)) for one in objects), tuple(described) or ("resource",), tuple(reads),
            sources, approvers,
        )  # fmt: skip

    # ── Limits, history, tasks ────────────────────────────────────────────────────────────────

    def _limit(self, limit: k.Limit) -> LimitRule:
        value = self.nodes.value
        condition = None if limit.when is None else value(limit.when)
        keys = tuple(count_key_node(key, value(key)) for key in limit.keys)
        if isinstance(limit, k.Budget):
            quotas = tuple(
                (value(quota.bound), None if quota.fact is None else value(quota.fact)) for quota in limit.quotas
            )
            return LimitRule(limit, condition, keys, None, None, (), quotas, None)
        cost = None if limit.cost is None else value(limit.cost)
        count = value(limit.pace.count) if isinstance(limit.pace, k.PaceByFact) else None
        moves = tuple(map(value, (*(up.when for up in limit.raises), *(down.when for down in limit.clamps))))
        prepared: dict[tuple[object, ...], LimitCharge] | None = {} if is_preparable(limit) else None
        size = self.nodes.fact(CLUSTER_SIZE, Scalar.INT) if floors_of(limit) else None
        return LimitRule(limit, condition, keys, cost, count, moves, (), prepared, size)

    def _record(self, retention: k.EventRetention) -> RecordRule:
        event = retention.event
        facts = tuple((self.nodes.value(fact), describe(fact)) for fact in event.facts)
        within = to_microseconds(retention.within)
        return RecordRule(retention, self.nodes.event(event), facts, within, awaits_outcome(event))

    def _tasks(self, word: str, binds_resource: bool) -> Iterator[TaskRule]:
        for constraint in task_constraints(word, binds_resource, self.kernel.entities):
            yield TaskRule(constraint, self.nodes.condition(constraint.outside))

    def _windows(self, guards: Numbers, limits: Numbers) -> tuple[EventRules, ...]:
        """Return the patterns of past requests that guards and limits of an endpoint read."""
        if not self.kernel.watches:
            return ()
        parts = ([self.kernel.guards[number] for number in guards], [self.kernel.limits[number] for number in limits])
        return tuple(self._events(parts))

    def _events(self, parts: object) -> Iterator[EventRules]:
        """Yield the patterns of past requests in parts of the kernel, each once."""
        found = {event.watch: event for node in self.histories_in(parts) for event in event_patterns(node)}
        yield from (self.nodes.event(event, PLAIN) for event in found.values())

    def _may_read_history(self, blocks: Sequence[KernelBlock]) -> bool:
        """Return whether a block may have a condition on the history. This does not decode the blocks of a bundle."""
        return blocks.may_read_history if isinstance(blocks, LazySequence) else bool(self.histories_in(blocks))

    def histories_in(self, part: object) -> tuple[k.HistoryCondition | k.Aggregate, ...]:
        """Return the conditions about past requests in parts of the kernel."""
        if isinstance(part, tuple | list):
            return tuple(node for one in part for node in self.histories_in(one))
        found = self._histories.get(id(part))
        if found is None:  # cached by id: parts of the kernel are never freed, so their ids stay valid
            found = self._histories[id(part)] = tuple(history_conditions(part))
        return found


ON_HOPS = (k.IssuedBy, k.ActsAlone, k.ActsFor, k.ValidityPeriod)


def numbers_of(always: Iterable[int], uses: Iterable[Any], inside: str, outside: str) -> Numbers:
    """Return the numbers of the rules that cover an endpoint, in order: those in `always` and in the member `inside` of
    each use, without those in the member `outside`.
    """
    uses = list(uses)
    excepted = {number for use in uses for number in getattr(use, outside)} if outside else set()
    return tuple(sorted({*always, *(number for use in uses for number in getattr(use, inside))} - excepted))


def conditional_grants(kernel: k.Kernel, opens: Mapping[str, Opened]) -> Iterator[tuple[KernelBlock, k.Grant]]:
    """Yield the grants that have a condition, with their blocks."""
    for kind, blocks in opens.items():
        for number, opened in blocks.items():
            block: KernelBlock = getattr(kernel, kind)[number]
            yield from ((block, block.grants[one]) for one in opened if block.grants[one].when is not None)


def capture_function(segment: k.Segment) -> Callable[[str], Any]:
    """Return the function that maps the text of a segment to the text that the pattern captures."""
    return lambda text: match_segment(segment, text, "full")


def heads_by_block(principals: Principals) -> dict[int, tuple[str, str]]:
    """Return the kind and text of the head (name, group or glob) of each block by its number. Blocks that must be
    tested each time are left out."""
    return {
        **{number: ("name", name) for name, numbers in principals.names.items() for number in numbers},
        **{number: ("group", group) for group, numbers in principals.groups.items() for number in numbers},
        **{number: ("glob", glob) for glob, number in principals.globs},
    }
