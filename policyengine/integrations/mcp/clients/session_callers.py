"""The callers of one MCP session: for whom a server works when it sends a message that belongs to no request."""

from __future__ import annotations

from collections.abc import Sequence

from policyengine.integrations.enforcement_point import Facts
from policyengine.integrations.mcp.elicitation import caller_identity

FACTS_KEY = "policyengine.mcp.caller"  # in the scope of an HTTP request


class SessionCallers:
    """The verified facts about the callers of a session, which usually has one caller. If several identities use the
    session, a message has a caller only while all requests in progress have the same caller.
    """

    def __init__(self) -> None:
        self._last: Facts | None = None
        self._several = False

    def identify(self, facts: Facts) -> None:
        if facts is self._last:
            return
        if self._last is not None and caller_identity(facts) != caller_identity(self._last):
            self._several = True
        self._last = facts

    def find(self, in_progress: Sequence[Facts]) -> Facts | None:
        """Return the facts about the caller of a message, given those of the requests in progress; None if it can
        belong to several callers."""
        if not self._several:
            return self._last
        identities = {caller_identity(facts) for facts in in_progress}
        return in_progress[-1] if len(identities) == 1 else None


def remember_facts(request: object, facts: Facts) -> None:
    """Keep verified facts with the HTTP request that begins a session: a proof can be verified only once."""
    scope = getattr(request, "scope", None)
    if isinstance(scope, dict):
        scope[FACTS_KEY] = facts


def remembered_facts(request: object) -> Facts | None:
    scope = getattr(request, "scope", None)
    return scope.get(FACTS_KEY) if isinstance(scope, dict) else None
