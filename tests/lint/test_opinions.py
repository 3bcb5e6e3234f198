"""What lint tells beside the check: exact message, underlined text and hint; and what it leaves alone."""

from __future__ import annotations

import pytest

from policyengine.check import check_text, lint_text
from policyengine.diagnostics.model import Diagnostic

ISSUER = 'issuer acme { url "https://login.acme.example"  scopes none }\n'
BOT = "users unrestricted\n" + ISSUER
ASKED = "credential { kind in [jwt]  lifetime <= 15m }"
CHAINED = 'users unrestricted\nissuer acme { url "https://a"  records chains }\nscope a { GET /a }\n'
FACTS = "facts { body.amount: number?  body.kind: string?  args.force: bool? }\nentity user { tier: number? }\n"
DOOR = "anyone { may GET /a }\n"


def found(policy: str) -> list[Diagnostic]:
    assert [one.render() for one in check_text(policy)] == []
    return lint_text(policy)


def told(policy: str) -> list[tuple[str, str, str, str | None]]:
    return [(one.code, one.message, one.span.text, one.hint) for one in found(policy)]


def codes(policy: str) -> list[str]:
    return [one.code for one in found(policy)]


def bot(credential: str = ASKED, items: str = "may GET /a", name: str = '"bot"') -> str:
    return f"agent {name} {{ issued by acme  acts alone  {credential}  {items} }}\n"


def planner(items: str) -> str:
    helper = f'agent "helper" {{ issued by acme  acts for any user  {ASKED}  may a }}\n'
    return CHAINED + f'agent "planner" {{ issued by acme  acts for any user  {ASKED}  may a  {items} }}\n' + helper


# ── Credentials ───────────────────────────────────────────────────────────────────────────────

KINDS_ONLY = BOT + bot("credential { kind in [jwt] }")
LIFETIME_ONLY = BOT + bot("credential { lifetime <= 15m }")


def test_an_agent_without_a_credential_lifetime_is_reported_at_its_head() -> None:
    message = 'a credential of `agent "bot"` may never expire'
    hint = "add `credential { lifetime <= 15m }`: a stolen credential then expires soon"
    assert told(KINDS_ONLY) == [("W456", message, 'agent "bot"', hint)]


def test_an_agent_that_accepts_any_credential_kind_is_reported_at_its_head() -> None:
    message = '`agent "bot"` accepts any kind of credential, including static keys'
    hint = "add `credential { kind in [jwt, mtls] }`"
    assert told(LIFETIME_ONLY) == [("W457", message, 'agent "bot"', hint)]


@pytest.mark.parametrize("kind", ["api_key", "basic"])
def test_an_accepted_static_key_kind_is_reported_at_the_kinds(kind: str) -> None:
    ((code, message, text, hint),) = told(BOT + bot(f"credential {{ kind in [jwt, {kind}]  lifetime <= 15m }}"))
    assert (code, text) == ("W457", f"kind in [jwt, {kind}]")
    assert message == f'`agent "bot"` accepts `{kind}`, a credential that anyone who has seen it can use'
    assert hint == f"remove `{kind}`, and issue tokens that expire"


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(BOT + bot("credential { kind in [jwt]  age <= 5m }"), id="an age"),
        pytest.param(BOT + bot("credential { bound  lifetime <= 15m }"), id="bound"),
        pytest.param(
            KINDS_ONLY + 'guard "g" { require credential.lifetime <= 1h message "too long" }', id="a guard everywhere"
        ),
        pytest.param(
            KINDS_ONLY + 'guard "g" on /a { require credential.lifetime <= 1h message "too long" }', id="a guard there"
        ),
        pytest.param(
            LIFETIME_ONLY + 'guard "g" { deny when credential.kind == api_key message "no keys" }',
            id="a guard on kinds",
        ),
        pytest.param(LIFETIME_ONLY + 'guard "g" { require credential.bound message "unbound" }', id="a guard on bound"),
    ],
)
def test_a_sufficiently_restricted_credential_is_not_reported(policy: str) -> None:
    assert codes(policy) == []


