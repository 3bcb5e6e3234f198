"""What expressions become: typed, every name resolved."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_network

import pytest

from policyengine import kernel as k
from policyengine.runtime.calendar_windows import Daily, load_zone
from policyengine.source import Source, Span
from policyengine.typesystem import EntityRef, EnumType, ListType, RefType, Scalar, SetType, Type
from tests.checker.reading import ask, give, read

AT = Span(Source("anywhere", ""), 0, 0)  # places never take part in comparison
PLAN = EnumType("plan", ("free", "team", "enterprise"))
USER = RefType(frozenset({"user"}))
PEOPLE = SetType(RefType(frozenset({"team", "user"})))
THE_USER = k.Fact(("user",), USER, True, span=AT)
RESOURCE = k.Fact(("resource",), RefType(frozenset({"invoice"})), span=AT)
TENANT = k.Attribute(THE_USER, "tenant", Scalar.STRING, span=AT)
USER_PLAN = k.Attribute(THE_USER, "plan", PLAN, span=AT)
ROLES = k.Attribute(THE_USER, "roles", SetType(Scalar.STRING), span=AT)
AMOUNT = k.Fact(("body", "amount"), Scalar.NUMBER, span=AT)
TO = k.Fact(("body", "to"), Scalar.STRING, True, span=AT)
APPROVERS = k.Attribute(RESOURCE, "approvers", PEOPLE, levels=(("folder", False), ("invoice", False)), span=AT)
IP = k.Fact(("request", "ip"), Scalar.IP, True, span=AT)
NOW = k.Fact(("time",), Scalar.TIME, span=AT)
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))


def constant(value: object, type_: Type) -> k.Constant:
    return k.Constant(value, type_, span=AT)  # type: ignore[arg-type]  # tests give values of the type


def text(value: str) -> k.Constant:
    return constant(value, Scalar.STRING)


def number(value: int) -> k.Constant:
    return constant(value, Scalar.INT)


def team(id_: str) -> k.Constant:
    return constant(EntityRef("team", id_), RefType(frozenset({"team"})))


SAME_TENANT = k.Relation("==", TENANT, k.Attribute(RESOURCE, "tenant", Scalar.STRING, span=AT), span=AT)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('user.tenant == "a"', k.Relation("==", TENANT, text("a"), span=AT)),
        ("body.amount > 500", k.Relation(">", AMOUNT, number(500), span=AT)),
        ("user.plan >= team", k.Relation(">=", USER_PLAN, constant("team", PLAN), span=AT)),
        ("team <= user.plan", k.Relation("<=", constant("team", PLAN), USER_PLAN, span=AT)),
        (
            "user.plan in paid",
            k.Relation("has", constant(("team", "enterprise"), SetType(PLAN)), USER_PLAN, span=AT),
        ),
        ("same_tenant", k.DefinitionRef("same_tenant", SAME_TENANT, Scalar.BOOL, span=AT)),
        ('user.roles has "a"', k.Relation("has", ROLES, text("a"), span=AT)),
        ('"a" in user.roles', k.Relation("has", ROLES, text("a"), span=AT)),
        ('"a" not in user.roles', k.Not(k.Relation("has", ROLES, text("a"), span=AT), span=AT)),
        ("user in resource.approvers", k.Relation("holds", APPROVERS, THE_USER, span=AT)),
        ('user in team "a"', k.Relation("in", THE_USER, team("a"), span=AT)),
        ('user below team "a"', k.Relation("below", THE_USER, team("a"), span=AT)),
        ('team "a" has user', k.Relation("child of", THE_USER, team("a"), span=AT)),
        ("user == resource.owner", k.Relation("==", THE_USER, k.Attribute(RESOURCE, "owner", USER, span=AT), span=AT)),
        ("request.ip within internal", k.Relation("within", IP, constant(NETWORKS, ListType(Scalar.CIDR)), span=AT)),
        ("request.ip within 10.0.0.0/8", k.Relation("within", IP, constant(NETWORKS[0], Scalar.CIDR), span=AT)),
        ('user.tenant like "a*"', k.Relation("like", TENANT, text("a*"), span=AT)),
        ('user.tenant matches "a+"', k.Relation("matches", TENANT, text("a+"), span=AT)),
        ('user.roles overlaps ["a"]', k.Relation("overlaps", ROLES, constant(("a",), SetType(Scalar.STRING)), span=AT)),
        (
            'user.roles subset of ["a"]',
            k.Relation("subset of", ROLES, constant(("a",), SetType(Scalar.STRING)), span=AT),
        ),
        ("user.suspended", k.Attribute(THE_USER, "suspended", Scalar.BOOL, span=AT)),
        ("body.to is present", k.IsPresent(TO, span=AT)),
        ("body.to is absent", k.Not(k.IsPresent(TO, span=AT), span=AT)),
        (
            'body.to else "a" == "b"',
            k.Relation("==", k.Default(TO, text("a"), Scalar.STRING, span=AT), text("b"), span=AT),
        ),
        (
            'any r in user.roles: r == "a"',
            k.Quantifier(
                "any",
                "r",
                ROLES,
                k.Relation("==", k.Variable("r", Scalar.STRING, span=AT), text("a"), span=AT),
                span=AT,
            ),
        ),
        (
            'request.headers["x-id"] == "a"',
            k.Relation("==", k.Fact(("request", "headers", "x-id"), Scalar.STRING, True, span=AT), text("a"), span=AT),
        ),
        (
            'args["content-type"] == "a"',
            k.Relation("==", k.Fact(("args", "content-type"), Scalar.STRING, True, span=AT), text("a"), span=AT),
        ),
        ('body["amount"] == 5', k.Relation("==", AMOUNT, number(5), span=AT)),
        (
            "params.id == resource",
            k.Relation("==", k.Fact(("params", "id"), RefType(frozenset({"invoice"})), span=AT), RESOURCE, span=AT),
        ),
        (
            "resource == invoice(body.to)",
            k.Relation("==", RESOURCE, k.Call("invoice", (TO,), RefType(frozenset({"invoice"})), span=AT), span=AT),
        ),
        (
            'resource == invoice("42")',
            k.Relation("==", RESOURCE, constant(EntityRef("invoice", "42"), RefType(frozenset({"invoice"}))), span=AT),
        ),
        (
            "time - 5m > user.since",
            k.Relation(
                ">",
                k.Arithmetic("-", NOW, constant(timedelta(minutes=5), Scalar.DURATION), Scalar.TIME, span=AT),
                k.Attribute(THE_USER, "since", Scalar.TIME, span=AT),
                span=AT,
            ),
        ),
        ("-5 < body.amount", k.Relation("<", number(-5), AMOUNT, span=AT)),
        (
            'time within mon..fri 08:00..18:00 "Europe/Berlin"',
            k.InWindow(NOW, Daily(frozenset(range(5)), 480, 1080, load_zone("Europe/Berlin")), span=AT),
        ),
    ],
)
def test_a_condition_lowers_to_the_expected_kernel_expression(condition: str, expected: k.Expr) -> None:
    found = ask(condition)
    assert found.codes == []
    assert found.expression == expected


@pytest.mark.parametrize(
    ("written", "type_", "value"),
    [
        ("10_000", Scalar.INT, 10_000),
        ("1.50", Scalar.NUMBER, Decimal("1.50")),
        ("9223372036854775808", Scalar.NUMBER, Decimal(2**63)),
        ("-3", Scalar.INT, -3),
        ("1h30m", Scalar.DURATION, timedelta(minutes=90)),
        ("2027-01-01", Scalar.TIME, datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01T10:00:00+02:00", Scalar.TIME, datetime(2027, 1, 1, 8, tzinfo=UTC)),
        ("2027-01-01T10:00Z", Scalar.TIME, datetime(2027, 1, 1, 10, tzinfo=UTC)),
        ("10.0.0.1", Scalar.IP, ip_address("10.0.0.1")),
        ("::1", Scalar.IP, ip_address("::1")),
        ("fe80::/10", Scalar.CIDR, ip_network("fe80::/10")),
        ("sha256:00ff", Scalar.STRING, "sha256:00ff"),
        ("true", Scalar.BOOL, True),
        ('"a"', Scalar.STRING, "a"),
        ('team "a"', RefType(frozenset({"team"})), EntityRef("team", "a")),
        ("[1, 2.5]", ListType(Scalar.NUMBER), (1, Decimal("2.5"))),
        ("[1, 1]", SetType(Scalar.INT), (1,)),
        ("[free, team]", SetType(PLAN), ("free", "team")),
        ("[]", SetType(Scalar.STRING), ()),
        ("[10.0.0.0/8, ::1]", ListType(Scalar.CIDR), (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
        ("boss", USER, EntityRef("user", "bob")),
    ],
)
def test_a_literal_is_a_constant_of_its_type(written: str, type_: Type, value: object) -> None:
    found = give(written, type_)
    assert found.codes == []
    assert found.expression == constant(value, type_)


def test_a_list_that_contains_a_fact_is_not_a_constant() -> None:
    found = give('["a", user.tenant]', SetType(Scalar.STRING)).expression
    assert found == k.Collection((text("a"), TENANT), SetType(Scalar.STRING), span=AT)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1 + 2", Scalar.INT),
        ("1 + 2.5", Scalar.NUMBER),
        ("body.n * body.n", Scalar.INT),
        ("5m * 3", Scalar.DURATION),
        ("time + 5m", Scalar.TIME),
        ("5m + time", Scalar.TIME),
        ("5m - 1m", Scalar.DURATION),
        ("-credential.age", Scalar.DURATION),
        ("lower(user.tenant)", Scalar.STRING),
        ("size(user.roles)", Scalar.INT),
        ("size(user.tenant)", Scalar.INT),
        ("min(1, 2)", Scalar.INT),
        ("max(1, 2.5)", Scalar.NUMBER),
        ("min(1m, 2m)", Scalar.DURATION),
        ("bucket(user.id, 100)", Scalar.INT),
        ("user.manager.manager", USER),
        ("body.card.number", Scalar.STRING),
        ("resource.owner.plan", PLAN),
        ("resource.owner.id", Scalar.STRING),
        ("chain.hops", None),
    ],
)
def test_every_expression_has_its_type(written: str, expected: Type | None) -> None:
    found = ask(f"any x in [{written}]: true").expression
    assert isinstance(found, k.Quantifier)
    domain = found.domain.type
    assert isinstance(domain, ListType)
    assert expected is None or domain.element == expected


@pytest.mark.parametrize(
    "condition",
    [
        "free in user.plans",
        "user.plans has free",
        "user.plans overlaps paid",
        "paid overlaps user.plans",
        "credential.kind in [jwt, mtls]",
        "boss in resource.approvers",
        'boss.tenant == "a"',
        "office_hours and not (same_tenant or user.suspended)",
        'any h in chain.hops: h.agent == "a" and h.issued_at is present',
        'all r in user.roles: (any s in ["a"]: s == r)',
        "agent.id == credential.subject and agent.groups has agent.model",
        "context.net == 10.0.0.0/8",
        'user.manager else user "nobody" == user',
        "context.risk else 0.5 < 1",
        "context.level == low",
        'user.tenant < "b"',
        "resource.owner.manager == boss",
        "credential.age <= 5m and time < 2027-01-01",
        "user is present and user.manager is absent",
        "resource is present and params.id is present",
        "request.query.page == request.headers.accept",
        'user in [team "a", user "b"]',
        "user in task.entities",
        "task.entities has resource",
        'any one in task.entities: one == user "alice"',
        'request.host in ["api.example", "::1", "10.0.0.1"] and request.host != "localhost"',
        'request.host like "*.example" or (request.host else "none") == "none"',
        "request.ip in [10.0.0.1, ::1]",
    ],
)
def test_a_sound_condition_is_accepted(condition: str) -> None:
    found = ask(condition)
    assert found.codes == []
    assert found.expression is not None
    assert found.expression.type == Scalar.BOOL


def test_a_fact_exists_when_its_declarations_together_cover_the_rule() -> None:
    world = "facts on POST /a { body.x: int }\nfacts on POST /b { body.x: int? }"
    found = ask("body.x > 5", "POST /a, POST /b", world)
    assert found.codes == []
    assert found.expression == k.Relation(">", k.Fact(("body", "x"), Scalar.INT, True, span=AT), number(5), span=AT)


def test_a_fact_has_the_type_declared_for_its_endpoint() -> None:
    world = "facts on POST /a { body.x: int }\nfacts on POST /b { body.x: string }"
    assert ask("body.x > 5", "POST /a", world).codes == []
    assert ask('body.x like "a"', "POST /b", world).codes == []


def test_a_context_fact_is_available_at_every_endpoint() -> None:
    assert ask("context.risk else 1 < 1", None).codes == []


def test_agents_have_declared_attributes_and_built_in_facts() -> None:
    world = "entity agent { publisher: string  team: team? } in team\nentity team"
    found = ask('agent.publisher == "a" and agent.id == "b" and agent in agent.team', None, world)
    assert found.codes == []
    assert isinstance(found.expression, k.And)
    publisher, name, _ = found.expression.items
    assert isinstance(publisher, k.Relation)
    assert isinstance(publisher.left, k.Attribute)
    assert isinstance(name, k.Relation)
    assert name.left == k.Fact(("agent", "id"), Scalar.STRING, span=AT)


def test_a_resource_of_several_types_has_their_common_attributes() -> None:
    place = "/a/{x: invoice}, /b/{x: folder}"
    assert ask("user in resource.approvers", place).codes == []


def test_names_in_an_imported_definition_resolve_in_its_own_package() -> None:
    common = "package a\nlet limit = 5\nexport define big = request.size > limit\nexport let few = limit"
    found = read(common, "package b\nimport a\nlet limit = 7\ndefine x = a.big and request.size < a.few")
    assert found.codes == []


def test_the_span_of_a_constant_by_name_is_where_it_is_used() -> None:
    found = ask("user.plan in paid").expression
    assert isinstance(found, k.Relation)
    assert found.left.span.text == "paid"


def test_a_sum_of_ninety_terms_is_accepted() -> None:
    assert ask(" + ".join(["body.n"] * 90) + " > 5").codes == []


def test_a_list_of_ten_thousand_items_is_rejected_as_too_large() -> None:
    assert ask(f"user.age in [{', '.join(map(str, range(10_001)))}]").codes == ["E248"]


def test_definitions_seventy_levels_deep_are_accepted() -> None:
    nested = "\n".join(f"define a{i} = not a{i + 1}" for i in range(70))
    found = ask("a0", "GET /a", f"{nested}\ndefine a70 = request.size > 5")
    assert found.codes == []


@pytest.mark.parametrize("condition", ["(large)", "not (large)", "(few) < request.size", "((large))"])
def test_a_definition_may_be_in_parentheses(condition: str) -> None:
    found = ask(condition, "GET /a", "define large = request.size > 5\nlet few = 3")
    assert found.codes == []
