"""E9xx: syntax that is not enforced yet, and invalid rates and budgets."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_WHY = (
    "The language reserves this syntax, but the engine does not enforce it yet. A policy that uses it is refused, "
    "because a policy that only seems to limit something is worse than a policy that does not limit it."
)
_GOOD = "anyone { may GET /a }\n"

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E906",
        "invariants are not proved yet",
        _WHY,
        _GOOD + 'invariant "i" { never allow GET /b }\n',
        _GOOD,
    ),
    DiagnosticDoc("E908", "a reserved word", _WHY, "anyone { may OUTPUT }\n", _GOOD),
    DiagnosticDoc(
        "E910",
        "an invalid rate or budget",
        "A rate must have a number of requests and a window, both greater than zero, or a number of concurrent "
        "requests. `floor` and `clamp` may not be faster than the rate. The factor of a `raise` must be above one, and "
        "its `at most` may not be slower than the rate. Windows and numbers are limited to those that every store can "
        "count exactly.",
        _GOOD + 'rate "r" per agent.id { 0/1m }\n',
        _GOOD + 'rate "r" per request.ip { 100/1m burst 20 }\n',
    ),
)