@pytest.mark.parametrize(
    "guard",
    [
        pytest.param('guard "g" on /a/b { require credential.lifetime <= 1h message "too long" }', id="elsewhere"),
        pytest.param('guard "g" on /** except GET /a { require credential.lifetime <= 1h message "x" }', id="except"),
        pytest.param('guard "g" { audit full when credential.lifetime > 1h }', id="which only records"),
    ],
)
def test_a_guard_on_only_some_grants_does_not_replace_a_credential_lifetime(guard: str) -> None:
    doors = bot("credential { kind in [jwt] }", "may GET /a, GET /a/b")
    assert codes(BOT + doors + guard) == ["W456"]


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def test_a_double_star_in_a_may_is_reported() -> None:
    message = "`anyone` may use every endpoint that `GET /a/**` will ever cover"
    hint = "name the endpoints, so that a new endpoint stays closed until it is reviewed"
    assert told("anyone { may GET /a/** }") == [("W458", message, "GET /a/**", hint)]


def test_a_double_star_in_a_scope_with_several_grants_is_reported_once() -> None:
    scope = 'issuer acme { url "https://a" }\nscope all_a { GET /a/** }\nusers unrestricted\n'
    policy = scope + bot(items="may all_a") + bot(items="may all_a", name='"archivist"')
    assert [one[:3:2] for one in told(policy)] == [("W458", "GET /a/**")]


@pytest.mark.parametrize(
    ("door", "wide"),
    [("TOOL *", True), ("TOOL mail/*", False), ("GET /a/*", False), ("GET /a/{id}", False), ("ANY /**", True)],
)
def test_only_wide_patterns_in_a_grant_are_reported(door: str, wide: bool) -> None:
    assert codes(f"anyone {{ may {door} }}") == ["W458"] * wide


def test_a_double_star_in_a_scope_only_guards_use_is_not_reported() -> None:
    policy = 'scope all_a { GET /a/** }\nguard "g" on all_a { deny when request.size > 9 message "too large" }\n'
    assert codes(policy + DOOR) == []


SERVED = 'issuer acme { url "https://a" }\nscope a { GET /a }\nscope b { GET /b }\n'
SERVANT = f'agent "bot" {{ issued by acme  acts for any user  {ASKED}  may a  may b }}\n'


def test_an_agent_grant_without_a_user_grant_is_reported() -> None:
    message = 'no user block grants any of this, so `agent "bot"` is always denied here'
    hint = "grant it in a `user` block too, or remove it"
    assert told(SERVED + SERVANT + "user any { may b }\n") == [("W461", message, "may a", hint)]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param("user any { may a, b }\n", id="users may"),
        pytest.param('user "ada" { may GET /a }\nuser "bob" { may b }\n', id="each of them one"),
        pytest.param("user any { may b }\nanyone { may GET /a }\n", id="anyone may"),
        pytest.param("users unrestricted\n", id="users are unrestricted"),
    ],
)
def test_an_agent_grant_that_users_have_is_not_reported(more: str) -> None:
    assert codes(SERVED + SERVANT + more) == []


@pytest.mark.parametrize(
    ("alias", "carried"),
    [("read:a", True), ("https://acme.example/a", True), ("läs", False), ('a\\"b', False), ("a\\\\b", False)],
)
def test_a_scope_alias_invalid_in_oauth_tokens_is_reported(alias: str, carried: bool) -> None:
    policy = SERVED.replace("scope a {", f'scope a as "{alias}" {{') + SERVANT + "user any { may a, b }\n"
    assert codes(policy) == ["W352"] * (not carried)


# ── Handing on ────────────────────────────────────────────────────────────────────────────────


