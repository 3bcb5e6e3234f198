"""What fools an author: rules that say less than they seem to; each lint beside what it leaves alone."""

from __future__ import annotations

import pytest

from policyengine.check import lint_text
from policyengine.diagnostics.model import Diagnostic

ASKED = "credential { kind in [jwt]   lifetime <= 15m }"
NEW = frozenset({"W461", "W462", "W463", "W464", "W465", "W466", "W554", "W560", "W561", "W562", "W563"})


def found(policy: str) -> list[Diagnostic]:
    diagnostics = lint_text(policy)
    assert [one.render() for one in diagnostics if one.is_error] == []
    return [one for one in diagnostics if one.code in NEW]


def told(policy: str) -> list[tuple[str, str]]:
    return [(one.code, bare(" ".join(one.span.text.split()))) for one in found(policy)]


def bare(text: str) -> str:
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


# ── Texts that callers write ──────────────────────────────────────────────────────────────────

TEXTS = """
facts on TOOL x/y { args.path: string   args.url: string   args.paths: set<string>   body.kind: string? }
entity user { home: string   roots: set<string> }
anyone { may TOOL x/y }
"""


def guarded(*items: str) -> str:
    return TEXTS + f'guard "g" on TOOL x/y {{ {"  ".join(items)} }}\n'


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (['require args.path like "drafts/*"'], 'args.path like "drafts/*"'),
        (['deny when args.path like "/secret/*.txt"'], 'args.path like "/secret/*.txt"'),
        (['require lower(args.path) like "drafts/*"'], 'lower(args.path) like "drafts/*"'),
        (['require starts_with(args.path, "drafts/")'], 'starts_with(args.path, "drafts/")'),
        (['require args.path matches "drafts/.*"'], 'args.path matches "drafts/.*"'),
        (['require args.path matches "drafts/[^/]*/.*"'], 'args.path matches "drafts/[^/]*/.*"'),
        (['require args.path matches "/srv/[a-z./]+"'], 'args.path matches "/srv/[a-z./]+"'),
        (['require args.path matches "/srv/data/.*\\\\.md"'], 'args.path matches "/srv/data/.*\\\\.md"'),
        (['require args.path like "/srv*"'], 'args.path like "/srv*"'),
        (['require starts_with(args.path, "/srv/data")'], 'starts_with(args.path, "/srv/data")'),
        (['require args.url like "https://x.example/public/*"'], 'args.url like "https://x.example/public/*"'),
        (['require (all p in args.paths: p like "drafts/*") and size(args.paths) > 0'], 'p like "drafts/*"'),
        (['confirm by user when not (args.path like "drafts/*")'], 'args.path like "drafts/*"'),
        (['require request.query.file like "drafts/*"'], 'request.query.file like "drafts/*"'),
    ],
)
def test_a_caller_path_that_can_escape_its_folder_is_reported(items: list[str], text: str) -> None:
    assert told(guarded(*items)) == [("W560", text)]


@pytest.mark.parametrize(
    "items",
    [
        ['require args.path like "drafts/*" and not contains(args.path, "..")'],
        ['require args.path like "drafts/*"', 'deny when args.path like "*..*"'],
        ['require args.path like "drafts-*"'],
        ['require args.path like "/*"'],
        ['require args.path like "image/*"'],
        ['require args.url like "https://x.example/*"'],
        ['require args.url like "https://*"'],
        ['require args.path matches "drafts/[a-z]+"'],
        ['require args.path matches "drafts/[^./]+\\\\.md"'],
        ['require args.path matches "[a-z]+/.*"'],
        ['require starts_with(args.path, "/")'],
        ['require user.home like "drafts/*"'],
        ['require (all p in user.roots: p like "drafts/*") and size(user.roots) > 0'],
        ['deny when request.path like "/drafts/*"'],
        ['audit full when args.path like "drafts/*"'],
    ],
)
def test_a_path_that_cannot_escape_or_is_checked_is_not_reported(items: list[str]) -> None:
    assert "W560" not in [code for code, _ in told(guarded(*items))]


