"""The faults that each operator makes, as the lines they leave."""

from __future__ import annotations

import pytest

from tests.testing.mutation.faulty import faults, lines_with

WORLD = """
enum plan = free < team < enterprise
entity user { roles: set<string>   tenant: string   plan: plan }
entity invoice { tenant: string }
facts on refunds { body.amount: number   body.note: string? }
scope invoices { GET /v1/invoices   GET /v1/invoices/{id: invoice} }
scope refunds { POST /v1/invoices/{id: invoice}/refunds }
issuer acme { url "https://a.example" }
issuer other { url "https://b.example" }
attester lab { url "https://c.example"   age <= 1h   model "m" sha256:9f2c41   environment in ["sev", "tdx"] }
user any { may invoices, refunds }
"""


def agent(inside: str) -> str:
    return f'{WORLD}agent "bot" {{\n  issued by acme\n  acts for any user\n  {inside}\n}}'


def guard(inside: str, on: str = " on refunds") -> str:
    return f'{WORLD}guard "g"{on} {{\n  {inside}\n}}'


@pytest.mark.parametrize(
    ("policy", "operator", "lines"),
    [
        (guard("deny when body.amount > 500"), "flip a comparison", ["deny when body.amount >= 500"]),
        (guard("deny when body.amount > 500"), "negate a condition", ["deny when not (body.amount > 500)"]),
        (guard("deny when body.amount > 500"), "drop a condition", ["deny"]),
        (guard("require not user.plan < team"), "negate a condition", ["require user.plan < team"]),
        (guard("deny when body.note is present"), "flip a comparison", ["deny when body.note is absent"]),
        (
            guard('deny when body.amount > 500 and user.tenant == "a"'),
            "swap and/or",
            ['deny when body.amount > 500 or user.tenant == "a"'],
        ),
        (
            guard("require (user.plan == free or body.amount < 5) and user.plan < team"),
            "drop a part of or",
            ["require (body.amount < 5) and user.plan < team", "require (user.plan == free) and user.plan < team"],
        ),
        (guard('require all r in user.roles: r == "a"'), "swap any/all", ['require any r in user.roles: r == "a"']),
        (
            guard('deny when user.tenant in ["a", "b"]'),
            "drop an item of a list",
            ['deny when user.tenant in ["b"]', 'deny when user.tenant in ["a"]'],
        ),
        (guard('deny when user.tenant == "a"'), "change a text", ['deny when user.tenant == "ax"']),
        (guard('deny when body.note else "a" == "b"'), "change a text", [
            'deny when body.note else "ax" == "b"', 'deny when body.note else "a" == "bx"']),
        (guard("confirm by role finance within 15m"), "change who approves", [
            "confirm by user within 15m", "confirm by role finance_other within 15m"]),
        (guard("confirm by role finance within 15m"), "drop a limit of time", ["confirm by role finance"]),
        (guard("confirm by 2 of role finance"), "change who approves", [
            "confirm by user", "confirm by role finance", "confirm by 2 of role finance_other"]),
        (guard("confirm by role finance from acme within 15m"), "change who approves", [
            "confirm by user from acme within 15m", "confirm by role finance_other from acme within 15m",
            "confirm by role finance within 15m", "confirm by role finance from other within 15m"]),
        (guard("confirm by user from acme, other"), "change who approves", [
            "confirm by user", "confirm by user from other", "confirm by user from acme"]),
        (guard("confirm by user from acme within 15m"), "drop a limit of time", ["confirm by user from acme"]),
        (guard("confirm by user within 5m bound to (body except body.id, request.host)"), "change what is approved", [
            "confirm by user within 5m", "confirm by user within 5m bound to (request.host)",
            "confirm by user within 5m bound to (body, request.host)",
            "confirm by user within 5m bound to (body except body.id)"]),
        (guard("audit full\n  notify \"x\""), "drop an obligation", ["audit full", 'notify "x"']),
        (guard("deny", on=" on /v1/** except GET /v1/invoices"), "drop an except", ['guard "g" on /v1/** {']),
        (agent("may invoices, refunds"), "drop a may", ["user any { }", "may invoices, refunds"]),
        (agent("attested by lab"), "drop a requirement", ["attested by lab"]),
        (agent("credential { kind in [jwt, mtls]   bound }"), "drop a requirement", [
            "credential { bound }", "credential { kind in [jwt, mtls] }"]),
        (agent("may invoices when user.plan == free"), "drop a condition", ["may invoices"]),
        (agent('may delegate invoices to agent "b" for 30m'), "drop a limit of time", [
            'may delegate invoices to agent "b"']),
        (agent('may delegate invoices to agent "b" for 30m'), "widen a may delegate", [
            'may delegate invoices to agent "*" for 30m']),
        (f'{WORLD}agent "buyer-*" {{ issued by acme   acts for any user   may refunds }}', "widen a name", [
            'agent "buyer*" { issued by acme acts for any user may refunds }']),
        (f'{WORLD}agent "*-bot" {{ issued by acme   acts for any user   may refunds }}', "widen a name", [
            'agent "*bot" { issued by acme acts for any user may refunds }']),
        (agent("may invoices\n}\nscope all { include invoices, refunds"), "widen a may", [
            "user any { may all, refunds }", "user any { may invoices, all }", "may all"]),
        (f"{WORLD}issuer third {{ users like \"*@c\" }}", "widen a requirement", ["issuer third { }"]),
        (f"{WORLD}rate \"r\" per agent.id on refunds {{ 9/1m }}", "change a key", [
            'rate "r" per user.id on refunds { 9/1m }']),
        (f"{WORLD}budget \"b\" per (user.tenant, agent.id) on refunds {{ count <= 9 within 1h }}", "change a key", [
            'budget "b" per (user.tenant, user.id) on refunds { count <= 9 within 1h }']),
        (f"{WORLD}budget \"b\" per user.tenant on refunds {{ count <= 9 within 1h }}", "change a key", [
            'budget "b" per agent.id on refunds { count <= 9 within 1h }']),
        (f"{WORLD}delegation {{ depth <= 3   no cycles }}", "drop a limit of delegation", [
            "delegation { no cycles }", "delegation { depth <= 3 }"]),
    ],
)  # fmt: skip
def test_each_mutation_operator_generates_the_expected_lines(policy: str, operator: str, lines: list[str]) -> None:
    assert lines_with(policy, operator)[-len(lines) :] == lines


