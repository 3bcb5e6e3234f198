"""Damage that clients do to questions, by mistake or on purpose: each hazard damages a question in one way. A hazard
changes a copy; some make it invalid, so that every engine must refuse it."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from ipaddress import ip_address, ip_network
from random import Random
from types import MappingProxyType
from typing import Any, TypeAlias

from policyengine.typesystem import EntityRef
from tests.generate import vocabulary as v
from tests.generate.requests import NOW, PATHS, WRONG, Question, ago, rows
from tests.security.paths import MALFORMED, READ

Spoilt: TypeAlias = object  # a question, or something that is not one


class Lying(dict[str, Any]):
    """A mapping that holds one value and returns another when a member is read."""

    def get(self, key: str, default: object = None) -> Any:
        return {"id": "alice", "bound": True, "verified": True}.get(key, super().get(key, default))

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


class Agreeing(str):
    """An object that equals everything."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


class Word(StrEnum):
    ALICE = "alice"


class Number(IntEnum):
    SEVEN = 7


class Numbers(list[Any]):
    """A list of a class of its own."""


ROOTS = (*v.GIVEN, "user", "tool", "action", "resource", "chain")
OTHERS = ("approvals", "entities", "pending", "options", "credentials")
SHAPES: tuple[Any, ...] = (None, [], {}, "", "x", 7, 7.5, True, False, [[]], [{}], [None], {"id": {}}, {"": ""}, b"x")
KEYS: tuple[Any, ...] = (1, None, True, b"id", ("id",), "", "\ud800", "x" * 70_000, "Id", "id ", "_method", "ID")
OBJECTS: tuple[Any, ...] = (
    NOW, NOW.replace(tzinfo=None), datetime.max, timedelta(minutes=5), timedelta(-1), Decimal("1.50"), Decimal("NaN"),
    Decimal("1E+400"), Decimal("0." + "3" * 40), -0.0, 1e308, 10**30, {"acme", "ops"}, frozenset({"clerk"}), ("acme",),
    ip_address("10.0.0.1"), ip_address("fe80::1%eth0"), ip_network("10.0.0.0/8"), EntityRef("user", "alice"),
    EntityRef("team", ""), b"acme", bytearray(b"x"), object, Word.ALICE, Number.SEVEN, Agreeing("x"), Numbers(["acme"]),
    Lying(number="42"), MappingProxyType({"number": "42"}), UserDict({"number": "42"}), range(3),
)  # fmt: skip
IDS: tuple[Any, ...] = (
    "", "e\u0301", "é", "bot ", "Bot", "BOT", "b\u200bot", "bоt", "x" * 70_000, "\ud800", 7, True, None, ["bot"],
    {"id": "bot"}, Agreeing("bot"), "bot\0", "*", "b*", "alice", "legal",
)  # fmt: skip
METHODS: tuple[Any, ...] = (
    "get",
    "Get",
    "GET ",
    "",
    "G" * 17,
    "HEAD",
    "OPTIONS",
    "TRACE",
    7,
    None,
    ["GET"],
    "ＧET",
    "*",
)
MORE_PATHS: tuple[Any, ...] = ("", "*", "http://acme.example/notes/7", 7, None, ["/notes"], b"/notes", Agreeing("/x"))
HEADERS: tuple[Mapping[Any, Any], ...] = (
    {"X-TRACE": "acme"}, {"X-Trace": "acme", "x-trace": "evil"}, {"x-trace": 7}, {"x-trace": None}, {7: "x"},
    {"X-Trace": ["acme"]}, {"x-trace ": "acme"}, {"X_Trace": "acme"}, {"": ""}, {"X-Tracé": "acme"}, {"x-trace": "é"},
    {"X-HTTP-Method-Override": "DELETE"}, {"x_http_method": "PUT"}, {" X-Method-Override ": ""},
    {"x-http-method": None}, {"x.trace": "acme"}, {"x_trace": "evil", "x-trace": "acme"}, {"x!trace": None},
    {"x-trace": None, "X.Trace": "evil"}, {"x.http.method": "PUT"}, {"X+Method-Override": "PUT"},
)  # fmt: skip
QUERIES: tuple[Mapping[Any, Any], ...] = (
    {"page": "7"}, {"page": 7}, {"page": ["7", "8"]}, {"Page": "7"}, {"_method": "DELETE"}, {"-Method": "x"},
    {"_method": None}, {"x-http-method-override": "PUT"}, {7: 7}, {"page": "7", "page ": "8"},
)  # fmt: skip


