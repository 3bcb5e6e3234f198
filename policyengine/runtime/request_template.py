"""Ordinary questions that differ only in their arguments: everything else in them is read once."""

from __future__ import annotations

from typing import Self

from policyengine.runtime.decode import DecodeError
from policyengine.runtime.plain_request import NotOrdinaryError, read_members
from policyengine.runtime.request import Request, read_ordinary_request

ARGUMENTS = "args"


class RequestTemplate:
    """An ordinary question without its arguments. All requests made of it share its other facts."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    @classmethod
    def of(cls, question: dict[str, object]) -> Self | None:
        """Return the template of a question; None if the question is not ordinary."""
        request = read_ordinary_request({**question, ARGUMENTS: {}})
        is_plain = request is not None and request.facts.get(ARGUMENTS) == {}
        return cls(request) if request is not None and is_plain else None

    def fill(self, arguments: object) -> Request | None:
        """Return the request with these arguments, as it would be read from the whole question; None if the arguments
        are not ordinary."""
        if type(arguments) is not dict:
            return None
        try:
            found = read_members(arguments)
        except (DecodeError, NotOrdinaryError):
            return None
        known, request = self._request, object.__new__(Request)  # the facts are plain and need no check
        request.endpoint, request.facts = known.endpoint, {**known.facts, ARGUMENTS: found}
        request.approvals, request.entities, request.pending = known.approvals, known.entities, known.pending
        request.options, request.credentials = known.options, None
        return request
