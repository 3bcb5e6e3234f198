"""What is wrong with `map authzen { … }`: the message, the hint and the place that is underlined."""

from __future__ import annotations

import pytest

from policyengine import kernel as k
from policyengine.check import check as check_modules
from policyengine.check import check_text
from policyengine.source import Source
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

HEAD = """language 1
package shop
entity user { role: string? }
entity todo { owner: string? }
facts { args.amount: number   body.card: { number: string }   context.place: string }
issuer acme { scopes none }
anyone { may GET /todos/{id}, POST /orders, TOOL billing/refund
  may ACTION read todo when user.role == "x" or args.amount > 1 }
guard "all" on ACTION read todo { deny when body.card.number == "7" or context.place == "x" or resource.owner == "x" }
"""


def found(*items: str, protocol: str = "authzen") -> list[tuple[str, str, str, str | None]]:
    text = f"{HEAD}map {protocol} {{\n  {'   '.join(items)}\n}}\n"
    return [(one.code, one.message, one.span.text, one.hint) for one in check_text(text)]


SOURCES = "write `subject.id`, `resource.properties.NAME`, `action.properties.NAME` or `context.NAME`"
ONE = "a question has only one endpoint: write it, as in `GET /todos/{resource.id}`"
MISTAKES: list[tuple[str, tuple[str, str, str, str | None]]] = [
    (
        'subject "u" => todo',
        ("E932", "a subject must be a `user` or an `agent`, not `todo`", "todo", "write `=> user` or `=> agent`"),
    ),
    ('subject "u" => user from acne', ("E207", "unknown issuer `acne`", "acne", "did you mean `acme`?")),
    ('resource "t" => todos', ("E205", "unknown entity `todos`", "todos", "did you mean `todo`?")),
    ('action "a" => ACTION read todos', ("E205", "unknown entity `todos`", "todos", "did you mean `todo`?")),
    ('action "a" => GET|POST /todos/7', ("E935", "this is more than one endpoint", "GET|POST /todos/7", ONE)),
    ('action "a" => ANY /todos/7', ("E935", "this is more than one endpoint", "ANY /todos/7", ONE)),
    ('action "a" => GET /todos/*', ("E935", "this is more than one endpoint", "/todos/*", ONE)),
    ('action "a" => GET /todos/**', ("E935", "this is more than one endpoint", "/todos/**", ONE)),
    (
        'action "a" => GET /todos/{id}',
        ("E934", "`id` is not a member of a question", "/todos/{id}", SOURCES),
    ),
    (
        'action "a" => GET /todos/{id: todo}',
        (
            "E934",
            "`{id: todo}` is not a member of a question",
            "/todos/{id: todo}",
            f"write `{{resource.id}}`, once in a segment: {SOURCES}",
        ),
    ),
    (
        'action "a" => GET /todos//7',
        ("E301", "an empty segment matches no path", "/", "remove the extra `/`; a trailing slash makes no difference"),
    ),
    (
        'action "a" => TOOL "billing/"',
        (
            "E319",
            "this is not a valid tool name: a slash separates a server and a name",
            'TOOL "billing/"',
            "a tool name must be `server/name`, or `name` alone",
        ),
    ),
    (
        'action "a" => ACTION read todo with args.amount = 7',
        ("E934", "`7` is not a member of a question", "7", SOURCES),
    ),
    (
        'action "a" => ACTION read todo with args.amount = action.amount',
        ("E934", "`action.amount` is not a member of a question", "action.amount", SOURCES),
    ),
    (
        'action "a" => ACTION read todo with resource = todo(resource.id)',
        ("E934", "`todo(resource.id)` is not a member of a question", "todo(resource.id)", SOURCES),
    ),
    ("fact args.amount = amount", ("E934", "`amount` is not a member of a question", "amount", SOURCES)),
    (
        "fact args.amount = subject.properties",
        ("E934", "`subject.properties` is not a member of a question", "subject.properties", SOURCES),
    ),
    (
        "fact args.amount = subject.id.x",
        ("E934", "`subject.id.x` is not a member of a question", "subject.id.x", SOURCES),
    ),
    ("fact args.amount = context", ("E934", "`context` is not a member of a question", "context", SOURCES)),
    (
        "fact args.amonut = context.amount",
        (
            "E933",
            "`args.amonut` is not a fact that a question can supply",
            "args.amonut",
            "declare it: `facts { args.amonut: string }`",
        ),
    ),
    (
        "fact user.rolle = subject.properties.role",
        ("E933", "`user.rolle` is not a fact that a question can supply", "user.rolle", "did you mean `user.role`?"),
    ),
    (
        "fact todo.title = resource.properties.title",
        (
            "E933",
            "`todo.title` is not a fact that a question can supply",
            "todo.title",
            "declare it: `entity todo { title: string? }`",
        ),
    ),
    (
        "fact resource.owner = resource.properties.owner",
        (
            "E933",
            "`resource.owner` is not a fact that a question can supply",
            "resource.owner",
            "name its type, as in `record.status`",
        ),
    ),
    (
        "fact user.role = context.role",
        (
            "E933",
            "`user.role` is an attribute, but `context.role` belongs to no entity",
            "context.role",
            "take it from `subject.properties` or from `resource.properties`",
        ),
    ),
    (
        "fact agent.isuer = context.issuer",
        (
            "E933",
            "`agent.isuer` is not a fact that a question can supply",
            "agent.isuer",
            "did you mean `agent.issuer`?",
        ),
    ),
    (
        "fact request.path = resource.id",
        (
            "E933",
            "`request.path` is not a fact that a question can supply",
            "request.path",
            "`action` sets the endpoint: remove it",
        ),
    ),
    (
        "fact behavior.trust = context.trust",
        (
            "E933",
            "`behavior.trust` is not a fact that a question can supply",
            "behavior.trust",
            "a fact must begin with `args.`, `body.` or `context.`, an attribute with its entity: `record.status`",
        ),
    ),
    (
        "fact approval.granted = context.granted",
        (
            "E933",
            "`approval.granted` is not a fact that a question can supply",
            "approval.granted",
            "a fact must begin with `args.`, `body.` or `context.`, an attribute with its entity: `record.status`",
        ),
    ),
    (
        'action "a" => GET /todo/{resource.id}',
        (
            "W936",
            "no grant covers `GET /todo/{resource.id}`",
            "GET /todo/{resource.id}",
            "check the spelling: every caller is denied this action",
        ),
    ),
    (
        'action "a" => TOOL mail/*',
        (
            "W936",
            "no grant covers `TOOL mail/*`",
            "TOOL mail/*",
            "check the spelling: every caller is denied this action",
        ),
    ),
]