def test_an_unlimited_delegation_depth_is_reported_once() -> None:
    policy = planner('may delegate a to agent "helper" for 5m  may delegate a to agent "planner" for 5m')
    hint = "add `delegation { depth <= 3   lifetime <= 1h   no cycles }`"
    expected = 'may delegate a to agent "helper" for 5m'
    assert told(policy) == [("W459", "no limit on the number of agents in a delegation chain", expected, hint)]


def test_a_delegation_without_a_lifetime_is_reported() -> None:
    policy = planner('may delegate a to agent "helper"') + "delegation { depth <= 3 }\n"
    hint = "add `for 30m`, or a limit for all chains: `delegation { lifetime <= 1h }`"
    assert told(policy) == [("W460", "this delegation never expires", 'may delegate a to agent "helper"', hint)]


def test_delegation_limits_for_all_chains_are_sufficient() -> None:
    assert codes(planner('may delegate a to agent "helper"') + "delegation { depth <= 3  lifetime <= 1h }\n") == []


# ── Guards ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rule", ["require request.size < 9", "deny when request.size > 9", "deny"])
def test_a_denial_without_a_message_is_reported(rule: str) -> None:
    hint = 'add `message "…"` that says what is wrong and what to do'
    message = "guard `g` denies without a message for the caller"
    policy = f'guard "g" on POST /a {{ {rule} }}\nanyone {{ may GET|POST /a }}\n'
    assert told(policy) == [("W552", message, rule, hint)]


def asking(rest: str) -> str:
    facts = "facts { body.amount: number?  body.note: string? }\n"
    return (
        f'issuer acme {{}}\nentity user {{ roles: set<string> }}\n{facts}guard "g" {{ confirm by role boss {rest} }}\n'
        + DOOR
    )


def test_an_approval_without_a_time_limit_is_reported() -> None:
    rule = 'message "pay {body.amount}, {body.note}"'
    hint = "add `within 15m`: later, the facts may have changed"
    assert told(asking(rule)) == [
        ("W553", "an approval of `g` counts for 1d, the default", f"confirm by role boss {rule}", hint)
    ]


@pytest.mark.parametrize(
    "rest",
    ["", 'message "may it?"', 'message "{user.id} from {request.ip}, {request.host}, {tool.name} and {agent.id}"'],
)
def test_a_confirm_message_without_a_request_fact_is_reported(rest: str) -> None:
    rule = f"within 15m when body.amount > 9 and body.note is absent {rest}"
    message = "approvers of `g` see nothing of the request that they approve"
    hint = 'show it in the message: `message "refund of {body.amount} to {body.recipient}"`'
    assert told(asking(rule)) == [("W557", message, f"confirm by role boss {rule}".rstrip(), hint)]


@pytest.mark.parametrize(
    "shown", ["body.amount", "request.path", 'request.query["id"]', 'request.headers["x-id"]', 'args["x-id"]']
)
def test_a_confirm_message_with_a_request_fact_is_not_reported(shown: str) -> None:
    text = shown.replace('"', '\\"')
    rest = f'within 15m when body.amount > 9 and body.note is absent message "{{{text}}}"'.replace("\\\\", "\\")
    assert codes(asking(rest)) == []


@pytest.mark.parametrize("bound", ["body", "body except body.trace", "body.note, request.query"])
def test_a_fact_only_bound_by_an_approval_counts_as_read_when_named(bound: str) -> None:
    rest = f'within 15m bound to ({bound}) when body.amount > 9 message "pay {{body.amount}}"'
    assert codes(asking(rest)) == (["W262"] if "note" not in bound else [])


# ── Defaults ──────────────────────────────────────────────────────────────────────────────────

HINT = (
    "remove `else`: an absent fact is then unknown, "
    "and an unknown fact neither grants access nor keeps a rule from acting"
)