def test_the_hint_for_a_path_that_bypasses_a_deny_is_another_deny() -> None:
    (one,) = found(guarded('deny when args.path like "secret/*"'))
    assert one.message == '`args.path like "secret/*"` is false for a path that reaches the folder through `..`'
    assert one.hint == 'deny such paths in a guard: `deny when contains(args.path, "..")`'


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ('require host(args.url) == "api.example"', 'host(args.url) == "api.example"'),
        ('deny unless "api.example" == host(args.url)', '"api.example" == host(args.url)'),
        ('deny when host(args.url) != "api.example"', 'host(args.url) != "api.example"'),
        ('require host(args.url) in ["a.example"]', 'host(args.url) in ["a.example"]'),
        ('require host(args.url) like "*.example"', 'host(args.url) like "*.example"'),
    ],
)
def test_a_host_check_without_a_scheme_check_is_reported(item: str, text: str) -> None:
    assert told(guarded(item)) == [("W561", text)]


@pytest.mark.parametrize(
    "item",
    [
        'require host(args.url) == "api.example" and args.url like "https://*"',
        'require host(args.url) == "api.example" and starts_with(lower(args.url), "https:")',
        'deny when host(args.url) == "evil.example"',
        'require host(user.home) == "api.example"',
    ],
)
def test_a_host_check_is_not_reported_with_a_scheme_check_or_in_a_deny(item: str) -> None:
    assert told(guarded(item)) == []


# ── Facts that are left out ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ('deny when body.kind is present and body.kind == "x"', "body.kind is present"),
        ('require body.kind is absent or body.kind == "x"', "body.kind is absent"),
        ('deny unless not (body.kind is present and body.kind != "x")', "body.kind is present"),
        ('deny when not (body.kind is absent) and body.kind == "x"', "not (body.kind is absent)"),
        ('require not (body.kind is present) or body.kind == "x"', "not (body.kind is present)"),
    ],
)
def test_a_presence_check_the_caller_can_avoid_is_reported(item: str, text: str) -> None:
    assert told(guarded(item)) == [("W554", text)]


def test_an_absence_check_in_a_grant_is_reported() -> None:
    policy = TEXTS + 'anyone { may TOOL x/z, TOOL x/y when body.kind is absent or body.kind == "x" }\n'
    assert ("W554", "body.kind is absent") in told(policy.replace("TOOL x/z, ", ""))


@pytest.mark.parametrize(
    "item",
    [
        "deny when body.kind is present",
        'require body.kind is present and body.kind == "x"',
        'deny when body.kind is absent or body.kind == "x"',
        'require body.kind is absent or user.home == "x"',
    ],
)
def test_a_presence_check_is_not_reported_when_alone_or_restrictive(item: str) -> None:
    assert told(guarded(item)) == []


# ── Guards beside wider doors ─────────────────────────────────────────────────────────────────


def beside(door: str, place: str, item: str = "deny when request.ip is absent") -> str:
    return f'anyone {{ may {door} }}\nguard "g" on {place} {{ {item} }}\n'


@pytest.mark.parametrize("door", ["TOOL *", 'TOOL "f*/read"'])
def test_a_guard_on_one_server_is_reported_when_a_grant_covers_any_server(door: str) -> None:
    assert told(beside(door, "TOOL fs/*")) == [("W562", "TOOL fs/*")]


@pytest.mark.parametrize(
    ("door", "place"),
    [
        ("TOOL fs/*", "TOOL fs/*"),
        ("TOOL *", "TOOL *"),
        ("TOOL *", "TOOL fs/write"),
        ("TOOL *", "TOOL fs/*, TOOL *"),
        ("TOOL fs/read, TOOL mail/*", "TOOL fs/*"),
    ],
)
def test_a_guard_on_one_server_is_not_reported_when_grants_cover_only_it(door: str, place: str) -> None:
    assert told(beside(door, place)) == []


@pytest.mark.parametrize(
    ("door", "place", "text"),
    [
        ("GET /a/**", "/a/admin", "/a/admin"),
        ("ANY /**", "POST /pay", "POST /pay"),
        ("GET /a/**", "GET /a/{id}", "GET /a/{id}"),
    ],
)
def test_a_guard_on_one_path_is_reported_when_a_grant_covers_paths_below(door: str, place: str, text: str) -> None:
    assert told(beside(door, place)) == [("W563", text)]


@pytest.mark.parametrize(
    ("door", "place"),
    [
        ("GET /a/**", "/a/admin/**"),
        ("GET /a/**", "/a/admin, /a/admin/**"),
        ("GET /a/admin, GET /a/other", "/a/admin"),
        ("GET /a/admin/x/**", "/a/admin"),
        ("GET /b/**", "/a/admin"),
        ("POST /a/**", "GET /a/admin"),
    ],
)
def test_a_guard_on_one_path_is_not_reported_when_no_grant_covers_paths_below(door: str, place: str) -> None:
    assert "W563" not in [code for code, _ in told(beside(door, place))]


