"""`/access/v1/evaluation` and `/access/v1/evaluations`: AuthZEN questions that wait for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from policyengine.engine import Engine
from policyengine.engine.record_group import RecordGroup
from policyengine.http.host_check import AllowedHosts
from policyengine.runtime.request import RequestError
from policyengine.server.authzen.adapter import AuthzenAdapter, TranslatorCache
from policyengine.server.authzen.requests import AuthzenRequest, read_evaluation, read_evaluations
from policyengine.server.content_negotiation import BodyFormat, encode_body
from policyengine.server.fast_path.door import DoorCounts, is_simple_body
from policyengine.server.fast_path.exchange import (
    CODECS,
    JSON,
    FastAnswer,
    HeaderMap,
    SimpleRequest,
    build_answer,
    header_lines,
)
from policyengine.server.telemetry.metered_engine import MeteredEngine
from policyengine.server.telemetry.shared_counters import CountFunction


@dataclass(frozen=True, slots=True)
class AuthzenDoor:
    """The door of AuthZEN. `has_items` means that the body may have several evaluations."""

    counts: DoorCounts
    translators: TranslatorCache
    refused: Callable[[str, str], None]
    consume: frozenset[str]
    has_items: bool
    method: ClassVar[str] = "POST"
    has_body: ClassVar[bool] = True
    has_threads: ClassVar[bool] = False
    holds_records: ClassVar[bool] = False

    def accepts(self, headers: HeaderMap) -> bool:
        codec = CODECS.get(headers.get(b"content-type", b""))
        return codec is JSON and is_simple_body(headers)

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
        members = JSON.read(request.body)
        if members is None:
            return None
        metered = MeteredEngine(engine, self.counts.tally, count, self.counts.timed)
        adapter = AuthzenAdapter(metered, self.translators, self.refused, self.consume)
        try:
            asked = read_evaluations(members) if self.has_items else AuthzenRequest(members)
            if not adapter.may_answer_at_once(asked):
                return None
            if asked.items:
                items = {"evaluations": adapter.answer_items(asked)}
                return build_answer(encode_body(items, BodyFormat.JSON), b"", JSON.lines)
            content, headers = adapter.answer(read_evaluation(members, consumes=adapter.consumes))
        except RequestError:
            return None
        return build_answer(encode_body(content, BodyFormat.JSON), header_lines(headers), JSON.lines)