@pytest.mark.parametrize(
    ("condition", "moved"),
    [
        ("body.amount > 500", ["499", "501"]),
        ("body.amount > 10_000", ["9_999", "10_001"]),
        ("body.amount > 0.50", ["0.49", "0.51"]),
        ("body.amount > 0", ["1"]),
        ("credential.age > 15m", ["14m", "16m"]),
        ("credential.age > 1h", ["59m", "61m"]),
        ("credential.age > 1h30m", ["1h29m", "1h31m"]),
        ("time > 2026-03-01", ["2026-02-28", "2026-03-02"]),
        ("time > 2026-03-01T00:00:00Z", ["2026-02-28T23:59:59Z", "2026-03-01T00:00:01Z"]),
        ("request.ip within 10.0.0.0/8", ["10.0.0.0/7", "10.0.0.0/9"]),
        ('time within 00:00..08:00 "UTC"', ["00:01", "07:59", "08:01"]),
        ('time within mon..fri "UTC"', ["sun", "tue", "thu", "sat"]),
        ("user.plan >= team", ["free", "enterprise"]),
    ],
)
def test_a_bound_moves_by_its_smallest_written_unit(condition: str, moved: list[str]) -> None:
    found = [one for one in faults(guard(f"deny when {condition}")) if "deny when" in one.lines.telling]
    assert [one.after for one in found if one.operator == "move a bound"] == moved


@pytest.mark.parametrize(
    ("place", "wider", "narrower"),
    [
        ("GET /v1/invoices", ["GET /v1/**", "GET /v1/*", "GET /*/invoices", "ANY /v1/invoices"], []),
        ("GET|POST /a", ["GET|POST /**", "GET|POST /*", "ANY /a"], ["POST /a", "GET /a"]),
        ("/a/b/**", ["/a/**", "/a/*/**", "/*/b/**"], ["/a/b"]),
        ("/a/{id}", ["/a/{id}/**", "/*/{id}"], []),
        ("TOOL mail/send", ["TOOL mail/*"], []),
        ("TOOL mail/*", ["TOOL *"], []),
        ('TOOL "mail/send it"', ['TOOL "mail/*"'], []),
    ],
)
def test_an_endpoint_pattern_is_widened_and_narrowed(place: str, wider: list[str], narrower: list[str]) -> None:
    found = [one for one in faults(guard("deny", on=f" on {place}")) if 'guard "g" on' in one.lines.telling]
    told = {name: sorted(one.lines.telling for one in found if one.operator == f"{name} a place") for name in (
        "widen", "narrow")}  # fmt: skip
    assert told["widen"] == sorted(f'guard "g" on {one} {{' for one in wider)
    assert told["narrow"] == sorted(f'guard "g" on {one} {{' for one in narrower)


def test_a_definition_that_is_used_twice_has_each_fault_once() -> None:
    policy = f'{WORLD}define rich = body.amount > 5\nguard "a" on refunds {{ deny when rich }}'
    twice = f'{policy}\nguard "b" on refunds {{ confirm by role x when rich }}'
    flips = [one.name for one in faults(twice) if one.operator == "flip a comparison"]
    assert flips == ["flip a comparison in define rich: define rich = body.amount >= 5"]


def test_fault_names_are_unique() -> None:
    names = [one.name for one in faults(guard("deny when body.amount > 5\n  deny when body.amount > 5"))]
    assert len(set(names)) == len(names)
    assert any(name.endswith("[2]") for name in names)


def test_dropping_a_line_drops_only_its_own_comment() -> None:
    policy = guard("# why\n  deny # this\n  audit full # that")
    [fault] = [one for one in faults(policy) if one.operator == "drop a line of a guard"]
    assert fault.text.count("# this") == 0
    assert fault.text.count("# why") == fault.text.count("# that") == 1


def test_connectives_in_comments_and_strings_are_not_mutated() -> None:
    policy = guard('deny when user.tenant == " and " # and\n    and body.amount > 5')
    [fault] = [one for one in faults(policy) if one.operator == "swap and/or"]
    assert ' == " and " # and\n    or body.amount' in fault.text


def test_fault_lines_leave_out_comments() -> None:
    policy = guard('deny when user.tenant == "#1" # because')
    assert lines_with(policy, "drop a condition") == ["deny"]
    assert 'deny when user.tenant != "#1"' in lines_with(policy, "flip a comparison")
