"""W17x: comments that allow a warning, `# lint: allow RULE because …`."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_HEAD = "anyone { may HEAD /a }\n"
_DOOR = "anyone { may GET /a }\n"

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "W170",
        "an allowance without a reason",
        "`# lint: allow RULE because …` silences a warning on its line, or on the next line if the comment is alone on "
        "its line. Without a reason, no reader can check later whether the allowance is still justified, so the "
        "comment allows nothing.",
        "# lint: allow W350\n" + _DOOR,
        "# lint: allow W350 because the probe of the load balancer uses it\n" + _HEAD,
        name="bare-allowance",
    ),
    DiagnosticDoc(
        "W171",
        "an allowance for an unknown rule",
        "No warning has this code or name. Errors cannot be allowed, because a policy with errors has no meaning.",
        "# lint: allow haed because the probe of the load balancer uses it\n" + _DOOR,
        "# lint: allow head because the probe of the load balancer uses it\n" + _HEAD,
        name="unknown-rule",
    ),
    DiagnosticDoc(
        "W172",
        "an allowance that allows nothing",
        "The warning that this comment allowed no longer occurs. If the comment stays, it hides the next such mistake "
        "on that line. `policyengine lint --fix` removes the comment.",
        "# lint: allow head because the probe of the load balancer uses it\n" + _DOOR,
        _DOOR,
        name="stale-allowance",
        opinion=True,
    ),
)
