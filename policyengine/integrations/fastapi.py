"""Dependencies for FastAPI: `Depends(policy())` decides before a route runs, and passes the Decision to the route."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from policyengine.identity.authenticator import CredentialAuthenticator
from policyengine.integrations.approval_waiter import ApprovalWaiter
from policyengine.integrations.asgi import denial_response, find_authenticator, problem_document
from policyengine.integrations.credentials import add_content_digests
from policyengine.integrations.enforcement_point import (
    NO_DUTIES,
    UNKNOWN_CALLER,
    Duties,
    Facts,
    Identify,
    PolicyDecisionPoint,
    identify_caller,
    make_denial,
    report_outcome,
)
from policyengine.integrations.http_facts import (
    BODY_TOO_LARGE,
    MAX_BODY_BYTES,
    body_facts,
    build_http_question,
    wait_for_disconnect,
)
from policyengine.runtime.decision import Decision, Gate
from policyengine.runtime.values import Invalid

BODY_READ_BEFORE = Invalid(
    "the route has a `Form` or `File` parameter, so its body was already read: use the middleware"
)
OVERSIZED_BODY = Invalid(BODY_TOO_LARGE)
Dependency: TypeAlias = Callable[[Request], AsyncIterator[Decision]]


class PolicyDeniedError(HTTPException):
    """The error for a denied request, with the answer and the decision. `problem_details` answers it as RFC 9457
    specifies.
    """

    def __init__(self, decision: Decision, identity: CredentialAuthenticator | None = None) -> None:
        status, members, headers = denial_response(decision, identity)
        super().__init__(status, headers=dict(headers))
        self.detail: Any = problem_document(status, members)
        self.decision = decision


async def problem_details(request: Request, error: Exception) -> Response:
    """Return the answer to a denied request, for `app.add_exception_handler(PolicyDeniedError, problem_details)`."""
    assert isinstance(error, PolicyDeniedError)
    media = "application/problem+json"
    return JSONResponse(error.detail, error.status_code, headers=error.headers, media_type=media)


class Policies:
    """A factory of dependencies: `policy = Policies(engine, identify=…)`, then `Depends(policy())`.

    `policy()` decides on the request's own method and path; `policy("ACTION view invoice", id="invoice_id")` decides on
    an action on the entity that this path parameter names. `identify` takes the request. A request that people must
    approve waits for them, for at most `wait_for_approval` seconds.
    """

    def __init__(
        self,
        decides: PolicyDecisionPoint,
        *,
        identify: Identify[Request],
        duties: Duties = NO_DUTIES,
        wait_for_approval: float = 0.0,
    ) -> None:
        self._decides, self._identify, self._duties = decides, identify, duties
        self._waiter = ApprovalWaiter(decides, wait_for_approval)

    def __call__(self, endpoint: str | None = None, *, id: str | None = None) -> Dependency:
        """Create a dependency. Raises ValueError for an invalid endpoint, when the application is defined."""
        action = None if endpoint is None else parse_action(endpoint, id)

        async def decision(request: Request) -> AsyncIterator[Decision]:
            found = await self._decided(request, action)
            began = perf_counter()
            try:
                yield found
            except BaseException as error:
                status = error.status_code if isinstance(error, HTTPException) else 500
                await report_outcome(self._decides, found, status, began)
                raise
            await report_outcome(self._decides, found, 200, began)

        return decision

    async def _decided(self, request: Request, action: tuple[str, str, str] | None) -> Decision:
        facts = await identify_caller(self._identify, request)
        if facts is None:
            raise PolicyDeniedError(make_denial(UNKNOWN_CALLER, Gate.IDENTITY))
        asked = await build_question(request, facts)
        question = asked if action is None else replace_with_action(asked, action, request)
        found = await self._waiter.decide(question, self._duties, partial(wait_for_disconnect, request.receive))
        if not found.allowed:
            raise PolicyDeniedError(found, find_authenticator(self._decides))
        return found


def parse_action(endpoint: str, id: str | None) -> tuple[str, str, str]:
    match endpoint.split():
        case ["ACTION", verb, type_] if id is not None:
            return verb, type_, id
        case ["ACTION", _, _]:
            raise ValueError(f"`{endpoint}` requires `id`, the path parameter that names the entity")
        case _:
            raise ValueError(
                f"`{endpoint}` is not an action: write `ACTION view invoice`, or nothing for the request itself"
            )


def replace_with_action(asked: dict[str, Any], action: tuple[str, str, str], request: Request) -> dict[str, Any]:
    """Replace the method and path of the request with the action."""
    verb, type_, parameter = action
    beside = {name: value for name, value in asked["request"].items() if name not in ("method", "path")}
    thing = {"type": type_, "id": str(request.path_params.get(parameter, ""))}
    return {**asked, "request": beside, "action": {"name": verb}, "resource": thing}


async def build_question(request: Request, facts: Facts) -> dict[str, Any]:
    """Build the question with the body, which FastAPI keeps for the route. A body that was already read as a form, or
    that is too large, is unknown.
    """
    try:
        content = await request.body()
    except RuntimeError:  # the attribute of Starlette that says that the stream was already read
        return build_http_question(request.scope, facts, {"body": BODY_READ_BEFORE})
    body = body_facts(request.scope, content) if len(content) <= MAX_BODY_BYTES else {"body": OVERSIZED_BODY}
    return build_http_question(request.scope, add_content_digests(facts, content), body, content)
