"""Errors of an exchange as RFC 9457 problem details. A problem is not a decision, so a gateway that gets one denies."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from policyengine.fair_queue import WorkRefusedError
from policyengine.runtime.request import RequestError
from policyengine.runtime.structure_checks import quote_input

# Written out, because the names in `http` differ between Python versions.
STATUS_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


NO_ANSWER = "the server failed to answer"
DENY_HINT = "treat this as a deny: if a decision was made, it stays on record and is not made again"


class ProblemCode(StrEnum):
    """The code of a problem, which distinguishes problems of one status."""

    BUSY = "busy"
    KEY_USED = "key_used"
    KEY_UNDER_WAY = "key_under_way"
    OUTCOME_REPORTED = "outcome_reported"
    OUTCOME_NOT_RECORDED = "outcome_not_recorded"
    FOREIGN_HOST = "foreign_host"
    FOREIGN_ORIGIN = "foreign_origin"
    FOREIGN_SEC_FETCH_SITE = "foreign_sec_fetch_site"
    FOREIGN_GATEWAY = "foreign_gateway"
    NOT_APPROVER = "not_approver"
    APPROVAL_ENDED = "approval_ended"


class ProblemError(Exception):
    """An error that ends an exchange with `status`. `member` is the invalid member of the question (`user.roles`);
    `code` tells programs what to do if the status alone does not.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        member: str | None = None,
        code: ProblemCode | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.member = member
        self.code = code
        self.hint = hint
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, error: RequestError) -> ProblemError:
        return cls(400, error.message, member=quote_input(error.member) or None, hint=error.hint)

    @classmethod
    def of_refused(cls, error: WorkRefusedError) -> ProblemError:
        return cls(503, str(error), code=ProblemCode.BUSY, hint="retry in a moment", headers={"Retry-After": "1"})

    def to_dict(self) -> dict[str, object]:
        members = {
            "type": "about:blank",
            "title": STATUS_TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "code": None if self.code is None else self.code.value,
            "member": self.member,
            "hint": self.hint,
        }
        return {name: value for name, value in members.items() if value is not None}
