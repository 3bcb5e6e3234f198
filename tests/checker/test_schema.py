"""Types of enums, entities and facts as they are declared."""

import pytest

from policyengine.typesystem import EnumType, FieldType, ListType, RecordType, RefType, Scalar, SetType, Type
from tests.checker.reading import read, told

USER = RefType(frozenset({"user"}))


def type_of(written: str) -> Type:
    found = read(f"enum plan = free < team\nentity folder\nentity user {{ x: {written} }}")
    assert found.findings == ()
    [field] = found.schema.entities["user"].fields
    return field.type


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *((str(scalar), scalar) for scalar in Scalar),
        ("plan", EnumType("plan", ("free", "team"))),
        ("user", USER),
        ("set<string>", SetType(Scalar.STRING)),
        ("list<int>", ListType(Scalar.INT)),
        ("set<user or folder>", SetType(RefType(frozenset({"user", "folder"})))),
        ("list<list<user>>", ListType(ListType(USER))),
        ("list<{ a: int }>", ListType(RecordType((FieldType("a", Scalar.INT),)))),
        (
            "{ a: int?  b: { c: time } }",
            RecordType((FieldType("a", Scalar.INT, True), FieldType("b", RecordType((FieldType("c", Scalar.TIME),))))),
        ),
    ],
)
def test_a_written_type_is_read_as_declared(written: str, expected: Type) -> None:
    assert type_of(written) == expected


def test_an_attribute_is_optional_or_inherited_as_declared() -> None:
    text = "entity folder { a: string?  b: set<user> inherited  c: int } in folder"
    assert read(text).schema.entities["folder"].fields == (
        FieldType("a", Scalar.STRING, optional=True),
        FieldType("b", SetType(USER), inherited=True),
        FieldType("c", Scalar.INT),
    )


def test_an_entity_has_its_declared_parents() -> None:
    assert read("entity a in a, b\nentity b").schema.entities["a"].parents == ("a", "b")


def test_a_user_exists_without_a_declaration() -> None:
    assert read("let a = 1").schema.entities["user"].fields == ()


def test_facts_have_their_declared_path_type_and_place() -> None:
    [one, other] = read("facts on POST /a { body.x: int? }\nfacts { context.y.z: string }").schema.facts
    assert (one.path, one.type, one.optional) == (("body", "x"), Scalar.INT, True)
    assert one.place is not None
    assert (other.path, other.place) == (("context", "y", "z"), None)


def test_a_fact_may_have_different_types_at_disjoint_endpoints() -> None:
    assert read("facts on POST /a { body.x: int }\nfacts on POST /b { body.x: string }").findings == ()


def test_a_member_may_be_declared_separately_from_its_record() -> None:
    assert read("facts { body.card: { number: string }  body.card.last: int }").findings == ()


