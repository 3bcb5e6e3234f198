"""`/decide` and `/evaluate`: one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policyengine.engine import Engine
from policyengine.engine.record_group import RecordGroup
from policyengine.http.host_check import AllowedHosts
from policyengine.http.rate_limit_headers import rate_limit_headers
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import RequestError
from policyengine.server.fast_path.door import DoorCounts, decide, is_simple_body
from policyengine.server.fast_path.exchange import (
    CODECS,
    FastAnswer,
    HeaderMap,
    SimpleRequest,
    build_answer,
    header_lines,
)
from policyengine.server.telemetry.shared_counters import CountFunction


@dataclass(frozen=True, slots=True)
class QuestionDoor:
    """A door for one question. With `spends`, the decision spends unless the question sets
    `options.consume` to false.
    """

    counts: DoorCounts
    spends: bool
    method: ClassVar[str] = "POST"
    has_body: ClassVar[bool] = True
    has_threads: ClassVar[bool] = True
    holds_records: ClassVar[bool] = True

    def accepts(self, headers: HeaderMap) -> bool:
        codec = CODECS.get(headers.get(b"content-type", b""))
        return codec is not None and codec.accepts(headers) and is_simple_body(headers)

    def admits(self, hosts: AllowedHosts, headers: HeaderMap) -> bool:
        return hosts.at_once(headers)

    def answer(
        self,
        request: SimpleRequest,
        engine: Engine,
        count: CountFunction,
        *,
        at_once: bool,
        records: RecordGroup | None = None,
    ) -> FastAnswer | None:
        codec = CODECS[request.headers[b"content-type"]]
        question = codec.read(request.body)
        if question is None:
            return None
        options = question.get("options")
        spends = self.spends if options is None else self.spends_with(options)
        if spends is None:
            request.decoded = question
            return None
        try:
            size = len(request.body)
            decision = decide(
                engine, question, self.counts, count, at_once=at_once, size=size, spends=spends, records=records
            )
        except RequestError:
            return None
        if decision is None:
            request.decoded = question
            return None
        return self.respond(request, decision, engine)

    def respond(self, request: SimpleRequest, decision: Decision, engine: Engine) -> FastAnswer:
        codec = CODECS[request.headers[b"content-type"]]
        limits = header_lines(rate_limit_headers(decision)) if decision.standings else b""
        return build_answer(codec.write(decision), limits, codec.lines)

    def spends_with(self, options: object) -> bool | None:
        """Return whether a question with these options spends; None if the application must read the options."""
        if type(options) is not dict:
            return None
        spends = self.spends
        for name, value in options.items():
            if name == "consume" and type(value) is bool:
                spends = spends and value
            elif name not in ("obligations_supported", "request_approval") and (
                name != "explain" or value is not False
            ):
                return None
        return spends
