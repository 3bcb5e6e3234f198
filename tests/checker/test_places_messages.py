"""What is said about paths, scopes and bindings: code, message, underlined text, hint."""

import re
from collections.abc import Iterable

import pytest

from policyengine.check import check_text
from policyengine.diagnostics.model import Diagnostic
from policyengine.engine import Engine

# What other rooms say about the same text is theirs to test.
OURS = re.compile(r"E15|E[345]|E90[3-9]|E91|W[345]2")


def told(findings: Iterable[Diagnostic]) -> list[tuple[str, str, str, str | None]]:
    """Return the code, message, underlined text and hint of each finding."""
    return [(f.code, f.message, f.span.text, f.hint) for f in findings if OURS.match(f.code)]


PATHS = [
    (
        "anyone { may GET /a//b }",
        [
            (
                "E301",
                "an empty segment matches no path",
                "/",
                "remove the extra `/`; a trailing slash makes no difference",
            )
        ],
    ),
    (
        "anyone { may GET /a/ }",
        [
            (
                "E301",
                "an empty segment matches no path",
                "/",
                "remove the extra `/`; a trailing slash makes no difference",
            )
        ],
    ),
    (
        "anyone { may GET // }",
        [
            (
                "E301",
                "an empty segment matches no path",
                "/",
                "remove the extra `/`; a trailing slash makes no difference",
            ),
            (
                "E301",
                "an empty segment matches no path",
                "/",
                "remove the extra `/`; a trailing slash makes no difference",
            ),
        ],
    ),
    ("anyone { may GET /a/./b }", [("E302", "`.` matches no path: a dot segment", ".", None)]),
    ("anyone { may GET /a/../b }", [("E302", "`..` matches no path: a dot segment", "..", None)]),
    ("anyone { may GET /a/b. }", [("E302", "`b.` matches no path: a segment that ends in a dot", "b.", None)]),
    ("anyone { may GET /{x}. }", [("E302", "`{x}.` matches no path: a segment that ends in a dot", "{x}.", None)]),
    (
        "anyone { may GET /a/**/b }",
        [("E303", "`**` is valid only at the end of a path", "**", "use `*` for exactly one segment")],
    ),
    (
        "anyone { may GET /a%2Fb }",
        [
            (
                "E304",
                "`a%2Fb` contains a percent escape",
                "a%2Fb",
                "write the character itself: paths are compared in decoded form",
            )
        ],
    ),
    (
        "anyone { may GET /a%41 }",
        [
            (
                "E304",
                "`a%41` contains a percent escape",
                "a%41",
                "write the character itself: paths are compared in decoded form",
            )
        ],
    ),
    (
        "anyone { may GET /{a}.{b} }",
        [("E305", "`{a}.{b}` contains two captures", "{a}.{b}", "a segment can have at most one capture")],
    ),
    ("anyone { may GET /{a}/x/{a} }", [("E306", "`a` is captured twice", "{a}", "rename one of them")]),
    (
        "anyone { may GET /{a.b} }",
        [("E307", "the capture `a.b` is not a single word", "{a.b}", "write one word: `{id}`")],
    ),
    (
        "anyone { may GETGETGETGETGETGET /a }",
        [
            (
                "E309",
                "`GETGETGETGETGETGET` is not a valid method",
                "GETGETGETGETGETGET",
                "a method can have at most 16 letters",
            )
        ],
    ),
    ("anyone { may PSOT /a }", [("W321", "HTTP has no method `PSOT`", "PSOT", "did you mean `POST`?")]),
    (
        "anyone { may GET|FETCH /a }",
        [("W321", "HTTP has no method `FETCH`", "FETCH", "methods are matched as written")],
    ),
    (
        'anyone { may TOOL "" }',
        [
            (
                "E319",
                "this is not a valid tool name: the name is empty",
                'TOOL ""',
                "a tool name must be `server/name`, or `name` alone",
            )
        ],
    ),
    (
        'anyone { may TOOL "/x" }',
        [
            (
                "E319",
                "this is not a valid tool name: a slash separates a server and a name",
                'TOOL "/x"',
                "a tool name must be `server/name`, or `name` alone",
            )
        ],
    ),
    (
        'anyone { may TOOL "a\\nb" }',
        [
            (
                "E319",
                "this is not a valid tool name: it contains a control character",
                'TOOL "a\\nb"',
                "a tool name must be `server/name`, or `name` alone",
            )
        ],
    ),
    (
        "anyone { may INPUT }",
        [
            (
                "E908",
                "`INPUT` is a reserved word without a meaning yet",
                "INPUT",
                "remove it; write the HTTP endpoint, tool or action itself",
            )
        ],
    ),
    (
        'guard "g" on OUTPUT { deny }',
        [
            (
                "E908",
                "`OUTPUT` is a reserved word without a meaning yet",
                "OUTPUT",
                "remove it; write the HTTP endpoint, tool or action itself",
            )
        ],
    ),
    (
        'guard "g" on /a except GET /b { deny when time > 2026-01-01 }\nanyone { may GET /a }',
        [
            (
                "W322",
                "`except GET /b` excludes nothing",
                "GET /b",
                "it overlaps none of the places before `except`: remove it",
            )
        ],
    ),
    (
        'guard "g" on GET /a except /** { deny }\nanyone { may GET /a }',
        [
            (
                "E318",
                "`except` excludes every place",
                "on GET /a except /**",
                "remove `except`, or the whole rule: with `except`, the rule never applies",
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "findings"), PATHS)
def test_a_mistake_in_an_endpoint_is_reported(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(text)) == findings


SCOPES = [
    ("scope a { }", [("E311", "the scope `a` is empty", "a", "add an endpoint, a tool or an action")]),
    (
        "scope a { include b }\nscope b { }",
        [
            ("E311", "the scope `a` is empty", "a", "add an endpoint, a tool or an action"),
            ("E311", "the scope `b` is empty", "b", "add an endpoint, a tool or an action"),
        ],
    ),
    ("scope a { include a  GET /x }", [("E312", "the scope `a` includes itself", "a", "remove one of the includes")]),
    (
        "scope a { include b  GET /x }\nscope b { include c }\nscope c { include a }",
        [("E312", "the scope `a` includes itself through `b`", "b", "remove one of the includes")],
    ),
    (
        'scope a { GET /a }\nscope b as "a" { GET /b }',
        [("E313", "two scopes have the name `a` in credentials", '"a"', "give one of them another `as` name")],
    ),
    (
        'scope a as "" { GET /a }',
        [
            (
                "E314",
                "the name of a scope in credentials must not be empty or contain spaces",
                '""',
                "write the scope as the issuer writes it in the credential",
            )
        ],
    ),
    (
        'scope a as "x y" { GET /a }',
        [
            (
                "E314",
                "the name of a scope in credentials must not be empty or contain spaces",
                '"x y"',
                "write the scope as the issuer writes it in the credential",
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "findings"), SCOPES)
def test_a_mistake_in_a_scope_is_reported(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(text)) == findings


BINDINGS_WORLD = """\
facts { args.id: string  args.n: number  body.n: number }
entity invoice
entity folder
"""
BINDINGS = [
    (
        "scope a { TOOL t with resource = args.id }",
        [
            (
                "E316",
                "`resource` must be an entity, but this is a string",
                "args.id",
                "name its type: `resource = invoice(args.id)`",
            )
        ],
    ),
    (
        "scope a { TOOL t with user.id = args.id }",
        [
            (
                "E316",
                "`user.id` cannot be bound",
                "user.id",
                "bind `resource`, or a declared fact that begins with `body.`, `args.` or `context.`",
            )
        ],
    ),
    (
        "scope a { TOOL t with body = args.id }",
        [
            (
                "E316",
                "`body` cannot be bound",
                "body",
                "bind `resource`, or a declared fact that begins with `body.`, `args.` or `context.`",
            )
        ],
    ),
    (
        "scope a { TOOL t with body.n = args.n, body.n = 1 }",
        [("E315", "`body.n` is bound twice", "body.n", "remove one")],
    ),
    (
        "scope a { TOOL t with body.n = args.n, args.n = body.n }",
        [
            ("E317", "`args.n` is itself bound here", "args.n", "write its value in place of `args.n`"),
            ("E317", "`body.n` is itself bound here", "body.n", "write its value in place of `body.n`"),
        ],
    ),
    (
        "scope a { TOOL t with resource = invoice(user.id) }",
        [
            (
                "E317",
                "`user.id` is not part of the request",
                "user.id",
                "`with` reads only `args`, `body`, `params`, `context`, `request` and `tool`",
            )
        ],
    ),
    (
        "scope a { GET /{id: invoice} with resource = params.id }",
        [
            (
                "E320",
                "`GET /{id: invoice}` already binds `resource`",
                "resource",
                "remove this binding, or the type of the capture",
            )
        ],
    ),
    (
        "scope a { TOOL t with body.n = args.n }\nscope b { TOOL t* with body.n = 2 }",
        [("E320", "`body.n` is bound in two ways for the same endpoint", "TOOL t*", "bind it in the same way in both")],
    ),
    (
        "scope a { TOOL t with body.n = args.n }\nscope b { TOOL t* with args.n = 2 }",
        [
            (
                "E317",
                "`args.n` is bound by another pattern of the same endpoint",
                "args.n",
                "write that value instead",
            )
        ],
    ),
    (
        ("scope a { TOOL t with resource = invoice(args.id) }\nscope b { TOOL * with resource = folder(args.id) }"),
        [
            (
                "E320",
                "an endpoint of this pattern has two resources: `folder(args.id)` and `invoice(args.id)`",
                "TOOL *",
                "write the same typed capture at the same position in both",
            )
        ],
    ),
    (
        "scope a { GET /x/{id: invoice}  GET /{f: folder}/y }",
        [
            (
                "E320",
                "an endpoint of this pattern has two resources: `{f: folder}` and `{id: invoice}`",
                "GET /{f: folder}/y",
                "write the same typed capture at the same position in both",
            )
        ],
    ),
    (
        (
            "scope a { GET /x/{id: invoice}  POST /x/{id: folder} }\nuser any { may a }\nscope "
            "b { GET|POST /x/{k: folder}  }"
        ),
        [
            (
                "E320",
                "an endpoint of this pattern has two resources: `{k: folder}` and `{id: invoice}`",
                "GET|POST /x/{k: folder}",
                "write the same typed capture at the same position in both",
            )
        ],
    ),
    (
        'scope a { GET /x/{id} }\nguard "g" on /{id}/** { deny }',
        [
            (
                "E321",
                "`id` is captured in two ways for the same endpoint",
                "/{id}/**",
                "give one of the captures another name",
            )
        ],
    ),
    (
        "scope a { GET /x/{o: folder}/{id: invoice}  GET /x/{o: invoice}/{id: invoice} }",
        [
            (
                "E321",
                "`o` is captured in two ways for the same endpoint",
                "GET /x/{o: invoice}/{id: invoice}",
                "give one of the captures another name",
            )
        ],
    ),
]


@pytest.mark.parametrize(("text", "findings"), BINDINGS)
def test_a_mistake_in_a_binding_is_reported(text: str, findings: list[tuple[str, ...]]) -> None:
    assert told(check_text(BINDINGS_WORLD + text)) == findings


def test_a_mistake_in_the_value_of_a_binding_names_what_with_can_read() -> None:
    text = "facts on GET /e { body.x: string }\nscope s { GET /d/{id} with resource = invoice(%s) }"
    [fact] = [f for f in check_text(BINDINGS_WORLD + text % "body.x") if f.code == "E241"]
    assert fact.message == "`body.x` exists only on `GET /e`, but this `with` is at another endpoint"
    assert fact.hint == "declare the fact for the endpoint of this `with`, too"
    [capture] = [f for f in check_text(BINDINGS_WORLD + text % "id") if f.code == "E202"]
    assert capture.hint == "write `params.id` for the segment that `{id}` captures"


def test_a_bound_fact_replaces_the_fact_that_the_caller_sends() -> None:
    engine = Engine.from_text(
        "facts on GET /d/{id}, GET /e { body.x: string? }\nissuer acme { scopes none }\n"
        "scope s { GET /d/{id} with body.x = params.id }\nanyone { may s, GET /e }\n"
        'guard "g" on GET /d/{id} { deny when body.x == "a" }\n'
    )
    sent = {"body": {"x": "b"}}
    assert str(engine.decide({"request": {"method": "GET", "path": "/d/a"}, **sent}).outcome) == "deny"
    assert str(engine.decide({"request": {"method": "GET", "path": "/d/b"}, "body": {"x": "a"}}).outcome) == "allow"
