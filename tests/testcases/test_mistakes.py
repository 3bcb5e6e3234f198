"""What is wrong with a test is told when the policy is checked: code, underlined text, message and hint."""

import pytest

from policyengine.check import check, check_text
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse
from tests.checker.reading import told

WORLD = """
enum plan = free < team
entity team in team
entity user { roles: set<string>  plan: plan  manager: user? } in team
entity invoice { tenant: string  owner: user  lines: { count: int }? }
facts on POST /a { body.amount: number  body.card: { number: string }  body.plan: plan }
issuer acme { url "https://login.acme.example" }
attester lab { url "https://attest.acme.example" }
anyone { may GET /a, POST /a, GET /i/{id: invoice} when resource.tenant == "x" }
guard "small" on POST /a { deny when body.amount > 9 }
guard "asks" on POST /a { confirm by role boss when body.amount > 5  message "{body.card.number}" }
"""


def errors(inside: str) -> list[Diagnostic]:
    return [finding for finding in check_text(f'{WORLD}\ntest "t" {{\n{inside}\n}}') if finding.is_error]


GET = "GET /a => allow"
MISTAKES = [
    # ── Facts
    (f"given body.amuont 5 {GET}", "E602", "body.amuont", "unknown fact `body.amuont`", "did you mean `body.amount`?"),
    (f"given body.x 5 {GET}", "E602", "body.x", "unknown fact `body.x`", "declare it: `facts on … { body.x: string }`"),
    (f"given usr.id 5 {GET}", "E602", "usr.id", "unknown fact `usr.id`", None),
    (f"given user.age 5 {GET}", "E602", "user.age", "unknown fact `user.age`",
     "declare it: `entity user { age: string }`"),
    (f"given credential {{ kindd: jwt }} {GET}", "E602", "kindd", "unknown fact `credential.kindd`",
     "did you mean `credential.kind`?"),
    (f'given resource.owner.plan free {GET}', "E602", "resource.owner.plan", "unknown fact `resource.owner.plan`",
     "give the row of the other entity: `given entities { … }`"),
    ('GET /a { user.rolls: ["x"] } => allow', "E602", "user.rolls", "unknown fact `user.rolls`",
     "did you mean `user.roles`?"),
    ('GET /a { args["x"]: 1 } => allow', "E602", 'args["x"]', "unknown fact `args.x`",
     "declare it: `facts on … { args.x: string }`"),
    ('POST /a { body.card: { nr: "1" } } => deny', "E602", "nr", "the record has no member `nr`",
     "the record has the members `number`"),
    ("POST /a { body.card.x: 1 } => deny", "E602", "body.card.x", "unknown fact `body.card.x`",
     "did you mean `body.card`?"),
    (f"given user.plan pro {GET}", "E603", "pro", "`pro` is not a value of plan", 'write a string in quotes: `"pro"`'),
    (f"given user.plan tean {GET}", "E603", "tean", "`tean` is not a value of plan", "did you mean `team`?"),
    (f"given body.amount nine {GET}", "E603", "nine", "`nine` is not a known word here",
     'write a string in quotes: `"nine"`'),
    (f"given credential.issuer acm {GET}", "E207", "acm", "unknown issuer `acm`", "did you mean `acme`?"),
    (f"given attestation.by labb {GET}", "E207", "labb", "unknown attester `labb`", "did you mean `lab`?"),
    (f'given agent "x" from acm {GET}', "E207", "acm", "unknown issuer `acm`", "did you mean `acme`?"),
    (f'given agent "x" from other {GET}', "E207", "other", "unknown issuer `other`",
     'there is `acme`; or declare it: `issuer acme { url "https://login.acme.example" }`'),
    (f"use bot {GET}", "E207", "bot", "unknown fixture `bot`",
     'declare it: `fixture base { given agent "bot" from acme }`'),
    ('GET /a { params.id: "4" } => allow', "E604", "params.id",
     "`params.id` is derived from other facts: do not set it",
     "write it in the path of the request"),
    (f"given chain.depth 2 {GET}", "E604", "chain.depth", "`chain.depth` is derived from other facts: do not set it",
     'give the delegating agents: `given chain [agent "planner"]`'),
    (f"given approval.granted true {GET}", "E604", "approval.granted",
     "`approval.granted` is derived from other facts: do not set it",
     'give the approval itself: `given approval { rule: "…", by: "…" }`'),
    # ── Learned facts
    (f"given behavior.trust 1.1 {GET}", "E605", "1.1", "`1.1` is not a value of `behavior.trust`",
     "write a number from 0 to 1, or `unknown`; without a value, the fact is neutral"),
    (f"given behavior {{ novelty: -0.1 }} {GET}", "E605", "-0.1", "`-0.1` is not a value of `behavior.novelty`",
     "write a number from 0 to 1, or `unknown`; without a value, the fact is neutral"),
    (f"given behavior {{ burst: 1 }} {GET}", "E605", "1", "`1` is not a value of `behavior.burst`",
     "write true or false, or `unknown`; without a value, the fact is neutral"),
    (f"given behavior.trust true {GET}", "E605", "true", "`true` is not a value of `behavior.trust`",
     "write a number from 0 to 1, or `unknown`; without a value, the fact is neutral"),
    (f"given behavior.ready absent {GET}", "E605", "absent", "`absent` is not a value of `behavior.ready`",
     "write true or false, or `unknown`; without a value, the fact is neutral"),
    (f"given behavior.ready nowhere {GET}", "E603", "nowhere", "`nowhere` is not a known word here", None),
    (f"given behavior.trusst 1 {GET}", "E602", "behavior.trusst", "unknown fact `behavior.trusst`",
     "did you mean `behavior.trust`?"),
    (f"given behavior 1 {GET}", "E605", "1", "`behavior` is a group of facts, not a value",
     "write `given behavior { trust: 0.95, burst: true }`"),
    (f"given behavior {{ burst: true, burst: true }} {GET}", "E607", "burst", "`burst` is given twice",
     "remove one of the two"),
    (f"given cluster.size 0 {GET}", "E605", "0", "`0` is not a value of `cluster.size`",
     "write a whole number, 1 or more, or `unknown`; without a value, the fact is neutral"),
    (f"given cluster {{ id: 3 }} {GET}", "E605", "3", "`3` is not a value of `cluster.id`",
     "write a text, or `unknown`; without a value, the fact is neutral"),
    (f"given cluster 3 {GET}", "E605", "3", "`cluster` is a group of facts, not a value",
     'write `given cluster { id: "ring", size: 30 }`'),
    # ── Shapes
    (f"given credential jwt {GET}", "E605", "jwt", "`credential` is a group of facts, not a value",
     "write `credential { … }`, or name one of its facts"),
    (f"given body 5 {GET}", "E605", "5", "`body` is a group of facts, not a value",
     "write `body { … }`, or name one of its facts"),
    (f"given time 5m {GET}", "E605", "5m",
     "the time must be a point in time", "write `given time 2026-01-31T09:00:00Z`"),
    (f"given time 2026-02-30 {GET}", "E234", "2026-02-30", "the date `2026-02-30` does not exist",
     "write a date as year-month-day"),
    (f'given resource "42" {GET}', "E605", '"42"', "a resource must be an entity",
     'write `given resource invoice "42"`'),
    (f'given chain "x" {GET}', "E605", '"x"', "a chain must be a list of agents",
     'write `given chain [agent "planner"]`'),
    (f'given chain [user "x"] {GET}', "E605", 'user "x"', "a hop of a chain must be an agent",
     'write `agent "planner"`, or `{ agent: "planner", scopes: […] }`'),
    (f'given chain [{{ agent: "x", scope: [] }}] {GET}', "E602", "scope", "a hop of a chain has no `scope`",
     "did you mean `scopes`?"),
    (f'given chain [{{ agent: "x", age: 5 }}] {GET}', "E605", "5", "an age must be a duration",
     "write a duration: `5m`"),
    (f'given approval {{ rule: "asks" }} {GET}', "E605", '{ rule: "asks" }', "an approval needs a `by`",
     'write `given approval { rule: "…", by: "…" }`'),
    (f'given approval {{ rule: "asks", by: 5 }} {GET}', "E605", "5", "the `by` of an approval must be a string",
     'write `given approval { rule: "…", by: "…" }`'),
    (f'given approval {{ rule: "asks", by: "x", of: 1 }} {GET}', "E605", "1",
     "`of` must name the facts of the approved request that differ",
     "name the facts that differ: `of: { body.amount: 1 }`"),
    (f'given approval {{ rule: "asks", by: "x", of: {{ user.plan: team }} }} {GET}', "E605", "{ user.plan: team }",
     "the entity store is the same for both requests",
     "name facts that come with a request: `of: { body.amount: 1 }`"),
    (f"given approval true {GET}", "E605", "true", "an approval must be a record with `rule` and `by`",
     'write `given approval { rule: "…", by: "…" }`'),
    (f'given approval {{ rule: "asks", by: "x", for: 1 }} {GET}', "E602", "for", "an approval has no `for`",
     "it has `rule`, `by`, `issuer`, `age` and `of`"),
    (f'given approval {{ rule: "asks", by: "x", issuer: acm }} {GET}', "E207", "acm", "unknown issuer `acm`",
     "did you mean `acme`?"),
    (f'given approval {{ rule: "asks", by: "x", issuer: lab }} {GET}', "E207", "lab", "unknown issuer `lab`",
     "`lab` is an attester, which vouches for models; name an issuer, which vouches for people"),
    (f'given approval {{ rule: "asks", by: "x", issuer: 5 }} {GET}', "E605", "5",
     "the `issuer` of an approval must be an issuer", "name an issuer: `issuer: acme`"),
    (f'given approval {{ rule: "small", by: "x" }} {GET}', "E608", '"small"', "the guard `small` requires no approval",
     "only `confirm` does"),
    (f'given approval {{ rule: "ask", by: "x" }} {GET}', "E608", '"ask"', "no guard is named `ask`",
     "did you mean `asks`?"),
    # ── Entities
    (f'given entities {{ usr "a" }} {GET}', "E205", "usr", "unknown entity `usr`", "did you mean `user`?"),
    (f'given entities {{ user "" }} {GET}', "E240", '""', "an id cannot be empty", "an empty id counts as absent"),
    (f'given entities {{ user "a" {{ role: [] }} }} {GET}', "E606", "role", "a user has no attribute `role`",
     "did you mean `roles`?"),
    (f'given entities {{ user "a" {{ roles: "x" }} }} {GET}', "E606", '"x"', '`"x"` does not fit `user.roles`',
     "`user.roles` is a set<string>"),
    (f'given entities {{ user "a" {{ roles: [5] }} }} {GET}', "E606", "[5]", "`[5]` does not fit `user.roles`",
     "`user.roles` is a set<string>"),
    (f'given entities {{ user "a" {{ manager: team "x" }} }} {GET}', "E606", 'team "x"',
     '`team "x"` does not fit `user.manager`', "`user.manager` is a reference to user"),
    (f'given entities {{ invoice "1" {{ lines: {{ count: "1" }} }} }} {GET}', "E606", '{ count: "1" }',
     '`{ count: "1" }` does not fit `invoice.lines`', "`invoice.lines` is a record"),
    (f'given entities {{ user "a" user "a" }} {GET}', "E607", 'user "a"', '`user "a"` is given twice',
     "remove one of the two"),
    (f'given entities {{ invoice "1" in team "a" }} {GET}', "E606", 'team "a"', "an invoice is never in a team",
     "declare it: `entity invoice { … } in team`"),
    ("POST /a { body.amount: 1, body.amount: 2 } => deny", "E607", "body.amount", "`body.amount` is given twice",
     "remove one of the two"),
    # ── Expectations
    ('GET /a => deny by "smal"', "E608", '"smal"', "no rule is named `smal`", "did you mean `small`?"),
    ('GET /a => deny by "x"', "E608", '"x"', "no rule is named `x`", "rules are `asks` and `small`"),
    ("GET /a => deny by defualt", "E609", "defualt", "unknown gate `defualt`", "did you mean `default`?"),
    ("GET /a => deny by small", "E609", "small", "unknown gate `small`", 'write a rule in quotes: `by "small"`'),
    ("GET /a => deny by x", "E609", "x", "unknown gate `x`",
     "the gates are `malformed_path`, `halted`, `identity`, `default`, `user`, `chain`, `task`, `guard`, `rate`, "
     "`budget` and `failure`"),
    ('GET /a => allow by "small"', "E610", 'allow by "small"', "an allow has no reason",
     "remove `by …`, or write `not allow by …`"),
    ("GET /a => not deny by default", "E610", "not deny by default",
     "`not deny` does not say which outcome is expected, so it can have no reason",
     "write the outcome that you expect, or remove `by …`"),
    # ── Requests
    ("GET /a/** => deny", "E616", "/a/**", "`*` is not valid in the path of a test request",
     "a test request must have a single path: write it out"),
    ("GET /i/{id: invoice} => deny", "E616", "/i/{id: invoice}",
     "`{id: invoice}` is not valid in the path of a test request",
     "a test request must have a single path: write it out"),
    ("GET /i/{id} => deny", "E616", "{id}", "`{id}` is not a variable here",
     "a test request must have a single path: write it out"),
    ("TOOL mail/* => deny", "E616", "TOOL mail/*", "`*` is not valid in the tool of a test request",
     "write the name of one tool"),
    ('ACTION view invoces "1" => deny', "E205", "invoces", "unknown entity `invoces`", "did you mean `invoice`?"),
    ('ACTION view invoice "" => deny', "E240", '""', "an id cannot be empty", "an empty id counts as absent"),
    ("OUTPUT => deny", "E908", "OUTPUT", "`OUTPUT` is a reserved word without a meaning yet",
     "remove it; write the HTTP endpoint, tool or action itself"),
    # ── Time
    (f"{GET} at 2025-12-31 {GET}", "E617", "at 2025-12-31", "the clock of a test cannot go back",
     "the clock is already at 2026-01-01T00:00:00Z: put earlier requests first"),
    (f"after 999999w {GET}", "E617", "999999w", "the clock cannot advance by `999999w`", "write a shorter duration"),
    # ── Tables
    ("cases { | request | body.amount | => | | GET /a | allow | }", "E613", "| GET /a | allow |",
     "this row has 2 cells instead of 3", "write one cell for each column, with the outcome in the last"),
    ("cases { | body.amount | => | | 5 | allow | }", "E613", "body.amount", "this table has no requests",
     "add a column `request` with the requests: `| request | … |`"),
    ("cases { | request | body.amount | => | }", "E613", "cases { | request | body.amount | => | }",
     "this table has no rows", "add a row: `| GET /a | … | allow |`"),
    ("cases { | request | => | | 5 | allow | }", "E613", "5", "`5` is not a request",
     "write a request such as `GET /path`"),
    ("cases { | request | body.amount | => | | GET /a | deny | deny | }", "E613", "deny",
     "`deny` is not a value of `body.amount`", 'write a string in quotes: `"deny"`'),
    ("cases { | request | body.amount | => | | GET /a | GET /b | deny | }", "E613", "GET /b",
     "`GET /b` is not a value of `body.amount`", "write requests in the column `request`"),
    ("cases { | request | => | | GET /a | 5 | }", "E613", "5", "`5` is not an outcome",
     "write an outcome in the last cell, such as `deny by default`"),
    ("cases { | request | request | => | | GET /a | GET /b | deny | }", "E613", "request",
     "the column `request` appears twice", "remove one of the two"),
    ("cases { | request | bdy.x | => | | GET /a | 5 | deny | }", "E602", "bdy.x", "unknown fact `bdy.x`", None),
    # ── Matrices
    ("cases for x in [1] { otherwise deny }", "E614", "x", "this matrix has no requests",
     "add an axis `request in [GET /a]`, or write requests in the braces"),
    ("cases for request in [GET /a] { GET /a => deny }", "E614", "request",
     "the requests are both an axis and written in the braces", "keep one of the two"),
    ("cases for x in [1] { GET /a => deny otherwise deny }", "E614", "deny", "`otherwise` applies to no cells",
     "remove it: each request already has an outcome"),
    ("cases for x in [1], x in [2] { GET /a => deny }", "E614", "x", "the axis `x` appears twice",
     "remove one of the two"),
    ("cases for x in [1, 1] { GET /a => deny }", "E614", "1", "`1` appears twice", "remove one of the two"),
    ("cases for x in [GET /a] { GET /a => deny }", "E613", "GET /a", "`GET /a` is not a value of `x`",
     "write requests in the column `request`"),
    ("cases for request in [GET /a, GET /b] { | GET /a | allow | }", "E615", "request in [GET /a, GET /b]",
     "one cell is not stated", "add a row `| GET /b | … |`, or `otherwise deny`"),
    ("cases for x in [1, 2], request in [GET /a] { | 1 | GET /a | deny | | 1 | GET /a | deny | otherwise deny }",
     "E615", "| 1 | GET /a | deny |", "this cell is stated twice", "remove one of the two"),
    ("cases for request in [GET /a] { | GET /b | deny | otherwise deny }", "E615", "GET /b",
     "`GET /b` is not on the axis `request`", "`request` must be one of GET /a"),
    ("cases for request in [GET /a] { | deny | otherwise deny }", "E613", "| deny |",
     "this row has one cell instead of 2", "write one cell for each column, with the outcome in the last"),
    ("cases for id in [1] { GET /i/{ide} => deny }", "E616", "{ide}", "`{ide}` is not a variable here",
     "did you mean `{id}`?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("inside", "code", "underlined", "message", "hint"), MISTAKES, ids=[f"{row[1]} {row[0][:50]}" for row in MISTAKES]
)
def test_each_mistake_in_a_test_is_reported(
    inside: str, code: str, underlined: str, message: str, hint: str | None
) -> None:
    found = told(errors(inside))
    if hint is None:
        found = [(*finding[:3], None) for finding in found]
    assert found == [(code, message, underlined, hint)]


@pytest.mark.parametrize(
    "inside",
    [
        'POST /a { body.amount: "900", user.plan: 5, credential.kind: [1], credential.lifetime: -5 } => deny',
        'GET /a { request.headers["X-Id"]: 5, request.query: { page: absent }, context["x-y"]: true } => allow',
        'given credential.claims { tenant: "x", "https://a.b/c": [1, { a: 2 }] } GET /a => allow',
        'given credential { issued_at: 2026-01-01, expires_at: "tomorrow", subject: 5 } GET /a => allow',
        'given body { amount: 5, card: { number: "1" } } POST /a => allow',
        "given body.card.number 5 POST /a => deny",
        'given resource invoice "42" given user user "alice" given agent "x" { groups: ["a"] } GET /a => allow',
        'given entities { user "a" { plan: free, manager: "b", roles: [] } in team "x", team "y" } GET /a => allow',
        'given entities { invoice "1" { owner: user "a", lines: { count: 1 } } } GET /a => allow',
        "given attestation { by: lab } given user absent given chain absent GET /a => allow",
        'GET|POST /a => not throttle GET "/a//b" => deny by malformed_path ACTION view invoice => deny',
        "cases for user.plan in [free, team], request in [GET /a, TOOL x] { otherwise deny }",
        'cases for n in [1, -2.5], m in ["x"] { given request.size n GET /i/{m} => deny }',
        "cases { | time | request | user.plan | => | | 2027-01-01 | GET /a | absent | allow | }",
    ],
)
def test_valid_givens_of_a_test_are_accepted(inside: str) -> None:
    assert told(errors(inside)) == []


def test_a_fixture_cycle_is_reported_where_it_closes() -> None:
    text = "anyone { may GET /a }\nfixture a { use b }\nfixture b { use c }\nfixture c { use a }\n"
    [finding] = check_text(text + 'test "t" { use a GET /a => allow }')
    assert told([finding]) == [
        ("E601", "the fixture `a` uses itself", "a", "move the shared givens into a third fixture")
    ]
    assert finding.span.line == 4


def test_an_unused_fixture_is_checked() -> None:
    found = check_text("anyone { may GET /a }\nfixture a { given body.x 5 }")
    assert [finding.code for finding in found] == ["E602"]


def test_duplicate_test_names_are_reported_with_both_places() -> None:
    [finding] = check_text('anyone { may GET /a } test "t" { GET /a => allow }\ntest "t" { GET /b => deny }')
    assert told([finding]) == [("E612", "two tests are named `t`", '"t"', "rename one of them")]
    assert [related.span.line for related in finding.related] == [1]


def test_an_unknown_http_method_is_a_warning() -> None:
    found = check_text('anyone { may GET /a } test "t" { GETT /a => deny }')
    assert told(found) == [("W321", "HTTP has no method `GETT`", "GETT /a", "did you mean `GET`?")]


def test_a_huge_matrix_is_rejected_with_its_size() -> None:
    numbers = ", ".join(map(str, range(101)))
    inside = f"cases for a in [{numbers}], b in [{numbers}] {{ GET /a => allow }}"
    [(code, message, _, hint)] = told(errors(inside))
    assert (code, message, hint) == ("E614", "this matrix has 10,201 cells; the limit is 10,000", "split the matrix")


@pytest.mark.parametrize(
    "text", ["anyone { may GET /b }", 'guard "g" { deny }', "users unrestricted", "enum a = b < c"]
)
def test_rules_in_a_test_file_are_rejected(text: str) -> None:
    policy, _ = parse(Source("a.policy", "anyone { may GET /a }"))
    tests, _ = parse(
        Source("a_test.policy", f'fixture f {{ given user "x" }}\ntest "t" {{ use f GET /a => allow }}\n{text}')
    )
    assert policy
    assert tests
    found = [finding for finding in check([policy, tests]).diagnostics if finding.code == "E620"]
    word = text.split()[0]
    hint = "move it to a policy file: a test file may contain only fixtures and tests"
    assert told(found) == [("E620", f"`{word}` is in a test file, which no engine loads", word, hint)]


def test_tests_are_not_checked_while_the_syntax_is_wrong() -> None:
    assert [
        f.code for f in check_text('fixture a { given body.x 5 }\nguard { deny }\ntest "t" { use b GET /a => allow }')
    ] == ["E101"]
