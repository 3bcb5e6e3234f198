"""Envoy's `ext_authz` over HTTP: the request itself at `/envoy` plus its path, with its body if Envoy sends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from policyengine.fair_queue import WorkRefusedError
from policyengine.http.gateway_headers import (
    GatewayHeaders,
    RequestTarget,
    add_credentials,
    build_question,
    collect_headers,
    get_only_value,
)
from policyengine.http.gateway_omissions import GatewayAdapter, HeaderValues
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import HttpVerdict, decide_for_gateway, problem_to_verdict
from policyengine.server.content_negotiation import parse_body, read_body
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineInterface, EngineProvider

PREFIX = "/envoy"


@dataclass(frozen=True, slots=True)
class EnvoyHttpAdapter:
    reloading: EngineProvider
    names: GatewayHeaders
    body_timeout: float
    own: bool = False  # `Authorization` is the client's, because the gateway needs no token

    async def told(self, http: Request) -> HttpVerdict:
        engine, given = self.reloading.current, collect_headers(http.scope["headers"])
        content = await read_body(http, self.body_timeout)
        try:
            question = await parse_body(partial(self.question, engine, http, given), content)
        except RequestError as error:
            return problem_to_verdict(ProblemError.of(error))
        except WorkRefusedError as error:
            return problem_to_verdict(ProblemError.of_refused(error))
        return await decide_for_gateway(engine, question)

    def question(
        self, engine: EngineInterface, http: Request, given: HeaderValues, content: bytes
    ) -> Mapping[str, object]:
        """Build the question from the HTTP request. Raises RequestError."""
        target = request_target(http, given)
        question = build_question(target, given, self.names, self.names.hands_on(GatewayAdapter.ENVOY), content)
        if engine.identity is None:
            return question
        told_by = self.names.client_certificate
        return add_credentials(question, target, given, own=self.own, certificate=told_by, content=content)


def request_target(http: Request, given: HeaderValues) -> RequestTarget:
    """Return the target with the raw path, without decoding escapes."""
    path = http.scope["raw_path"].decode("latin-1").removeprefix(PREFIX)
    query = http.scope["query_string"].decode("latin-1")
    return RequestTarget(http.method, f"{path}?{query}" if query else path, get_only_value(given, "host"))