def test_a_default_that_opens_a_grant_is_reported() -> None:
    policy = FACTS + "anyone { may GET /a when (body.amount else 0) <= 100 and not (args.force else false)\n"
    policy += '  and (body.kind else "x") == "y" }\n'
    assert told(policy) == [
        ("W554", "omitting `body.amount` makes this grant apply", "(body.amount else 0)", HINT),
        ("W554", "omitting `args.force` makes this grant apply", "(args.force else false)", HINT),
    ]


def test_a_default_that_keeps_a_guard_from_acting_is_reported() -> None:
    rules = [
        "deny when (body.amount else 0) > 100",
        "require (body.amount else 0) <= 100",
        "deny when args.force else false",
        'deny unless (body.kind else "small") == "small"',
    ]
    for rule in rules:
        ((code, message, _, hint),) = told(FACTS + f'guard "g" {{ {rule} message "no" }}\n' + READ + DOOR)
        assert (code, hint) == ("W554", HINT)
        assert message.endswith("` keeps `g` from acting")


READ = 'guard "reads" { audit full when body.amount > 1 or body.kind == "a" or args.force }\n'


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("deny when (body.amount else 1_000) > 100", id="the default denies"),
        pytest.param("require (body.amount else 1_000) <= 100", id="the default fails"),
        pytest.param("deny when (user.tier else 0) > 100", id="no fact of the caller"),
        pytest.param("deny when (body.amount else 0) > (user.tier else 5)", id="another fact decides, too"),
        pytest.param("deny when body.amount > 100", id="no default"),
    ],
)
def test_a_default_the_caller_cannot_exploit_is_not_reported(rule: str) -> None:
    assert codes(FACTS + f'guard "g" {{ {rule} message "no" }}\n' + READ + DOOR) == []


def test_a_default_in_a_definition_is_reported_where_it_is_written() -> None:
    policy = FACTS + "define small = (body.amount else 0) <= 100\nanyone { may GET /a when small }\n" + READ
    assert [one[:3:2] for one in told(policy)] == [("W554", "(body.amount else 0)")]


# ── Absence ───────────────────────────────────────────────────────────────────────────────────

PAY = "facts on POST /pay, TOOL pay { body.note: string?   body.amount: number? }\n"
DOORS = "anyone { may POST /pay, TOOL pay }\n"
READS = 'guard "reads" on POST /pay { audit full when body.note == "a" or body.amount > 1 }\n'


@pytest.mark.parametrize(
    ("rule", "fact", "then"),
    [
        ('guard "g" on POST /pay { deny when body.note is present message "no" }', "body.note", "`g` acts"),
        ('guard "g" on POST /pay { require body.note is absent message "no" }', "body.note", "`g` acts"),
        ('guard "g" on POST /pay { deny when body.note is present and body.note == "x" message "no" }', "body.note",
         "`g` acts"),
        ('guard "g" { deny when request.headers["x-a"] is present message "no" }', 'request.headers["x-a"]',
         "`g` acts"),
        ('issuer a {}  guard "g" on POST /pay { confirm by role r within 5m when body.note is present }', "body.note",
         "`g` acts"),
        ("anyone { may POST /pay when body.note is absent }", "body.note", "this `may` grants nothing"),
        ("rate \"r\" per request.ip on POST /pay when body.note is present { 5/1m }", "body.note", "`r` acts"),
    ],
)  # fmt: skip
def test_a_rule_that_depends_on_an_unforwarded_fact_being_absent_is_reported(rule: str, fact: str, then: str) -> None:
    policy = f"entity user {{ roles: set<string> }}\n{PAY}{DOORS}{READS}{rule}\n"
    message = f"a gateway may omit `{fact}`: whether the fact is present is then unknown, and {then}"
    assert [(code, text) for code, text, *_ in told(policy) if code == "W559"] == [("W559", message)]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(f'{PAY}{DOORS}guard "g" on POST /pay {{ require body.note is present }}', id="absence stops it"),
        pytest.param(f'{PAY}{DOORS}guard "g" on POST /pay {{ audit full when body.note is present }}', id="a duty"),
        pytest.param(f'{PAY}{DOORS}guard "g" on TOOL pay {{ deny when body.note is present }}', id="only of a tool"),
        pytest.param(
            'facts on TOOL pay { args.note: string? }\nanyone { may TOOL pay }\n'
            'guard "g" on TOOL pay { deny when args.note is present }', id="facts of tools",
        ),
        pytest.param(
            'facts { body.note: string? }\nanyone { may TOOL pay }\nguard "g" { deny when body.note is present }',
            id="no door over HTTP",
        ),
        pytest.param(f'{PAY}{DOORS}guard "g" {{ deny when request.query["a"] is present }}', id="the query is known"),
        pytest.param(f'{PAY}{DOORS}guard "g" on POST /pay {{ deny when body.note != "x" }}', id="a comparison"),
    ],
)  # fmt: skip
def test_a_rule_unaffected_by_gateway_forwarding_is_not_reported(policy: str) -> None:
    assert "W559" not in codes(policy)


