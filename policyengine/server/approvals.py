"""The routes of approvals: their status for requesters, and their answers by people with a token of an issuer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from policyengine.engine.approval_context import describe_details
from policyengine.engine.approval_views import describe_approval, describe_status
from policyengine.http.client_credentials import read_client_credentials
from policyengine.identity.verified import VerifiedCredential
from policyengine.runtime.credential_errors import describe_refusal, parse_refusal_code
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import check_members
from policyengine.server.content_negotiation import (
    BodyFormat,
    build_answer,
    decode_body,
    parse_body,
    read_body,
    request_format,
)
from policyengine.server.openapi import approval_statuses
from policyengine.server.problems import ProblemCode, ProblemError
from policyengine.stores.base import StoreError

if TYPE_CHECKING:
    from policyengine.approvals.eligibility import ProvedPerson
    from policyengine.audit.query.log_process import LogReader
    from policyengine.engine.approval_desk import ApprovalDesk, TrackedApproval
    from policyengine.server.handlers import DecisionApi

PATH = "/approvals"
MAX_WAIT_SECONDS = 30
LOOK_SECONDS = 0.5  # seconds between two reads of an approval while a client waits
LIST_LOOK_SECONDS = 1.0  # seconds between two reads of a person's list, which cost more
MAX_LOG_SECONDS = 3.0  # maximum seconds for reading the history of a requester
MAX_WAITING_CLIENTS = (
    200  # maximum waiting requesters, and maximum waiting people, per worker; other clients are answered at once
)
CHALLENGE = 'Bearer realm="policyengine"'
T = TypeVar("T")


def add_approval_routes(app: FastAPI, api: DecisionApi) -> None:
    routes = ApprovalRoutes(api)
    security: dict[str, Any] = {} if api.tokens is None else {"security": [{"token": []}]}
    person: dict[str, Any] = {"security": [{"person": []}]}
    one = f"{PATH}/{{id}}"
    for path, method, handler, extra, responses in (
        (
            PATH,
            "GET",
            routes.list,
            {**person, "parameters": approval_statuses.LIST_PARAMETERS},
            approval_statuses.LISTED,
        ),
        (one, "GET", routes.status, {"parameters": [approval_statuses.WAIT_PARAMETER]}, approval_statuses.FOUND),
        (f"{one}/details", "GET", routes.details, person, approval_statuses.SHOWN),
        (f"{one}/approve", "POST", routes.approve, person, approval_statuses.ANSWERED),
        (f"{one}/deny", "POST", routes.deny, {**person, **approval_statuses.DENIAL_BODY}, approval_statuses.ANSWERED),
        (f"{one}/withdraw", "POST", routes.withdraw, security, approval_statuses.WITHDRAWN),
    ):
        app.add_api_route(
            path, handler, methods=[method], response_class=Response, openapi_extra=extra, responses=responses,
            tags=["approvals"],
        )  # fmt: skip


@dataclass
class WaitingClients:
    """The number of clients that wait in this process."""

    count: int = 0


class ApprovalRoutes:
    """The handlers. They may wait for a store or an issuer, so they run in threads."""

    def __init__(self, api: DecisionApi) -> None:
        self.api = api
        self._requesters, self._people = WaitingClients(), WaitingClients()  # neither fills the places of the other
        self._log_lock = Lock()
        self._reader: LogReader | None = None

    @property
    def desk(self) -> ApprovalDesk:
        """The approvals under the current policies. Raises ProblemError if no policy requests approvals."""
        found = self.api.engine.approvals
        if found is None:
            raise ProblemError(404, "the current policies request no approvals")
        return found

    # ── For requesters ────────────────────────────────────────────────────────────────────────

    async def status(self, http: Request) -> Response:
        """Return the state of an approval. With `wait`, the answer comes when the state is no longer `pending`, or
        after this number of seconds. The ID alone gives access, because it cannot be guessed; the answer contains no
        part of the request.
        """
        seconds = read_wait(http)

        def look() -> TrackedApproval:
            return find_for_requester(self.desk, http.path_params["id"])

        found = await self._wait(
            http, self._requesters, await self._call(look), seconds, LOOK_SECONDS, look,
            lambda one: one.state == "pending",
        )  # fmt: skip
        return build_answer(http, describe_status(found), NO_STORE)

    async def _wait(
        self, http: Request, waiting: WaitingClients, found: T, seconds: float, pause: float, look: Callable[[], T],
        is_same: Callable[[T], bool],
    ) -> T:  # fmt: skip
        """Call `look` repeatedly until its answer changes, the time is over, the client has disconnected, or the server
        stops. Return the last answer; if too many clients wait, return the first answer at once.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if waiting.count >= MAX_WAITING_CLIENTS:
            return found
        waiting.count += 1
        try:
            while is_same(found) and (left := until - loop.time()) > 0 and self.api.drain.begun is None:
                await asyncio.sleep(min(pause, left))
                if await http.is_disconnected():
                    break
                found = await self._call(look)
        finally:
            waiting.count -= 1
        return found

    async def withdraw(self, http: Request) -> Response:
        """Withdraw an approval that waits for an answer, for its requester."""
        self.api.authenticate(http)
        found = await self._call(lambda: self.desk.withdraw(http.path_params["id"]))
        return build_answer(http, describe_status(found), NO_STORE)

    # ── For people ────────────────────────────────────────────────────────────────────────────

    async def list(self, http: Request) -> Response:
        """List the approvals that wait for an answer of the person, newest first. The person presents a token of an
        issuer of the policies. With `wait` and the `version` of an earlier answer, the answer comes when the list has
        changed since then, or after this number of seconds.
        """
        seconds, known = read_wait(http), http.query_params.get("version")
        person, found = await self._call(lambda: self._list_for(http))
        found = await self._wait(
            http, self._people, found, seconds, LIST_LOOK_SECONDS, lambda: self._list(person),
            lambda one: one["version"] == known,
        )  # fmt: skip
        return build_answer(http, found, NO_STORE)

    def _list_for(self, http: Request) -> tuple[ProvedPerson, dict[str, object]]:
        """Return the person whose token the request carries, and the list. Raises ProblemError."""
        _, person = self.desk, self._person(http)
        return person, self._list(person)

    def _list(self, person: ProvedPerson) -> dict[str, object]:
        """Return the list for a person, with a version. Raises the errors of the desk."""
        desk = self.desk
        desk.require_person(person)
        waiting = desk.list(person)
        facts = "\n".join(f"{one.approval.id} {len(one.approval.votes)}" for one in waiting)
        version = sha256(facts.encode()).hexdigest()[:16]
        return {"approvals": [describe_approval(one) for one in waiting], "version": version}

    async def details(self, http: Request) -> Response:
        """Return everything about an approval that a person needs to answer it. People who may not answer it are
        refused.
        """

        def work() -> dict[str, object]:
            person, desk = self._person(http), self.desk
            found = desk.find(http.path_params["id"])
            desk.require_approver(found.approval, person)
            with self._log_turn() as reader:
                return describe_details(self.api.engine, found, reader)

        return build_answer(http, await self._call(work), NO_STORE)

    @contextmanager
    def _log_turn(self) -> Iterator[LogReader | None]:
        """Yield the reader of the log, or None if another thread uses it: a thread that waited for the log would not be
        available for decisions.
        """
        from policyengine.audit.query.log_process import LogReader

        if not self._log_lock.acquire(blocking=False):
            yield None
            return
        try:
            self._reader = self._reader or LogReader(MAX_LOG_SECONDS)
            yield self._reader
        finally:
            self._log_lock.release()

    async def approve(self, http: Request) -> Response:
        """Approve a request, as a person whom its rule names as an approver."""
        body = await read_body(http, self.api.body_timeout)
        person = await self._call(lambda: self._person(http))
        if body:
            await parse_body(check_no_members, body, request_format(http.headers))
        found = await self._call(lambda: self.desk.approve(http.path_params["id"], person))
        return build_answer(http, describe_approval(found), NO_STORE)

    async def deny(self, http: Request) -> Response:
        """Deny a request, as a person whom its rule names as an approver, with an optional `reason`."""
        body = await read_body(http, self.api.body_timeout)
        reason = await parse_body(read_reason, body, request_format(http.headers)) if body else None
        found = await self._call(lambda: self.desk.deny(http.path_params["id"], self._person(http), reason))
        return build_answer(http, describe_approval(found), NO_STORE)

    async def _call(self, work: Callable[[], T]) -> T:
        """Run in a thread, and report the errors of the desk as problems."""
        from policyengine.approvals.model import ApprovalChangeError
        from policyengine.engine.approval_desk import ApprovalNotFoundError, ApproverRefusedError

        try:
            return await run_in_threadpool(work)
        except ApprovalNotFoundError as error:
            raise ProblemError(404, str(error)) from None
        except ApproverRefusedError as error:
            raise ProblemError(403, str(error), code=ProblemCode.NOT_APPROVER, hint=error.hint) from None
        except ApprovalChangeError as error:
            raise ProblemError(409, str(error), code=ProblemCode.APPROVAL_ENDED) from None
        except StoreError as error:
            raise ProblemError(503, error.reason, hint="the operator's log says why") from None

    def _person(self, http: Request) -> ProvedPerson:
        """Return the person whose token the request carries. Raises ProblemError if the token proves no person."""
        from policyengine.engine.approval_desk import person_of

        engine = self.api.engine
        if engine.identity is None:
            hint = "start the server with `--identity` (docs/identity.md)"
            raise ProblemError(501, "this server verifies no tokens of people", hint=hint)
        given: dict[str, tuple[str, ...]] = {}
        for name, value in http.headers.items():
            given[name] = (*given.get(name, ()), value)
        path = http.scope["raw_path"].decode("latin-1")
        url = f"{self.api.public_url or str(http.base_url).rstrip('/')}{path}"
        raw = read_client_credentials(given, method=http.method, url=url, own=True, certificate=None)
        if not raw:
            raise unproved_person("a token of a person is required")
        asked = engine.prove({"request": {"method": http.method, "path": http.url.path}, "credentials": raw})
        facts = engine.authenticate(asked).request.facts
        credential, proved = facts.get("credential"), asked["credentials"]
        refused = credential.get("refused") if isinstance(credential, dict) else "missing"
        if refused is not None:
            detail = f"the token is not accepted: {describe_refusal(parse_refusal_code(refused))}"
            raise unproved_person(detail, error=', error="invalid_token"')
        return person_of(facts, proved.names if isinstance(proved, VerifiedCredential) else ())


