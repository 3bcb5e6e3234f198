"""Forward authentication for nginx, Caddy and Traefik, which describe the request in `X-Forwarded-*` headers."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from policyengine.http.gateway_headers import (
    GatewayHeaders,
    add_credentials,
    build_question,
    collect_headers,
    read_forwarded_target,
)
from policyengine.http.gateway_omissions import GatewayAdapter
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import (
    PROBLEM_MEDIA_TYPE,
    HttpVerdict,
    decide_for_gateway,
    problem_to_verdict,
)
from policyengine.server.problems import ProblemError
from policyengine.server.telemetry.metered_engine import EngineProvider


@dataclass(frozen=True, slots=True)
class ForwardAuthAdapter:
    """The forward-auth adapter. It ignores the query of its own URL, because Caddy appends the query that its client
    sent."""

    reloading: EngineProvider
    names: GatewayHeaders
    adapter: GatewayAdapter = GatewayAdapter.FORWARD_AUTH
    own: bool = False  # `Authorization` is the client's, because the gateway needs no token

    async def told(self, http: Request) -> HttpVerdict:
        engine, given = self.reloading.current, collect_headers(http.scope["headers"])
        try:
            target = read_forwarded_target(given)
            question = build_question(target, given, self.names, self.names.hands_on(self.adapter))
            if engine.identity is not None:
                told_by = self.names.client_certificate
                question = add_credentials(question, target, given, own=self.own, certificate=told_by)
        except RequestError as error:
            return problem_to_verdict(ProblemError.of(error))
        return await decide_for_gateway(engine, question)


def build_response(told: HttpVerdict) -> Response:
    media_type = PROBLEM_MEDIA_TYPE if told.problem else None
    return Response(told.problem, told.status, headers=dict(told.headers), media_type=media_type)


def build_nginx_response(told: HttpVerdict) -> Response:
    """Return a response for nginx, which turns statuses except 2xx, 401 and 403 into 500 and drops bodies: both are
    sent as headers for its `error_page`."""
    if told.status == 200:
        return build_response(told)
    status = 401 if told.status == 401 else 403
    more = {"x-status": str(told.status), "x-problem": told.problem.decode()}
    return Response(told.problem, status, headers={**dict(told.headers), **more}, media_type=PROBLEM_MEDIA_TYPE)
