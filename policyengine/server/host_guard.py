"""Checks `Host` and `Origin` for each route of a listener without tokens; counts and logs refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from starlette.types import Scope

from policyengine.http.host_check import AllowedHosts, HostRefusal, gateway_refusal
from policyengine.log_throttle import LogThrottle
from policyengine.server.problems import ProblemCode, ProblemError
from policyengine.server.telemetry.shared_counters import ServerCounters

LOG_INTERVAL_SECONDS = 60.0  # seconds between two log lines about the same header
# At these routes a gateway forwards the headers of its client, so their `Origin` does not concern this server.
FORWARD_AUTH, ENVOY = "/forward-auth", "/envoy"
FOREIGN_CODES = {
    "host": ProblemCode.FOREIGN_HOST,
    "origin": ProblemCode.FOREIGN_ORIGIN,
    "sec-fetch-site": ProblemCode.FOREIGN_SEC_FETCH_SITE,
    "gateway": ProblemCode.FOREIGN_GATEWAY,
}
_LOG = logging.getLogger("policyengine")


class HostCheck:
    """Counts every refusal, and logs at most one line per header and minute. Thread-safe."""

    def __init__(self, allowed: AllowedHosts, tally: ServerCounters, clock: Callable[[], float] = monotonic) -> None:
        self.allowed, self._tally = allowed, tally
        self._throttle = LogThrottle.every(LOG_INTERVAL_SECONDS, clock)

    def problem(self, scope: Scope) -> ProblemError | None:
        """Return the problem with which a request is refused, or None. A refusal is counted and logged."""
        found = self.refusal(scope)
        if found is None:
            return None
        self._tally.add("foreign", found.header)
        self._tally.add("problems", "403")
        self._log_refusals(found)
        return ProblemError(403, found.message, code=FOREIGN_CODES[found.header], hint=found.hint)

    def refusal(self, scope: Scope) -> HostRefusal | None:
        headers, server = scope["headers"], scope.get("server")
        own = server[0] if server else None
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        # These routes decide only requests with headers that no web page can send.
        if path in (FORWARD_AUTH, f"{FORWARD_AUTH}/nginx"):
            return self.allowed.host_refusal(headers, own)
        if path == ENVOY or path.startswith(f"{ENVOY}/"):
            return self.allowed.host_refusal(headers, own) or gateway_refusal(headers)
        return self.allowed.refusal(scope["method"], headers, own)

    def _log_refusals(self, refused: HostRefusal) -> None:
        many = self._throttle.admit(refused.header)
        if many is None:
            return
        words = "a request was refused:" if many == 1 else f"{many:,} requests were refused; the latest because"
        told = {"event": "foreign_refused", "why": refused.message, "header": refused.header}
        _LOG.warning("%s %s: %s", words, refused.message, refused.hint, extra=told)
