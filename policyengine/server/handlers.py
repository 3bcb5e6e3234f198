"""The handlers of all routes: each reads a question, asks the engine and writes the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from policyengine.engine import Engine
from policyengine.fair_queue import WorkRefusedError
from policyengine.http.gateway_headers import GatewayHeaders
from policyengine.install_hints import install_command
from policyengine.reload import ReloadableEngine
from policyengine.runtime.current_caller import current_caller, enter_caller
from policyengine.runtime.idempotency import IdempotencyKey, IdempotencyKeyError
from policyengine.runtime.request import Request as Question
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import quote_input
from policyengine.server.adapters.gateways import GatewayAdapters
from policyengine.server.adapters.responses import build_response, to_nginx_verdict
from policyengine.server.authzen import adapter as authzen
from policyengine.server.authzen.adapter import AuthzenAdapter, TranslatorCache
from policyengine.server.authzen.requests import (
    AuthzenRequest,
    parse_evaluation_body,
    parse_evaluations_body,
    require_json,
)
from policyengine.server.authzen.untranslatable import DenialReporter
from policyengine.server.bearer_tokens import BearerTokens
from policyengine.server.content_negotiation import (
    BodyFormat,
    build_answer,
    build_problem_answer,
    parse_body,
    read_body,
    request_format,
)
from policyengine.server.decide_requests import (
    decide_batch,
    decide_with_headers,
    parse_batch,
    parse_question,
    read_batch,
    run_off_loop,
)
from policyengine.server.events import parse_event, record_outcome
from policyengine.server.fast_path.exchange import DECODED_KEY
from policyengine.server.host_guard import HostCheck
from policyengine.server.idempotency import key_problem, read_key_header
from policyengine.server.openapi.page import CONTENT_SECURITY_POLICY, render_page
from policyengine.server.problems import ProblemError
from policyengine.server.shutdown import Drain
from policyengine.server.telemetry.metered_engine import MeteredEngine, MeteredEngineProvider
from policyengine.server.telemetry.process_metrics import publish_metrics
from policyengine.server.telemetry.shared_counters import ServerCounters, time_sampled

MILLISECOND = timedelta(milliseconds=1)
INSTALL_METRICS = install_command("metrics")
CHALLENGE = 'Bearer realm="policyengine"'


@dataclass(frozen=True, slots=True)
class DecisionApi:
    """The handlers of the API. Decisions are synchronous. They run on the event loop, unless they may wait or may take
    a long time.
    """

    reloading: ReloadableEngine
    tokens: BearerTokens | None
    body_timeout: float
    gateway: GatewayHeaders
    gateways: GatewayAdapters
    tally: ServerCounters
    drain: Drain
    public_url: str | None
    translators: TranslatorCache
    refusals: DenialReporter
    hosts: HostCheck
    authzen_consume: frozenset[str] = frozenset()

    @property
    def engine(self) -> Engine:
        """The current engine, read once per answer because a reload may replace it."""
        return self.reloading.current

    @property
    def authzen(self) -> AuthzenAdapter:
        return AuthzenAdapter(self._at("authzen"), self.translators, self.refusals, self.authzen_consume)

    async def decide(self, http: Request) -> Response:
        """Decide one question and spend what it uses, only once per `Idempotency-Key`. `options.consume: false` spends
        nothing."""
        sent = await self._body(http)
        question, once, engine = await self._parse(http, *sent), self._read_key(http, *sent), self._at("decide")
        work = partial(decide_with_headers, engine, question, question.options.consume, once)
        return build_answer(http, *await run_off_loop(engine, work, once, question))

    async def evaluate(self, http: Request) -> Response:
        """Decide one question without spending anything, so that asking again changes nothing."""
        question, engine = await self._question(http), self._at("evaluate")
        work = partial(decide_with_headers, engine, question, spend=False)
        return build_answer(http, *await run_off_loop(engine, work, question=question))

    async def decide_batch(self, http: Request) -> Response:
        """Decide several questions in order. An invalid question is denied and does not affect the others."""
        sent = await self._body(http)
        decoded = http.scope.pop(DECODED_KEY, None)
        batch = await parse_body(parse_batch, *sent) if decoded is None else read_batch(decoded)
        once = self._read_key(http, *sent)
        return build_answer(http, {"decisions": await decide_batch(self._at("batch"), batch, once)})

    async def explain(self, http: Request) -> Response:
        """Decide one question without spending anything, and explain it gate by gate. The answer reveals every fact and
        rule: it is for developers."""
        question, engine = await self._question(http), self.engine
        return build_answer(
            http, (await run_off_loop(engine, partial(engine.explain, question), question=question)).to_dict()
        )

    async def events(self, http: Request) -> Response:
        """Report the outcome of an allowed request: once, and only by the caller that asked for the decision."""
        event, engine = await parse_body(parse_event, *await self._body(http)), self._at("events")
        return build_answer(http, await run_off_loop(engine, partial(record_outcome, engine, event)))

    async def evaluation(self, http: Request) -> Response:
        """Answer one AuthZEN 1.0 evaluation. It spends only if `context.consume` is true, or if the settings make the
        caller's evaluations spend by default.
        """
        return await self.authzen.one(*await self._read_evaluation(http, parse_evaluation_body))

    async def evaluations(self, http: Request) -> Response:
        """Answer several AuthZEN 1.0 evaluations in order; without `evaluations`, the body is a single evaluation. An
        invalid item is denied and does not affect the others."""
        return await self.authzen.many(*await self._read_evaluation(http, parse_evaluations_body))

    async def search(self, http: Request) -> Response:
        raise authzen.search_not_supported(quote_input(http.path_params["what"]))

    async def authzen_configuration(self, http: Request) -> Response:
        """Return the AuthZEN metadata: the endpoints of this server."""
        return authzen.json_response(authzen.metadata_document(self.public_url or str(http.base_url).rstrip("/")))

    async def forward_auth(self, http: Request) -> Response:
        """Decide whether a request may pass, for Caddy and Traefik, which describe the request and its caller in
        headers."""
        self.authenticate(http)
        headers = http.scope["headers"]
        return build_response(await self.gateways.forward_auth.decide(self._at("forward_auth"), headers))

    async def forward_auth_nginx(self, http: Request) -> Response:
        """Decide whether a request may pass, for nginx, which turns all statuses except 2xx, 401 and 403 into 500: the
        actual status is in `X-Status`."""
        self.authenticate(http)
        verdict = await self.gateways.nginx.decide(self._at("forward_auth"), http.scope["headers"])
        return build_response(to_nginx_verdict(verdict))

    async def envoy(self, http: Request) -> Response:
        """Decide whether a request may pass, for `ext_authz` of Envoy: with any method, and the path of the request
        after `/envoy`.
        """
        self.authenticate(http)
        return build_response(await self.gateways.envoy.decide(self._at("envoy_http"), http))

    async def healthz(self, http: Request) -> Response:
        """Report that the process is alive."""
        return build_answer(http, {"status": "ok"})

    async def readyz(self, http: Request) -> Response:
        """Report whether the server is ready: it has a policy, its store answers, accepts writes and agrees on the
        time, and entities can be looked up. The answer names the policy and counts reloads."""
        if self.drain.begun is not None:
            raise ProblemError(503, "the server is stopping", hint="send questions to another server")
        engine, reloads = self.engine, self.reloading.reloads
        failure = None
        if engine.state.requires_store:
            failure = await run_in_threadpool(engine.state.find_failure, engine.decider.now())
        if failure is not None:
            raise ProblemError(503, failure, hint="the operator's log says why")
        looks_up = engine.directory.lookups is not None
        if looks_up and await run_off_loop(engine, engine.find_directory_failure) is not None:
            raise ProblemError(503, "the entity store does not answer", hint="the operator's log says why")
        armed = {"revision": engine.revision, "packages": list(engine.packages)}
        observing = {} if engine.observing is None else {"observing": engine.observing.to_dict()}
        status = engine.halting.status
        halts = {"halts": status.to_dict()} if status.halts or status.unreadable else {}
        skew = {} if engine.state.clock_skew is None else {"clock_skew_ms": engine.state.clock_skew // MILLISECOND}
        return build_answer(
            http, {"status": "ready", **armed, "reloads": reloads.to_dict(), **halts, **observing, **skew}
        )

    async def metrics(self, http: Request) -> Response:
        """Return the metrics of all workers together, in the format of Prometheus."""
        self.authenticate(http)
        return await self.metrics_for_anybody(http)

    async def metrics_for_anybody(self, http: Request) -> Response:
        """Return the metrics without checking a token, for the metrics port. Raises ProblemError if `prometheus-client`
        is not installed.
        """
        try:
            from policyengine.server.telemetry.metrics import render_metrics
        except ImportError:
            raise ProblemError(501, "the package `prometheus-client` is not installed", hint=INSTALL_METRICS) from None
        publish_metrics(self.tally, self.reloading)
        content, media_type = render_metrics(self.tally, http.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": media_type})

    async def docs(self, http: Request) -> Response:
        html = render_page(http.app.openapi(), str(http.base_url).rstrip("/"))
        return HTMLResponse(html, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    async def root(self, http: Request) -> Response:
        return build_answer(http, {"service": "policyengine", "docs": "/docs", "openapi": "/openapi.json"})

    def _door(self, name: str) -> MeteredEngineProvider:
        return MeteredEngineProvider(self.reloading, self.tally, self.tally.apart(name))

    def _at(self, door: str) -> MeteredEngine:
        return self._door(door).current

    @property
    def framed(self) -> tuple[MeteredEngineProvider, MeteredEngineProvider]:
        """The engines for socket connections: one for the event loop, one for threads."""
        at_once = MeteredEngineProvider(self.reloading, self.tally, self.tally.counter("socket"), time_sampled())
        return at_once, self._door("socket")

    async def _question(self, http: Request) -> Question:
        return await self._parse(http, *await self._body(http))

    async def _parse(self, http: Request, body: bytes, form: BodyFormat) -> Question:
        """Parse the question, or use the decoded body of the fast path. Raises RequestError."""
        decoded = http.scope.pop(DECODED_KEY, None)
        if decoded is None:
            return await parse_body(parse_question, body, form)
        return await parse_body(lambda _: Question.from_mapping(decoded), body)

    async def _body(self, http: Request) -> tuple[bytes, BodyFormat]:
        self.authenticate(http)
        form = request_format(http.headers)
        return await read_body(http, self.body_timeout), form

    async def _read_evaluation(
        self, http: Request, read: Callable[[bytes], AuthzenRequest]
    ) -> tuple[AuthzenRequest, IdempotencyKey | None]:
        self.authenticate(http)
        require_json(http)
        body = await read_body(http, self.body_timeout)
        return await parse_body(read, body), self._read_key(http, body, BodyFormat.JSON)

    def _read_key(self, http: Request, body: bytes, form: BodyFormat) -> IdempotencyKey | None:
        return read_key_header(http.headers, None if self.tokens is None else current_caller(), form.name, body)

    def authenticate(self, http: Request) -> None:
        """Enter the caller whose token the request carries. Raises ProblemError."""
        if self.tokens is None:
            return
        given = http.headers.getlist("authorization")
        caller = self.tokens.gateway(given[0]) if len(given) == 1 else None
        if caller is not None:
            enter_caller(caller)
            return
        said = f'{CHALLENGE}, error="invalid_token"' if given else CHALLENGE
        detail = "the token is not accepted" if given else "a token is required"
        raise ProblemError(
            401,
            detail,
            hint="send `Authorization: Bearer …` with a token of `--token-file`",
            headers={"WWW-Authenticate": said},
        )


# ── Errors ────────────────────────────────────────────────────────────────────────────────────


async def handle_problem(http: Request, error: Exception) -> Response:
    problem = to_problem(http, error)
    http.app.api.tally.add("problems", str(problem.status))
    form = BodyFormat.JSON if http.url.path.startswith(authzen.PREFIX) else None
    return build_problem_answer(http, problem, form)


def to_problem(http: Request, error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case RequestError():
            return ProblemError.of(error)
        case IdempotencyKeyError():
            return key_problem(error)
        case WorkRefusedError():
            return ProblemError.of_refused(error)
        case HTTPException():
            return routing_problem(http, error)
        case _:
            raise error


def routing_problem(http: Request, error: HTTPException) -> ProblemError:
    path = f"`{quote_input(http.url.path)}`"
    match error.status_code:
        case 404:
            return ProblemError(404, f"nothing is served at {path}", hint="`/docs` lists the endpoints")
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            return ProblemError(405, f"{path} accepts {allowed}, not {quote_input(http.method)}", headers=error.headers)
        case _:
            return ProblemError(error.status_code, str(error.detail), headers=error.headers)
