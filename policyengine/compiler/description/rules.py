"""Describes the rules of one endpoint: blocks with their grants, guards, limits, bindings, history and task bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from policyengine import kernel as k
from policyengine.compiler.description.model import ProgramItem
from policyengine.compiler.description.node_words import TEST_WORDS, describe_test
from policyengine.compiler.graph.endpoint_view import describe_carriers, source_words
from policyengine.compiler.tree import Uses
from policyengine.evaluator import nodes as n
from policyengine.evaluator import program as p
from policyengine.evaluator.bindings import AgreedValue, CaptureValue, ExpressionValue, ResourceValue
from policyengine.evaluator.blocks import Block, DelegationGrant, Grant
from policyengine.evaluator.conditions import Connective, Not, QuantifierTest
from policyengine.evaluator.history_nodes import EventRules
from policyengine.evaluator.nodes import BoundValue
from policyengine.evaluator.principals import PrincipalRules
from policyengine.evaluator.requirements import ActsForTest, Requirement
from policyengine.evaluator.rules import CONFIRM, DENY, OBLIGATION, Effect, LimitRule, RecordRule, TaskRule
from policyengine.runtime.format_values import format_fact_path, format_value
from policyengine.spec.limits import format_pace
from policyengine.time_formats import format_duration

REQUIRED = re.compile(r"require\b|deny\s+unless\b")  # effects that the kernel stores as a deny of the negated condition
KernelBlock = k.AgentBlock | k.UserBlock | k.AnyoneBlock


class RuleDescriber:
    """Describes rules of a program with the words of its kernel."""

    def __init__(self, kernel: k.Kernel) -> None:
        self.kernel = kernel

    def items(self, rules: p.EndpointRules, uses: Sequence[Uses]) -> Iterator[ProgramItem]:
        """Yield the rules of an endpoint in the order of the gates; `uses` are the uses of its patterns."""
        yield from self._bindings(rules)
        yield from (self._block("anyones", "anyone", block, (), uses) for block in rules.anyones)
        yield from self._blocks("agents", rules.agents, rules.delegators, uses)
        yield from self._blocks("users", rules.users, None, uses)
        yield from map(task_item, rules.tasks)
        yield from guard_items(rules.effects)
        yield from map(limit_item, rules.limits)
        yield from map(history_item, rules.windows)
        yield from map(record_item, rules.records)

    # ── Bindings ──────────────────────────────────────────────────────────────────────────────

    def _bindings(self, rules: p.EndpointRules) -> Iterator[ProgramItem]:
        guarded, exact = rules.bindings or {}, rules.exact_bindings
        yield from (binding_item(path, value, "") for path, value in guarded.items())
        if exact is not None:
            yield from (binding_item(path, value, " for grants") for path, value in exact.items())
            yield from (
                ProgramItem("binding", f"binds nothing to {format_fact_path(path)} for grants")
                for path in guarded
                if path not in exact
            )

    # ── Blocks ────────────────────────────────────────────────────────────────────────────────

    def _blocks(
        self, kind: str, side: PrincipalRules, delegators: PrincipalRules | None, uses: Sequence[Uses]
    ) -> Iterator[ProgramItem]:
        """Yield the blocks by head: names, groups, globs, then conditions. An agent block that only `delegators`
        contains has no grant here.
        """
        delegating = {} if delegators is None else {block.number: block for block in delegators.all_blocks()}
        for head, block in side.blocks_by_head():
            other = delegating.pop(block.number, None)
            yield self._block(kind, head, block, () if other is None else other.delegates, uses)
        for head, block in () if delegators is None else delegators.blocks_by_head():
            if block.number in delegating:
                yield self._block(kind, head, block, block.delegates, uses)

    def _block(
        self, kind: str, head: str, block: Block, delegates: Iterable[DelegationGrant], uses: Sequence[Uses]
    ) -> ProgramItem:
        source: KernelBlock = getattr(self.kernel, kind)[block.number]
        parts = [*condition_parts(head_condition(source), block.where)]
        parts += map(requirement_item, block.requirements)
        parts += [self._grant(kind, source, block.number, grant, uses) for grant in block.grants]
        parts += map(delegation_item, delegates)
        parts += map(history_item, block.events)
        test = "" if kind == "anyones" else head
        return ProgramItem(kind.removesuffix("s"), source.label, test, source.span.at, tuple(parts))

    def _grant(self, kind: str, source: KernelBlock, number: int, grant: Grant, uses: Sequence[Uses]) -> ProgramItem:
        index = next(index for index, one in enumerate(source.grants) if one is grant.source)
        targets = [
            grant.source.openings[place]
            for use in uses
            for opens in use.opens
            if (opens.kind, opens.block, opens.grant) == (kind, number, index)
            for place in opens.openings
        ]
        words = f"may {', '.join(dict.fromkeys(map(source_words, targets)))}"
        if kind != "anyones":
            words = f"{words}, {describe_carriers(source, grant.carriers)}"
        when = condition_item("when", "when ", grant.source.when, grant.when)
        return ProgramItem("grant", words, "", grant.source.span.at, when)


def head_condition(block: KernelBlock) -> k.Expr | None:
    if isinstance(block, k.AnyoneBlock) or not isinstance(block.who, k.PrincipalCondition):
        return None
    return block.who.condition


def requirement_item(requirement: Requirement) -> ProgramItem:
    source, condition = requirement.source, requirement.condition
    parts: list[ProgramItem] = []
    if isinstance(source, k.ActsFor) and isinstance(condition, ActsForTest):
        parts += condition_parts(source.condition, condition.condition)
    return ProgramItem("requirement", source_words(source), describe_test(condition), source.span.at, tuple(parts))


def delegation_item(delegate: DelegationGrant) -> ProgramItem:
    source = delegate.source
    parts = condition_parts(source.when, delegate.when)
    return ProgramItem("delegation", source_words(source), "", source.span.at, tuple(parts))


def task_item(task: TaskRule) -> ProgramItem:
    return ProgramItem("task", f"bounds of {format_fact_path(task.constraint.path)}", describe_test(task.outside))


def guard_items(effects: Iterable[Effect]) -> Iterator[ProgramItem]:
    guards: dict[int, list[Effect]] = {}
    for effect in effects:
        guards.setdefault(id(effect.guard), []).append(effect)
    for group in guards.values():
        guard, parts = group[0].guard, tuple(map(effect_item, group))
        yield ProgramItem("guard", f"guard {format_value(guard.name)}", "", guard.span.at, parts)


def effect_item(effect: Effect) -> ProgramItem:
    source: k.Effect = effect.effect
    kind = {DENY: "deny", CONFIRM: "confirm", OBLIGATION: "obligation"}[effect.kind]
    parts = list(condition_parts(source.condition, effect.condition))
    if REQUIRED.match(source.words) and isinstance(source.condition, k.Not):
        parts = [replace(part, words="stops unless") for part in parts]
    if effect.binding is not None:
        parts.append(ProgramItem("approval", f"an approval is bound to {', '.join(effect.binding.bound)}"))
    return ProgramItem(kind, " ".join(source.words.split()), "", source.span.at, tuple(parts))


def limit_item(rule: LimitRule) -> ProgramItem:
    limit = rule.limit
    kind = "budget" if isinstance(limit, k.Budget) else "rate"
    keys = ", ".join(source_words(key) for key in limit.keys)
    parts = [*condition_item("when", "when ", limit.when, rule.condition)]
    parts += budget_parts(limit) if isinstance(limit, k.Budget) else rate_parts(limit, rule)
    return ProgramItem(kind, f"{kind} {format_value(limit.name)} per {keys}", "", limit.span.at, tuple(parts))


def budget_parts(budget: k.Budget) -> Iterator[ProgramItem]:
    yield from (ProgramItem("limit", quota.words, "", quota.span.at) for quota in budget.quotas)


def rate_parts(rate: k.Rate, rule: LimitRule) -> Iterator[ProgramItem]:
    if rate.pace is not None:
        yield ProgramItem("limit", format_pace(rate.pace), "", rate.span.at)
    if rate.cost is not None:
        yield ProgramItem("limit", f"cost {source_words(rate.cost)}", "", rate.cost.span.at)
    moves: tuple[k.Raise | k.Clamp, ...] = (*rate.raises, *rate.clamps)
    for move, node in zip(moves, rule.moves, strict=True):
        yield ProgramItem("limit", source_words(move), "", move.span.at, tuple(condition_parts(move.when, node)))
    if rate.at_once is not None:
        yield ProgramItem("limit", source_words(rate.at_once), "", rate.at_once.span.at)
    if rule.counts_denials:
        yield ProgramItem("limit", "counting denials", "", rate.span.at)


def history_item(event: EventRules) -> ProgramItem:
    """Return the item of a history that rules read."""
    pattern = event.pattern
    parts = tuple(condition_parts(pattern.where, event.where))
    return ProgramItem("history", f"reads the history of {source_words(pattern)}", "", pattern.span.at, parts)


def record_item(record: RecordRule) -> ProgramItem:
    """Return the item of the record that a decision adds to the history."""
    pattern, within = record.retention.event, format_duration(record.retention.within)
    facts = ", ".join(name for _, name in record.facts)
    words = f"records {facts or 'the request'} for {within} for the history of {source_words(pattern)}"
    return ProgramItem("record", words, "", pattern.span.at)


def binding_item(path: n.Path, value: BoundValue, whom: str) -> ProgramItem:
    words = f"binds {format_fact_path(path)} to {bound_words(value)}{whom}"
    source = value.source if isinstance(value, ExpressionValue) else None
    return ProgramItem("binding", words, "", "" if source is None else source.span.at)


def bound_words(value: BoundValue) -> str:
    match value:
        case CaptureValue(index=index):
            return f"segment {index + 1}"
        case ResourceValue(type=type_, capture=capture):
            return f"{type_} of {bound_words(capture)}"
        case ExpressionValue(source=source):
            return source_words(source)
        case AgreedValue(several=several):
            words = dict.fromkeys(map(bound_words, several))
            return " and ".join(words) + (", unknown if they differ" if len(words) > 1 else "")
        case _:
            return "nothing, because the path is bound in another letter case"


# ── Conditions ────────────────────────────────────────────────────────────────────────────────


def condition_item(kind: str, before: str, source: k.Expr | None, node: n.Node | None) -> tuple[ProgramItem, ...]:
    """Return the item of a condition with the text of the policy, and its tests."""
    if source is None or node is None:
        return ()
    parts = tuple(condition_parts(source, node))
    if len(parts) == 1 and not parts[0].parts and parts[0].words == source_words(source):
        return (ProgramItem(kind, f"{before}{parts[0].words}", parts[0].test, parts[0].at),)
    return (ProgramItem(kind, f"{before}{source_words(source)}", "", source.span.at, parts),)


def condition_parts(source: k.Expr | None, node: n.Node | None) -> Iterator[ProgramItem]:
    """Yield the tests of a condition. A named condition is shown as the text of its definition."""
    match source, node:
        case (None, _) | (_, None):
            return
        case k.DefinitionRef(_, inner), _:
            yield from condition_parts(inner, node)
        case ((k.And() | k.Or()), Connective(items=nodes)):
            tests = tuple(part for pair in zip(source.items, nodes, strict=True) for part in condition_parts(*pair))
            yield ProgramItem("test", TEST_WORDS[type(node)], "", source.span.at, tests)
        case k.Not(inner), Not(operand=test):
            yield ProgramItem("test", TEST_WORDS[type(node)], "", source.span.at, (*condition_parts(inner, test),))
        case k.Quantifier(word, variable, domain, inner), QuantifierTest(condition=test):
            words = f"{word} {variable} in {source_words(domain)}"
            tests = tuple(condition_parts(inner, test))
            yield ProgramItem("test", words, describe_test(node), source.span.at, tests)
        case k.Node(), n.Node():
            yield ProgramItem("test", source_words(source), describe_test(node), source.span.at)
