"""W17x: comments that allow a warning, `# lint: allow RULE because …`."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_HEAD = "anyone { may HEAD /a }\n"
_DOOR = "anyone { may GET /a }\n"

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "W170",
        "an allowance without its reason",
        "`# lint: allow RULE because …` silences a warning on its line, or on the next line where it stands alone. "
        "Without a reason nobody can tell later whether it still holds, so it allows nothing.",
        "# lint: allow W350\n" + _DOOR,
        "# lint: allow W350 because the probe of the load balancer speaks it\n" + _HEAD,
        name="bare-allowance",
    ),
    DiagnosticDoc(
        "W171",
        "an allowance for no rule",
        "No warning has that code or name. Errors cannot be allowed: a policy with errors means nothing.",
        "# lint: allow haed because the probe of the load balancer speaks it\n" + _DOOR,
        "# lint: allow head because the probe of the load balancer speaks it\n" + _HEAD,
        name="unknown-rule",
    ),
    DiagnosticDoc(
        "W172",
        "an allowance that allows nothing",
        "What it allowed is gone. Left in place it would silence the next mistake at that line, unseen. "
        "`policyengine lint --fix` removes it.",
        "# lint: allow head because the probe of the load balancer speaks it\n" + _DOOR,
        _DOOR,
        name="stale-allowance",
        opinion=True,
    ),
)
