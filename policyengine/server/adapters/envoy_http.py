"""Envoy's `ext_authz` over HTTP: the request itself at `/envoy` plus its path, with its body if Envoy sends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from policyengine.fair_queue import WorkRefusedError
from policyengine.http.gateway_headers import RawHeaderPairs, collect_headers, get_only_value
from policyengine.http.gateway_questions import GatewayQuestionBuilder, RequestTarget, add_credentials
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import HttpVerdict, decide_for_gateway, problem_to_verdict
from policyengine.server.content_negotiation import parse_body, read_body
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface

PREFIX = "/envoy"


@dataclass(frozen=True, slots=True)
class EnvoyHttpAdapter:
    builder: GatewayQuestionBuilder
    body_timeout: float
    own: bool = False  # `Authorization` is the client's, because the gateway needs no token
    mcp: McpQuestions | None = None

    async def decide(self, engine: EngineInterface, http: Request) -> HttpVerdict:
        scope, verifies = http.scope, engine.identity is not None
        content = await read_body(http, self.body_timeout)
        build = partial(self.question, http.method, scope["raw_path"], scope["query_string"], scope["headers"])
        try:
            question = await parse_body(partial(build, verifies=verifies), content)
        except RequestError as error:
            return problem_to_verdict(ProblemError.of(error))
        except WorkRefusedError as error:
            return problem_to_verdict(ProblemError.of_refused(error))
        return await decide_for_gateway(engine, question)

    def question(
        self, method: str, path: bytes, query: bytes, headers: RawHeaderPairs, content: bytes, *, verifies: bool
    ) -> Mapping[str, object]:
        """Build the question from the HTTP request, with raw credentials if the engine `verifies` them. Escapes in the
        path are not decoded. Raises RequestError."""
        given = collect_headers(headers)
        uri = path.decode("latin-1").removeprefix(PREFIX)
        target = RequestTarget(
            method, f"{uri}?{query.decode('latin-1')}" if query else uri, get_only_value(given, "host")
        )
        question: Mapping[str, object] = self.builder.build(target, given, content)
        if self.mcp is not None:
            question = self.mcp.question(question, target, given, content, self.builder.forwarded)
        if not verifies:
            return question
        certificate = self.builder.names.client_certificate
        return add_credentials(question, target, given, own=self.own, certificate=certificate, content=content)
