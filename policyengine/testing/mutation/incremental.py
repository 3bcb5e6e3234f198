"""The answer to a case when a few rules are others: only these are looked at, the rest is as it was seen before.

That holds while the facts of the case are the same, and so are the approvals that count and what happened before. Where
the other rules come to what the old ones came to, so does the decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from policyengine import kernel as k
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.facts import Facts
from policyengine.spec.history_records import histories
from policyengine.spec.reference import conclude, walk
from policyengine.spec.trace import BlockSeen, GuardSeen, LimitedSeen, Walk
from policyengine.testing.mutation.baseline import Answer, Key, Question, only, recalled
from policyengine.testing.mutation.lowering_cache import Mutant
from policyengine.testing.mutation.outcome_key import comes_to
from policyengine.testing.sequence import Sequence

Seen = TypeVar("Seen", BlockSeen, GuardSeen, LimitedSeen)


def answered_anew(question: Question, changed: Mapping[Key, object], mutant: Mutant, sequence: Sequence) -> Answer:
    """`changed` are those rules of the mutant that are here; what it changes beside rules leaves the facts as they are:
    attesters, limits of delegation, what is remembered."""
    made_from = id(question.facts.kernel), tuple(changed)
    if made_from not in mutant.parts:
        mutant.parts[made_from] = part_of(mutant, question, changed)
    facts = question.facts
    if mutant.base.watches:
        asked = list(histories(tuple(changed.values())))
        facts = recalled(facts, asked, sequence, frozenset(facts.history))
    anew = replace(facts.looked_at_anew, kernel=mutant.parts[made_from])
    seen = spliced(question, changed, walk(anew, Snapshot(facts.entities, question.spent)))
    if comes_to(seen) == question.comes_to and "watches" not in mutant.whole:
        return question.answer
    if any(name == "limits" for name, _ in changed):
        limits = tuple(one.limit for one in seen.limited)
        facts = replace(facts, kernel=replace(facts.kernel, limits=limits))
    return Answer.of(*conclude(with_watches(facts, mutant.whole), seen))


def remembered_anew(question: Question, whole: Mapping[str, object]) -> Answer:
    """What came of a case that no other rule has a say in, and what a policy with other watches remembers of it."""
    if "watches" not in whole:
        return question.answer
    return Answer.of(*conclude(with_watches(question.facts, whole), question.seen))


def with_watches(facts: Facts, whole: Mapping[str, object]) -> Facts:
    facts = facts.looked_at_anew
    if "watches" not in whole:
        return facts
    return replace(facts, kernel=replace(facts.kernel, watches=whole["watches"]))  # type: ignore[arg-type]


def part_of(mutant: Mutant, question: Question, changed: Mapping[Key, object]) -> k.Kernel:
    """With nothing but the changed rules; a block that differs in its doors alone does not ask again what it asked,
    unless of hops: those are asked only by blocks that may be about them."""
    kernel = question.facts.kernel
    old = {key: getattr(kernel, key[0])[place] for key, place in question.rules.items() if key in changed}
    whole = mutant.whole or bool(question.seen.hops)
    rules = changed if whole else {key: unasked(old.get(key), new) for key, new in changed.items()}
    return only(kernel, rules, mutant.whole)


def unasked(old: object, new: object) -> object:
    """A block that differs in its doors alone, without what it asks of the caller: that is known of the old one."""
    match old, new:
        case k.AgentBlock(), k.AgentBlock():
            same = old.requirements == new.requirements
        case k.UserBlock(), k.UserBlock():
            same = old.requirements == new.requirements
        case _:
            return new
    return replace(new, requirements=()) if same else new


def asked_before(old: object, new: object, rule: object) -> object:
    """What was seen of a block that was `unasked`, with what it asks."""
    if not isinstance(new, BlockSeen) or new.block is rule:
        return new
    assert isinstance(old, BlockSeen)
    assert isinstance(rule, k.AgentBlock | k.UserBlock)
    return BlockSeen(rule, new.applies, old.requirements, new.grants, new.delegates)


def spliced(question: Question, changed: Mapping[Key, object], anew: Walk) -> Walk:
    """What was seen before, with what is seen now of the rules that are others."""
    before = question.seen

    def with_new(name: str, old: tuple[Seen, ...], new: tuple[Seen, ...]) -> tuple[Seen, ...]:
        return tuple(merged(name, old, new, question.rules, changed))

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


def merged(
    name: str, old: tuple[Seen, ...], new: tuple[Seen, ...], rules: Mapping[Key, int], changed: Mapping[Key, object]
) -> Iterator[Seen]:
    """The rules of one list, the changed ones in their places."""
    others = {number: rule for (where, number), rule in changed.items() if where == name}
    if not others:
        yield from old
        return
    found: dict[int, Any] = {
        number: old[place] for (where, number), place in rules.items() if where == name and number not in others
    }
    for number, seen in zip((one for one in sorted(others) if others[one] is not None), new, strict=True):
        place = rules.get((name, number))
        found[number] = seen if place is None else asked_before(old[place], seen, others[number])
    yield from (found[number] for number in sorted(found))
