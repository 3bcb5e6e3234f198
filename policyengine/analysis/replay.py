"""A decision log decided again by two policies: which recorded decisions flip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.diff.answers import (
    CONFIRM,
    OBLIGE,
    Answer,
    answer_of,
    details_of,
    direction_of,
    in_words,
    outcome_of,
)
from policyengine.analysis.diff.model import Flip, Replayed
from policyengine.audit import Again, CannotRepeat, Record, decided_again, read_records
from policyengine.runtime.decision import Outcome


def replay(
    path: Path | str, old: k.Kernel, new: k.Kernel, tell: Callable[[str], None] = lambda message: None
) -> Replayed:
    """Both policies asked what was asked then, in the world of then; where the new one says what the old one says, that
    is held against what was recorded. `tell` hears about lines that hold no decision.

    Raises OSError when the log cannot be read.
    """
    records = unusable = 0
    flips: list[Flip] = []
    for record in read_records(path, tell):
        records += 1
        try:
            flip = flipped(record, old, new) or unlike_recorded(record, old, new)
        except CannotRepeat:
            unusable += 1
            continue
        flips += [flip] if flip is not None else []
    return Replayed(str(path), records, tuple(flips), unusable)


def flipped(record: Record, old: k.Kernel, new: k.Kernel) -> Flip | None:
    """Whether the two come to different answers. Raises CannotRepeat."""
    before = decided_again(record, old)
    after = decided_again(rebound(record, before, new), new)
    if before.unsure or after.unsure:
        raise CannotRepeat(f"it may rest on what was left out of the log: {', '.join(before.unsure or after.unsure)}")
    answers = answer_of(before.decision), answer_of(after.decision)
    if answers[0] == answers[1]:
        return None
    words = [in_words(outcome_of(one), details_of(one)) for one in answers]
    return Flip(record.id, record.line, direction_of(*answers), words[0], words[1])


def unlike_recorded(record: Record, old: k.Kernel, new: k.Kernel) -> Flip | None:
    """Whether the new policy comes to another answer than the one that was given, by whichever policy that was. Raises
    CannotRepeat."""
    if record.request.get("approvals") and record.revision != old.revision:
        raise CannotRepeat("its approvals were bound to another policy")
    after = decided_again(rebound(record, decided_again(record, old), new), new)
    answers = recorded_answer(record.decision), answer_of(after.decision)
    if answers[0] == answers[1]:
        return None
    words = [in_words(outcome_of(one), details_of(one)) for one in answers]
    return Flip(record.id, record.line, direction_of(*answers), words[0], words[1], recorded=True)


def recorded_answer(decision: Mapping[str, Any]) -> Answer:
    """As `answer_of` gives that of a decision."""
    carried = {(OBLIGE, one["kind"], *one.get("arguments", ())) for one in decision.get("obligations", ())}
    asked = [
        (CONFIRM, one.get("by") or "", one.get("within") or "any time", *(one.get("bound") or ()))
        for one in decision.get("remedies", ()) if one["kind"] == "approval"
    ]  # fmt: skip
    stopped = [(decision["outcome"],)] if decision["outcome"] in (Outcome.DENY, Outcome.THROTTLE) else []
    return tuple(sorted((*stopped, *(() if stopped else asked), *carried)))


def rebound(record: Record, before: Again, new: k.Kernel) -> Record:
    """Approvals are bound to the policy they were granted under: here they count for the rule of that name again."""
    given = record.request.get("approvals")
    if not isinstance(given, list | tuple) or not given:
        return record
    rules = dict(granted(before))
    wanted = dict(asked_for(decided_again(record, new)))
    bound = [
        {**one, "binding": wanted.get(rules.get(str(one.get("id")), ""), one.get("binding"))}
        for one in given
        if isinstance(one, Mapping)
    ]
    return replace(record, request={**record.request, "approvals": bound})


def granted(before: Again) -> Iterator[tuple[str, str]]:
    """By the id of an approval the rule that it lifted."""
    for guard in before.seen.guards:
        for effect in guard.effects:
            for approval in effect.approval.counted if effect.approval else ():
                yield approval.id, guard.guard.name


def asked_for(after: Again) -> Iterator[tuple[str, str]]:
    """By the name of a rule what its approval must be bound to."""
    for guard in after.seen.guards:
        for effect in guard.effects:
            if effect.approval is not None:
                yield guard.guard.name, effect.approval.binding