def test_a_guard_with_only_obligations_is_not_reported() -> None:
    assert told(beside("GET /a/**", "/a/admin", "audit full")) == []


# ── Who may ask ───────────────────────────────────────────────────────────────────────────────

HOUSES = """
issuer login { url "https://login.acme.example" LOGIN }
issuer partner { url "https://id.partner.example" PARTNER }
scope a { GET /a }
scope b { GET /b }
entity user { org: string }
"""
AGENTS = f"""
agent "ours" {{ issued by login   acts for any user   {ASKED}   may a }}
agent "theirs" {{ issued by partner   acts alone   {ASKED}   may b }}
"""


def houses(users: str, login: str = "", partner: str = "", agents: str = AGENTS) -> str:
    return HOUSES.replace("LOGIN", login).replace("PARTNER", partner) + agents + users


def test_a_user_block_open_to_tokens_of_any_issuer_is_reported_at_the_later_issuer() -> None:
    (one,) = found(houses("user any { may a }\n"))
    assert (one.code, one.span.text) == ("W463", "partner")
    assert one.message == (
        "a token of `partner` without an agent gets the grants of `user any`, for any user of `login` that it names"
    )


@pytest.mark.parametrize(
    ("users", "login", "partner"),
    [
        ("user any { may a }", "", 'users like "*@partner.example"'),
        ("user any { may a }", 'users like "*@acme.example"', 'users like "*@partner.example"'),
        ('user where credential.issuer == "login" { may a }', "", ""),
        ('user any { may a when credential.issuer in ["login"] }', "", ""),
        ('user any { may a }\nguard "g" on a { deny unless credential.issuer == "login" }', "", ""),
        ("users unrestricted", "", ""),
    ],
)
def test_a_user_block_is_not_reported_when_the_policy_distinguishes_issuers(
    users: str, login: str, partner: str
) -> None:
    assert told(houses(f"{users}\n", login, partner)) == []


def test_overlapping_user_patterns_do_not_distinguish_issuers() -> None:
    told_of = told(houses("user any { may a }\n", 'users like "*"', 'users like "a*"'))
    assert told_of == [("W463", "partner")]


BOTH = f"""
agent "ours" {{ issued by login, partner   acts for any user   {ASKED}   may a WHEN }}
agent "theirs" {{ issued by partner   acts alone   {ASKED}   may b }}
"""


@pytest.mark.parametrize(
    ("login", "partner"),
    [("", ""), ('users like "*@acme.example"', 'users like "*"'), ('users like "a*"', 'users like "*b"')],
)
def test_an_agent_of_two_issuers_with_indistinguishable_users_is_reported(login: str, partner: str) -> None:
    policy = houses("user any { may a }\n", login, partner, BOTH.replace("WHEN", ""))
    assert told(policy) == [("W466", 'agent "ours"')]


@pytest.mark.parametrize(
    ("login", "partner", "when", "guard"),
    [
        ("", 'users like "*@partner.example"', "", ""),
        ('users like "*@acme.example"', 'users like "*@partner.example"', "", ""),
        ("", "", 'when agent.issuer == "login"', ""),
        ("", "", "", 'guard "g" on a { deny unless credential.issuer == "login" }'),
    ],
)
def test_an_agent_of_two_issuers_with_distinguished_users_is_not_reported(
    login: str, partner: str, when: str, guard: str
) -> None:
    policy = houses(f"user any {{ may a }}\n{guard}\n", login, partner, BOTH.replace("WHEN", when))
    assert "W466" not in [code for code, _ in told(policy)]


def test_issuers_of_agents_with_mtls_keys_are_not_reported() -> None:
    agents = AGENTS.replace(f"acts alone   {ASKED}", "acts alone   credential { kind in [mtls]   lifetime <= 15m }")
    assert told(houses("user any { may a }\n", agents=agents)) == []


def test_user_patterns_distinguish_the_agents_of_two_issuers() -> None:
    agents = AGENTS.replace("acts alone", "acts for any user").replace("may b", "may a")
    assert told(houses("user any { may a }\n", agents=agents)) == [("W462", "partner")]
    assert told(houses("user any { may a }\n", partner='users like "*@partner.example"', agents=agents)) == []


