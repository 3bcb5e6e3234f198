"""What is said about doors, trust anchors and delegation: code, message, underlined text, hint."""

import re
from collections.abc import Iterable

import pytest

from policyengine.check import check_text
from policyengine.diagnostics.model import Diagnostic

# What other rooms say about the same text is theirs to test.
OURS = re.compile(r"E15|E[345]|E90[3-9]|E91|W[345]2")


def told(findings: Iterable[Diagnostic]) -> list[tuple[str, str, str, str | None]]:
    """Return the code, message, underlined text and hint of each finding."""
    return [(f.code, f.message, f.span.text, f.hint) for f in findings if OURS.match(f.code)]


DOORS_WORLD = """\
issuer acme { url "https://x" }
issuer free { scopes none }
scope read { GET /a }
users unrestricted
entity user { tenant: string  roles: set<string> }
"""
DOORS = [
    (
        'agent "bot" { acts alone  may read }',
        [("E401", "this block does not name the issuers of its agents", 'agent "bot"', "add `issued by ISSUER`")],
    ),
    (
        'agent "bot" { issued by acme  may read }',
        [
            (
                "E402",
                "this block does not say for whom the agent acts",
                'agent "bot"',
                "add `acts alone`, `acts for any user` or `acts for users where …`",
            )
        ],
    ),
    (
        'agent group "g" { may read }',
        [
            ("E401", "this block does not name the issuers of its agents", 'agent group "g"', "add `issued by ISSUER`"),
            (
                "E402",
                "this block does not say for whom the agent acts",
                'agent group "g"',
                "add `acts alone`, `acts for any user` or `acts for users where …`",
            ),
        ],
    ),
    (
        'agent "bot" { issued by acme  acts alone  acts for any user  may read }',
        [
            (
                "E403",
                "for whom the agent acts is stated twice",
                "acts for any user",
                "keep only one: a block says once for whom its agents act",
            )
        ],
    ),
    (
        'agent "bot" { issued by acme  issued by acme  acts alone  may read }',
        [
            (
                "E405",
                "`issued by` is stated twice",
                "issued by acme",
                "keep one; `issued by` and `attested by` take a list",
            )
        ],
    ),
    (
        (
            'agent "bot" { issued by acme  acts alone  credential { bound  lifetime <= 1m }  '
            "credential { bound  age <= 0s }  may read }"
        ),
        [
            ("E405", "`bound` is stated twice", "bound", "keep one; `issued by` and `attested by` take a list"),
            ("E409", "`0s` allows nothing", "0s", "write a longer duration: `15m`"),
        ],
    ),
    (
        ('agent "bot" { issued by acme  acts alone  credential { kind in [jtw, "mtls", 5] }  may read }'),
        [
            (
                "E406",
                "`jtw` is not a kind of credential",
                "jtw",
                "the kinds are jwt, mtls, opaque, dpop, spiffe, txn_token, id_jag, signature, api_key, basic, session",
            ),
            (
                "E406",
                "`5` is not a kind of credential",
                "5",
                "the kinds are jwt, mtls, opaque, dpop, spiffe, txn_token, id_jag, signature, api_key, basic, session",
            ),
        ],
    ),
    (
        'agent "bot" { issued by acme  acts alone  credential { kind in [] }  may read }',
        [("E406", "the list of credential kinds is empty", "[]", "write the kinds: `kind in [jwt, mtls]`")],
    ),
    (
        ('agent "bot" { issued by acme  acts alone  valid from 2026-02-01 until 2026-02-01  may read }'),
        [
            (
                "E407",
                "this period ends before it begins",
                "valid from 2026-02-01 until 2026-02-01",
                "write the earlier date first",
            )
        ],
    ),
    (
        'agent "bot" { issued by acme  acts alone  may GET /b, read }',
        [
            (
                "E408",
                "no credential can carry `GET /b`: it names no scope",
                "GET /b",
                "use `may SCOPE` with a scope that contains it, or `scopes none` in the issuer if its tokens have none",
            )
        ],
    ),
    (
        'agent "" { issued by acme  acts alone  may read }',
        [("E417", "the name is empty", '""', "write the name")],
    ),
    (
        'agent group "" { issued by acme  acts alone  may read }',
        [("E417", "the name is empty", '""', "write the name")],
    ),
    (
        "agent where credential.bound { issued by acme  acts alone  may read }",
        [
            (
                "E414",
                "this condition is about the agent, but `credential` is not",
                "credential.bound",
                "only the caller is known here: move other conditions to `may … when`",
            )
        ],
    ),
    (
        (
            'define fresh = credential.age < 5m\nagent where agent.publisher == "acme" and '
            "fresh { issued by acme  acts alone  may read }"
        ),
        [
            (
                "E414",
                "this condition is about the agent, but `credential` is not",
                "fresh",
                "only the caller is known here: move other conditions to `may … when`",
            )
        ],
    ),
    (
        'agent "bot" { issued by acme  acts for users where request.size > 5  may read }',
        [
            (
                "E414",
                "this condition is about the user, but `request` is not",
                "request.size",
                "only the caller is known here: move other conditions to `may … when`",
            )
        ],
    ),
    (
        'agent "bot" { issued by acme  acts alone  may read when approval.granted }',
        [("E416", "an approval cannot grant access", "approval.granted", "require it in a guard: `confirm by …`")],
    ),
    (
        'agent "bot" { issued by acme  acts alone  may read when behavior.trust > 0.9 }',
        [
            (
                "E415",
                "behavior cannot grant access",
                "behavior.trust",
                "use it in a guard: `deny when …`, `confirm … when …`",
            )
        ],
    ),
    (
        ('define ok = approval.granted\nagent "bot" { issued by acme  acts alone  may read when ok }'),
        [("E416", "an approval cannot grant access", "ok", "require it in a guard: `confirm by …`")],
    ),
    (
        ('agent "bot" { issued by acme  acts alone  may read  may delegate read to agent "" for 0m }'),
        [
            ("E417", "the name is empty", '""', "write the name"),
            ("E409", "`0m` allows nothing", "0m", "write a longer duration: `15m`"),
        ],
    ),
    (
        (
            'scope write { POST /a }\nagent "bot" { issued by acme  acts alone  may read  may '
            'delegate write to agent "b" }'
        ),
        [
            (
                "W421",
                'agent "bot" delegates a scope without a grant of its own',
                'may delegate write to agent "b"',
                "add `may write` to the block: authority only narrows along a chain",
            ),
            (
                "W422",
                "no agent block names `b`",
                '"b"',
                "add a block for this agent: it also needs its own grants",
            ),
        ],
    ),
    (
        "users unrestricted",
        [
            (
                "E405",
                "`users unrestricted` is stated twice",
                "users unrestricted",
                "state it once in the package",
            )
        ],
    ),
    ('user "" { may read }', [("E417", "the name is empty", '""', "write the name")]),
    (
        'user where tool.name == "x" { may read }',
        [
            (
                "E414",
                "this condition is about the user, but `tool` is not",
                "tool.name",
                "only the caller is known here: move other conditions to `may … when`",
            )
        ],
    ),
    (
        'user "a" { may read  valid until 2026-01-01  valid until 2027-01-01 }',
        [("E405", "`valid` is stated twice", "valid until 2027-01-01", "keep one")],
    ),
    (
        'user "a" { may read when approval.granted }',
        [("E416", "an approval cannot grant access", "approval.granted", "require it in a guard: `confirm by …`")],
    ),
    (
        'anyone { may read when approval.by == "x" }',
        [("E416", "an approval cannot grant access", "approval.by", "require it in a guard: `confirm by …`")],
    ),
    (
        "delegation { depth <= 0 }",
        [("E410", "the depth of a chain must be a whole number, 1 or more", "0", "write `1` or more")],
    ),
    (
        "delegation { depth <= 1.5 }",
        [("E410", "the depth of a chain must be a whole number, 1 or more", "1.5", "write `1` or more")],
    ),
    ("delegation { lifetime <= 0s }", [("E409", "`0s` allows nothing", "0s", "write a longer duration: `15m`")]),
    (
        "delegation { depth <= 1  depth <= 2 }",
        [("E405", "`depth` is stated twice", "depth <= 2", "keep the stricter one")],
    ),
    ('issuer b { url ""  url "x" }', [("E405", "`url` is stated twice", 'url "x"', "keep one")]),
    (
        "issuer b { claims { a -> user.tenat } }",
        [("E412", "`user.tenat` is not a declared attribute", "user.tenat", "did you mean `user.tenant`?")],
    ),
    (
        "issuer b { claims { a -> body.x } }",
        [
            (
                "E412",
                "`body.x` is not an attribute that a claim can set",
                "body.x",
                "a claim sets an attribute of the user or the agent: `tenant -> user.tenant`",
            )
        ],
    ),
    (
        "issuer b { claims { sub -> user.id } }",
        [
            (
                "E412",
                "`user.id` is not a declared attribute",
                "user.id",
                "the credential itself identifies the caller, not a claim: remove the line",
            )
        ],
    ),
    (
        "issuer b { claims { a -> user.tenant  b -> user.tenant } }",
        [("E405", "`user.tenant` is stated twice", "b -> user.tenant", "keep one")],
    ),
    (
        "issuer b { claims { a -> agent.team } }",
        [
            (
                "E412",
                "`agent.team` is not a declared attribute",
                "agent.team",
                "declare it: `entity agent { team: string? }`",
            )
        ],
    ),
    ("attester lab { age <= 0s }", [("E409", "`0s` allows nothing", "0s", "write a longer duration: `15m`")]),
    (
        "attester lab { environment in [] }",
        [("E419", "the list of environments is empty", "[]", "name the environments, or remove it")],
    ),
    (
        "attester lab { environment in [tdx, 5] }",
        [
            ("E419", "`tdx` is not the name of an environment", "tdx", 'write it in quotes: `"tdx"`'),
            ("E419", "`5` is not the name of an environment", "5", None),
        ],
    ),
    ('attester lab { model "" }', [("E417", "this is empty", '""', "write a value, or remove the setting")]),
]


@pytest.mark.parametrize(("text", "findings"), DOORS)
def test_a_mistake_in_grants_trust_anchors_or_delegation_is_reported(
    text: str, findings: list[tuple[str, ...]]
) -> None:
    assert told(check_text(DOORS_WORLD + text)) == findings


ALONE = [
    (
        (
            'issuer acme { url "https://x" }\nscope read { GET /a }\nagent "bot" { issued by '
            "acme  acts for any user  may read }"
        ),
        [
            (
                "E404",
                "this agent acts for users, but no `user` block grants them anything",
                "acts for any user",
                "add `user any { may … }`, or `users unrestricted` if the agent's own grants alone should decide",
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "findings"), ALONE)
def test_an_agent_that_acts_for_users_needs_a_user_block(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(text)) == findings
