"""A real policy, broken as its authors would break it: what is wrong, where, and how to mend it."""

from pathlib import Path

import pytest

from policyengine.check import check
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse

PAYMENTS = Path(__file__).parent.parent / "policies/examples/payments/payments.policy"
ARCHIVIST = (
    'agent "archivist" { # lint: allow no-lifetime, static-key because it is attested instead\n'
    "  issued by acme\n  acts for any user\n"
)
USERS = (
    'user where user.roles has "clerk" and agent.id is present { '
    "may invoices.write, invoices.delete, refunds.create }\n"
)
ELSEWHERE = "narrow the rule to `refunds.create`, or declare the fact for its place"

# What is replaced (once), by what; then the code, the underlined text and the hint.
# fmt: off
BREAKS: dict[str, tuple[str, str, str, str, str]] = {
    # names
    "a typo in an attribute": (
        "= user.tenant ==", "= user.tenent ==", "E201", "user.tenent", "did you mean `user.tenant`?"),
    "a typo in a fact": (
        "when body.amount > 500", "when body.amuont > 500", "E201", "body.amuont", "did you mean `body.amount`?"),
    "a typo in a fact of a message": (
        "to {body.recipient}", "to {body.recipent}", "E201", "body.recipent", "did you mean `body.recipient`?"),
    "an undeclared fact": (
        "when body.amount > 500", 'when body.currency == "EUR"', "E201", "body.currency",
        "declare it: `facts on … { body.currency: string }`"),
    "the body as a part of the request": (
        "when body.amount > 500", "when request.body.amount > 500", "E201", "request.body",
        "remove `request.`: `body.amount`"),
    "the name of the agent": (
        "  require same_tenant", '  require agent.name == "x"', "E201", "agent.name", "did you mean `agent.id`?"),
    "an unknown scope": (
        "may invoices.write\n", "may invoices.wirte\n", "E207", "invoices.wirte", "did you mean `invoices.write`?"),
    "an unknown scope after `on`": (
        '"no money by night" on refunds.create', '"no money by night" on refund.create', "E207", "refund.create",
        "did you mean `refunds.create`?"),
    "an unknown issuer": (
        ARCHIVIST, ARCHIVIST.replace("acme", "acmee"), "E207", "acmee", "did you mean `acme`?"),
    "an unknown attester": (
        "attested by lab ", "attested by labb ", "E207", "labb", "did you mean `lab`?"),
    "an unknown agent to delegate to": (
        'to agent "summarizer"', 'to agent "sumarizer"', "W422", '"sumarizer"', "did you mean `summarizer`?"),
    "an unknown package": (
        "package acme.payments\n", "package acme.payments\nimport acme.common\n", "E209", "acme.common",
        "it must be in `acme/common.policy`, relative to the policy root"),
    "a wrong word of an enum": (
        "user.plan >= team", "user.plan >= teem", "E206", "teem", "did you mean `team`?"),
    "a wrong kind of credential": (
        "kind in [jwt, mtls]", "kind in [jwt, mtl]", "E406", "mtl", "did you mean `mtls`?"),
    "a type of another language": (
        "entity invoice { tenant: string }", "entity invoice { tenant: str }", "E205", "str", "did you mean `string`?"),
    "a role without its word": (
        "by role finance within 15m when", "by finance within 15m when", "E202", "finance",
        "write `by role finance`, or name a fact that holds the approvers: `by resource.approvers`"),
    "two guards of one name": (
        'guard "no money by night"', 'guard "large refunds need a human"', "E501", '"large refunds need a human"',
        "give one of them another name"),
    "null": (
        "  require same_tenant", "  require user.tenant != null", "E202", "null",
        "test whether a fact is present: `x is present`, `x is absent`"),
    # words that are missing
    "no issuer": (
        ARCHIVIST, ARCHIVIST.replace("  issued by acme\n", ""), "E401", 'agent "archivist"', "add `issued by ISSUER`"),
    "not said for whom": (
        ARCHIVIST, ARCHIVIST.replace("  acts for any user\n", ""), "E402", 'agent "archivist"',
        "add `acts alone`, `acts for any user` or `acts for users where …`"),
    "no user block": (
        USERS, "", "E404", 'acts for users where user.roles has "clerk"',
        "add `user any { may … }`, or `users unrestricted` if the agent's own grants alone should decide"),
    "no `require`": (
        "  require same_tenant", "  same_tenant", "E101", "same_tenant",
        "a condition follows `require`, or `deny when`: `require same_tenant`"),
    "no `when`": (
        "deny when body.amount", "deny body.amount", "E101", "body.amount",
        "begin a condition with `when`: `deny when body.amount …`"),
    "no approver": (
        "confirm by role finance within 15m when", "confirm within 15m when", "E101", "within",
        "say who approves: `confirm by role finance within 15m`"),
    "no time zone": (
        ' "Europe/Berlin"', "", "E101", "18:00", 'add the zone: `18:00 "Europe/Berlin"`, or `"UTC"`'),
    "a time zone that is none": (
        "Europe/Berlin", "Europe/Berln", "E237", '"Europe/Berln"', "did you mean `Europe/Berlin`?"),
    "no method": (
        "may GET /health", "may /health", "E113", "/health",
        "write the method: `GET /health`; it is optional only after `on`"),
    "a method in small letters": (
        "may GET /health", "may get /health", "E114", "get", "write `GET /health`"),
    # signs
    "`=` for `==`": (
        "user.tenant == resource.tenant", "user.tenant = resource.tenant", "E108", "=", "write `==`"),
    "`||`": (
        "office_hours or request", "office_hours || request", "E109", "||", "write `or`"),
    "`and` and `or` mixed": (
        "or request.ip within internal", "or request.ip within internal and same_tenant", "E227", "and",
        "write `(a and b) or c`, or `a and (b or c)`"),
    "single quotes": (
        'has "clerk" and agent.id', "has 'clerk' and agent.id", "E106", "'", 'write `"…"`'),
    "a text without its end": (
        "more than 10,000 at once\"", "more than 10,000 at once", "E105", '"',
        "close it with `\"`; write a line break as `\\n`"),
    "a name without quotes": (
        'agent "archivist"', "agent archivist", "E116", "archivist", 'write `"archivist"`'),
    "a scope of credentials without quotes": (
        'as "read:invoices"', "as read:invoices", "E116", "read:invoices", 'write `"read:invoices"`'),
    "digits in groups": (
        "10_000 message", "10,000 message", "E119", "10,000", "write `10_000`"),
    "a brace too many": (
        'example" }\n', 'example" }\n}\n', "E104", "}", "remove it, or look for a bracket that was closed too early"),
    "`when` for `where`": (
        "user where user.roles", "user when user.roles", "E115", "when", "did you mean `where`?"),
    "`contains` for `has`": (
        'has "clerk" and agent.id', 'contains "clerk" and agent.id', "E115", "contains", "did you mean `has`?"),
    # types
    "a text for a number": (
        "body.amount > 500", 'body.amount > "500"', "E220", 'body.amount > "500"', "write a number without quotes"),
    "a set for its element": (
        'user where user.roles has "clerk"', 'user where user.roles == "clerk"', "E220", 'user.roles == "clerk"',
        'write `"clerk" in user.roles`'),
    "a number for a duration": (
        "age <= 1h", "age <= 3600", "E101", "3600", "for example `15m`"),
    "a backreference": (
        "when same_tenant and", 'when user.tenant matches "(a)\\\\1" and', "E239", '"(a)\\\\1"',
        "lookaround, backreferences, possessive repeats and counts above 1,000 are not available"),
    "a network with bits beyond its prefix": (
        "10.0.0.0/8", "10.0.0.1/8", "E235", "10.0.0.1/8", "all bits after the prefix must be zero: `10.0.0.0/8`"),
    "a day that is none": (
        "2036-01-01", "2036-13-01", "E234", "2036-13-01", "write a date as year-month-day"),
    # places
    "`**` in the middle": (
        "on /v1/invoices/{id}/**,", "on /v1/**/invoices,", "E303", "**", "use `*` for exactly one segment"),
    "a capture with a colon": (
        "DELETE /v1/invoices/{id: invoice}", "DELETE /v1/invoices/:id", "E308", ":id", "write `{id}`"),
    "a capture in angle brackets": (
        "DELETE /v1/invoices/{id: invoice}", "DELETE /v1/invoices/<id>", "E101", "<id>",
        "write a variable segment as `{id}`, or as `{id: invoice}` if it is the id of an entity"),
    "a query in a path": (
        "DELETE /v1/invoices/{id: invoice}", "DELETE /v1/invoices/{id: invoice}?force=1", "E101", "?force=1",
        "the query is not part of the path; read it with `request.query`"),
    "a fact where it does not exist": (
        "on DELETE /v1/** { audit full", "on DELETE /v1/** { deny when body.amount > 5   audit full", "E241",
        "body.amount", ELSEWHERE),
    # limits
    "a rate of nothing": (
        "100/1m burst 20", "0/1m burst 20", "E910", "0/1m burst 20",
        "write a number and a period, both above zero: `100/1m`"),
    "a budget of words": (
        "delegation {", 'budget "daily" per user.id on refunds.create { sum body.recipient <= 5 within 24h }\n'
        "delegation {", "E251", "body.recipient", "declare `body.recipient` as a number"),
}
# fmt: on


