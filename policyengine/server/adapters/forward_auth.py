"""Forward authentication for nginx, Caddy and Traefik, which describe the request in `X-Forwarded-*` headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine.http.gateway_headers import RawHeaderPairs, collect_headers
from policyengine.http.gateway_questions import GatewayQuestionBuilder, add_credentials, read_forwarded_target
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import HttpVerdict, decide_for_gateway, problem_to_verdict
from policyengine.server.mcp.questions import McpQuestions
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface


@dataclass(frozen=True, slots=True)
class ForwardAuthAdapter:
    """The forward-auth adapter. It ignores the query of its own URL, because Caddy appends the query that its client
    sent."""

    builder: GatewayQuestionBuilder
    own: bool = False  # `Authorization` is the client's, because the gateway needs no token
    mcp: McpQuestions | None = None

    async def decide(self, engine: EngineInterface, headers: RawHeaderPairs) -> HttpVerdict:
        try:
            question = self.question(headers, verifies=engine.identity is not None)
        except RequestError as error:
            return problem_to_verdict(ProblemError.of(error))
        return await decide_for_gateway(engine, question)

    def question(self, headers: RawHeaderPairs, *, verifies: bool) -> Mapping[str, object]:
        """Build the question from the headers of the HTTP request, with raw credentials if the engine `verifies` them.
        Raises RequestError."""
        given = collect_headers(headers)
        target = read_forwarded_target(given)
        question: Mapping[str, object] = self.builder.build(target, given)
        if self.mcp is not None:
            question = self.mcp.question(question, target, given, None, self.builder.forwarded)
        if not verifies:
            return question
        certificate = self.builder.names.client_certificate
        return add_credentials(question, target, given, own=self.own, certificate=certificate)