def branches(question: Question) -> list[dict[Any, Any]]:
    """Return every object of a question whose members can be damaged."""
    roots = [one for one in question.values() if type(one) is dict]
    return [*roots, *(one for root in roots for one in root.values() if type(one) is dict)] or [question]


# ── The hazards ───────────────────────────────────────────────────────────────────────────────


def a_root_of_another_shape(random: Random, question: Question) -> Spoilt:
    question[random.choice([*ROOTS, *OTHERS, "else"])] = copied(random.choice(SHAPES))
    return question


def a_fact_of_another_type(random: Random, question: Question) -> Spoilt:
    members = random.choice(branches(question))
    if members:
        members[random.choice(list(members))] = copied(random.choice([*WRONG, *SHAPES]))
    return question


def a_python_object(random: Random, question: Question) -> Spoilt:
    members = random.choice(branches(question))
    if members:
        members[random.choice(list(members))] = random.choice(OBJECTS)
    return question


def an_odd_element(random: Random, question: Question) -> Spoilt:
    lists = [one for members in branches(question) for one in members.values() if type(one) is list]
    if lists:
        found = random.choice(lists)
        found.insert(random.randint(0, len(found)), copied(random.choice([*WRONG, *SHAPES, *OBJECTS])))
    return question


def a_member_that_is_missing(random: Random, question: Question) -> Spoilt:
    members = random.choice([*branches(question), question])
    if members:
        members.pop(random.choice(list(members)))
    return question


def a_member_that_is_null(random: Random, question: Question) -> Spoilt:
    members = random.choice([*branches(question), question])
    if members:
        members[random.choice(list(members))] = None
    return question


def a_member_nobody_knows(random: Random, question: Question) -> Spoilt:
    random.choice([*branches(question), question])[random.choice(["else", "roles", "tenant", "granted", "id"])] = "acme"
    return question


def in_another_case(random: Random, question: Question) -> Spoilt:
    """Replace a name by one in another case, or add that one."""
    members = random.choice(branches(question))
    names = [one for one in members if isinstance(one, str)]
    if names:
        name = random.choice(names)
        other = random.choice(
            [name.upper(), name.capitalize(), name.replace("s", "\u017f"), name.replace("k", "\u212a")]
        )
        members[other] = members.pop(name) if random.random() < 0.7 else members[name]
    return question


def an_odd_name(random: Random, question: Question) -> Spoilt:
    if random.random() < 0.5:
        return in_another_case(random, question)
    random.choice([*branches(question), question])[random.choice(KEYS)] = random.choice([1, "x", None])
    return question


def an_odd_path(random: Random, question: Question) -> Spoilt:
    odd = random.choice([list(READ), list(MALFORMED), list(PATHS), MORE_PATHS])
    spoilt = random.choice(odd) if random.random() < 0.7 else twisted(random, random.choice(PATHS))
    request(question)["path"] = spoilt
    request(question).setdefault("method", "GET")
    return question


def twisted(random: Random, path: str) -> str:
    """Return a path that is almost another one."""
    at = random.randint(0, len(path))
    odd = random.choice(
        ["/", "//", ".", "..", "%2e", "%2F", "%", "%25", ";", "?", "#", " ", "\0", "\u200b", "ａ", "é", "%c3"]
    )
    return path[:at] + odd + path[at:]


def an_odd_method(random: Random, question: Question) -> Spoilt:
    request(question)["method"] = random.choice(METHODS)
    return question


def odd_headers_or_parameters(random: Random, question: Question) -> Spoilt:
    name, odd = random.choice([("headers", HEADERS), ("query", QUERIES)])
    request(question)[name] = copied(random.choice([*odd, *odd, *SHAPES]))
    if random.random() < 0.1:
        question["body"] = {"_method": random.choice(["DELETE", None, ""])}
    return question


def an_odd_identity(random: Random, question: Question) -> Spoilt:
    root, name = random.choice(
        [("agent", "id"), ("user", "id"), ("agent", "issuer"), ("credential", "issuer"), ("credential", "subject"),
         ("resource", "id"), ("resource", "type"), ("tool", "name"), ("tool", "server"), ("action", "name"),
         ("agent", "instance"), ("task", "id")]
    )  # fmt: skip
    found = question.setdefault(root, {})
    if isinstance(found, dict):
        found[name] = random.choice(IDS)
    return question