NO_STORE = (("Cache-Control", "no-store"),)


def find_for_requester(desk: ApprovalDesk, id: str) -> TrackedApproval:
    """Return an approval. An approval under other policies counts as expired, because it can no longer be given or
    used. Raises the errors of the desk.
    """
    from policyengine.approvals.model import ApprovalState

    found = desk.find(id)
    is_open = found.state in (ApprovalState.PENDING, ApprovalState.APPROVED)
    return found._replace(state=ApprovalState.EXPIRED) if is_open and not desk.is_current(found.approval) else found


def unproved_person(detail: str, error: str = "") -> ProblemError:
    hint = "send `Authorization: Bearer …` with a token of an issuer of the policies"
    return ProblemError(401, detail, hint=hint, headers={"WWW-Authenticate": CHALLENGE + error})


def read_wait(http: Request) -> float:
    """Return the seconds to wait, at most MAX_WAIT_SECONDS. Raises ProblemError."""
    given = http.query_params.get("wait", "0")
    if not given.isascii() or not given.isdigit() or len(given) > len(str(MAX_WAIT_SECONDS)):
        raise ProblemError(400, f"`wait` must be a number of seconds, at most {MAX_WAIT_SECONDS}", member="wait")
    return float(min(int(given), MAX_WAIT_SECONDS))


def check_no_members(body: bytes, form: BodyFormat) -> None:
    """Check that the body of an approval has no members, because a member could be meant as a denial. Raises
    RequestError.
    """
    if decode_body(body, form) not in ({}, None):
        raise RequestError("", "an approval has no members", "to deny with a reason, `POST` to `deny` instead")


def read_reason(body: bytes, form: BodyFormat) -> str | None:
    """Return the reason of a denial; None if the body states none. Raises RequestError."""
    raw = decode_body(body, form)
    if not isinstance(raw, dict):
        raise RequestError("", "a denial must be an object", 'send `{"reason": "…"}`')
    check_members(raw, ("reason",), "")
    reason = raw.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise RequestError("reason", "`reason` must be a string")
    return reason
