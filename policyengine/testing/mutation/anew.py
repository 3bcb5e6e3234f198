"""The answer to a case when a few rules are others: only these are looked at, the rest is as it was seen before.

That holds while the facts of the case are the same, and so are the approvals that count. Where the other rules come to
what the old ones came to, so does the decision.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics.reference import conclude, walk
from policyengine.semantics.walk import BlockSeen, EffectSeen, GuardSeen, LimitSeen, Walk
from policyengine.testing.mutation.questions import Answer, Key, Question, only

Seen = TypeVar("Seen", BlockSeen, GuardSeen)


def answered_anew(question: Question, changed: Mapping[Key, object], whole: Mapping[str, object]) -> Answer:
    """`whole` are members of the kernel beside its rules that are others: attesters, limits of delegation."""
    kernel = replace(question.facts.kernel, **whole)  # type: ignore[arg-type]  # by the names of its members
    facts = replace(question.facts, kernel=only(kernel, changed))
    seen = spliced(question, changed, walk(facts, Snapshot(facts.entities, question.spent)))
    if comes_to(seen) == comes_to(question.seen):
        return question.answer
    decision, effects = conclude(question.facts, seen)
    return Answer(decision, frozenset(effects.spends))


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
    )


def merged(
    name: str, old: tuple[Seen, ...], new: tuple[Seen, ...], rules: Mapping[Key, int], changed: Mapping[Key, object]
) -> Iterator[Seen]:
    """The rules of one list, the changed ones in their places."""
    others = {number: rule for (where, number), rule in changed.items() if where == name}
    if not others:
        yield from old
        return
    found = {number: old[place] for (where, number), place in rules.items() if where == name and number not in others}
    found |= zip((number for number in sorted(others) if others[number] is not None), new, strict=True)
    yield from (found[number] for number in sorted(found))


# ── What a walk comes to ──────────────────────────────────────────────────────────────────────


def comes_to(seen: Walk) -> Hashable:
    """Equal only for walks that the specification concludes the same from: each gate's answer where it is passed, all
    that was seen there where it is not."""
    return (
        seen.identified,
        seen.open_to_anyone,  # then users and chains do not matter
        opening(seen.open_to_anyone or any(block.opens for block in seen.presenter), (*seen.anyone, *seen.presenter)),
        opening(seen.user_allowed, seen.user or ()),
        seen.chain_known is True,
        tuple((opening(hop.opens, hop.blocks), opening(hop.hands_on, hop.blocks)) for hop in seen.hops),
        tuple(map(limited, seen.limits)),
        tuple((id(guard.guard), tuple(map(acting, guard.effects))) for guard in seen.guards if acts(guard)),
    )


def opening(open_: bool, blocks: tuple[BlockSeen, ...]) -> Hashable:
    return True if open_ else tuple(map(block_of, blocks))


def block_of(block: BlockSeen) -> Hashable:
    """One that is about somebody else is told apart from none only by its number: there is nothing to say of it."""
    if block.applies is False:
        return None
    return (id(block.block),)


def limited(limit: LimitSeen) -> Hashable:
    return True if limit.holds is True else (limit.words, limit.limits, limit.holds)


def acts(guard: GuardSeen) -> bool:
    return any(effect.triggered for effect in guard.effects)


def acting(effect: EffectSeen) -> Hashable:
    return (id(effect.effect), effect.triggered, effect.acts)
