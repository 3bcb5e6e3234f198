"""The doors for gateways: forward authentication, and Envoy's `ext_authz` over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from policyengine.engine import Engine
from policyengine.engine.record_group import RecordGroup
from policyengine.http.host_check import AllowedHosts, gateway_refusal
from policyengine.runtime.decision import Decision
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.envoy_http import EnvoyHttpAdapter
from policyengine.server.adapters.forward_auth import ForwardAuthAdapter
from policyengine.server.adapters.responses import HttpVerdict, to_nginx_verdict, to_verdict
from policyengine.server.fast_path.door import MAX_LENGTH_DIGITS, DoorCounts, decide
from policyengine.server.fast_path.exchange import (
    COMMON_LINES,
    PROBLEM_LINES,
    FastAnswer,
    HeaderMap,
    SimpleRequest,
    header_lines,
)
from policyengine.server.telemetry.shared_counters import CountFunction


@dataclass(frozen=True, slots=True)
class ForwardAuthDoor:
    """`/forward-auth`, and `/forward-auth/nginx`, which turns every denial into 401 or 403."""

    counts: DoorCounts
    adapter: ForwardAuthAdapter
    for_nginx: bool
    method: ClassVar[str] = "GET"
    has_body: ClassVar[bool] = False
    has_threads: ClassVar[bool] = True
    holds_records: ClassVar[bool] = True

    def accepts(self, headers: HeaderMap) -> bool:
        return True

    def admits(self, hosts: AllowedHosts, headers: HeaderMap) -> bool:
        return hosts.has_own_name(headers)

    def answer(
        self,
        request: SimpleRequest,
        engine: Engine,
        count: CountFunction,
        *,
        at_once: bool,
        records: RecordGroup | None = None,
    ) -> FastAnswer | None:
        try:
            question = self.adapter.question(request.lines, verifies=engine.identity is not None)
            decision = decide_gateway(
                engine, question, self.counts, count, at_once=at_once, size=request.size, records=records
            )
        except RequestError:
            return None
        return None if decision is None else self.respond(request, decision, engine)

    def respond(self, request: SimpleRequest, decision: Decision, engine: Engine) -> FastAnswer:
        verdict = to_verdict(decision, engine.identity)
        return build_verdict_answer(to_nginx_verdict(verdict) if self.for_nginx else verdict)


@dataclass(frozen=True, slots=True)
class EnvoyDoor:
    """`/envoy/…`: any method, and the path of the request after the prefix."""

    counts: DoorCounts
    adapter: EnvoyHttpAdapter
    method: ClassVar[None] = None
    has_body: ClassVar[bool] = True
    has_threads: ClassVar[bool] = True
    holds_records: ClassVar[bool] = True

    def accepts(self, headers: HeaderMap) -> bool:
        return len(headers.get(b"content-length", b"")) <= MAX_LENGTH_DIGITS

    def admits(self, hosts: AllowedHosts, headers: HeaderMap) -> bool:
        return hosts.has_own_name(headers) and gateway_refusal(headers.items()) is None

    def answer(
        self,
        request: SimpleRequest,
        engine: Engine,
        count: CountFunction,
        *,
        at_once: bool,
        records: RecordGroup | None = None,
    ) -> FastAnswer | None:
        sent = request.method, request.path, request.query, request.lines, request.body
        try:
            question = self.adapter.question(*sent, verifies=engine.identity is not None)
            decision = decide_gateway(
                engine, question, self.counts, count, at_once=at_once, size=request.size, records=records
            )
        except RequestError:
            return None
        return None if decision is None else self.respond(request, decision, engine)

    def respond(self, request: SimpleRequest, decision: Decision, engine: Engine) -> FastAnswer:
        return build_verdict_answer(to_verdict(decision, engine.identity))


def decide_gateway(
    engine: Engine,
    question: Mapping[str, object],
    counts: DoorCounts,
    count: CountFunction,
    *,
    at_once: bool,
    size: int,
    records: RecordGroup | None,
) -> Decision | None:
    """Decide and spend; None if raw credentials have to be verified. Raises RequestError and WouldBlockError."""
    known = cast(dict[str, object], question)
    return decide(engine, known, counts, count, at_once=at_once, size=size, records=records)


def build_verdict_answer(verdict: HttpVerdict) -> FastAnswer:
    lines = PROBLEM_LINES if verdict.problem else COMMON_LINES
    length = len(verdict.problem)
    return FastAnswer(
        verdict.status, b"%bcontent-length: %d\r\n%b" % (header_lines(verdict.headers), length, lines), verdict.problem
    )
