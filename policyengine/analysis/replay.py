"""Replays a decision log with two policies and reports which recorded decisions flip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from policyengine import kernel as k
from policyengine.analysis.diff.answer_order import (
    CONFIRM,
    OBLIGE,
    AnswerKey,
    answer_direction,
    answer_of,
    details_of,
    format_answer,
    outcome_of,
)
from policyengine.analysis.diff.model import DecisionFlip, LogDiff
from policyengine.audit import DecisionRecord, ReplayError, ReplayResult, read_records, replay_decision
from policyengine.runtime.decision import Outcome


def replay(
    path: Path | str, old: k.Kernel, new: k.Kernel, tell: Callable[[str], None] = lambda message: None
) -> LogDiff:
    """Replay each recorded request with its recorded facts under both policies; if these agree, compare their answer
    with the recorded decision. `tell` is called for lines without a decision. Raises OSError if the log cannot be read.
    """
    records = unusable = 0
    flips: list[DecisionFlip] = []
    for record in read_records(path, tell):
        records += 1
        try:
            flip = flip_between(record, old, new) or flip_from_recorded(record, old, new)
        except ReplayError:
            unusable += 1
            continue
        flips += [flip] if flip is not None else []
    return LogDiff(str(path), records, tuple(flips), unusable)


def flip_between(record: DecisionRecord, old: k.Kernel, new: k.Kernel) -> DecisionFlip | None:
    """Return the flip if the policies answer differently, or None. Raises ReplayError."""
    before = replay_decision(record, old)
    after = replay_decision(rebind_approvals(record, before, new), new)
    if before.unsure or after.unsure:
        raise ReplayError(
            f"the decision may depend on facts omitted from the log: {', '.join(before.unsure or after.unsure)}"
        )
    answers = answer_of(before.decision), answer_of(after.decision)
    if answers[0] == answers[1]:
        return None
    words = [format_answer(outcome_of(one), details_of(one)) for one in answers]
    return DecisionFlip(record.id, record.line, answer_direction(*answers), words[0], words[1])


def flip_from_recorded(record: DecisionRecord, old: k.Kernel, new: k.Kernel) -> DecisionFlip | None:
    """Return the flip if the new policy answers differently from the record, whichever policy made the record;
    otherwise None. Raises ReplayError.
    """
    if record.request.get("approvals") and record.revision != old.revision:
        raise ReplayError("the approvals were bound to another policy")
    after = replay_decision(rebind_approvals(record, replay_decision(record, old), new), new)
    answers = recorded_answer(record.decision), answer_of(after.decision)
    if answers[0] == answers[1]:
        return None
    words = [format_answer(outcome_of(one), details_of(one)) for one in answers]
    return DecisionFlip(record.id, record.line, answer_direction(*answers), words[0], words[1], recorded=True)


def recorded_answer(decision: Mapping[str, Any]) -> AnswerKey:
    """Return the key of a recorded decision, as `answer_of` does for a decision."""
    carried = {(OBLIGE, one["kind"], *one.get("arguments", ())) for one in decision.get("obligations", ())}
    asked = [
        (CONFIRM, one.get("by") or "", one.get("within") or "any time", *(one.get("bound") or ()))
        for one in decision.get("remedies", ()) if one["kind"] == "approval"
    ]  # fmt: skip
    stopped = [(decision["outcome"],)] if decision["outcome"] in (Outcome.DENY, Outcome.THROTTLE) else []
    return tuple(sorted((*stopped, *(() if stopped else asked), *carried)))


def rebind_approvals(record: DecisionRecord, before: ReplayResult, new: k.Kernel) -> DecisionRecord:
    """Bind the approvals to the new policy. An approval is bound to the policy under which it was granted, but the
    replay accepts it for the rule with the same name. Raises ReplayError.
    """
    given = record.request.get("approvals")
    if not isinstance(given, list | tuple) or not given:
        return record
    rules = dict(rules_by_approval(before))
    wanted = dict(approval_bindings(replay_decision(record, new)))
    bound = [
        {**one, "binding": wanted.get(rules.get(str(one.get("id")), ""), one.get("binding"))}
        for one in given
        if isinstance(one, Mapping)
    ]
    return replace(record, request={**record.request, "approvals": bound})


def rules_by_approval(before: ReplayResult) -> Iterator[tuple[str, str]]:
    """Yield the id of each approval with the rule it lifted."""
    for guard in before.seen.guards:
        for effect in guard.effects:
            for approval in effect.approval.counted if effect.approval else ():
                yield approval.id, guard.guard.name


def approval_bindings(after: ReplayResult) -> Iterator[tuple[str, str]]:
    """Yield the name of each rule with the binding that its approvals need."""
    for guard in after.seen.guards:
        for effect in guard.effects:
            if effect.approval is not None:
                yield guard.guard.name, effect.approval.binding
