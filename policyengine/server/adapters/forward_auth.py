"""Forward authentication: nginx, Caddy and Traefik ask before they let a request through, with `X-Forwarded-*`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from policyengine.http.completeness import Adapter
from policyengine.http.gateway_headers import Vouched, forwarded_target, given_headers, question_of, with_credentials
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import PROBLEM, Told, told_of, told_problem
from policyengine.server.problems import Problem
from policyengine.server.telemetry.metered_engine import Current


@dataclass(frozen=True, slots=True)
class ForwardAuth:
    """The query of the door's own address means nothing: Caddy puts there what its client sent."""

    reloading: Current
    names: Vouched
    adapter: Adapter = Adapter.FORWARD_AUTH
    own: bool = False  # whether `Authorization` is the client's, as the gateway needs no token

    async def told(self, http: Request) -> Told:
        engine, given = self.reloading.current, given_headers(http.scope["headers"])
        try:
            target = forwarded_target(given)
            question = question_of(target, given, self.names, self.names.hands_on(self.adapter))
            if engine.identity is not None:
                told_by = self.names.client_certificate
                question = with_credentials(question, target, given, own=self.own, certificate=told_by)
        except RequestError as error:
            return told_problem(Problem.of(error))
        return await told_of(engine, question)


def response_of(told: Told) -> Response:
    media_type = PROBLEM if told.problem else None
    return Response(told.problem, told.status, headers=dict(told.headers), media_type=media_type)


def response_for_nginx(told: Told) -> Response:
    """nginx knows 2xx, 401 and 403, makes 500 of the rest and drops bodies: both come as headers, for its
    `error_page` to say."""
    if told.status == 200:
        return response_of(told)
    status = 401 if told.status == 401 else 403
    more = {"x-status": str(told.status), "x-problem": told.problem.decode()}
    return Response(told.problem, status, headers={**dict(told.headers), **more}, media_type=PROBLEM)
