"""A hostile bundle, with the right digest, is refused with a message, or is a policy like any other."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.compiler.bundle.file import BundleError, PolicyBundle, decode_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema, read_everything
from policyengine.engine import Engine
from policyengine.runtime import calendar_windows
from policyengine.typesystem import EnumType, FieldType, ListType, RecordType, RefType, SetType
from tests.compiler.hostile import bundled, members_of, places_in, refused_or_sound, sealed

POLICY = """language 1
package acme
enum plan = free < team
entity team in team
entity user { plan: plan  tags: set<string>  roles: set<string> } in team
entity invoice { owner: user  total: number } in team
facts { context.n: int  context.s: string  context.rec: { a: int } }
issuer idp { records chains  claims { plan -> user.plan } }
attester lab {}
scope see { GET /v1/{id: invoice}  TOOL mail/* }
define risky = context.n == 7
agent "x" { issued by idp  acts alone  attested by lab  credential { kind in [jwt] }  may see when context.n + 1 > 2 }
agent "y" { issued by idp  acts for users where user.id == "u"  may see
  may delegate see to agent "z" for 10m when context.n > 1 }
agent where agent.id == "w" { issued by idp  acts alone  may see }
user any { may ACTION view invoice }
guard "g" on /v1/** {
  deny when user.id matches "a+"
  deny when request.ip within 10.0.0.0/8
  deny when user.id like "b*"
  deny when time within mon..fri 08:00..18:00 "Europe/Berlin"
  deny when time within sat..sun "UTC"
  deny when time within fri 16:00..mon 08:00 "UTC"
  deny when time within 2026-12-24..2027-01-02 "UTC"
  deny when any t in user.tags: t == "evil"
  deny when -context.n > 3 or context.rec.a == 1
  deny when context.n == 3 and context.n == 1
  deny when user in team "t"
  deny unless user is known
  deny when user.plan >= team
  deny when user.tags overlaps ["a"]
  deny when user.tags subset of ["b"]
  deny when user.tags has "c"
  deny when user.id in [context.s, "d"]
  deny when size(user.id) > 3
  deny when not (context.n == 1)
  deny when user.plan else free == free
  deny when risky
  audit full when context.n == 5
  confirm by role boss when context.n == 4
  confirm by team "t" when context.n == 6
}
"""


@pytest.fixture(scope="module")
def members() -> dict[str, Any]:
    return members_of(write_bundle(Engine.from_text(POLICY).kernel, "0.1.0"))


def copy_of(members: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(msgpack.packb(members))
    return found


def read(data: bytes) -> PolicyBundle:
    """A bundle with everything in it read."""
    found = decode_bundle(data)
    read_everything(found.kernel)
    return found


def of_kind(members: dict[str, Any], kind: type) -> list[Any]:
    """The array that stands for a value of the class, its number before its members."""
    record = bundle_schema().classes[kind]
    arrays = (holder[key] for holder, key in places_in(members) if isinstance(holder[key], list))
    fitting = (one for one in arrays if len(one) == len(record.names) + 1 and one[0] == record.number)
    return next(one for one in fitting if record.names[0] != "span" or isinstance(one[1], list))


def put(members: dict[str, Any], kind: type, member: str, value: Any) -> None:
    """Something else in place of a member; of several items, in place of the first."""
    if kind in PATTERN_ROWS:
        place = PATTERN_ROWS[kind].index(member)
        found = next(row for chunk in members["patterns"] for row in chunk if row[0] == ROW_NUMBERS[kind])
    else:
        found = of_kind(members, kind)
        place = bundle_schema().classes[kind].names.index(member) + 1
    if member in ("items", "arguments") and found[place]:
        found[place][0] = value
    else:
        found[place] = value


# Patterns are rows of a table: a number, and these members.
PATTERN_ROWS: dict[type, list[str]] = {
    k.HttpPattern: ["", "methods", "segments", "rest", "folding"],
    k.ToolPattern: ["", "glob"],
    k.ActionPattern: ["", "verb", "type"],
}
ROW_NUMBERS = {kind: number for number, kind in enumerate(PATTERN_ROWS)}


def test_what_is_changed_below_is_read_unchanged(members: dict[str, Any]) -> None:
    assert read(bundled(members)).kernel == Engine.from_text(POLICY).kernel


# ── Each promise that later stages rely on ────────────────────────────────────────────────────

# Class, member, what is put there, and what the message says.
WRONG: list[tuple[type, str, Any, str]] = [
    (k.Fact, "path", [], "a path that is not a fact's"),
    (k.Fact, "path", ["os", "system"], "is not a fact"),
    (k.Fact, "path", ["context"], "is not a fact"),
    (k.Fact, "path", ["user"], "is not a fact"),
    (k.Fact, "path", ["context", ""], "a path that is not a fact's"),
    (k.Fact, "path", ["context", *["n"] * 200], "a path that is not a fact's"),
    (k.Fact, "type", 999, "a reference to a missing type"),
    (k.Fact, "type", -1, "Expected `int` >= 0"),
    (k.Fact, "type", True, "Expected `int`, got `bool`"),
    (k.Constant, "value", "text", "a constant of another type"),
    (k.Constant, "value", True, "a constant of another type"),
    (k.Constant, "value", ["number", "NaN"], "a constant of another type"),
    (k.Constant, "value", ["number", "1e999999999"], "a constant"),
    (k.Constant, "value", ["number", "9" * 10_000], "Expected `str` of length <= 64"),
    (k.Constant, "value", ["ip", "::g"], "a constant with an invalid text"),
    (k.Constant, "value", ["items", [["items", []]]], "Invalid value 'items'"),
    (k.Constant, "value", ["eval", "1"], "Invalid value 'eval'"),
    (k.Constant, "value", ["time", 2**62], "a time outside of the calendar"),
    (k.Constant, "value", ["duration", [2**40, 0, 0]], "Expected `int` <= 999999999"),
    (k.Constant, "span", [99, 0, 0], "a place in a missing source"),
    (k.Constant, "span", [0, -1, 0], "Expected `int` >= 0"),
    (k.GrantTarget, "pattern", [99, 0, 0, 0], "a reference to a missing pattern"),
    (k.GrantTarget, "pattern", [-1, 0, 0, 0], "Expected `int` >= 0"),
    (k.Place, "patterns", [[99, 0, 0, 0]], "a reference to a missing pattern"),
    (k.Place, "excepts", [[99, 0, 0, 0]], "a reference to a missing pattern"),
    (k.DelegationGrant, "patterns", [[99, 0, 0, 0]], "a reference to a missing pattern"),
    (k.Binder, "pattern", [99, 0, 0, 0], "a reference to a missing pattern"),
    (k.Relation, "operator", "resembles", "an unknown relation"),
    (k.Relation, "operator", 1, "Expected `str`, got `int`"),
    (k.Quantifier, "variable", "other", "unbound variable"),
    (k.Quantifier, "variable", "1x", "not a set or list"),
    (k.Quantifier, "word", "some", "Invalid enum value 'some'"),
    (k.Call, "function", "eval", "not a known function"),
    (k.Call, "function", "lower", "cannot take these"),
    (k.Member, "name", "b", "a member of a value that is not a record"),
    (k.Attribute, "name", "__class__.x", "an attribute without a name"),
    (k.Attribute, "levels", [["user", False]], "not a set"),
    (k.Attribute, "levels", [["a b", False]], "no"),
    (FieldType, "else_empty", True, "an attribute without a name"),
    (k.Default, "type", 0, "of another type"),
    (k.Arithmetic, "operator", "**", "Invalid enum value '**'"),
    (k.HttpPattern, "methods", [], "methods that no request can have"),
    (k.HttpPattern, "methods", ["get me"], "methods that no request can have"),
    (k.HttpPattern, "segments", [""], "a segment that no path can have"),
    (k.HttpPattern, "segments", ["a/b"], "a segment that no path can have"),
    (k.HttpPattern, "segments", [".."], "a segment that no path can have"),
    (k.HttpPattern, "segments", [["", "", "id", "ghost"]], "a capture whose type is not an entity"),
    (k.HttpPattern, "segments", [["", "", "id", None]] * 2, "a name captured twice"),
    (k.ToolPattern, "glob", "", "an invalid tool name"),
    (k.ActionPattern, "type", "ghost", "an invalid action"),
    (k.IssuedBy, "issuers", ["nobody"], "an issuer that is not declared"),
    (k.IssuedBy, "issuers", [], "an issuer that is not declared"),
    (k.AttestedBy, "attesters", ["nobody"], "an attester that is not declared"),
    (k.CredentialKinds, "kinds", ["smile"], "a kind of credential that does not exist"),
    (k.HasRow, "entity", None, "Expected `array`, got `None`"),
    (k.DefinitionRef, "type", 0, "a definition of another type"),
    (calendar_windows.Daily, "start_minute", 1_441, "an invalid time of day"),
    (calendar_windows.Daily, "days", [], "a window without days"),
    (calendar_windows.Daily, "zone", "Mars/Base", "unknown time zone"),
    (calendar_windows.Daily, "zone", "../../etc/passwd", "unknown time zone"),
    (calendar_windows.Weekly, "start_day", 7, "an unknown day of the week"),
    (calendar_windows.Weekly, "end_minute", -1, "an invalid time of day"),
    (calendar_windows.WholeDays, "days", [7], "a window without days"),
    (calendar_windows.Absolute, "end", 0, "a window that ends before it begins"),
    (k.Binder, "resource", ["invoice", "other"], "a resource that its pattern does not capture"),
    (k.Binder, "facts", [[["user"], None]], "Expected `array`, got `None`"),
    (k.EntityType, "name", "a b", "a declaration without a name"),
    (k.Attester, "name", "", "a declaration without a name"),
    (k.Issuer, "name", "1", "a declaration without a name"),
    (k.Issuer, "claims", [["plan", ["user"]]], "a claim that is not an attribute of the caller"),
    (
        k.Issuer,
        "claims",
        [["plan", ["request", "path"]]],
        "a claim that is not an attribute of the caller",
    ),
    (FieldType, "name", "a.b", "an attribute without a name"),
]


@pytest.mark.parametrize(
    ("kind", "member", "value", "why"),
    [pytest.param(*one, id=f"{one[0].__name__}.{one[1]}-{number}") for number, one in enumerate(WRONG)],
)
def test_a_part_that_the_checker_could_not_have_made_is_refused(
    members: dict[str, Any], kind: type, member: str, value: Any, why: str
) -> None:
    changed = copy_of(members)
    put(changed, kind, member, value)
    assert_refused(changed, why)


def assert_refused(changed: Any, why: str) -> None:
    with pytest.raises(BundleError) as found:
        read(bundled(changed))
    assert found.value.code == "E165"
    assert why in found.value.message
    assert found.value.hint


def test_a_message_shows_nothing_that_has_power_over_a_terminal(members: dict[str, Any]) -> None:
    changed = copy_of(members)
    put(changed, k.Fact, "path", ["\x1b[31m\n", "x" * 10_000])
    with pytest.raises(BundleError) as found:
        read(bundled(changed))
    assert found.value.message.isprintable()
    assert len(found.value.message) < 200


# What stands where an expression is expected, by the class around it: its operand has another type.
MISTYPED: list[tuple[type, str, str]] = [
    (k.Not, "operand", "neither true nor false"),
    (k.HasRow, "entity", "not an entity"),
    (k.InWindow, "instant", "not a time"),
    (k.Quantifier, "domain", "not a set or list"),
    (k.Quantifier, "condition", "neither true nor false"),
    (k.UnaryMinus, "operand", "not a number"),
    (k.Attribute, "base", "not an entity"),
    (k.Member, "base", "not a record"),
    (k.Deny, "condition", "neither true nor false"),
    (k.Grant, "when", "neither true nor false"),
    (k.Confirm, "condition", "neither true nor false"),
    (k.ObligationEffect, "condition", "neither true nor false"),
    (k.DelegationGrant, "when", "neither true nor false"),
    (k.PrincipalCondition, "condition", "neither true nor false"),
    (k.ActsFor, "condition", "neither true nor false"),
    (k.And, "items", "neither true nor false"),
    (k.Or, "items", "neither true nor false"),
    (k.Collection, "items", "a mixed list"),
    (k.Arithmetic, "left", "for an operand that it does not accept"),
    (k.MemberOf, "expression", "an approver that is not an entity"),
    (k.Default, "fallback", "of another type"),
    (k.DefinitionRef, "expression", "a definition of another type"),
    (k.Call, "arguments", "cannot take these"),
]


@pytest.mark.parametrize(
    ("kind", "member", "why"), [pytest.param(*one, id=f"{one[0].__name__}.{one[1]}") for one in MISTYPED]
)
def test_an_operand_of_another_type_is_refused(members: dict[str, Any], kind: type, member: str, why: str) -> None:
    changed = copy_of(members)
    put(changed, kind, member, a_duration(changed))
    assert_refused(changed, why)


RELATED = {
    k.Operands.VALUES: "between values that cannot be compared",
    k.Operands.ELEMENT: "membership in a value that is not a set or list",
    k.Operands.ENTITIES: "a hierarchy of values that are not entities",
    k.Operands.NETWORKS: "an address within a value that is not a network",
    k.Operands.PATTERN: "for a value that is not a string",
    k.Operands.STRINGS: "for a value that is not a string",
    k.Operands.COLLECTIONS: "between values that are not sets of one type",
}


@pytest.mark.parametrize("operator", k.RELATIONS)
def test_sides_of_other_types_than_a_relation_takes_are_refused(members: dict[str, Any], operator: str) -> None:
    changed = copy_of(members)
    put(changed, k.Relation, "operator", operator)
    put(changed, k.Relation, "left", a_duration(changed))
    put(changed, k.Relation, "right", a_text(changed, "a"))
    assert_refused(changed, RELATED[k.RELATIONS[operator].operands])


@pytest.mark.parametrize("operator", ["has", "holds"])
def test_an_element_of_another_type_is_refused(members: dict[str, Any], operator: str) -> None:
    changed = copy_of(members)
    put(changed, k.Relation, "operator", operator)
    put(changed, k.Relation, "left", texts(changed, "a"))
    put(changed, k.Relation, "right", a_duration(changed))
    assert_refused(changed, "membership of a value of another type")


def test_networks_of_another_type_are_refused(members: dict[str, Any]) -> None:
    changed = copy_of(members)
    put(changed, k.Relation, "operator", "within")
    put(changed, k.Relation, "left", a_text(changed, "a"))
    put(changed, k.Relation, "right", texts(changed, "a"))
    assert_refused(changed, "an address within a value that is not a network")


@pytest.mark.parametrize("pattern", ["(a)\\1", "(", "a" * 2_000])
def test_a_pattern_that_cannot_be_used_is_refused(members: dict[str, Any], pattern: str) -> None:
    changed = copy_of(members)
    put(changed, k.Relation, "operator", "matches")
    put(changed, k.Relation, "left", a_text(changed, "a"))
    put(changed, k.Relation, "right", a_text(changed, pattern))
    assert_refused(changed, "a pattern that cannot be used")


@pytest.mark.parametrize("operator", ["like", "matches"])
def test_a_pattern_that_is_not_written_out_is_refused(members: dict[str, Any], operator: str) -> None:
    changed = copy_of(members)
    put(changed, k.Relation, "operator", operator)
    put(changed, k.Relation, "left", a_text(changed, "a"))
    put(changed, k.Relation, "right", a_duration(changed))
    assert_refused(changed, "a pattern that is not a string")


def texts(changed: dict[str, Any], *held: str) -> list[Any]:
    changed["types"] += ["string", row(SetType, len(changed["types"]))]
    return [bundle_schema().classes[k.Constant].number, [0, 0, 0], ["items", [*held]], len(changed["types"]) - 1]


def a_text(changed: dict[str, Any], text: str) -> list[Any]:
    changed["types"].append("string")
    return [bundle_schema().classes[k.Constant].number, [0, 0, 0], text, len(changed["types"]) - 1]


def a_duration(changed: dict[str, Any]) -> list[Any]:
    changed["types"].append("duration")
    return [bundle_schema().classes[k.Constant].number, [0, 0, 0], ["duration", [1, 0, 0]], len(changed["types"]) - 1]


# ── What stands around the parts ──────────────────────────────────────────────────────────────


def row(kind: type, *members: Any) -> list[Any]:
    """A row of the table of types."""
    return [bundle_schema().classes[kind].number, *members]


AROUND: list[tuple[str, Any, str]] = [
    ("sources", None, "Expected `array`, got `None`"),
    ("sources", [["a"]], "Expected `array` of length 2"),
    ("types", [row(SetType, 0)], "a reference to a missing type"),
    ("types", [row(RecordType, [row(FieldType, "a", 5, False, False, False)])], "a reference to a missing type"),
    ("types", ["int", *(row(ListType, number) for number in range(500))], "types nest more than 100 levels deep"),
    ("types", ["object"], "Invalid enum value 'object'"),
    ("types", [row(EnumType, "e", [], True)], "an enum without distinct values"),
    ("types", [row(EnumType, "e", ["a", "a"], True)], "an enum without distinct values"),
    ("types", [row(RefType, [])], "a reference to an entity of no type"),
    ("package", 7, "Expected `str`, got `int`"),
    ("packages", "acme", "Expected `array`, got `str`"),
    ("revision", "sha256:12", "Expected `str` matching regex"),
    ("delegation", [[]], "Expected `array` of at least length"),
    ("agents", None, "Expected `array`, got `None`"),
    ("guards", [None], "Expected `array`, got `None`"),
    ("entities", [], "an entity that is not declared"),
    ("issuers", [], "an issuer that is not declared"),
    ("patterns", [], "a reference to a missing pattern"),
    ("patterns", [[[3, "x"]]], "Invalid value 3"),
    ("patterns", [[[1, "a/b"]] * 65], "a table of patterns with other chunks"),
    ("patterns", [[[1, "a/b"]] * 63, [[1, "a/b"]]], "a table of patterns with other chunks"),
]


@pytest.mark.parametrize(
    ("member", "value", "why"), [pytest.param(*one, id=f"{one[0]}-{number}") for number, one in enumerate(AROUND)]
)
def test_what_stands_around_the_parts_is_checked_too(
    members: dict[str, Any], member: str, value: Any, why: str
) -> None:
    assert_refused({**copy_of(members), member: value}, why)


@pytest.mark.parametrize("change", ["more", "fewer", "order", "list"])
def test_a_payload_has_exactly_its_members(members: dict[str, Any], change: str) -> None:
    fewer = {name: value for name, value in members.items() if name != "guards"}
    turned = dict(reversed(members.items()))
    changed: dict[str, Any] = {"more": {**members, "more": 1}, "fewer": fewer, "order": turned, "list": []}
    assert_refused(changed[change], "Expected `")


def test_a_name_that_appears_twice_is_refused(members: dict[str, Any]) -> None:
    changed = copy_of(members)
    changed["entities"].append(changed["entities"][0])
    assert_refused(changed, "entities repeated, or in an unexpected order")


def test_every_type_of_entity_is_declared(members: dict[str, Any]) -> None:
    changed = copy_of(members)
    changed["types"].append(row(RefType, ["ghost"]))
    assert_refused(changed, "an entity that is not declared")


# ── Bombs ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("depth", [260, 600, 2_000])
def test_conditions_that_nest_without_end_are_refused(members: dict[str, Any], depth: int) -> None:
    changed = copy_of(members)
    deny = of_kind(changed, k.Deny)
    for _ in range(depth):
        deny[2] = [bundle_schema().classes[k.Not].number, [0, 0, 0], deny[2]]
    assert_refused(changed, "nest")


@pytest.mark.parametrize("byte", [b"\x91", b"\xdd\x00\x00\x00\x01", b"\x81\xa1a", b"\xdd\x00\x0f\xff\xff"])
def test_a_payload_that_nests_without_end_is_refused(byte: bytes) -> None:
    with pytest.raises(BundleError) as found:
        decode_bundle(sealed(byte * 100_000))
    assert found.value.code == "E165"


@pytest.mark.parametrize(
    "head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
)
def test_a_length_beyond_the_file_is_refused(head: bytes) -> None:
    with pytest.raises(BundleError) as found:
        decode_bundle(b"\x97" + msgpack.packb("policyengine bundle") + head + b"\x00" * 100)
    assert found.value.code in ("E160", "E162")


# ── By chance ─────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_a_bundle_changed_by_chance_is_refused_or_decides_without_failing(seed: int) -> None:
    assert refused_or_sound(seed, changes=12) > 0


# ── Data stays data ───────────────────────────────────────────────────────────────────────────

BENIGN = """issuer idp { scopes none }
facts { context.s: string }
agent "x" { issued by idp  acts alone  may GET /a/{id} when context.s == "v" }
guard "g" on /a/** { deny when context.s like "b*" and context.s matches "[a-c]+"  deny when params.id == "9" }
"""
AS_CODE = ['" + str(told(1)) + "', "' + str(told(1)) + '", "{told(1)}", 'a"] + told(1) + ["', "a\ntold(1)\n", "\\"]


def test_no_text_of_a_bundle_becomes_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every text of a bundle in turn by one that would call `told` if it were executed as Python."""
    called: list[int] = []
    monkeypatch.setattr(builtins, "told", called.append, raising=False)
    members = members_of(write_bundle(Engine.from_text(BENIGN).kernel, "0.1.0"))
    texts = sum(isinstance(holder[key], str) for holder, key in places_in(members))
    decided = 0
    for number in range(texts):
        for text in AS_CODE:
            changed = copy_of(members)
            holder, key = [(h, one) for h, one in places_in(changed) if isinstance(h[one], str)][number]
            holder[key] = text
            (tmp_path / "x.policybundle").write_bytes(bundled(changed))
            try:
                engine = Engine.from_bundle(tmp_path / "x.policybundle")
            except BundleError:
                continue
            for path in ("/a/1", "/a/9"):
                engine.decide(asked_for(path, text))
                decided += 1
    assert called == []
    assert decided > 2 * texts


def asked_for(path: str, text: str) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": path},
        "agent": {"id": "x", "issuer": "idp"},
        "credential": {"scopes": []},
        "context": {"s": "v", text: "v"},
    }
