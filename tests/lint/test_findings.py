"""What is allowed and hardly meant: exact code, message, underlined text and hint."""

from __future__ import annotations

import pytest

from policyengine import lint
from policyengine.check import check, check_text
from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source
from policyengine.syntax.parse import parse

ISSUER = 'issuer acme { url "https://login.acme.example"  scopes none }\n'
BOT = "users unrestricted\n" + ISSUER
OURS = frozenset(
    "W260 W350 W351 W422 W450 W451 W452 W453 W454 W455 W550 W551 W650 E651".split()
)  # fmt: skip


def found(policy: str) -> list[Diagnostic]:
    diagnostics = check_text(policy)
    assert [d.render() for d in diagnostics if d.is_error and d.code not in OURS] == []
    return [d for d in diagnostics if d.code in OURS]


def told(policy: str) -> list[tuple[str, str, str, str | None]]:
    return [(d.code, d.message, d.span.text, d.hint) for d in found(policy)]


def bot(items: str, name: str = '"bot"') -> str:
    return f"agent {name} {{ issued by acme  acts alone  {items} }}\n"


SCOPE = 'issuer acme { url "https://a" }\nscope a { GET /a }\nusers unrestricted\n'
ROLES = "entity user { roles: set<string> }\n"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param("let a = 1", ("W260", "let `a` is never used", "a", "remove it"), id="let"),
        pytest.param("define a = 1 < 2", ("W260", "define `a` is never used", "a", "remove it"), id="define"),
        pytest.param("enum a = b < c", ("W260", "enum `a` is never used", "a", "remove it"), id="enum"),
        pytest.param("entity a in a", ("W260", "entity `a` is never used", "a", "remove it"), id="entity in itself"),
        pytest.param(
            "enum a = b < c\nentity user { a: string }",
            ("W260", "enum `a` is never used", "a", "remove it"),
            id="a field of the same name",
        ),
        pytest.param(
            "fixture a { given credential { bound: true } }",
            ("W650", "fixture `a` is never used", "a", "use it in a test, or remove it"),
            id="fixture",
        ),
        pytest.param(
            SCOPE + bot('may a  may delegate a to agent "helpre"') + bot("may a", '"helper"'),
            ("W422", "no agent block names `helpre`", '"helpre"', "did you mean `helper`?"),
            id="handed to nobody",
        ),
        pytest.param(
            "scope a.read { GET /a }",
            ("W351", "no block grants scope `a.read`", "a.read", "grant the scope with `may a.read`, or remove it"),
            id="scope",
        ),
        pytest.param(
            "scope a.read { GET /a }\nfacts on a.read { body.x: int }",
            ("W351", "no block grants scope `a.read`", "a.read", "grant the scope with `may a.read`, or remove it"),
            id="a scope with facts only",
        ),
        pytest.param(
            "anyone { may GET|HEAD /a }",
            ("W350", "`HEAD` is decided as `GET`", "HEAD", "write `GET`: it covers both"),
            id="HEAD",
        ),
        pytest.param(
            BOT + bot(""),
            ("W453", "this agent block grants nothing", '"bot"', "add `may …`, or remove the block"),
            id="an agent without a door",
        ),
        pytest.param(
            BOT + bot("may GET /a") + "user any { may GET /a }",
            (
                "W454",
                "`users unrestricted` lets the agents of `main` bypass its user blocks",
                "users unrestricted",
                "keep `users unrestricted` or the user blocks: "
                "with both, user blocks apply only to users without an agent",
            ),
            id="unrestricted",
        ),
        pytest.param(
            "anyone { }", ("W455", "this `anyone` block is empty", "anyone { }", "fill it, or remove it"), id="anyone"
        ),
        pytest.param(
            'user "a" { }', ("W455", "this `user` block is empty", 'user "a" { }', "fill it, or remove it"), id="user"
        ),
        pytest.param(
            "facts { }", ("W455", "this `facts` block is empty", "facts { }", "fill it, or remove it"), id="facts"
        ),
        pytest.param(
            BOT + bot("credential { }  may GET /a"),
            ("W455", "this `credential` block is empty", "credential { }", "fill it, or remove it"),
            id="credential",
        ),
        pytest.param(
            'guard "a" { }',
            ("W550", "guard `a` does nothing", '"a"', "add `deny`, `require`, `confirm` or an obligation"),
            id="guard",
        ),
        pytest.param(
            'test "a" { given credential { bound: true } }',
            ("E651", "test `a` checks nothing", '"a"', "add a request: `GET /a => allow`"),
            id="test",
        ),
        pytest.param(
            ROLES + 'anyone { may GET /a when all r in user.roles: r like "eu-*" }',
            (
                "W451",
                "an empty `user.roles` lets this open: `all` is true for an empty set",
                'all r in user.roles: r like "eu-*"',
                "add `size(user.roles) > 0 and` if it must contain an element",
            ),
            id="all in a may",
        ),
        pytest.param(
            ROLES + 'guard "a" { require all r in user.roles: r like "eu-*" }',
            (
                "W551",
                "an empty `user.roles` lets this pass: `all` is true for an empty set",
                'all r in user.roles: r like "eu-*"',
                "add `size(user.roles) > 0 and` if it must contain an element",
            ),
            id="all in a require",
        ),
        pytest.param(
            BOT + "delegation { depth <= 3 }\n" + bot("may GET /a"),
            (
                "W452",
                "issuer `acme` does not record chains, so all its agents fail the depth limit",
                "acme",
                "add `records chains` if the issuer records them",
            ),
            id="chains",
        ),
    ],
)
def test_a_probable_mistake_is_reported(policy: str, expected: tuple[str, str, str, str | None]) -> None:
    assert told(policy) == [expected]