# ── Lost reports ──────────────────────────────────────────────────────────────────────────────

ADD_DEFAULT = "write `sum (past.output.n else 4_000)`, with the largest value that a request can have"
STAND_IN = "write `distinct (past.status else …)`, with a value that stands for the requests without a report"


def outcomes_read(condition: str) -> list[tuple[str, str, str, str | None]]:
    return [one for one in told(f'{DOOR}guard "g" on GET /a {{ require {condition} }}') if one[0] == "W564"]


@pytest.mark.parametrize(
    ("condition", "message", "fact", "hint"),
    [
        ("sum past.output.n of GET /a within 1h < 5", "sum", "past.output.n", ADD_DEFAULT),
        ("1 + sum past.output.n of (GET /a where past.status is present) within 1h < 5", "sum", "past.output.n",
         ADD_DEFAULT),
        ("distinct past.status of GET /a within 1h < 5", "number", "past.status", STAND_IN),
    ],
)  # fmt: skip
def test_a_sum_that_one_lost_report_makes_unknown_is_reported(
    condition: str, message: str, fact: str, hint: str
) -> None:
    text = f"one request without a report of `{fact}` makes this {message} unknown"
    assert outcomes_read(condition) == [("W564", text, fact, hint)]


@pytest.mark.parametrize(
    "condition",
    [
        "sum (past.output.n else 0) of GET /a within 1h < 5", "count of GET /a within 1h < 5",
        "sum past.output.n of (GET /a where past.status is present and past.output.n is present) within 1h < 5",
        "distinct past.request.ip of GET /a within 1h < 5", "distinct (past.status else 0) of GET /a within 1h < 5",
    ],
)  # fmt: skip
def test_a_sum_that_a_lost_report_leaves_known_is_not_reported(condition: str) -> None:
    assert outcomes_read(condition) == []


# ── Names ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        pytest.param(
            BOT + bot() + bot(items="may GET /b", name='"BOT"'),
            "the agent `BOT` looks like `bot`", id="agents",
        ),
        pytest.param(
            'entity user { user_id: string  user_ld: string  userid: string }\n' + DOOR, None, id="l and i in small"
        ),
        pytest.param(
            "entity user { tier1: string  tierl: string }\n" + DOOR,
            "the attribute `tierl` looks like `tier1`", id="1 and l",
        ),
        pytest.param(
            "enum plan = pro0 < proO\nentity user { plan: plan }\n" + DOOR,
            "the value `proO` looks like `pro0`", id="0 and O",
        ),
        pytest.param(
            "scope a.read { GET /a }\nscope a_read { GET /b }\nanyone { may a.read, a_read }\n",
            "the scope `a_read` looks like `a.read`", id="separators",
        ),
        pytest.param(
            'guard "Small" { deny when request.size > 9 message "a" }\n'
            'guard "small" { deny when request.size > 8 message "b" }\n' + DOOR,
            "the guard `small` looks like `Small`", id="guards",
        ),
    ],
)  # fmt: skip
def test_lint_reports_look_alike_names(policy: str, message: str | None) -> None:
    assert [one.message for one in lint_text(policy) if one.code == "W264"] == ([message] if message else [])


