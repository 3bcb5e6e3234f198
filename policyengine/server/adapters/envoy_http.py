"""Envoy's `ext_authz` over HTTP: the request itself, its body where Envoy sends it, at `/envoy` and its own path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from policyengine.fair_queue import WorkRefused
from policyengine.http.completeness import Adapter, Given
from policyengine.http.gateway_headers import Target, Vouched, given_headers, only_value, question_of, with_credentials
from policyengine.runtime.request import RequestError
from policyengine.server.adapters.responses import Told, told_of, told_problem
from policyengine.server.content_negotiation import parsed, read_body
from policyengine.server.problems import Problem
from policyengine.server.telemetry.metered_engine import Current, Decides

PREFIX = "/envoy"


@dataclass(frozen=True, slots=True)
class EnvoyHttp:
    reloading: Current
    names: Vouched
    body_timeout: float
    own: bool = False  # whether `Authorization` is the client's, as the gateway needs no token

    async def told(self, http: Request) -> Told:
        engine, given = self.reloading.current, given_headers(http.scope["headers"])
        content = await read_body(http, self.body_timeout)
        try:
            question = await parsed(partial(self.question, engine, http, given), content)
        except RequestError as error:
            return told_problem(Problem.of(error))
        except WorkRefused as error:
            return told_problem(Problem.of_refused(error))
        return await told_of(engine, question)

    def question(self, engine: Decides, http: Request, given: Given, content: bytes) -> Mapping[str, object]:
        """Raises RequestError."""
        target = target_of(http, given)
        question = question_of(target, given, self.names, self.names.hands_on(Adapter.ENVOY), content)
        if engine.identity is None:
            return question
        told_by = self.names.client_certificate
        return with_credentials(question, target, given, own=self.own, certificate=told_by, content=content)


def target_of(http: Request, given: Given) -> Target:
    """The path as it came, no escape resolved."""
    path = http.scope["raw_path"].decode("latin-1").removeprefix(PREFIX)
    query = http.scope["query_string"].decode("latin-1")
    return Target(http.method, f"{path}?{query}" if query else path, only_value(given, "host"))