STRICT = "credential { kind in [jwt, mtls]  lifetime <= 15m  bound }  may GET /a/**"
HINT = "require it in both blocks, or in a guard if it must hold for every caller"


@pytest.mark.parametrize(
    ("lax", "missing"),
    [
        pytest.param("may GET /a/b", "kind in [jwt, mtls]", id="nothing asked"),
        pytest.param("credential { kind in [jwt]  lifetime <= 15m }  may GET /a/b", "bound", id="one thing less"),
        pytest.param(
            "credential { kind in [jwt]  lifetime <= 20m  bound }  may GET /a/b", "lifetime <= 15m", id="longer"
        ),
        pytest.param(
            "credential { kind in [jwt, api_key]  lifetime <= 5m  bound }  may GET /a/b",
            "kind in [jwt, mtls]",
            id="more",
        ),
    ],
)
def test_a_laxer_block_for_the_same_agent_is_reported_at_its_grant(lax: str, missing: str) -> None:
    (finding,) = found(BOT + bot(STRICT) + bot(lax))
    message = f'`agent "bot"` grants this without `{missing}`, which another block for the same agent requires'
    assert (finding.code, finding.message, finding.hint) == ("W450", message, HINT)
    assert (finding.span.text, [r.span.text for r in finding.related]) == ("may GET /a/b", [missing])


ATTESTERS = 'attester lab { model "small"  sha256:9f2c41 }\nattester shop { model "large"  sha256:9f2c42 }\n'


@pytest.mark.parametrize(
    ("strict", "lax", "asked"),
    [
        ("credential { kind in [jwt, mtls] }", "credential { kind in [jwt, api_key] }", "credential { kind in [jwt] }"),
        ("credential { lifetime <= 15m }", "credential { lifetime <= 20m }", "credential { lifetime <= 5m }"),
        ("credential { age <= 15m }", "credential { age <= 20m }", "credential { age <= 5m }"),
        ("credential { bound }", "", "credential { bound }"),
        ("credential { bound  age <= 15m }", "credential { bound }", "credential { bound  age <= 15m }"),
        ("attested by lab", "attested by lab, shop", "attested by lab"),
        ("attested by lab, shop", "", "attested by shop"),
        ("valid until 2027-01-01", "valid until 2028-01-01", "valid until 2026-01-01"),
        ("valid from 2026-01-01", "valid from 2025-01-01", "valid from 2026-06-01"),
    ],
)
def test_each_requirement_is_weighed(strict: str, lax: str, asked: str) -> None:
    """Where the other block asks for as much and for a part of the door, it is no laxer; the first one is."""
    assert [one.code for one in found(BOT + ATTESTERS + bot(f"{strict}  may GET /a") + bot(f"{lax}  may GET /a"))] == [
        "W450"
    ]
    again = found(BOT + ATTESTERS + bot(f"{strict}  may GET /a") + bot(f"{asked}  may GET /a"))
    assert [one.code for one in again] == ([] if asked == strict else ["W450"])
    assert [one.related[0].span.text for one in again if asked != strict] == [told_of(asked)] * len(again)


def told_of(requirement: str) -> str:
    return requirement.removeprefix("credential { ").removesuffix(" }")


@pytest.mark.parametrize(
    ("users", "codes"), [('user.roles has "clerk" and user.roles has "boss"', ["W450"]), ('user.roles has "clerk"', [])]
)
def test_users_that_are_asked_for_as_strictly_are_no_twin(users: str, codes: list[str]) -> None:
    one = 'agent "bot" { issued by acme  acts for users where user.roles has "clerk"  may GET /a }\n'
    two = f'agent "bot" {{ issued by acme  acts for users where {users}  may GET /a }}\n'
    assert [d.code for d in found(BOT + ROLES + one + two)] == codes