def test_equal_names_are_not_look_alikes() -> None:
    assert codes(BOT + bot() + bot(items="may GET /b")) == []


# ── What nothing reads ────────────────────────────────────────────────────────────────────────


def test_a_fact_no_rule_reads_is_reported() -> None:
    policy = 'facts { body.a: int  body.b: int }\nguard "g" { audit full when body.a > 1 }\n' + DOOR
    hint = "remove it: readers expect a policy to use the facts that it declares"
    assert told(policy) == [("W262", "no rule reads `body.b`", "body.b", hint)]


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param('guard "g" { deny when request.size > 9 message "{body.b}" }', id="in a message"),
        pytest.param('guard "g" { redact body.b }', id="redacted"),
        pytest.param('guard "g" { audit full when body.b is present }', id="asked for"),
        pytest.param('scope t { TOOL t with body.b = args.n }\nfacts on TOOL t { args.n: int }\nanyone { may t }',
                     id="bound"),
        pytest.param("define large = body.b > 5\nanyone { may GET /b when large }", id="through a definition"),
    ],
)  # fmt: skip
def test_a_fact_that_something_reads_is_not_reported(rule: str) -> None:
    assert "W262" not in codes(f"facts {{ body.b: int? }}\n{rule}\n{DOOR}")


def test_a_fact_only_tests_use_is_reported() -> None:
    policy = "facts { body.b: int }\n" + DOOR + 'test "t" { GET /a { body.b: 1 } => allow }\n'
    assert codes(policy) == ["W262"]


def test_an_unused_issuer_or_attester_is_reported() -> None:
    more = 'issuer old { url "https://old" }\nattester lab { age <= 1h }\n'
    assert [one[:2] for one in told(BOT + bot() + more)] == [
        ("W263", "no agent block requires the issuer `old`"),
        ("W263", "no agent block requires the attester `lab`"),
    ]


def test_an_issuer_that_vouches_for_no_approver_is_reported() -> None:
    policy = asking('from acme within 5m when body.note is absent message "{body.amount}"')
    more = 'issuer old { url "https://old" }\n'
    assert [one[:2] for one in told(policy + more)] == [("W263", "no agent block requires the issuer `old`")]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param('export issuer old { url "https://old" }\n' + DOOR, id="exported"),
        pytest.param('issuer old { url "https://old"  scopes none }\nuser any { may GET /a }\n', id="for users"),
        pytest.param(asking('within 5m when body.note is absent message "{body.amount}"'), id="for approvers"),
        pytest.param(
            asking('from acme within 5m when body.note is absent message "{body.amount}"'), id="for named approvers"
        ),
        pytest.param(
            'attester lab { age <= 1h }\nguard "g" { require attestation.by == "lab" message "no" }\n' + DOOR,
            id="named",
        ),
        pytest.param(
            'attester lab { age <= 1h }\nguard "g" { require attestation.by in ["lab"] message "no" }\n' + DOOR,
            id="listed",
        ),
    ],
)
def test_a_possibly_used_issuer_or_attester_is_not_reported(policy: str) -> None:
    assert codes(policy) == []


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────


def test_a_repeated_test_request_is_reported_with_the_first() -> None:
    (one,) = found(DOOR + 'test "t" { GET /a => allow   GET /b => deny   GET /a => allow }\n')
    assert (one.code, one.message) == ("W652", "this test already contains this request, with the same facts and state")
    assert one.span.text == "GET /a => allow"
    assert one.related[0].span.start < one.span.start


