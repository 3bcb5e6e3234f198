"""What answers at each route: it reads a question, asks the engine and writes the answer."""

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
from policyengine.extras import install_command
from policyengine.fair_queue import WorkRefused
from policyengine.http.completeness import Adapter
from policyengine.http.gateway_headers import Vouched
from policyengine.reload import Reloading
from policyengine.runtime.caller import current_caller, enter_caller
from policyengine.runtime.idempotency_key import KeyProblem, Once
from policyengine.runtime.request import Request as Question
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import quoted
from policyengine.server.adapters.envoy_http import EnvoyHttp
from policyengine.server.adapters.forward_auth import ForwardAuth, response_for_nginx, response_of
from policyengine.server.adapters.responses import Told
from policyengine.server.authzen import adapter as authzen
from policyengine.server.authzen.adapter import Asked, Authzen, Translators
from policyengine.server.authzen.denials import Refusals
from policyengine.server.bearer_tokens import Tokens
from policyengine.server.content_negotiation import Form, answer, form_of_body, parsed, problem_answer, read_body
from policyengine.server.decide_requests import apart, batch_of, decided_and_limited, decided_in_turn, question_of
from policyengine.server.events import event_of, reported
from policyengine.server.host_check import HostCheck
from policyengine.server.idempotency import once_of, refused
from policyengine.server.openapi.page import POLICY, page_of
from policyengine.server.problems import Problem
from policyengine.server.shutdown import Drain
from policyengine.server.telemetry.counters import Tally, now_and_then
from policyengine.server.telemetry.metered_engine import Counted, CountedDoor
from policyengine.server.telemetry.process_metrics import publish

MILLISECOND = timedelta(milliseconds=1)
INSTALL_METRICS = install_command("metrics")
CHALLENGE = 'Bearer realm="policyengine"'