def test_a_block_for_more_users_is_reported_as_laxer() -> None:
    one = 'agent "bot" { issued by acme  acts for users where user.roles has "clerk"  may GET /a }\n'
    two = 'agent "bot" { issued by acme  acts for any user  may GET /a }\n'
    assert [d.code for d in found(BOT + ROLES + one + two)] == ["W450"]


def test_a_laxer_block_for_a_group_is_reported() -> None:
    assert [d.span.text for d in found(BOT + bot(STRICT) + bot("may GET /a", 'group "ops"'))] == ["may GET /a"]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(bot(STRICT) + bot(STRICT.replace("/a/**", "/a/b")), id="the same asked"),
        pytest.param(bot(STRICT) + bot("may GET /b"), id="another door"),
        pytest.param(bot(STRICT) + bot("may GET /a/b", '"other"'), id="another agent"),
        pytest.param(
            bot(STRICT) + 'agent "bot" { issued by acme  acts for any user  may GET /a/b }\n', id="acts otherwise"
        ),
        pytest.param(
            'issuer other { url "https://other.example"  scopes none }\n' + bot(STRICT)
            + 'agent "bot" { issued by other  acts alone  may GET /a/b }\n',
            id="another issuer",
        ),
        pytest.param(
            bot(STRICT + "  valid until 2027-01-01") + bot("may GET /a/b  valid from 2027-01-01"), id="in turn"
        ),
    ],
)  # fmt: skip
def test_blocks_that_are_not_laxer_are_not_reported(policy: str) -> None:
    assert told(BOT + policy) == []


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param("export let a = 1", id="exported"),
        pytest.param("export scope a.read { GET /a }", id="an exported scope"),
        pytest.param("entity user { id2: string }\nentity agent { x: string }", id="entities the engine knows"),
        pytest.param('let a = 5\nguard "g" { deny when request.size > a }', id="let in a condition"),
        pytest.param("let a = 5\ndefine b = request.size > a\nanyone { may GET /a when b }", id="through a define"),
        pytest.param("enum plan = a < b\nentity user { plan: plan }", id="an enum as a type"),
        pytest.param("entity invoice\nanyone { may GET /i/{id: invoice} }", id="an entity in a path"),
        pytest.param("entity team\nentity user in team", id="an entity above"),
        pytest.param("scope a { GET /a }\nscope b { include a }\nanyone { may b }", id="an included scope"),
        pytest.param('scope a { GET /a }\nguard "g" on a { deny when request.size > 9 }', id="a scope as a place"),
        pytest.param(
            ROLES + 'anyone { may GET /a when size(user.roles) > 0 and (all r in user.roles: r like "x*") }', id="sized"
        ),
        pytest.param(
            ROLES + 'anyone { may GET /a when user.roles overlaps ["x1"] and (all r in user.roles: r like "x*") }',
            id="overlapping",
        ),
        pytest.param(
            ROLES
            + 'anyone { may GET /a when (any r in user.roles: r == "x1") and (all r in user.roles: r like "x*") }',
            id="any beside all",
        ),
        pytest.param(ROLES + 'guard "g" { deny when all r in user.roles: r like "x*" }', id="all in a deny"),
        pytest.param(ROLES + 'anyone { may GET /a when any r in user.roles: r == "x" }', id="any in a may"),
        pytest.param(ROLES + 'guard "g" { deny when not (any r in user.roles: r == "x") }', id="any in a require"),
        pytest.param('test "t" { skip "not yet"  given credential { bound: true } }', id="a skipped test"),
        pytest.param("delegation { lifetime <= 1h }", id="a limit of another kind"),
        pytest.param(
            SCOPE + bot('may a  may delegate a to agent "helper-7"') + bot("may a", '"helper-*"'), id="handed to a glob"
        ),
        pytest.param(
            SCOPE + bot('may a  may delegate a to agent "helper"') + bot("may a", 'group "helpers"'),
            id="a group may be helpers",
        ),
    ],
)
def test_a_plausible_policy_is_not_reported(policy: str) -> None:
    assert told(policy) == []


def test_a_name_used_in_an_importing_package_is_used() -> None:
    texts = (
        "package one\nlet size_limit = 5\nexport define small = request.size < size_limit\nexport let unused = 1",
        'package two\nimport one\nguard "g" { deny when one.small }',
    )
    modules = [module for i, text in enumerate(texts) if (module := parse(Source(f"{i}.policy", text))[0])]
    checked = check(modules)
    assert checked.kernel is not None
    assert list(lint.probable_mistakes(checked.kernel, modules)) == []