@pytest.mark.parametrize(
    "second",
    [
        pytest.param("GET /a { request.size: 3 } => allow", id="with a fact"),
        pytest.param("GET /a => not deny", id="expects something else"),
        pytest.param("after 5s GET /a => allow", id="later"),
        pytest.param("given request { size: 3 }  GET /a => allow", id="in another world"),
    ],
)
def test_a_test_request_with_a_difference_is_not_a_repetition(second: str) -> None:
    assert codes(DOOR + f'test "t" {{ GET /a => allow   {second} }}\n') == []


def test_a_test_request_after_a_spent_approval_is_not_a_repetition() -> None:
    policy = asking('within 5m when body.note is absent message "pay {body.amount}"')
    shots = 'GET /a { approval: { rule: "g", by: "x" } } => confirm   GET /a => confirm   GET /a => confirm'
    assert codes(policy + f'test "t" {{ {shots} }}\n') == []


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param('rate "r" per request.ip { 2/1m }\n', id="counted"),
        pytest.param(
            'guard "g" on /a { deny when count of (GET /a by any user) within 1h > 1 message "no" }\n', id="remembered"
        ),
    ],
)
def test_with_limits_or_history_only_a_repeated_sequence_is_a_repetition(rule: str) -> None:
    twice = 'test "one" { GET /a => allow   GET /a => allow   GET /b => deny }\n'
    assert codes(DOOR + rule + twice) == []
    assert codes(DOOR + rule + twice + 'test "two" { GET /b => deny }\n') == []
    assert codes(DOOR + rule + twice + twice.replace("one", "two")) == ["W652"]
    assert codes(DOOR + rule + twice + 'test "two" { GET /a => allow   GET /a => allow }\n') == ["W652"]


def test_a_test_contained_in_another_test_is_reported_at_its_name() -> None:
    tests = 'test "one" { GET /a => allow   GET /b => deny }\ntest "two" { GET /b => deny }\n'
    message = "every request of this test is also in test `one`, with the same facts and state"
    assert [one[:3] for one in told(DOOR + tests)] == [("W652", message, '"two"')]


def test_the_later_of_two_equal_tests_is_reported() -> None:
    tests = 'test "one" { GET /a => allow }\ntest "two" { GET /a => allow }\n'
    assert [one.span.text for one in found(DOOR + tests)] == ['"two"']


def test_tests_that_only_share_a_request_are_not_reported() -> None:
    tests = 'test "one" { GET /a => allow   GET /c => deny }\ntest "two" { GET /a => allow   GET /b => deny }\n'
    assert codes(DOOR + tests) == []


def test_an_untested_endpoint_is_reported_when_the_rule_is_enabled() -> None:
    policy = "anyone { may GET|POST /a/{id}, TOOL mail/*, ACTION view note }\nentity note\n"
    policy += 'test "t" { POST /a/7 => allow   ACTION view note "7" => allow   GET "/a//b" => deny }\n'
    assert lint_text(policy) == []
    assert [(one.code, one.message, one.span.text) for one in lint_text(policy, ("W653",))] == [
        ("W653", "no test covers `TOOL mail/*`", "TOOL mail/*")
    ]


# ── Scopes that are used through others: never told ───────────────────────────────────────────


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("scope a { GET /a }\nscope b { include a }\nanyone { may b }", id="included"),
        pytest.param("scope b { include a }\nscope a { GET /a/{a} }\nanyone { may b }", id="beforehand"),
        pytest.param("scope a { GET /a }\nscope b { include a }\nscope c { include b }\nanyone { may c }", id="twice"),
        pytest.param(
            "scope a.r { GET /a }\nscope a.w { include a.r  POST /a }\nfacts on a.r { body.x: int }\n"
            'guard "g" on a.r { audit full when body.x > 1 }\nanyone { may a.w }',
            id="with facts of its own",
        ),
        pytest.param("scope a { GET /a }\nexport scope b { include a }", id="by an exported one"),
    ],
)
def test_a_scope_granted_through_another_scope_is_not_reported(policy: str) -> None:
    assert [one.code for one in check_text(policy)] == []
