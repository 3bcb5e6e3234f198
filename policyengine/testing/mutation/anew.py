"""The answer to a case when a few rules are others: only these are looked at, the rest is as it was seen before.

That holds while the facts of the case are the same, and so are the approvals that count. Where the other rules come to
what the old ones came to, so does the decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

from policyengine.runtime.snapshot import Snapshot
from policyengine.semantics.reference import conclude, walk
from policyengine.semantics.walk import BlockSeen, GuardSeen, LimitedSeen, Walk
from policyengine.testing.mutation.coming import comes_to
from policyengine.testing.mutation.questions import Answer, Key, Question, only

Seen = TypeVar("Seen", BlockSeen, GuardSeen, LimitedSeen)


def answered_anew(question: Question, changed: Mapping[Key, object], whole: Mapping[str, object]) -> Answer:
    """`whole` are members of the kernel beside its rules that are others: attesters, limits of delegation."""
    kernel = replace(question.facts.kernel, **whole)  # type: ignore[arg-type]  # by the names of its members
    facts = replace(question.facts, kernel=only(kernel, changed))
    seen = spliced(question, changed, walk(facts, Snapshot(facts.entities, question.spent)))
    if comes_to(seen) == question.comes_to:
        return question.answer
    decision, effects = conclude(question.facts, seen)
    return Answer.of(decision, effects)


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
        limited=with_new("limits", before.limited, anew.limited) if before.limited or anew.limited else (),
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