def another_endpoint_too(random: Random, question: Question) -> Spoilt:
    question |= random.choice([
        {"tool": {"name": "search"}}, {"action": {"name": "view"}}, {"tool": {}}, {"action": {}},
        {"request": {"method": "GET", "path": "/notes"}}, {"request": {"method": "GET"}},
        {"request": {"path": "/notes"}},
        {"tool": None, "action": None, "request": None}, {"resource": {"type": "invoice", "id": "7"}},
    ])  # fmt: skip
    return question


def an_odd_chain(random: Random, question: Question) -> Spoilt:
    hop = {"agent": "planner", "issuer": "acme", "issued_at": ago(5), "scopes": [], "groups": ["ops"]}
    odd = [
        [], [hop], [hop, hop], [hop] * 6, [{}], [None], ["planner"], {}, "planner", (hop,), [{**hop, "agent": ""}],
        [{**hop, "agent": None}], [{**hop, "issued_at": NOW}], [{**hop, "issued_at": "yesterday"}],
        [{**hop, "depth": 1}],
        [{**hop, "agent": "e\u0301"}], [{**hop, "issued_at": ago(-5)}], [{**hop, "issuer": 7}],
        [{**hop, "scopes": "x"}],
    ]  # fmt: skip
    question["chain"] = {"hops": copied(random.choice(odd))}
    return question


def odd_pending_facts(random: Random, question: Question) -> Spoilt:
    odd: list[Any] = [
        ["context.flag"], ["body.amount", "body.amount"], ["agent.id"], ["user.id"], ["user"], ["chain.hops"],
        ["context"],
        ["request.path"], ["tool.name"], ["nobody.knows"], ["credential.nothing"], [""], [7], [None], "context.flag",
        {},
        ["request.headers[\"X-Trace\"]"], ["body.card.number"], ["credential.issuer"], ["credential.claims.tenant"],
        ["user.roles"], ["resource.tenant"], ["invoice.total"], ["attestation.verified"], ["credential.scopes"],
        ["x" * 2_000],
        ["body.*"], ["body.*", "body.*"], ["body.*", "body"], ["body", "body.*"], ["body.*", "body.card.number"],
        ["body.card.*"], ["body.amount.*"], ["request.headers.*"], ["request.*"], ["agent.*"], ["*"], [".*"],
        ["body.*.*"], ["credential.claims.*"], ["request.query.*", "context.*", "args.*"], ["tool.*"], ["user.roles.*"],
    ]  # fmt: skip
    question["pending"] = copied(random.choice(odd))
    return question


def odd_approvals(random: Random, question: Question) -> Spoilt:
    granted = {"id": "ap-1", "by": "carol", "granted_at": ago(1), "binding": "sha256:00"}
    odd: list[Any] = [
        [granted], [granted, granted], [{**granted, "granted_at": None}], [{**granted, "granted_at": "soon"}], [{}],
        [None],
        [{**granted, "id": ""}], [{**granted, "by": 7}], [{**granted, "by": "e\u0301"}], [{**granted, "rule": "g0"}],
        {},
        [{**granted, "binding": None}], [{**granted, "binding": 7}], "ap-1", [{**granted, "granted_at": NOW}],
        [{**granted, "issuer": "acme"}], [{**granted, "issuer": 7}], [{**granted, "issuer": "nobody"}],
        (granted,),
    ]  # fmt: skip
    question["approvals"] = copied(random.choice(odd))
    return question


def odd_entities(random: Random, question: Question) -> Spoilt:
    row = {"type": "user", "id": "alice", "attributes": {"tenant": "evil"}, "in": [{"type": "team", "id": "legal"}]}
    odd: list[Any] = [
        [row], [row, row], [{**row, "attributes": None}], [{**row, "attributes": []}], [{**row, "in": None}], [{}],
        [None],
        [{**row, "in": ["legal"]}], [{**row, "in": [{"type": "user", "id": "alice"}]}], [{**row, "roles": []}], {},
        "alice",
        [{**row, "id": ""}], [{**row, "type": 7}], [{**row, "attributes": {"tenant": None}}], [*rows(random)][:3],
    ]  # fmt: skip
    question["entities"] = copied(random.choice(odd))
    return question


