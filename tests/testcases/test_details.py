"""What stands after an outcome, `with { … }` and `responded …`, and `repeat` before: what it means, what is wrong."""

from datetime import timedelta

import pytest

from policyengine.check import check, check_text
from policyengine.runtime.decision import Gate, Outcome
from policyengine.source import Source
from policyengine.syntax.parse import parse
from policyengine.testcases import DetailMatchMode, ExpectedDetail, ExpectedOutcome, ReportedResponse
from tests.checker.reading import told

WORLD = """
entity user { roles: set<string>  manager: user? }
entity invoice { tenant: string  size: int }
entity folder { size: string }
facts on POST /a { body.amount: number  body.card: string }
facts on POST /i/{id: invoice} { body.kind: string }
facts on GET /f/{id: folder} { body.kind: number }
issuer acme { url "https://login.acme.example" }
anyone { may GET /a, POST /a, POST /i/{id: invoice}, GET /f/{id: folder}, GET /t/{team} }
guard "small" on POST /a { deny when body.amount > 9   audit full   redact body.card, body.amount }
guard "odd" { deny when any g in agent.groups: g like "x*" }
guard "asks" on POST /a { confirm by role boss when body.amount > 5   notify "a@b.example"   warn message "so much" }
"""


def errors(inside: str) -> list[tuple[str, str, str, str | None]]:
    found = check_text(f'{WORLD}\ntest "t" {{\n{inside}\n}}')
    return told([finding for finding in found if finding.is_error])


def expected(written: str) -> ExpectedOutcome:
    module, findings = parse(Source("p.policy", f'{WORLD}\ntest "t" {{ POST /a => {written} }}'))
    assert module
    assert not findings
    checked = check([module])
    assert checked.ok, [finding.render() for finding in checked.diagnostics]
    return checked.cases[0].expected


@pytest.mark.parametrize(
    ("written", "detail"),
    [
        ('deny with { message: "no *" }', ExpectedDetail("message", ("no *",), DetailMatchMode.AMONG)),
        ('deny with { reason: "small" }', ExpectedDetail("reason", ("small",), DetailMatchMode.AMONG)),
        ('deny with { reasons: ["small", user] }',
         ExpectedDetail("reasons", ("small", Gate.USER), DetailMatchMode.EXACTLY)),
        ('confirm with { remedy: "approval by *" }',
         ExpectedDetail("remedy", ("approval by *",), DetailMatchMode.AMONG)),
        ("deny with { remedies: [] }", ExpectedDetail("remedies", (), DetailMatchMode.EXACTLY)),
        ('allow with { obligation: "redact body.card, body.amount" }',
         ExpectedDetail("obligation", ("redact body.card, body.amount",), DetailMatchMode.AMONG)),
        ('deny with { obligations: ["audit full", "notify *"] }',
         ExpectedDetail("obligations", ("audit full", "notify *"), DetailMatchMode.EXACTLY)),
        ('allow with { obligation: "warn whatever" }',
         ExpectedDetail("obligation", ("warn whatever",), DetailMatchMode.AMONG)),
        ("deny with { unknown: body.amount }", ExpectedDetail("unknown", ("body.amount",), DetailMatchMode.AMONG)),
        ("deny with { unknown: [body.amount, user.manager.roles] }",
         ExpectedDetail("unknown", ("body.amount", "user.manager.roles"), DetailMatchMode.EXACTLY)),
        (r'deny with { unknown: ["host()", "request.headers[\"x-id\"]"] }',
         ExpectedDetail("unknown", ("host()", 'request.headers["x-id"]'), DetailMatchMode.EXACTLY)),
        ('deny with { unknown: [g, g.x, "body.amount * 2"] }',
         ExpectedDetail("unknown", ("g", "g.x", "body.amount * 2"), DetailMatchMode.EXACTLY)),
        ("deny with { unknown: params.team }", ExpectedDetail("unknown", ("params.team",), DetailMatchMode.AMONG)),
        ("deny with { unknown: past.status }", ExpectedDetail("unknown", ("past.status",), DetailMatchMode.AMONG)),
        ("deny with { unknown: [past.params.team, past.output.id] }",
         ExpectedDetail("unknown", ("past.params.team", "past.output.id"), DetailMatchMode.EXACTLY)),
        ('allow with { chain: ["alice", agent "bot"] }',
         ExpectedDetail("chain", ("alice", "bot"), DetailMatchMode.IN_ORDER)),
        ("allow with { chain: [] }", ExpectedDetail("chain", (), DetailMatchMode.IN_ORDER)),
        ('allow with { agent: "bot" }', ExpectedDetail("agent", ("bot",), DetailMatchMode.EXACTLY)),
        ("allow with { user: absent }", ExpectedDetail("user", (), DetailMatchMode.EXACTLY)),
        ("not deny with { issuer: acme }", ExpectedDetail("issuer", ("acme",), DetailMatchMode.EXACTLY)),
        ("allow with { reasons: [] }", ExpectedDetail("reasons", (), DetailMatchMode.EXACTLY)),
        ('not allow with { remedies: ["scope x"] }', ExpectedDetail("remedies", ("scope x",), DetailMatchMode.EXACTLY)),
    ],
)  # fmt: skip
def test_each_expected_detail_is_parsed(written: str, detail: ExpectedDetail) -> None:
    assert expected(written).details == (detail,)