SCALARS = "`bool`, `int`, `number`, `string`, `duration`, `time`, `ip`, `cidr`, `set` and `list`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("entity a { x: strng }", ("E205", "unknown type `strng`", "strng", "did you mean `string`?")),
        (
            "entity a { x: zzz }",
            ("E205", "unknown type `zzz`", "zzz", f"the types are {SCALARS}, and declared enums and entities"),
        ),
        ("entity a in b", ("E205", "unknown entity `b`", "b", "declare it: `entity invoice { owner: user }`")),
        ("entity a { x: set }", ("E219", "`set` needs an element type", "set", "write `set<string>`")),
        (
            "entity a { x: int<string> }",
            (
                "E219",
                "`int` takes no type in angle brackets",
                "int<string>",
                "only `set<…>` and `list<…>` take an element type",
            ),
        ),
        (
            "entity a { x: set<a or int> }",
            ("E219", "`or` joins entities, but `int` is not an entity", "int", "use one type"),
        ),
        (
            "entity a { x: set<set<int>> }",
            ("E219", "a set cannot contain set<int>", "set<set<int>>", "write `list` in place of `set`"),
        ),
        (
            "entity a { x: set<{ y: int }> }",
            ("E219", "a set cannot contain { y: int }", "set<{ y: int }>", "write `list` in place of `set`"),
        ),
        (
            "entity a { x: set<int?> }",
            (
                "E218",
                "only a whole fact or attribute can be optional",
                "int?",
                "an element of a set cannot be optional",
            ),
        ),
        (
            "entity a { x: string inherited } in a",
            ("E218", "only a set can be inherited, but `x` is a string", "string", "remove `inherited`"),
        ),
        (
            "entity a { x: set<int> inherited }",
            (
                "E218",
                "`a` is in no entity from which it could inherit",
                "x: set<int> inherited",
                "write `entity a { … } in folder`",
            ),
        ),
        (
            "facts { body.x: set<int> inherited }",
            (
                "E218",
                "only an attribute of an entity can be inherited",
                "body.x: set<int> inherited",
                "remove `inherited`",
            ),
        ),
        (
            "entity a { x: { y: set<int> inherited } } in a",
            ("E218", "only an attribute of an entity can be inherited", "y: set<int> inherited", "remove `inherited`"),
        ),
        ("entity a { id: string }", ("E211", "every a already has `id`", "id", "remove it, or choose another name")),
        (
            "entity agent { groups: set<string> }",
            ("E211", "every agent already has `groups`", "groups", "remove it, or choose another name"),
        ),
        (
            "entity tool { server: string }",
            ("E211", "every tool already has `server`", "server", "remove it, or choose another name"),
        ),
        ("entity a { x: int  x: int }", ("E210", "`x` is declared twice", "x", "give one of them another name")),
        (
            "entity a { x.y: int }",
            ("E215", "the name `x.y` cannot contain dots here", "x.y", "write a record: `card: { number: string }`"),
        ),
        ("facts { body.x: int  body.x: int }", ("E210", "`body.x` is declared twice", "body.x", "remove one")),
        (
            "facts { amount: int }",
            (
                "E216",
                "`amount` does not begin with `body.`, `args.` or `context.`",
                "amount",
                "write `body.amount`, `args.amount` or `context.amount`",
            ),
        ),
        (
            "facts { bdy.x: int }",
            (
                "E216",
                "`bdy.x` does not begin with `body.`, `args.` or `context.`",
                "bdy.x",
                "write `body.x`, `args.x` or `context.x`",
            ),
        ),
        (
            "facts { user.x: int }",
            ("E216", "`user.x` is an attribute of an entity", "user.x", "write `entity user { x: … }`"),
        ),
        (
            "facts { request.path: int }",
            ("E216", "`request.path` is built in: the canonical path", "request.path", "remove it"),
        ),
        (
            "facts { body.x: int }\nfacts on /a { body.x: string }",
            (
                "E217",
                "`body.x` is a string here and an int elsewhere",
                "body.x",
                "it must have the same type where both places overlap",
            ),
        ),
        (
            "facts on /a/** { body.x: int }\nfacts on /a/b { body.x: string }",
            (
                "E217",
                "`body.x` is a string here and an int elsewhere",
                "body.x",
                "it must have the same type where both places overlap",
            ),
        ),
        (
            "facts { body.x: int  body.x.y: int }",
            (
                "E217",
                "`body.x.y` cannot exist: `body.x` is an int, which has no members",
                "body.x.y",
                "declare `body.x` as a record, or remove its declaration",
            ),
        ),
    ],
)
def test_a_mistake_in_a_type_declaration_is_reported(text: str, expected: tuple[str, str, str, str]) -> None:
    assert told(read(text).findings) == [expected]


def test_all_mistakes_are_reported_in_one_run() -> None:
    text = "entity a { x: strng  y: set  z: int<int> }\nfacts { q: int  body.r: nope }"
    assert sorted(read(text).codes) == ["E205", "E205", "E216", "E219", "E219"]


def test_uses_of_a_broken_declaration_are_not_reported() -> None:
    declared = "entity user { x: strng }\nfacts { body.y: nope }"
    used = 'define a = user.x == 5 and body.y like "a" and body.y.z has 3'
    assert read(declared, used).codes == ["E205", "E205"]