def odd_options(random: Random, question: Question) -> Spoilt:
    odd: list[Any] = [
        {"consume": False}, {"consume": True}, {"consume": None}, {"consume": 0}, {"consume": "no"}, {"explain": True},
        {"at": ago(5), "consume": False}, {"at": ago(-60 * 24 * 400), "consume": False}, {"at": ago(5)}, {"at": "soon"},
        {"at": NOW, "consume": False}, {"at": NOW.replace(tzinfo=None), "consume": False}, {"at": 7}, {"at": None},
        {"now": 1},
        {"obligations_supported": []}, {"obligations_supported": None}, {"obligations_supported": "redact"}, {}, [],
        "at",
        {"obligations_supported": ["redact", "header"]}, {"obligations_supported": [7]},
        {"obligations_supported": [""]},
    ]  # fmt: skip
    question["options"] = copied(random.choice(odd))
    return question


def a_mapping_of_its_own(random: Random, question: Question) -> Spoilt:
    kind: Callable[[Any], Any] = random.choice(
        [OrderedDict, lambda given: defaultdict(dict, given), Lying, MappingProxyType, UserDict]
    )
    if random.random() < 0.3:
        return kind(question)
    roots = [name for name, members in question.items() if isinstance(members, dict)]
    if roots:
        name = random.choice(roots)
        question[name] = kind(question[name])
    return question


def names_of_its_own(random: Random, question: Question) -> Spoilt:
    """Use strings of another class as names and values."""
    members = random.choice([*branches(question), question])
    for name in [one for one in members if isinstance(one, str)]:
        if random.random() < 0.5:
            value = members.pop(name)
            members[OwnText(name)] = OwnText(value) if isinstance(value, str) else value
    return question


class OwnText(str):
    """A plain string of another class."""


def a_depth_or_a_length_beyond_bounds(random: Random, question: Question) -> Spoilt:
    members = random.choice(branches(question))
    name = random.choice([*members, "else"])
    members[name] = nested(random.choice([5, 28, 29, 30, 31, 32, 33, 60]), random.choice([list, dict]))
    if random.random() < 0.05:
        members[name] = random.choice([["acme"] * 10_001, {str(number): number for number in range(10_001)}])
    return question


def nested(depth: int, kind: type) -> Any:
    found: Any = "acme"
    for _ in range(depth):
        found = [found] if kind is list else {"a": found}
    return found


def no_question(random: Random, question: Question) -> Spoilt:
    return random.choice([None, [], [question], "", "{}", b"{}", 7, (), {}, "[]", b"\xff", list(question.items()), "{"])


HAZARDS: tuple[Callable[[Random, Question], Spoilt], ...] = (
    a_fact_of_another_type, a_fact_of_another_type, a_fact_of_another_type, a_member_that_is_missing,
    a_member_that_is_missing, a_python_object, a_python_object, an_odd_element, a_member_that_is_null, an_odd_path,
    an_odd_path, an_odd_method, odd_headers_or_parameters, odd_headers_or_parameters, an_odd_identity,
    an_odd_identity, odd_options, odd_options, odd_pending_facts, odd_approvals, odd_entities, an_odd_chain,
    a_root_of_another_shape, a_member_nobody_knows, an_odd_name, another_endpoint_too, a_mapping_of_its_own,
    names_of_its_own, a_depth_or_a_length_beyond_bounds, no_question,
)  # fmt: skip  # what makes no question is rarer than what makes a strange one


def spoilt(random: Random, question: Question) -> Spoilt:
    """Return a copy of the question with one or two hazards."""
    found: Spoilt = copied(question)
    for _ in range(random.choice([1, 1, 2])):
        if type(found) is dict:
            found = random.choice(HAZARDS)(random, found)
    return found


def copied(tree: Any) -> Any:
    """Copy plain dicts and lists; all other objects are shared."""
    if type(tree) is dict:
        return {name: copied(value) for name, value in tree.items()}
    return [copied(item) for item in tree] if type(tree) is list else tree


def request(question: Question) -> dict[str, Any]:
    """Return the HTTP request in the question, added if it has none."""
    found = question.get("request")
    if type(found) is not dict:
        found = question["request"] = {}
    return found
