"""The routes of all handlers, and their documentation."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from policyengine.server.adapters.envoy_http import PREFIX
from policyengine.server.approvals import add_approval_routes
from policyengine.server.authzen import adapter
from policyengine.server.authzen import schema as authzen_schema
from policyengine.server.handlers import DecisionApi
from policyengine.server.openapi import examples, gateway_statuses, schema, statuses


def add_routes(app: FastAPI, api: DecisionApi) -> None:
    add_decision_routes(app, api)
    add_authzen_routes(app, api)
    add_gateway_routes(app, api)
    add_approval_routes(app, api)
    add_status_routes(app, api)


def add_decision_routes(app: FastAPI, api: DecisionApi) -> None:
    security: dict[str, Any] = {} if api.tokens is None else {"security": [{"token": []}]}
    keyed = {"parameters": [statuses.KEY_PARAMETER]}
    shown = examples.QUESTIONS if api.engine.identity is None else examples.QUESTIONS_WITH_CREDENTIALS
    question = schema.request_body(schema.Question, shown)
    batch = schema.request_body(schema.Batch, {"batch": examples.BATCH})
    report = schema.request_body(schema.Event, {"report": examples.REPORT})
    for path, handler, taken, responses in (
        ("/decide", api.decide, {**question, **keyed}, statuses.DECIDED),
        ("/evaluate", api.evaluate, question, statuses.EVALUATED),
        ("/decide/batch", api.decide_batch, {**batch, **keyed}, statuses.DECIDED_MANY),
        ("/explain", api.explain, question, statuses.EXPLAINED),
        ("/events", api.events, report, statuses.REPORTED),
    ):
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_class=Response,
            openapi_extra={**taken, **security},
            responses=responses,
            tags=["decisions"],
        )


def add_authzen_routes(app: FastAPI, api: DecisionApi) -> None:
    security: dict[str, Any] = {} if api.tokens is None else {"security": [{"token": []}]}
    for path, handler, taken, responses in (
        (adapter.EVALUATION, api.evaluation, authzen_schema.EVALUATION, authzen_schema.EVALUATED),
        (adapter.EVALUATIONS, api.evaluations, authzen_schema.EVALUATIONS, authzen_schema.EVALUATED_MANY),
    ):
        app.add_api_route(
            path,
            handler,
            methods=["POST"],
            response_class=Response,
            openapi_extra={**taken, **security, "parameters": [statuses.KEY_PARAMETER]},
            responses=responses,
            tags=["AuthZEN"],
        )
    app.add_api_route(
        adapter.METADATA,
        api.authzen_configuration,
        methods=["GET"],
        response_class=Response,
        responses=authzen_schema.CONFIGURED,
        tags=["AuthZEN"],
    )
    app.add_api_route(f"{adapter.SEARCH}/{{what}}", api.search, methods=["POST"], include_in_schema=False)


def add_gateway_routes(app: FastAPI, api: DecisionApi) -> None:
    security: dict[str, Any] = {} if api.tokens is None else {"security": [{"token": []}]}
    for path, handler, asked, responses in (
        ("/forward-auth", api.forward_auth, gateway_statuses.FORWARDED_HEADERS, gateway_statuses.FORWARD_AUTH),
        (
            "/forward-auth/nginx",
            api.forward_auth_nginx,
            gateway_statuses.FORWARDED_HEADERS,
            gateway_statuses.FORWARD_AUTH_NGINX,
        ),
        (f"{PREFIX}/{{path:path}}", api.envoy, gateway_statuses.EXT_AUTHZ, gateway_statuses.EXT_AUTHZ_STATUSES),
    ):
        app.add_api_route(
            path,
            handler,
            methods=["GET"],
            response_class=Response,
            openapi_extra={"parameters": asked, **security},
            responses=responses,
            tags=["gateways"],
        )

    async def any_method(scope: Scope, receive: Receive, send: Send) -> None:
        await (await api.envoy(Request(scope, receive)))(scope, receive, send)

    app.mount(PREFIX, any_method)


def add_status_routes(app: FastAPI, api: DecisionApi) -> None:
    for path, handler, responses in (
        ("/healthz", api.healthz, statuses.ALIVE),
        ("/readyz", api.readyz, statuses.READY),
    ):
        app.add_api_route(path, handler, methods=["GET"], response_class=Response, responses=responses, tags=["status"])
    security: dict[str, Any] = {} if api.tokens is None else {"security": [{"token": []}]}
    app.add_api_route(
        "/metrics",
        api.metrics,
        methods=["GET"],
        response_class=Response,
        responses=statuses.MEASURED,
        openapi_extra=security,
        tags=["status"],
    )
    app.add_api_route("/docs", api.docs, methods=["GET"], include_in_schema=False)
    app.add_api_route("/", api.root, methods=["GET"], include_in_schema=False)