def findings(text: str) -> list[Diagnostic]:
    module, mistakes = parse(Source("payments.policy", text))
    return list(check([module] if module else [], mistakes).diagnostics)


def broken(old: str, new: str) -> str:
    text = PAYMENTS.read_text(encoding="utf-8")
    assert old in text, "the example no longer says so"
    return text.replace(old, new, 1)


def test_the_unchanged_payments_policy_has_no_findings() -> None:
    assert findings(PAYMENTS.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", BREAKS)
def test_each_break_is_reported_with_its_place_and_a_hint(name: str) -> None:
    old, new, code, underlined, hint = BREAKS[name]
    first, *_ = findings(broken(old, new))
    assert (first.code, first.span.text, first.hint) == (code, underlined, hint)


@pytest.mark.parametrize("name", [name for name in BREAKS if name != "a fact where it does not exist"])
def test_each_break_is_reported_once(name: str) -> None:
    old, new, *_ = BREAKS[name]
    assert len(findings(broken(old, new))) == 1


def test_a_missing_brace_shows_the_open_one() -> None:
    (finding,) = findings(broken("  valid until 2036-01-01\n}\n", "  valid until 2036-01-01\n"))
    assert (finding.code, finding.message, finding.span.text) == ("E103", "`}` is missing before this `agent`", "agent")
    (other,) = finding.related
    assert (other.message, other.span.text) == ("this `{` is still open", "{")


def test_a_missing_brace_at_the_end_of_the_file_shows_the_open_one() -> None:
    (finding,) = findings(broken("<= 5_000 within 24h }", "<= 5_000 within 24h"))
    assert (finding.code, finding.message) == ("E103", "`}` is missing before the end of the file")
    assert [other.span.text for other in finding.related] == ["{"]


def test_a_no_break_space_is_named() -> None:
    (finding,) = findings(broken("may GET /health", "may\N{NO-BREAK SPACE}GET /health"))
    assert (finding.code, finding.message) == ("E118", "this is U+00A0 (no-break space), not a plain space")
    assert (finding.span.text, finding.hint) == ("\N{NO-BREAK SPACE}", "write a plain space")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("  require same_tenant", "\trequire same_tenant", id="tabs"),
        pytest.param("\n", "\r\n", id="CRLF"),
        pytest.param("language 1\n", "", id="no language"),
    ],
)
def test_tabs_crlf_and_a_missing_language_line_are_accepted(old: str, new: str) -> None:
    text = PAYMENTS.read_text(encoding="utf-8")
    assert findings(text.replace(old, new)) == []
