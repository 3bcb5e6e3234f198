"""What is said about guards, and about what is not enforced yet: code, message, underlined text, hint."""

import re
from collections.abc import Iterable

import pytest

from policyengine.check import check_text
from policyengine.diagnostics.catalog import find_code
from policyengine.diagnostics.model import Diagnostic

# What other rooms say about the same text is theirs to test.
OURS = re.compile(r"E15|E[345]|E90[3-9]|E91|W[345]2")


def told(findings: Iterable[Diagnostic]) -> list[tuple[str, str, str, str | None]]:
    """Return the code, message, underlined text and hint of each finding."""
    return [(f.code, f.message, f.span.text, f.hint) for f in findings if OURS.match(f.code)]


def explanation_of(code: str) -> str:
    found = find_code(code)
    assert found is not None
    return found.explanation


GUARDS_WORLD = """\
entity team
entity user { roles: set<string>  tenant: string  boss: user  teams: set<team> } in team
entity invoice { owner: user  tenant: string  approvers: set<user or team>  amounts: set<int> }
facts on POST /v1/{id: invoice}/pay { body.amount: number  body.card: string }
issuer acme { }
anyone { may POST /v1/{id: invoice}/pay   may POST /b }
"""
GUARDS = [
    (
        'guard "g" on POST /b { confirm by role boss from acme, acme }\n',
        [("E519", "`acme` is named twice", "acme", "keep one")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "{body.amount" }\n',
        [
            (
                "E502",
                "a single `{`",
                "{",
                "write a fact in braces, `{body.amount}`, and a literal brace twice",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "}" }\n',
        [
            (
                "E502",
                "a single `}`",
                "}",
                "write a fact in braces, `{body.amount}`, and a literal brace twice",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "{}" }\n',
        [("E502", "`{}` does not name a fact", "{}", "braces may contain only the name of a fact: `{body.amount}`")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "{a b}" }\n',
        [
            (
                "E502",
                "`{a b}` does not name a fact",
                "{a b}",
                "braces may contain only the name of a fact: `{body.amount}`",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "{{}} {body.amount + 1}" }\n',
        [
            (
                "E502",
                "`{body.amount + 1}` does not name a fact",
                "{body.amount + 1}",
                "braces may contain only the name of a fact: `{body.amount}`",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "" }\n',
        [("E502", "the message is empty", '""', "write what the reader should know, or remove it")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "x \\" {credential.kind}" }\n',
        [
            (
                "E503",
                "a message must not show `credential.kind`",
                '"x \\" {credential.kind}"',
                "remove it: a reader of the message could use it",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { deny message "{credential.scopes}" }\n',
        [
            (
                "E503",
                "a message must not show `credential.scopes`",
                "{credential.scopes}",
                "remove it: a reader of the message could use it",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by role x within 0s }\n',
        [("E507", "`0s` allows nothing", "0s", "write a longer duration: `15m`")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by 1 of role x }\n',
        [("E506", "`1` is not a valid number of people", "1", "write a whole number, `2` or more")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by 1.5 of role x }\n',
        [("E506", "`1.5` is not a valid number of people", "1.5", "write a whole number, `2` or more")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by resource.tenant }\n',
        [
            (
                "E505",
                "`resource.tenant` is a string, which cannot approve",
                "resource.tenant",
                "name a user, a group of users, or a set of them",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by resource.amounts }\n',
        [
            (
                "E505",
                "`resource.amounts` is a set<int>, which cannot approve",
                "resource.amounts",
                "name a user, a group of users, or a set of them",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by resource }\n',
        [
            (
                "E505",
                "users are never in `invoice`",
                "resource",
                "declare which entities users are in: `entity user { … } in invoice`",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by invoice "5" }\n',
        [
            (
                "E505",
                "users are never in `invoice`",
                'invoice "5"',
                "declare which entities users are in: `entity user { … } in invoice`",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { confirm by user when approval.age > 5m }\n',
        [
            (
                "E512",
                "a confirm cannot depend on an approval",
                "approval.age",
                "the approval lifts the confirm by itself: remove it from the condition",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { audit ful }\n',
        [("E508", "`ful` is not an audit level", "ful", "did you mean `full`?")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { audit everything }\n',
        [("E508", "`everything` is not an audit level", "everything", "levels are none, brief, full")],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { redact user.tenant }\n',
        [
            (
                "E509",
                "`user.tenant` cannot be redacted",
                "user.tenant",
                "only declared facts that begin with `body.` or `args.` can be redacted",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { notify "" }\n',
        [("E511", "the recipient is empty", '""', 'name a recipient: `notify "security"`')],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { header "a b" "c" }\n',
        [
            (
                "E510",
                "`a b` is not a valid header name",
                '"a b"',
                "a header name may contain only ASCII letters, digits and !#$%&'*+-.^_`|~",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id: invoice}/pay { header "a" "b\\nc" }\n',
        [("E510", "the value of a header cannot contain control characters", '"b\\nc"', "write it on one line")],
    ),
    (
        'guard "g" { deny when time > 2026-01-01 }\nguard "g" { deny when time < 2026-01-01 }',
        [("E501", "two rules are named `g`", '"g"', "give one of them another name")],
    ),
    ('guard "" { deny }', [("E514", "a rule needs a name", '""', "write a name that says what the rule is for")]),
    (
        'guard "g" on POST /c { deny }',
        [
            (
                "W521",
                "no grant covers `POST /c`",
                "POST /c",
                "check the spelling; nothing needs to be guarded here",
            )
        ],
    ),
    (
        'guard "g" on POST /v1/{id}/pay, POST /d { deny }',
        [
            (
                "W521",
                "no grant covers `POST /d`",
                "POST /d",
                "check the spelling; nothing needs to be guarded here",
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "findings"), GUARDS)
def test_a_mistake_in_a_guard_is_reported(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(GUARDS_WORLD + text)) == findings


ROLES = [
    (
        'anyone { may GET /a }\nguard "g" { confirm by role x }',
        [("E504", "users have no declared roles", "x", "declare it: `entity user { roles: set<string> }`")],
    ),
    (
        (
            "enum role = a < boss\nentity user { roles: set<role> }\nanyone { may GET /a when "
            'user.roles has a }\nguard "g" { confirm by role bos }'
        ),
        [("E504", "`bos` is not a value of `role`", "bos", "did you mean `boss`?")],
    ),
]


@pytest.mark.parametrize(("text", "findings"), ROLES)
def test_a_role_that_nobody_can_have_is_reported(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(text)) == findings


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("floor 5/1m", None),
        ("floor 10/2m", None),
        ("floor 11/2m", "`floor` is faster than the rate itself"),
        ("clamp 5/1m when request.ip is absent", None),
        ("clamp 11/2m when request.ip is absent", "`clamp` is faster than the rate itself"),
        ("raise x2 at most 5/1m when request.ip is present", None),
        ("raise x2 at most 9/2m when request.ip is present", "`at most` is slower than the rate itself"),
    ],
)
def test_paces_of_a_rate_may_equal_it_as_the_explanation_of_e910_says(item: str, message: str | None) -> None:
    found = check_text(f'anyone {{ may GET /a }}\nrate "r" per request.ip {{ 5/1m {item} }}')
    assert [one.message for one in found if one.is_error] == ([] if message is None else [message])
    explanation = " ".join(explanation_of("E910").split())
    assert "`floor` and `clamp` may not be faster than the rate" in explanation
    assert "its `at most` may not be slower than the rate" in explanation


LATER = [
    (
        'anyone { may GET /a }\nrate "r" per agent.id { }',
        [
            (
                "E910",
                "this rate has no limit",
                '"r"',
                "write the number and the period: `100/1m`, or `at most 5 at once`",
            ),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.id on GET /a { 0/1m }',
        [
            (
                "E910",
                "`0/1m` is not a valid rate",
                "0/1m",
                "write a number and a period, both above zero: `100/1m`",
            ),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.id { 5/0s }',
        [
            (
                "E910",
                "`5/0s` is not a valid rate",
                "5/0s",
                "write a number and a period, both above zero: `100/1m`",
            ),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.id { 5/1m burst 0 }',
        [
            ("E910", "`0` is not a valid number of requests", "0", "write `1` or more"),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.di { 5/1m  6/1m }',
        [
            ("E910", "a rate can have only one limit", "6/1m", "write another rate for another limit"),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.id { 5/1m floor 6/1m }',
        [
            ("E910", "`floor` is faster than the rate itself", "floor 6/1m", "only `raise … at most` may exceed it"),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.id { 5/1m raise x1 at most 4/1m when time > 5 }',
        [
            (
                "E910",
                "`at most` is slower than the rate itself",
                "raise x1 at most 4/1m when time > 5",
                "only `clamp` may lower it",
            ),
            (
                "E910",
                "`x1` does not raise the rate",
                "raise x1 at most 4/1m when time > 5",
                "write a factor above one: `x2`",
            ),
        ],
    ),
    (
        'anyone { may GET /a }\nrate "r" per agent.id { 5/1m clamp 1/1s when nothing }',
        [
            (
                "E910",
                "`clamp` is faster than the rate itself",
                "clamp 1/1s when nothing",
                "only `raise … at most` may exceed it",
            ),
        ],
    ),
    (
        ('anyone { may GET /a }\nbudget "b" per user.id { count <= 5 within 0s  sum user.id <= 5 within 1h }'),
        [
            ("E910", "a budget with a period of zero limits nothing", "0s", "write how long: `24h`"),
        ],
    ),
    (
        'anyone { may GET /a }\ninvariant "i" { never allow nowhere when nothing }',
        [
            (
                "E906",
                "`invariant` is not enforced yet",
                'invariant "i"',
                "remove it: a policy must not appear to enforce a limit that it does not enforce",
            )
        ],
    ),
    (
        ('anyone { may GET /a }\nrate "r" per agent.id { 5/1m }\nbudget "r" per user.id { count <= 5 within 1h }'),
        [
            ("E501", "two rules are named `r`", '"r"', "give one of them another name"),
        ],
    ),
    ("language 2\nanyone { may GET /a }", [("E150", "language version 2 is not supported", "2", "write `language 1`")]),
]


@pytest.mark.parametrize(("text", "findings"), LATER)
def test_invalid_limits_and_unsupported_features_are_reported(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(text)) == findings
