"""Decide a case again after a few rules changed: only the changed rules are evaluated, and everything else is taken
from the earlier trace. That is valid while the facts of the case, the approvals and the history are the same. If the
changed rules have the same results as before, so does the decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from policyengine import kernel as k
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.facts import Facts
from policyengine.spec.reference import conclude, trace_request
from policyengine.spec.required_history import history_conditions
from policyengine.spec.trace import BlockTrace, DecisionTrace, GuardTrace, LimitTrace
from policyengine.testing.case_sequence import CaseSequence
from policyengine.testing.mutation.baseline import BaselineCase, CaseAnswer, RuleKey, restrict_kernel, with_history
from policyengine.testing.mutation.lowering_cache import Mutant
from policyengine.testing.mutation.outcome_key import outcome_key

RuleTrace = TypeVar("RuleTrace", BlockTrace, GuardTrace, LimitTrace)


def answer_incrementally(
    question: BaselineCase, changed: Mapping[RuleKey, object], mutant: Mutant, sequence: CaseSequence
) -> CaseAnswer:
    """Decide a case again. `changed` are the mutant's rules that cover it; its other changes do not change facts:
    attesters, delegation limits, recorded events."""
    made_from = id(question.facts.kernel), tuple(changed)
    if made_from not in mutant.parts:
        mutant.parts[made_from] = partial_kernel(mutant, question, changed)
    facts = question.facts
    if mutant.base.watches:
        asked = list(history_conditions(tuple(changed.values())))
        facts = with_history(facts, asked, sequence, frozenset(facts.history))
    anew = replace(facts.looked_at_anew, kernel=mutant.parts[made_from])
    traced = trace_request(anew, Snapshot(facts.entities, question.spent))
    if traced.excess is not None:
        return CaseAnswer.of(*conclude(facts, traced))
    seen = splice_walk(question, changed, traced)
    if outcome_key(seen) == question.comes_to and "watches" not in mutant.whole:
        return question.answer
    if any(name == "limits" for name, _ in changed):
        limits = tuple(one.limit for one in seen.limited)
        facts = replace(facts, kernel=replace(facts.kernel, limits=limits))
    return CaseAnswer.of(*conclude(with_watches(facts, mutant.whole), seen))


def record_with_watches(question: BaselineCase, whole: Mapping[str, object]) -> CaseAnswer:
    """Return the answer of an unaffected case, with the events that a policy with other watches records."""
    if "watches" not in whole:
        return question.answer
    return CaseAnswer.of(*conclude(with_watches(question.facts, whole), question.seen))


def with_watches(facts: Facts, whole: Mapping[str, object]) -> Facts:
    facts = facts.looked_at_anew
    if "watches" not in whole:
        return facts
    return replace(facts, kernel=replace(facts.kernel, watches=whole["watches"]))  # type: ignore[arg-type]


def partial_kernel(mutant: Mutant, question: BaselineCase, changed: Mapping[RuleKey, object]) -> k.Kernel:
    """Return the kernel with only the changed rules. The requirements of a block that differs only
    in grants are not evaluated again, except for hops."""
    kernel = question.facts.kernel
    old = {key: getattr(kernel, key[0])[place] for key, place in question.rules.items() if key in changed}
    whole = mutant.whole or bool(question.seen.hops)
    rules = changed if whole else {key: without_requirements(old.get(key), new) for key, new in changed.items()}
    return restrict_kernel(kernel, rules, mutant.whole)


def without_requirements(old: object, new: object) -> object:
    """Return a block that differs only in grants without its requirements, whose results are known."""
    match old, new:
        case k.AgentBlock(), k.AgentBlock():
            same = old.requirements == new.requirements
        case k.UserBlock(), k.UserBlock():
            same = old.requirements == new.requirements
        case _:
            return new
    return replace(new, requirements=()) if same else new


def with_known_requirements(old: object, new: object, rule: object) -> object:
    """Add the known requirements to the trace of a block `without_requirements`."""
    if not isinstance(new, BlockTrace) or new.block is rule:
        return new
    assert isinstance(old, BlockTrace)
    assert isinstance(rule, k.AgentBlock | k.UserBlock)
    return BlockTrace(rule, new.applies, old.requirements, new.grants, new.delegates)


def splice_walk(question: BaselineCase, changed: Mapping[RuleKey, object], anew: DecisionTrace) -> DecisionTrace:
    """Return the earlier trace with the new traces of changed rules."""
    before = question.seen

    def with_new(name: str, old: tuple[RuleTrace, ...], new: tuple[RuleTrace, ...]) -> tuple[RuleTrace, ...]:
        return tuple(merge_traces(name, old, new, question.rules, changed))

    return replace(
        before,
        anyone=with_new("anyones", before.anyone, anew.anyone),
        presenter=with_new("agents" if question.by_agent else "users", before.presenter, anew.presenter),
        user=None if before.user is None else with_new("users", before.user, anew.user or ()),
        hops=tuple(
            replace(hop, blocks=with_new("agents", hop.blocks, other.blocks))
            for hop, other in zip(before.hops, anew.hops, strict=True)
        ),
        limits=anew.limits,
        guards=with_new("guards", before.guards, anew.guards),
        limiting=cache(lambda: with_new("limits", before.limited, anew.limited)),
    )


def merge_traces(
    name: str,
    old: tuple[RuleTrace, ...],
    new: tuple[RuleTrace, ...],
    rules: Mapping[RuleKey, int],
    changed: Mapping[RuleKey, object],
) -> Iterator[RuleTrace]:
    """Yield the rule traces of one list, with changed ones in place."""
    others = {number: rule for (where, number), rule in changed.items() if where == name}
    if not others:
        yield from old
        return
    found: dict[int, Any] = {
        number: old[place] for (where, number), place in rules.items() if where == name and number not in others
    }
    for number, seen in zip((one for one in sorted(others) if others[one] is not None), new, strict=True):
        place = rules.get((name, number))
        found[number] = seen if place is None else with_known_requirements(old[place], seen, others[number])
    yield from (found[number] for number in sorted(found))