WHOEVER = f"""
issuer acme {{ url "https://a.example" SCOPES }}
scope a {{ GET /a }}
USERS
agent "NAME" {{ issued by acme   ACTS   {ASKED}   may a }}
"""


def whoever(name: str = "*", scopes: str = "scopes none", users: str = "users unrestricted", acts: str = "any") -> str:
    acting = "acts alone" if acts == "alone" else "acts for any user"
    parts = {"NAME": name, "SCOPES": scopes, "USERS": users, "ACTS": acting}
    policy = WHOEVER
    for word, text in parts.items():
        policy = policy.replace(word, text)
    return policy


def test_a_block_for_any_agent_and_any_user_without_scopes_is_reported() -> None:
    assert told(whoever()) == [("W464", 'agent "*"')]


@pytest.mark.parametrize(
    "who",
    [
        'agent.id like "*"', 'agent.id like "**"', 'agent.id matches ".*"', "agent.id is present", 'agent.id != ""',
        'starts_with(agent.id, "")', 'agent.id like "*" and agent.id is present',
        'agent.id == "a" or agent.id like "*"',
    ],
)  # fmt: skip
def test_an_agent_condition_that_every_agent_meets_is_reported(who: str) -> None:
    assert [code for code, _ in told(whoever().replace('agent "*"', f"agent where {who}"))] == ["W464"]


@pytest.mark.parametrize("who", ['agent.id like "a*"', 'agent.id like ""', 'agent.id like "*" and agent.id != "a"'])
def test_an_agent_condition_that_restricts_agents_is_not_reported(who: str) -> None:
    assert "W464" not in [code for code, _ in told(whoever().replace('agent "*"', f"agent where {who}"))]


@pytest.mark.parametrize(
    "changed", [{"name": "a*"}, {"scopes": ""}, {"users": "user any { may a }"}, {"acts": "alone"}]
)
def test_a_block_for_any_agent_with_a_restriction_is_not_reported(changed: dict[str, str]) -> None:
    assert told(whoever(**changed)) == []


SERVED = f"""
issuer acme {{ url "https://a.example" }}
scope a {{ GET /a }}
scope b {{ GET /b }}
agent "bot" {{ issued by acme   acts for ACTS   {ASKED}   may a   may b }}
"""


def served(users: str, acts: str = "any user") -> str:
    return SERVED.replace("ACTS", acts) + users


@pytest.mark.parametrize(
    ("users", "acts", "expected"),
    [
        ("user any { may a }", "any user", [("W461", "may b")]),
        ("user any { may GET /c when user.id == \"x\" }", "any user", None),
        ('user "bob" { may a, b }', 'users where user.id == "alice"',
         [("W465", 'acts for users where user.id == "alice"')]),
        ('user where user.id == "bob" { may a, b }', 'users where user.id == "alice"',
         [("W465", 'acts for users where user.id == "alice"')]),
        ('user "alice" { may a, b }', 'users where user.id == "alice"', []),
        ('user where user.id != "bob" { may a, b }', 'users where user.id == "alice"', []),
        ("user any { may a }\nanyone { may GET /b }", "any user", []),
    ],
)  # fmt: skip
def test_an_agent_grant_no_served_user_has_is_reported(
    users: str, acts: str, expected: list[tuple[str, str]] | None
) -> None:
    policy = served(f"{users}\n", acts)
    if expected is None:
        policy = policy.replace('"https://a.example"', '"https://a.example"   scopes none')
        expected = [("W465", "acts for any user")]
    assert told(policy) == expected


@pytest.mark.parametrize("rule", ["parent-folder", "any-scheme", "other-servers", "paths-below", "any-agent"])
def test_each_of_these_lints_can_be_allowed_by_a_comment(rule: str) -> None:
    policies = {
        "parent-folder": guarded('require args.path like "drafts/*"'),
        "any-scheme": guarded('require host(args.url) == "api.example"'),
        "other-servers": beside("TOOL *", "TOOL fs/*"),
        "paths-below": beside("GET /a/**", "/a/admin"),
        "any-agent": whoever(),
    }
    policy = policies[rule]
    (one,) = found(policy)
    lines = policy.splitlines()
    lines.insert(one.span.line - 1, f"# lint: allow {rule} because it is meant")
    assert told("\n".join(lines) + "\n") == []
