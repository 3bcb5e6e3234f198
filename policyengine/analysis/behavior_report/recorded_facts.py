"""The facts of recorded requests, for the conditions that also read facts other than learned facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from policyengine import kernel as k
from policyengine.audit import DecisionRecord
from policyengine.audit.logged_history import LoggedHistories
from policyengine.audit.replay import hide_redacted
from policyengine.behavior.conditions import bounded_facts
from policyengine.runtime.request import RequestError
from policyengine.runtime.snapshot import LearnedFacts, Snapshot
from policyengine.runtime.values import Unknown
from policyengine.spec.facts import Facts

NO_ENTITIES: Final = Unknown.of("the condition", "the log does not contain the entities of this decision")
NOT_READ: Final = Unknown.of("the condition", "the recorded request cannot be read")


def recorded_facts(kernel: k.Kernel, record: DecisionRecord, learned: LearnedFacts) -> Facts | Unknown:
    """Return the facts of a recorded request with these learned facts. Redacted facts are unknown."""
    if record.directory is None:
        return NO_ENTITIES
    try:
        shown = replace(record, request=hide_redacted(record)) if record.redacted else record
        request = shown.question
    except RequestError:
        return NOT_READ
    snapshot = Snapshot(record.directory, record.spent, behavior=learned)
    facts = bounded_facts(kernel, request, snapshot, record.time)
    return facts if isinstance(facts, Unknown) else replace(facts, history=LoggedHistories(record.history, facts))