def test_a_gate_and_a_rule_of_the_same_name_are_distinct_reasons() -> None:
    [detail] = expected("deny with { reasons: [guard] }").details
    assert isinstance(detail.wanted[0], Gate)
    [detail] = expected('deny with { reasons: ["small"] }').details
    assert not isinstance(detail.wanted[0], Gate)


def test_details_follow_the_reason_and_are_part_of_the_text() -> None:
    found = expected('deny by "small"\n  with { user: absent,\n chain: [] }')
    assert (found.outcome, found.rule, len(found.details)) == (Outcome.DENY, "small", 2)
    assert found.text == 'deny by "small" with { user: absent, chain: [] }'


def test_a_table_cell_and_otherwise_can_have_details() -> None:
    text = (
        f'{WORLD} test "t" {{ cases {{ | request | => | | GET /a | allow with {{ user: absent }} | }}\n'
        "cases for who in [\"x\", \"y\"], request in [GET /a] { given agent.id who given agent.issuer acme "
        "otherwise allow with { agent: who } } }"
    )  # fmt: skip
    module, findings = parse(Source("p.policy", text))
    assert module
    assert not findings
    checked = check([module])
    assert [detail.wanted for case in checked.cases for detail in case.expected.details] == [(), ("x",), ("y",)]


GATES = (
    "the gates are `malformed_path`, `halted`, `identity`, `default`, `user`, `chain`, `task`, `guard`, `rate`, "
    "`budget` and `failure`"
)
MEMBERS = (
    "the known members are `message`, `reason`, `reasons`, `remedy`, `remedies`, `obligation`, "
    "`obligations`, `rate`, `rates`, "
    "`unknown`, `chain`, `agent`, `user` and `issuer`"
)
MISTAKES = [
    # ── Members
    ("GET /b => deny with { remdy: 1 }", "E611", "remdy", "a decision has no detail `remdy`",
     "did you mean `remedy`?"),
    ("GET /b => deny with { outcome.x: 1 }", "E611", "outcome.x", "a decision has no detail `outcome.x`", MEMBERS),
    ("GET /b => deny with { }", "E618", "{ }", "`with` states nothing",
     "name a detail that the decision must have: `message`, `reason`, `reasons` or `remedy`"),
    ("GET /b => deny with { user: absent, user: absent }", "E607", "user", "`user` is given twice",
     "remove one of the two"),
    # ── Shapes
    ("GET /b => deny with { message: 5 }", "E618", "5", "`5` is not a valid `message`: expected a string",
     'write `message: "refund of 900 to *"`'),
    ("GET /b => deny with { message: no }", "E618", "no", "`no` is not a valid `message`: expected a string",
     'write a string in quotes: `"no"`'),
    ('GET /b => deny with { message: "" }', "E618", '""', '`""` is not a valid `message`: expected a string',
     'write `message: "refund of 900 to *"`'),
    ('GET /b => deny with { remedies: "scope x" }', "E618", '"scope x"',
     '`"scope x"` is not a valid `remedies`: expected a list', 'write `remedies: ["scope create:refunds"]`'),
    ('GET /b => deny with { remedy: ["scope x"] }', "E618", '["scope x"]',
     '`["scope x"]` is not a valid `remedy`: expected one value',
     'write `remedy: "approval by role finance within 15m"`'),
    ("GET /b => deny with { unknown: [5] }", "E618", "5", "`5` is not a valid `unknown`: expected the name of a fact",
     "write `unknown: [body.amount]`"),
    ("GET /a => allow with { chain: [absent] }", "E618", "absent", "`absent` is not a valid `chain`: expected a string",
     'write `chain: ["alice", "planner", "invoice-bot"]`'),
    # ── Names
    ('GET /b => deny with { reason: "smal" }', "E608", '"smal"', "no rule is named `smal`", "did you mean `small`?"),
    ("GET /b => deny with { reason: small }", "E609", "small", "unknown gate `small`",
     'write a rule in quotes: `reason: "small"`'),
    ("GET /b => deny with { reasons: [door] }", "E609", "door", "unknown gate `door`", GATES),
    ("GET /b => deny with { unknown: body.amuont }", "E201", "body.amuont", "unknown fact `body.amuont`",
     "did you mean `body.amount`?"),
    ("GET /b => deny with { unknown: [bdy.x] }", "E602", "bdy.x", "unknown fact `bdy.x`",
     "facts must begin with `agent`, `approval`, `args`, `attestation`, `behavior`, `body`, `chain`, `cluster`, "
     "`context`, "
     "`credential`, `params`, `request`, `resource`, `task`, `time`, `tool` and `user`"),
    ("GET /b => deny with { unknown: past.body.amuont }", "E201", "body.amuont", "unknown fact `body.amuont`",
     "did you mean `body.amount`?"),
    ('GET /b => deny with { unknown: "hots()" }', "E602", '"hots()"', "unknown fact `hots()`",
     "did you mean `host()`?"),
    ("GET /b => deny with { unknown: \"user.age\" }", "E201", "user.age", "unknown fact `user.age`",
     "declare it: `entity user { age: … }`"),
    ("GET /b => deny with { unknown: params.ide }", "E243", "params.ide", "no path captures `ide`",
     "the captures are `params.id`, `params.team`"),
    ("GET /b => deny with { unknown: user.age }", "E201", "user.age", "unknown fact `user.age`",
     "declare it: `entity user { age: … }`"),
    ("GET /a => allow with { issuer: acm }", "E207", "acm", "unknown issuer `acm`", "did you mean `acme`?"),
    ('GET /b => deny with { remedy: "aproval by role boss" }', "E611", '"aproval by role boss"',
     "`aproval` is not a kind of remedy", "did you mean `approval`?"),
    ('GET /b => deny with { remedy: "money" }', "E611", '"money"', "`money` is not a kind of remedy",
     "the remedy must begin with `approval`, `scope`, `credential`, `attestation`, `task`, `facts` or `wait`"),
    ('GET /a => allow with { obligation: "adit full" }', "E611", '"adit full"', "`adit` is not a kind of obligation",
     "did you mean `audit`?"),
    ('GET /a => allow with { obligations: ["notify b@b.example"] }', "E611", '"notify b@b.example"',
     "no guard has the obligation `notify b@b.example`", "did you mean `notify a@b.example`?"),
    ('GET /a => allow with { obligation: "step_up *" }', "E611", '"step_up *"',
     "no guard has the obligation `step_up *`",
     "guards require `audit full`, `notify a@b.example`, `redact body.card, body.amount` and `warn`"),
    # ── Never
    ('GET /a => allow with { message: "x" }', "E619", 'message: "x"', "an allow has no message",
     "remove it, or write another outcome"),
    ('GET /a => allow with { remedies: ["scope x"] }', "E619", 'remedies: ["scope x"]', "an allow has no remedies",
     "remove it, or write another outcome"),
    ("GET /b => not throttle with { reason: default }", "E619", "reason: default",
     "`not throttle` does not say which outcome is expected, so it can have no reason",
     "write the outcome that you expect, or remove `reason`"),
    ("GET /b => deny with { reasons: [] }", "E619", "reasons: []", "a request that is not allowed always has a reason",
     "name it, or remove `reasons`"),
    ('GET /b => deny with { remedy: "approval by role boss" }', "E619", 'remedy: "approval by role boss"',
     "only a confirm has the remedy `approval`", "`policyengine decide` shows the remedies of a decision"),
    ('POST /a => confirm with { remedies: ["scope x"] }', "E619", 'remedies: ["scope x"]',
     "only a deny has the remedy `scope`", "`policyengine decide` shows the remedies of a decision"),
    ('POST /a => deny with { obligation: "redact *" }', "E619", 'obligation: "redact *"',
     "only an allow carries `redact`", "other outcomes carry `audit` and `notify`"),
    # ── Rates
    ('GET /b => deny with { rate: "smal: 1 of 2" }', "E611", '"smal: 1 of 2"', "no rate or budget is named `smal`",
     "there are none"),
    ('GET /b => deny with { rate: "small" }', "E618", '"small"',
     "`\"small\"` is not a valid `rate`: expected the remaining amount of a rate or budget",
     'write `rate: "per agent: 37 of 100"`'),
    ("GET /b => deny with { rates: 3 }", "E618", "3", "`3` is not a valid `rates`: expected a list",
     'write `rates: ["per agent: 37 of 100"]`'),
    # ── Repetitions
    ("repeat 3 in 1s GET|POST /b => deny", "E621", "GET|POST /b",
     "`repeat` takes one request, but this line has several",
     "write a separate line for each method"),
    ("repeat 3 in 999999w GET /b => deny", "E617", "999999w", "the clock cannot advance by `999999w`",
     "write a shorter duration"),
    ("repeat 3 in 1m GET /b => deny at 2026-01-01T00:00:59Z GET /b => deny", "E617", "at 2026-01-01T00:00:59Z",
     "the clock of a test cannot go back", "the clock is already at 2026-01-01T00:01:00Z: put earlier requests first"),
    ("repeat 0 in 1s GET /b => deny", "E621", "0", "repeat a request at least once", "write `1` or more"),
    ("repeat 1.5 in 1s GET /b => deny", "E621", "1.5", "`1.5` is not a number of requests",
     "write it as in `repeat 21 in 10s`"),
    ("repeat 100_001 in 1s GET /b => deny", "E621", "100_001", "`repeat` can make at most 100,000 requests",
     "repeat the request less often"),
    ("repeat 2 in 0s GET /b => deny", "E621", "0s", "the duration of `repeat` must be above zero",
     "write the total time of all requests: `10s`"),
    ("repeat 2 in 1s repeat 3 in 1s GET /b => deny", "E621", "repeat 3 in 1s", "a request has only one `repeat`",
     "keep one `repeat`"),
    ("repeat 3 in 1s GET /b => first deny at 4", "E621", "4", "`repeat` makes only 3 requests",
     "name one of these requests"),
    ("repeat 1 in 1s GET /b => first deny at 2", "E621", "2", "`repeat` makes only 1 request",
     "name one of these requests"),
    ("repeat 3 in 1s GET /b => first deny at 0", "E621", "0", "the first request has the number 1",
     "write `1` or more"),
    ("GET /b => first deny at 3", "E621", "first deny at 3", "`first … at` counts the requests of `repeat`",
     "write `repeat 21 in 10s` before the request"),
    ("cases { | request | => | | GET /b | first deny at 3 | }", "E621", "first deny at 3",
     "`first … at` counts the requests of `repeat`", "write `repeat 21 in 10s` before the request"),
    ("forall request => first deny at 3", "E621", "first deny at 3",
     "`first … at` counts the requests of `repeat`", "write `repeat 21 in 10s` before the request"),
    # ── Responses
    ("GET /a => allow responded 99", "E621", "99", "`99` is not an HTTP status",
     "write a number from 100 to 599: `responded 201`"),
    ("GET /a => allow responded 600", "E621", "600", "`600` is not an HTTP status",
     "write a number from 100 to 599: `responded 201`"),
    ("GET /b => deny responded 403", "E621", "responded 403",
     "a request that is not allowed is never sent, so it has no response",
     "remove `responded …`, or expect `allow`"),
    ("GET /a => allow responded 200 { claim_id: 7 }", "E621", "claim_id", "`claim_id` is not part of a response",
     "write `output.claim_id: …`"),
    ("GET /a => allow responded 200 { output: 7 }", "E621", "output", "`output` is not part of a response",
     "write `output.id: …`"),
    # ── Of all requests
    ("forall request => deny with { user: absent }", "E619", "{ user: absent }",
     "`with` describes one decision, but `forall` makes many decisions",
     "remove it, or write a separate request: `GET /a => … with { … }`"),
    ('forall request => deny by "smal"', "E608", '"smal"', "no rule is named `smal`", "did you mean `small`?"),
    ("forall request where user.rolls has \"x\" => deny", "E201", "user.rolls", "unknown fact `user.rolls`",
     "did you mean `user.roles`?"),
    ("forall request where body.amount => deny", "E228", "body.amount", None, None),
    ('forall request where params.ide == "1" => deny', "E243", "params.ide", "no path captures `ide`",
     "the captures are `params.id`, `params.team`"),
    ('forall request where body.kind == "x" => deny', "E217", "body.kind",
     "`body.kind` has different types at different endpoints, but must have one type here",
     "declare it with one type everywhere, or use another fact"),
    ("forall request where resource.size == 5 => deny", "E217", "resource.size",
     "`resource.size` has different types at different endpoints, but must have one type here",
     "declare it with one type everywhere, or use another fact"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "code", "underlined", "message", "hint"), MISTAKES, ids=[f"{row[1]} {row[0][:60]}" for row in MISTAKES]
)
def test_each_mistake_in_a_test_is_reported(
    inside: str, code: str, underlined: str, message: str | None, hint: str | None
) -> None:
    found = errors(inside)
    assert [(finding[0], finding[2]) for finding in found] == [(code, underlined)]
    assert message is None or found == [(code, message, underlined, hint)]


def test_responded_and_repeat_are_lowered_to_cases() -> None:
    module, _ = parse(
        Source(
            "p.policy",
            f"""{WORLD} test "t" {{
      POST /a => not deny responded 201 {{ output.claim_id: 7, output["x-y"]: [1] }}
      repeat 3 in 1s GET /a => first deny at 3 responded 500 }}""",
        )
    )
    assert module
    made, repeated = check([module]).cases
    assert made.responded == ReportedResponse(201, {"claim_id": 7, "x-y": (1,)})
    assert [one.now - repeated.now for one in repeated.requests] == [timedelta(seconds=n) / 3 for n in range(3)]
    assert [one.expected.negated for one in repeated.requests] == [True, True, False]