@pytest.mark.parametrize(("item", "expected"), MISTAKES, ids=[item for item, _ in MISTAKES])
def test_a_mistake_in_a_map_is_reported_where_it_is_written(
    item: str, expected: tuple[str, str, str, str | None]
) -> None:
    assert found(item) == [expected]


@pytest.mark.parametrize(
    ("items", "what"),
    [
        (('subject "u" => user from acme', 'subject "u" => agent'), "the subject `u`"),
        (('resource "t" => todo', 'resource "t" => user'), "the resource `t`"),
        (('action "a" => ACTION read todo', 'action "a" => POST /orders'), "the action `a`"),
        (('action "a" on "t" => ACTION read todo', 'action "a" on "t" => POST /orders'), "the action `a`"),
        (("fact args.amount = context.a", "fact args.amount = context.b"), "`args.amount`"),
        (("fact user.role = subject.properties.a", "fact user.role = subject.properties.b"), "`user.role`"),
        (("fact body.card = context.card", "fact body.card.number = context.number"), "`body.card.number`"),
        (("fact body.card.number = context.number", "fact body.card = context.card"), "`body.card`"),
        (('subject "u" => user from acme', "fact credential.issuer = context.issuer"), "`credential.issuer`"),
    ],
)
def test_mapping_something_twice_is_rejected(items: tuple[str, str], what: str) -> None:
    assert found(*items) == [("E931", f"{what} is mapped twice", items[1], "keep one")]


@pytest.mark.parametrize(
    "items",
    [
        ('subject "u" => user from acme', 'subject "v" => user'),
        ('action "a" => ACTION read todo', 'action "a" on "t" => POST /orders', 'action "a" on "s" => TOOL billing/*'),
        ("fact user.role = subject.properties.role", "fact user.role = resource.properties.role"),
        ("fact body.card = context.card", "fact args.amount = action.properties.x.y", "fact request.ip = context.ip"),
        ("fact body.card.number = context.card", "fact credential.scopes = context.scopes"),
        ('action "a" => GET /todos/x{resource.id}.json', 'action "b" => GET /todos/{context.id}'),
        ('action "a" => TOOL billing/refund with args.amount = action.properties["the amount"]',),
        ('resource "anything at all" => todo',),
    ],
)
def test_valid_map_items_have_no_findings(items: tuple[str, ...]) -> None:
    assert found(*items) == []


def test_an_action_that_maps_a_fact_twice_is_rejected() -> None:
    item = 'action "a" => ACTION read todo with args.amount = context.a, args.amount = context.b'
    assert found(item) == [("E931", "`args.amount` is mapped twice", "args.amount = context.b", "keep one")]


def test_an_action_can_override_a_general_fact() -> None:
    assert found("fact args.amount = context.a", 'action "a" => ACTION read todo with args.amount = context.b') == []


def test_a_map_of_an_unknown_protocol_is_rejected() -> None:
    assert found('subject "u" => user from acme', protocol="opa") == [
        ("E930", "unknown protocol `opa`", "opa", "write `map authzen`")
    ]


def test_duplicates_are_found_across_all_maps_of_a_policy() -> None:
    text = HEAD + 'map authzen { subject "u" => user }\nmap authzen { subject "u" => agent }\n'
    assert [one.code for one in check_text(text)] == ["E931"]


def test_the_formatter_normalizes_a_map() -> None:
    written = 'map authzen{subject "u"=>user from acme resource "t"=>todo\nfact user.role=subject.properties.role}\n'
    assert format_module(Source("a.policy", written)) == (
        'map authzen { subject "u" => user from acme   resource "t" => todo\n'
        "  fact user.role = subject.properties.role }\n"
    )


def test_a_map_lowers_to_the_kernel() -> None:
    text = HEAD + 'map authzen { action "a" on "t" => GET /todos/x{resource.id}y with args.amount = context.n }\n'
    module, _ = parse(Source("a.policy", text))
    assert module is not None
    kernel = check_modules([module]).kernel
    assert kernel is not None
    (item,) = kernel.maps
    assert isinstance(item, k.MapAction)
    assert isinstance(item.endpoint, k.MapHttp)
    told = [(one.text, one.source, one.after) for one in item.endpoint.segments]
    assert told == [("todos", None, ""), ("x", ("resource", "id"), "y")]
    assert [(one.path, one.source, one.entity) for one in item.facts] == [(("args", "amount"), ("context", "n"), False)]
