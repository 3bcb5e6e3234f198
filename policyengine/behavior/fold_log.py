"""Folds a decision log again, to compute the rows and models that its decisions lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from policyengine.audit.event_records import OutcomeRecord
from policyengine.audit.files import Report
from policyengine.audit.logged_behavior import LoggedBehavior
from policyengine.audit.reader import DecisionRecord, LogEntry, read_log
from policyengine.behavior.events import BehaviorEvent, event_time, name_caller
from policyengine.behavior.fold import CallerFacts
from policyengine.behavior.model import BehaviorModel
from policyengine.behavior.reader import FAILED_STATUS, OUTCOMES
from policyengine.behavior.reportable import MAX_REPORTABLE, ReportableDecisions
from policyengine.behavior.state import BehaviorState, SettingsOf
from policyengine.clock import epoch_nanoseconds
from policyengine.runtime.decision import Outcome

MILLISECOND: Final = 1_000_000  # nanoseconds


class FoldedDecision(NamedTuple):
    """A decision of a log, and the facts of its request that follow from the log before this decision."""

    record: DecisionRecord
    logged: LoggedBehavior
    facts: CallerFacts

    @property
    def is_same(self) -> bool:
        """Whether the decision read the facts that follow from the log. A decision that read an older row may have read
        other facts."""
        return self.facts.to_facts() == self.logged.facts

    @property
    def read_latest_row(self) -> bool:
        """Whether no other decision about the caller was learned after this decision read the caller's row."""
        return self.logged.read == self.logged.event - 1


def fold_log(
    path: Path | str,
    state: BehaviorState,
    settings_of: SettingsOf,
    found: Callable[[FoldedDecision], None] = lambda _: None,
    *,
    models: Mapping[str, BehaviorModel] | None = None,
    tell: Report = lambda message: None,
    most_reportable: int = MAX_REPORTABLE,
) -> None:
    """Fold the decisions and the reported failures of a log into a state, in the order of the log.

    `state` needs the key whose tags are in the log. With `models` (by digest), each decision is folded with the model
    that it used; without `models`, models are learned again. Decisions without learned facts are skipped. `tell`
    receives a message for each line that is not a record. `most_reportable` is the number of decisions that await a
    report. Raises OSError.
    """
    fold_entries(read_log(path, tell), state, settings_of, found, models, most_reportable)


def fold_entries(
    entries: Iterable[LogEntry],
    state: BehaviorState,
    settings_of: SettingsOf,
    found: Callable[[FoldedDecision], None],
    models: Mapping[str, BehaviorModel] | None,
    most_reportable: int = MAX_REPORTABLE,
) -> None:
    reportable = ReportableDecisions(most_reportable)  # as many as the process remembered that wrote the log
    state.learns = models is None
    for entry in entries:
        if isinstance(entry, OutcomeRecord):
            caller = reportable.take(entry.decision)
            if caller is not None and entry.status is not None and entry.status >= FAILED_STATUS:
                state.fold_failure(caller)
        elif isinstance(entry, DecisionRecord) and entry.behavior is not None and entry.behavior.event:
            logged = entry.behavior
            if models is not None:
                state.model = models.get(logged.model, state.model)
            event = logged_event(entry, logged)
            if logged.event == 1:
                state.forget_row(event.caller)  # if there was one
            found(FoldedDecision(entry, logged, state.fold(event, settings_of)))
            if entry.outcome is Outcome.ALLOW:
                reportable.add(entry.id, event.caller)


def logged_event(record: DecisionRecord, logged: LoggedBehavior) -> BehaviorEvent:
    """Return the event of a logged decision."""
    principal = record.decision.get("principal") or {}
    names = principal.get("issuer") or "", principal.get("agent") or ""
    caller = name_caller(*names, logged.instance, logged.version)
    at = event_time(epoch_nanoseconds(record.time))
    outcome = OUTCOMES[record.outcome]
    return BehaviorEvent(
        at, caller, logged.group, record.endpoint or "", logged.run, outcome, logged.clamped, logged.released,
        logged.shape, logged.letter,
    )  # fmt: skip
