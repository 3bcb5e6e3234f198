"""Reads the allowed calls of callers from decision logs and files of plain events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Final

from policyengine.analysis.call_orders.run_collector import AllowedCall, EndpointTable, Principal
from policyengine.analysis.call_orders.run_rules import TASK, FactPath, run_key_values
from policyengine.audit.files import Report
from policyengine.audit.reader import DecisionRecord
from policyengine.behavior.evaluation.traffic import TrafficError, is_log
from policyengine.behavior.events import ALLOWED, BehaviorEvent, Tagger
from policyengine.behavior.log_events import LogEventReader, RunEvent, question_of, read_logs
from policyengine.behavior.plain_event_reader import PlainEventReader, outcome_of, request_to
from policyengine.behavior.plain_events import PlainEventError, read_plain_events
from policyengine.behavior.reader import BehaviorReader, text_at
from policyengine.runtime.endpoints import Endpoint, MalformedEndpoint
from policyengine.runtime.request import Request

MAX_CREDENTIALS: Final = 10_000  # agents whose credentials are known
MAX_SAMPLES: Final = 65_536


class CallReader:
    """Reads calls. With policies (`reader`), the policies determine the class of the caller and the endpoint; without
    policies, both are those in the log. `credentials` has the facts of a credential of each agent."""

    def __init__(self, reader: BehaviorReader | None, endpoints: EndpointTable | None = None) -> None:
        self.endpoints = endpoints or EndpointTable()
        self.credentials: dict[Principal, Mapping[str, object]] = {}
        self.logs = LogEventReader(reader)
        self.calls = self.not_allowed = 0
        self._reader, self._plain = reader, PlainEventReader(reader, Tagger(b"suggest"))
        self._samples: dict[str, Endpoint | None] = {}

    def read(self, files: Sequence[Path], tell: Report) -> Iterator[AllowedCall]:
        """Yield the calls of all files in the order of their times. Raises TrafficError, OSError."""
        logs = [file for file in files if is_log(file)]
        plain = [self._plain_calls(file) for file in files if file not in logs]
        for call in merge(self._logged_calls(logs, tell), *plain, key=attrgetter("at")):
            self.calls += 1
            yield call

    # ── Logs ──────────────────────────────────────────────────────────────────────────────────

    def _logged_calls(self, logs: Sequence[Path], tell: Report) -> Iterator[AllowedCall]:
        for entry in read_logs(logs, tell):
            found = self.logs.read(entry)
            if not isinstance(found, RunEvent) or not isinstance(entry, DecisionRecord):
                continue
            request = question_of(entry) if found.event.outcome == ALLOWED else None
            if request is None or isinstance(request.endpoint, MalformedEndpoint):
                self.not_allowed += 1
                continue
            self._note_credential(found.event, request)
            keys = self._keys(found.event, request)
            number = self._number(found.event.endpoint, request.endpoint)
            yield AllowedCall(found.event.at, found.event.caller, class_of(found.event), number, keys, entry.id)

    def _keys(self, event: BehaviorEvent, request: Request) -> Mapping[FactPath, str]:
        declared = None if self._reader is None else self._reader.classes.profile_of(event.group).run_key
        if declared is None:
            return run_key_values(request)
        return {declared.path: text_at(request.facts, declared) or ""}

    def _note_credential(self, event: BehaviorEvent, request: Request) -> None:
        who = event.caller.issuer, event.caller.agent
        if who not in self.credentials and len(self.credentials) < MAX_CREDENTIALS:
            facts = request.facts.get("credential")
            self.credentials[who] = facts if isinstance(facts, Mapping) else {}

    def _number(self, name: str, sample: Endpoint | None) -> int:
        patterns = () if self._reader is None or sample is None else self._reader.patterns_of(sample)
        return self.endpoints.number(name, patterns, sample)

    # ── Plain events ──────────────────────────────────────────────────────────────────────────

    def _plain_calls(self, file: Path) -> Iterator[AllowedCall]:
        try:
            items = read_plain_events(file)
        except PlainEventError as error:
            raise TrafficError(str(error)) from None
        for item in items:
            if outcome_of(item) != ALLOWED:
                self.not_allowed += 1
                continue
            event = self._plain.read(item)
            declared = None if self._reader is None else self._reader.classes.profile_of(event.group).run_key
            keys = {TASK if declared is None else declared.path: item.run} if item.run else {}
            number = self._number(event.endpoint, self._sample(item.endpoint))
            yield AllowedCall(event.at, event.caller, class_of(event), number, keys, item.run)

    def _sample(self, text: str) -> Endpoint | None:
        if text not in self._samples:
            if len(self._samples) >= MAX_SAMPLES:
                self._samples.clear()
            request = request_to(text)
            is_usable = request is not None and not isinstance(request.endpoint, MalformedEndpoint)
            self._samples[text] = request.endpoint if request is not None and is_usable else None
        return self._samples[text]


def class_of(event: BehaviorEvent) -> str:
    """Return the class of a caller; without policies, all agents of an issuer may be one class."""
    return event.group or f"issuer {event.caller.issuer}"
