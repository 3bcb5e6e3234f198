"""Converts plain events to behavior events, with the classes, runs and endpoints that policies declare."""

from __future__ import annotations

from typing import Final

from policyengine.behavior.events import ALLOWED, DENIED, HELD, NO_RUN, BehaviorEvent, Tagger, name_caller
from policyengine.behavior.plain_events import PlainEvent
from policyengine.behavior.reader import FAILED_STATUS, BehaviorReader, CallerProfile
from policyengine.behavior.shape import NO_SHAPE, structure_tag
from policyengine.kernel.sequence_automaton import NO_LETTER
from policyengine.runtime.request import Request
from policyengine.runtime.structure_checks import RequestError

OUTCOMES: Final = {"": ALLOWED, "allow": ALLOWED, "deny": DENIED, "throttle": HELD, "confirm": HELD}
MAX_CACHED: Final = 65_536  # endpoints


class PlainEventReader:
    """Converts plain events. Without policies (`reader`), all callers of an issuer are one class, endpoints keep the
    names in the events, and each run has its name as its key."""

    def __init__(self, reader: BehaviorReader | None, tagger: Tagger) -> None:
        self._reader, self._tagger = reader, tagger
        self._endpoints: dict[str, str] = {}
        self._letters: dict[tuple[str, str], int] = {}

    def read(self, event: PlainEvent) -> BehaviorEvent:
        """Return the behavior event of a plain event."""
        group, has_key, letter = "", True, NO_LETTER
        if self._reader is not None:
            group, profile = self._reader.classes.find(event.agent)
            has_key = profile.run_key is not None
            letter = self._letter(event.endpoint, group, profile, self._reader)
        run = self._tagger.tag(event.run) if event.run and has_key else NO_RUN
        caller = name_caller(event.issuer, event.agent, event.instance)
        endpoint = self._endpoint(event.endpoint)
        return BehaviorEvent(
            event.at, caller, group, endpoint, run, outcome_of(event), shape=self._shape(event, endpoint),
            letter=letter,
        )  # fmt: skip

    def _shape(self, event: PlainEvent, endpoint: str) -> int:
        if event.body is None or (self._reader is not None and not self._reader.reads_payloads):
            return NO_SHAPE
        return structure_tag(self._tagger.tag, endpoint, {"body": event.body})

    def failed(self, event: PlainEvent) -> bool:
        """Return whether the request was allowed and failed."""
        return outcome_of(event) == ALLOWED and event.status >= FAILED_STATUS

    def _endpoint(self, text: str) -> str:
        if self._reader is None:
            return text
        if text not in self._endpoints:
            if len(self._endpoints) >= MAX_CACHED:
                self._endpoints.clear()
            self._endpoints[text] = declared_endpoint(text, self._reader)
        return self._endpoints[text]

    def _letter(self, text: str, group: str, profile: CallerProfile, reader: BehaviorReader) -> int:
        """Return the steps of the declared order of calls that an endpoint matches, as a bit mask."""
        if not profile.steps:
            return NO_LETTER
        key = text, group
        if key not in self._letters:
            if len(self._letters) >= MAX_CACHED:
                self._letters.clear()
            request = request_to(text)
            self._letters[key] = NO_LETTER if request is None else reader.letter_of(request.endpoint, profile)
        return self._letters[key]


def outcome_of(event: PlainEvent) -> int:
    return OUTCOMES.get(event.outcome, ALLOWED)


def declared_endpoint(text: str, reader: BehaviorReader) -> str:
    """Return the declared pattern that a request (`GET /data/7`) matches, or the text itself."""
    request = request_to(text)
    return text if request is None else reader.pattern_of(request.endpoint) or text


def request_to(text: str) -> Request | None:
    """Return the request that a text describes: `GET /data/7`, `TOOL server/name`; None if it is not a request."""
    word, _, rest = text.partition(" ")
    server, _, name = rest.rpartition("/")
    tool = {"tool": {"name": name, **({"server": server} if server else {})}}
    question = tool if word == "TOOL" else {"request": {"method": word, "path": rest}}
    try:
        return Request.from_mapping(question)
    except RequestError:
        return None
