"""The routes with which operators halt requests, list halts and lift them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from policyengine.halts.errors import HaltError, HaltsFullError, UnknownHaltError
from policyengine.halts.requests import parse_end
from policyengine.runtime.current_caller import caller_label, current_caller
from policyengine.runtime.halts import SCOPE_MEMBERS
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import check_members, get_flag, get_object, get_text
from policyengine.server.bearer_tokens import NAMED_CALLER_PREFIX
from policyengine.server.content_negotiation import (
    BodyFormat,
    build_answer,
    decode_body,
    encode_body,
    parse_body,
    read_body,
    request_format,
    response_format,
)
from policyengine.server.openapi import halts as documents
from policyengine.server.problems import ProblemError
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.server.handlers import DecisionApi

T = TypeVar("T")
ENDS = ("for", "until")
MEMBERS = (*SCOPE_MEMBERS, "everything", "reason", *ENDS)
NOT_OPERATOR_HINT = (
    "list the name that this token has in the `--token-file` under `operators` of `[halt]`, or with `--halt-operator`"
)


@dataclass(frozen=True, slots=True)
class HaltRequest:
    """The body of `POST /halt`. `end` is a duration or a time."""

    reason: str
    end: str
    everything: bool = False
    scope: Mapping[str, str] = field(default_factory=dict)


def add_halt_routes(app: FastAPI, api: DecisionApi, operators: Collection[str]) -> None:
    """Add the routes. `operators` are the names of the tokens that may use them; a server without operators does not
    have the routes."""
    routes = HaltRoutes(api, frozenset(operators))
    for path, method, handler, extra, responses in (
        ("/halt", "POST", routes.halt, documents.HALT_BODY, documents.HALTED),
        ("/halt", "GET", routes.halts, {}, documents.LISTED),
        ("/halt/{id}", "DELETE", routes.lift, documents.REASON_PARAMETER, documents.LIFTED),
    ):
        app.add_api_route(
            path,
            handler,
            methods=[method],
            status_code=201 if method == "POST" else 200,
            response_class=Response,
            openapi_extra={**extra, "security": [{"token": []}]},
            responses=responses,
            tags=["halts"],
        )


class HaltRoutes:
    """The handlers. The store may answer late, so they run in threads."""

    def __init__(self, api: DecisionApi, operators: frozenset[str]) -> None:
        self._api, self._operators = api, operators

    async def halt(self, http: Request) -> Response:
        """Deny requests from now on, until a time: all requests, or those that match all members of the scope."""
        by = self._authenticate(http)
        form = request_format(http.headers)
        asked = await parse_body(parse_halt, await read_body(http, self._api.body_timeout), form)
        scope: dict[str, Any] = dict(asked.scope)
        halt = await self._run(
            lambda: self._api.engine.halt(
                reason=asked.reason, end=parse_end(asked.end), everything=asked.everything, by=by, **scope
            )
        )
        answer = response_format(http.headers)
        return Response(encode_body({"halt": halt.to_dict()}, answer), 201, media_type=answer.value[0])

    async def halts(self, http: Request) -> Response:
        """Return the halts in effect, and the halts that were lifted last."""
        self._authenticate(http)
        halting = self._api.engine.halting
        status = halting.status
        lifted = [one.to_dict() for one in reversed(halting.liftings)]
        halts = [halt.to_dict() for halt in status.halts]
        return build_answer(http, {"halts": halts, "lifted": lifted, "unreadable": list(status.unreadable)})

    async def lift(self, http: Request) -> Response:
        """Lift a halt before its end, for the reason in the query."""
        by = self._authenticate(http)
        reason = http.query_params.get("reason", "")
        lift = partial(self._api.engine.lift, http.path_params["id"], reason=reason, by=by)
        lifting = await self._run(lift)
        return build_answer(http, {"lifted": lifting.to_dict()})

    def _authenticate(self, http: Request) -> str:
        """Return the name of the operator. Raises ProblemError for every other caller."""
        self._api.authenticate(http)
        names = [] if self._api.tokens is None else [f"{NAMED_CALLER_PREFIX}{name}" for name in self._operators]
        if current_caller() not in names:
            raise ProblemError(403, "only an operator may see, set or lift halts", hint=NOT_OPERATOR_HINT)
        return caller_label() or ""

    async def _run(self, work: Callable[[], T]) -> T:
        """Run in a thread, and report the errors of halts as problems. Raises ProblemError."""
        try:
            return await run_in_threadpool(work)
        except HaltError as error:
            raise ProblemError(status_of(error), error.message, hint=error.hint) from None
        except StoreError as error:
            hint = "the change may or may not be in effect: see `GET /halt`; a halt file works without the store"
            raise ProblemError(503, f"the store did not accept the change: {error.reason}", hint=hint) from None


def status_of(error: HaltError) -> int:
    if isinstance(error, UnknownHaltError):
        return 404
    return 409 if isinstance(error, HaltsFullError) else 400


def parse_halt(body: bytes, form: BodyFormat) -> HaltRequest:
    """Parse the body of `POST /halt`. Raises RequestError."""
    raw = decode_body(body, form)
    given = get_object(raw, "") if isinstance(raw, dict) else None
    if given is None:
        raise RequestError("", "a halt must be an object", 'send `{"agent": "…", "reason": "…", "for": "2h"}`')
    check_members(given, MEMBERS, "")
    ends = [name for name in ENDS if given.get(name) is not None]
    if len(ends) != 1:
        raise RequestError("for", "a halt needs either `for` or `until`", 'write `"for": "2h"`')
    scope = {name: get_text(given[name], name) for name in SCOPE_MEMBERS if given.get(name) is not None}
    everything = get_flag(given.get("everything"), "everything", default=False)
    return HaltRequest(get_text(given.get("reason"), "reason"), get_text(given[ends[0]], ends[0]), everything, scope)