@dataclass(frozen=True, slots=True)
class DecisionApi:
    """The endpoints. Deciding is quick and synchronous, so it runs right here, unless it waits for a store."""

    reloading: Reloading
    tokens: Tokens | None
    body_timeout: float
    gateway: Vouched
    tally: Tally
    drain: Drain
    public_url: str | None
    translators: Translators
    refusals: Refusals
    hosts: HostCheck
    authzen_consume: frozenset[str] = frozenset()

    @property
    def engine(self) -> Engine:
        """That decides now: read once for each answer."""
        return self.reloading.current

    @property
    def authzen(self) -> Authzen:
        return Authzen(self._at("authzen"), self.translators, self.refusals, self.authzen_consume)

    async def decide(self, http: Request) -> Response:
        """Decide and spend, by an `Idempotency-Key` once. `options.consume: false` only looks."""
        sent = await self._body(http)
        question, once, engine = await parsed(question_of, *sent), self._once(http, *sent), self._at("decide")
        work = partial(decided_and_limited, engine, question, question.options.consume, once)
        return answer(http, *await apart(engine, work, once, question))

    async def evaluate(self, http: Request) -> Response:
        """Decide without spending anything: the same question gets the same answer."""
        question, engine = await self._question(http), self._at("evaluate")
        work = partial(decided_and_limited, engine, question, spend=False)
        return answer(http, *await apart(engine, work, question=question))

    async def decide_batch(self, http: Request) -> Response:
        """Decide many questions in order. What is no question is denied and spoils no other."""
        sent = await self._body(http)
        batch, once = await parsed(batch_of, *sent), self._once(http, *sent)
        return answer(http, {"decisions": await decided_in_turn(self._at("batch"), batch, once)})

    async def explain(self, http: Request) -> Response:
        """Decide without spending anything, and show the walk gate by gate. For developers: it tells everything."""
        question, engine = await self._question(http), self.engine
        return answer(http, (await apart(engine, partial(engine.explain, question), question=question)).to_dict())

    async def events(self, http: Request) -> Response:
        """How the request of a decision came out: once, by the caller that asked for the decision."""
        event, engine = await parsed(event_of, *await self._body(http)), self.engine
        return answer(http, await apart(engine, partial(reported, engine, event)))

    async def evaluation(self, http: Request) -> Response:
        """One evaluation of AuthZEN 1.0. It only looks, unless `context.consume` is true or the settings say so."""
        return await self.authzen.one(*await self._asked(http, authzen.one_asked))

    async def evaluations(self, http: Request) -> Response:
        """Many of them, in order; without `evaluations` one. What is no question is denied and spoils no other."""
        return await self.authzen.many(*await self._asked(http, authzen.many_asked))

    async def search(self, http: Request) -> Response:
        raise authzen.not_yet(quoted(http.path_params["what"]))

    async def authzen_configuration(self, http: Request) -> Response:
        """Which endpoints of AuthZEN there are."""
        return authzen.written(authzen.metadata(self.public_url or str(http.base_url).rstrip("/")))

    async def forward_auth(self, http: Request) -> Response:
        """Whether a request may pass, for Caddy and Traefik: who asks, and for what, is in headers that they set."""
        self._authenticate(http)
        return response_of(await self._forward_auth(http, Adapter.FORWARD_AUTH))

    async def forward_auth_nginx(self, http: Request) -> Response:
        """The same for nginx, which makes 500 of everything but 2xx, 401 and 403: the rest is in `X-Status`."""
        self._authenticate(http)
        return response_for_nginx(await self._forward_auth(http, Adapter.NGINX))

    async def _forward_auth(self, http: Request, adapter: Adapter) -> Told:
        door = self._door("forward_auth")
        return await ForwardAuth(door, self.gateway, adapter, own=self.tokens is None).told(http)

    async def envoy(self, http: Request) -> Response:
        """The same for `ext_authz` of Envoy: any method, and below this path the one that is asked for."""
        self._authenticate(http)
        return response_of(await self._envoy(http))

    async def _envoy(self, http: Request) -> Told:
        door = self._door("envoy_http")
        return await EnvoyHttp(door, self.gateway, self.body_timeout, own=self.tokens is None).told(http)

    async def healthz(self, http: Request) -> Response:
        """The process is alive."""
        return answer(http, {"status": "ok"})

    async def readyz(self, http: Request) -> Response:
        """A policy is armed, its store answers, can be written to and agrees on the time, and rows can be looked up:
        which policy, and whether another was refused since."""
        if self.drain.begun is not None:
            raise Problem(503, "it is stopping", hint="send questions elsewhere")
        engine, reloads = self.engine, self.reloading.reloads
        failure = await run_in_threadpool(engine.store_failure) if engine.needs_store else None
        if failure is not None:
            raise Problem(503, failure, hint="the operator's log says why")
        looks_up = engine.directory.lookups is not None
        if looks_up and await apart(engine, engine.directory_failure) is not None:
            raise Problem(503, "the directory does not answer", hint="the operator's log says why")
        armed = {"revision": engine.revision, "packages": list(engine.packages)}
        observing = {} if engine.observing is None else {"observing": engine.observing.to_dict()}
        skew = {} if engine.clock_skew is None else {"clock_skew_ms": engine.clock_skew // MILLISECOND}
        return answer(http, {"status": "ready", **armed, "reloads": reloads.to_dict(), **observing, **skew})

    async def metrics(self, http: Request) -> Response:
        """What it did so far, as Prometheus reads it: of all workers together."""
        self._authenticate(http)
        return await self.metrics_for_anybody(http)

    async def metrics_for_anybody(self, http: Request) -> Response:
        """The same on a port of its own, where whoever reaches it may read."""
        try:
            from policyengine.server.telemetry.metrics import written
        except ImportError:
            raise Problem(501, "the package `prometheus-client` is not installed", hint=INSTALL_METRICS) from None
        publish(self.tally, self.reloading)
        content, media_type = written(self.tally, http.headers.get("accept", ""))
        return Response(content, headers={"Content-Type": media_type})

    async def docs(self, http: Request) -> Response:
        html = page_of(http.app.openapi(), str(http.base_url).rstrip("/"))
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})

    async def root(self, http: Request) -> Response:
        return answer(http, {"service": "policyengine", "docs": "/docs", "openapi": "/openapi.json"})

    def _door(self, name: str) -> CountedDoor:
        return CountedDoor(self.reloading, self.tally, self.tally.apart(name))

    def _at(self, door: str) -> Counted:
        return self._door(door).current

    @property
    def framed(self) -> tuple[CountedDoor, CountedDoor]:
        """What connections over the socket ask: by the event loop, and by threads."""
        at_once = CountedDoor(self.reloading, self.tally, self.tally.counter("socket"), now_and_then())
        return at_once, self._door("socket")

    async def _question(self, http: Request) -> Question:
        return await parsed(question_of, *await self._body(http))

    async def _body(self, http: Request) -> tuple[bytes, Form]:
        self._authenticate(http)
        form = form_of_body(http.headers)
        return await read_body(http, self.body_timeout), form

    async def _asked(self, http: Request, read: Callable[[bytes], Asked]) -> tuple[Asked, Once | None]:
        self._authenticate(http)
        authzen.is_json(http)
        body = await read_body(http, self.body_timeout)
        return await parsed(read, body), self._once(http, body, Form.JSON)

    def _once(self, http: Request, body: bytes, form: Form) -> Once | None:
        return once_of(http.headers, None if self.tokens is None else current_caller(), form.name, body)

    def _authenticate(self, http: Request) -> None:
        """Enters the caller whose token it is. Raises Problem."""
        if self.tokens is None:
            return
        given = http.headers.getlist("authorization")
        caller = self.tokens.gateway(given[0]) if len(given) == 1 else None
        if caller is not None:
            enter_caller(caller)
            return
        said = f'{CHALLENGE}, error="invalid_token"' if given else CHALLENGE
        detail = "the token is not accepted" if given else "a token is needed"
        raise Problem(
            401,
            detail,
            hint="send `Authorization: Bearer …` with a token of `--token-file`",
            headers={"WWW-Authenticate": said},
        )


# ── What is no answer ─────────────────────────────────────────────────────────────────────────


async def on_problem(http: Request, error: Exception) -> Response:
    problem = problem_of(http, error)
    http.app.api.tally.add("problems", str(problem.status))
    form = Form.JSON if http.url.path.startswith(authzen.PREFIX) else None
    return problem_answer(http, problem, form)


def problem_of(http: Request, error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case RequestError():
            return Problem.of(error)
        case KeyProblem():
            return refused(error)
        case WorkRefused():
            return Problem.of_refused(error)
        case HTTPException():
            return of_routing(http, error)
        case _:
            raise error


def of_routing(http: Request, error: HTTPException) -> Problem:
    path = f"`{quoted(http.url.path)}`"
    match error.status_code:
        case 404:
            return Problem(404, f"there is nothing at {path}", hint="`/docs` lists what there is")
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            return Problem(405, f"{path} takes {allowed}, not {quoted(http.method)}", headers=error.headers)
        case _:
            return Problem(error.status_code, str(error.detail), headers=error.headers)
