"""Unknown never opens a door: the table of what acts when, row by row, and every numbered corner below it."""

import pytest

from tests.spec.deciding import bot, chain, codes, decide, hop, question, spending, unknown, verdict

# ── The three-valued table ────────────────────────────────────────────────────────────────────

CONDITION = "context.c"
GIVEN = {"true": {"c": True}, "false": {"c": False}, "absent": {}, "wrong": {"c": "yes"}, "pending": {}}
HEAD = "facts { context.c: bool }\nissuer acme { scopes none  records chains }\nusers unrestricted\n"
USER = "entity user { c: bool  roles: set<string> }\n"
PLAIN = 'agent "bot" { issued by acme  acts for any user  may GET /x }\n'

# A construct, and whether it acts when its condition is true, false, unknown. A door acts when it opens.
OPENING = {
    "may … when": 'agent "bot" { issued by acme  acts for any user  may GET /x when context.c }',
    "acts for users where": 'agent "bot" { issued by acme  acts for users where context.c  may GET /x }',
    "agent where": "agent where context.c { issued by acme  acts for any user  may GET /x }",
    "may delegate … when": (
        'agent "bot" { issued by acme  acts for any user  may GET /x }'
        'agent "planner" { issued by acme acts for any user  may GET /x  may delegate x to agent "bot" when context.c }'
        "scope x { GET /x }"
    ),
}
STOPPING = {
    "deny when": ("deny when context.c", "deny", "true or unknown"),
    "confirm when": ("confirm by user when context.c", "confirm", "true or unknown"),
    "deny unless": ("deny unless context.c", "deny", "false or unknown"),
    "require": ("require context.c", "deny", "false or unknown"),
    "confirm unless": ("confirm by user unless context.c", "confirm", "false or unknown"),
}
DUTIES = ["audit full", "redact body.x", 'notify "soc"', "warn", "step_up high", 'header "N" "V"']


def asked(value: str, **more: object) -> dict[str, object]:
    extra = {"pending": ["context.c"]} if value == "pending" else {}
    return question("GET /x", **bot(), context=GIVEN[value], **extra, **more)


@pytest.mark.parametrize("value", GIVEN)
@pytest.mark.parametrize("construct", OPENING)
def test_a_grant_applies_only_when_its_condition_is_true(construct, value):
    hops = {"chain": chain(hop("planner"))} if "delegate" in construct else {}
    decision = decide(HEAD + OPENING[construct], asked(value, **hops))
    assert decision.allowed is (value == "true")


@pytest.mark.parametrize("value", GIVEN)
def test_a_user_block_applies_only_when_its_condition_is_true(value):
    policy = HEAD.replace("users unrestricted", "") + USER + PLAIN + "user where user.c { may GET /x }"
    given = GIVEN[value].get("c")
    pending = {"pending": ["user.c"]} if value == "pending" else {}
    rows = {"user alice": {"c": given} if given is not None else {}}
    decision = decide(policy, question("GET /x", **bot(), **pending), rows)
    assert decision.allowed is (value == "true")
    assert decision.allowed or verdict(decision) == "deny by user"


@pytest.mark.parametrize("value", GIVEN)
@pytest.mark.parametrize("construct", STOPPING)
def test_a_guard_stops_when_its_condition_is_unknown(construct, value):
    item, outcome, when = STOPPING[construct]
    decision = decide(HEAD + PLAIN + f'guard "g" {{ {item} }}', asked(value))
    acting = value in when.split(" or ") or value in ("absent", "wrong", "pending")
    came = "deny" if value == "pending" else outcome  # nobody approves what is not known
    assert verdict(decision) == (f'{came} by "g"' if acting else "allow")


@pytest.mark.parametrize("value", GIVEN)
@pytest.mark.parametrize("word", ["when", "unless"])
@pytest.mark.parametrize("duty", DUTIES)
def test_an_obligation_applies_when_its_condition_is_unknown(duty, word, value):
    facts = "facts { context.c: bool  body.x: string? }\n"
    policy = facts + HEAD.partition("\n")[2] + PLAIN + f'guard "g" {{ {duty} {word} context.c }}'
    decision = decide(policy, asked(value))
    applies = value != ("false" if word == "when" else "true")
    assert decision.allowed
    assert [one.kind for one in decision.obligations] == ([duty.split()[0]] if applies else [])


@pytest.mark.parametrize("value", ["absent", "wrong", "pending"])
@pytest.mark.parametrize("construct", [*OPENING, *STOPPING, *DUTIES])
def test_a_decision_names_the_unknown_fact_it_depends_on(construct, value):
    if construct in OPENING:
        policy = HEAD + OPENING[construct] + 'agent "bot" { issued by acme  acts for any user  may GET /other }'
    elif construct in STOPPING:
        policy = HEAD + PLAIN + f'guard "g" {{ {STOPPING[construct][0]} }}'
    else:
        facts = "facts { context.c: bool  body.x: string? }\n"
        policy = facts + HEAD.partition("\n")[2] + PLAIN + f'guard "g" {{ {construct} when context.c }}'
    hops = {"chain": chain(hop("planner"))} if "delegate" in construct else {}
    decision = decide(policy, asked(value, **hops))
    assert unknown(decision) == {"context.c"}
    if construct not in DUTIES:
        assert "`context.c` is unknown" in decision.reasons[0].message


# ── Open doors with one guard: what the corners are asked through ─────────────────────────────

ENTITIES = """
enum plan = free < team
entity team in team
entity folder { editors: set<user or team> inherited  tags: set<string> inherited } in folder
entity user { tenant: string?  age: int?  plan: plan?  manager: user?  roles: set<string>
  address: { city: string?  street: { name: string? } } } in team
entity doc { tenant: string?  owner: user  editors: set<user or team> inherited } in folder
facts { body.n: number?  body.i: int?  body.s: string?  body.b: bool?  body.tags: set<string>?
  body.list: list<number>?  body.rows: list<{ n: number?  zip: string? }>?  body.who: user?  body.users: set<user>?
  body.t: time?  body.d: duration?  body.ip: ip?  body.net: cidr?  body.plan: plan?
  body.rec: { a: number?  b: { c: string? } }?  body.groups: set<team>? }
anyone { may POST /x, POST /docs/{id: doc} }
"""


def holds(condition: str, body: object = None, rows: object = None, where: str = "POST /x", **more: object) -> str:
    """`true`, `false` or `unknown`: told by three guards, which differ in exactly one of the three."""
    on = "on POST /docs/{id: doc} " if where.startswith("POST /docs") else ""
    policy = f'{ENTITIES}guard "yes" {on}{{ audit full when {condition} }}\n'
    policy += f'guard "no" {on}{{ audit full unless {condition} }}'
    decision = decide(policy, question(where, body=body or {}, **more), rows)
    assert decision.allowed
    found = {one.rule for one in decision.obligations}
    return {frozenset({"yes"}): "true", frozenset({"no"}): "false"}.get(frozenset(found), "unknown")


# ── 1. Absence and wrong types ────────────────────────────────────────────────────────────────

WRONG = {"n": "5"}


@pytest.mark.parametrize(
    ("condition", "body", "expected"),
    [
        ("body.n is absent", {}, "true"),
        ("body.n is present", {}, "false"),
        ("body.n is present", {"n": 1}, "true"),
        ("body.n is absent", WRONG, "unknown"),
        ("body.n is present", WRONG, "unknown"),
        ("(body.n else 0) == 0", {}, "true"),
        ("(body.n else 0) == 0", WRONG, "unknown"),
        ("(body.n else 0) == 0", {"n": None}, "true"),
        ("(body.n else body.i else 3) == 3", {}, "true"),
        ("(body.n else body.i else 3) == 3", {"i": "1"}, "unknown"),
        ("(body.n else body.i else 3) == 3", {"n": "1", "i": 3}, "unknown"),
        ("-body.n else 1 == -1", {}, "true"),
        ("body.rec.b.c is absent", {"rec": {}}, "true"),
        ("body.rec.b.c is absent", {"rec": {"b": None}}, "true"),
        ("body.rec.b.c is absent", {"rec": {"b": 7}}, "unknown"),
        ("body.rec.b.c is absent", {"rec": []}, "unknown"),
        ('(body.rec.b.c else "x") == "x"', {"rec": {"b": {"c": 1}}}, "unknown"),
        ("body.tags is absent", {"tags": "a"}, "unknown"),
    ],
)  # fmt: skip
def test_else_and_presence_checks_handle_only_absence(condition, body, expected):
    assert holds(condition, body) == expected


@pytest.mark.parametrize("condition", ["(body.n + 1) else 0 == 0", "size(body.s) is absent", "(1) is present"])
def test_presence_and_else_apply_only_to_facts(condition):
    assert codes(f'{ENTITIES}guard "g" {{ require {condition} }}')


@pytest.mark.parametrize("condition", ["(body.n else 0) == 0", "body.n is absent", "body.n is present"])
def test_a_failed_computation_is_unknown_and_not_absent(condition):
    policy = "facts on TOOL t { args.a: number?  body.n: number? }\nscope t { TOOL t with body.n = args.a * 11 }\n"
    policy += f'anyone {{ may t }}\nguard "g" on t {{ deny when {condition}  deny unless {condition} }}'
    decision = decide(policy, question("TOOL t", args={"a": 10**33 + 1}))
    assert [reason.rule for reason in decision.reasons] == ["g", "g"]
    assert {one.why for one in decision.unknown} == {"beyond 34 digits"}


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "true"), ("", "true"), ("bob", "false"), ("e\u0301", "unknown")]
)
def test_null_and_an_empty_id_are_absent(given, expected):
    assert holds("body.who is absent", {"who": given}) == expected


def test_an_empty_string_is_a_string():
    assert holds('body.s == ""', {"s": ""}) == "true"


# ── 2. Types ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("condition", "body"),
    [
        ("body.n == 1", {"n": True}),
        ("body.n == 15000", {"n": "15000"}),
        ("body.i == 900", {"i": 900.0}),
        ("body.b", {"b": 1}),
        ("body.b", {"b": "true"}),
        ('body.s == "1"', {"s": 1}),
        ('body.tags has "a"', {"tags": "a"}),
        ('body.tags has "a"', {"tags": {"a": 1}}),
        ("body.plan == free", {"plan": "FREE"}),
        ("body.plan == free", {"plan": 0}),
        ('body.t < 2027-01-01', {"t": "2026-01-01"}),
        ('body.t < 2027-01-01', {"t": 0}),
        ("body.d < 1h", {"d": 60}),
        ("body.d < 1h", {"d": "-1m"}),
        ("body.ip within 10.0.0.0/8", {"ip": "010.0.0.1"}),
        ("body.ip within 10.0.0.0/8", {"ip": "10.0.0.1/32"}),
        ("body.n < 5", {"n": [1]}),
        ("body.n < 5", {"n": {}}),
        ('body.who == user "bob"', {"who": 7}),
        ('body.who == user "bob"', {"who": {"type": "team", "id": "bob"}}),
        ('body.who == user "bob"', {"who": {"type": "user", "id": "bob", "admin": True}}),
        ("body.rec.a == 1", {"rec": [1]}),
    ],
)  # fmt: skip
def test_a_wrongly_typed_fact_is_unknown(condition, body):
    assert holds(condition, body) == "unknown"


def test_a_float_is_compared_as_its_shortest_decimal_form():
    assert holds("body.n == 0.1", {"n": 0.1}) == "true"
    assert holds("body.n + 0.2 == 0.3", {"n": 0.1}) == "true"


# ── 3. An unknown side ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "condition",
    ["user.tenant == resource.tenant", "user.tenant != resource.tenant", "user.tenant in [resource.tenant]",
     "user.tenant not in [resource.tenant]", "resource.owner == user", "body.n == body.i", "body.n != body.i",
     "body.n < body.i", "body.s in body.tags", "body.tags == body.tags", "not (body.b == body.b)"],
)  # fmt: skip
def test_a_comparison_with_an_unknown_side_is_unknown(condition):
    rows = {"user alice": {}, "doc 7": {}}
    assert holds(condition, {}, rows, "POST /docs/7", user={"id": "alice"}) == "unknown"


def test_an_equal_known_element_decides_membership_despite_unknown_elements():
    assert holds('body.tags has "a"', {"tags": ["a", 5]}) == "true"
    assert holds('body.tags has "b"', {"tags": ["a", 5]}) == "unknown"
    assert holds('"b" in body.tags', {"tags": ["a", 5]}) == "unknown"


# ── 4. Quantifiers ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("condition", "body", "expected"),
    [
        ("any x in body.list: x > 1", {"list": []}, "false"),
        ("all x in body.list: x > 1", {"list": []}, "true"),
        ("any x in body.list: x > 1", {}, "unknown"),
        ("all x in body.list: x > 1", {}, "unknown"),
        ("any x in body.list: x > 1", {"list": "12"}, "unknown"),
        ("any x in body.list: x > 1", {"list": ["a", 2]}, "true"),
        ("any x in body.list: x > 1", {"list": ["a", 1]}, "unknown"),
        ("all x in body.list: x > 1", {"list": ["a", 1]}, "false"),
        ("all x in body.list: x > 1", {"list": ["a", 2]}, "unknown"),
        ("all x in body.list: x > 1", {"list": [2, None]}, "unknown"),
        ("all x in body.rows: x.zip is absent", {"rows": [{}]}, "true"),
        ("all x in body.rows: x.zip is absent", {"rows": [{}, None]}, "unknown"),
        ("all x in body.rows: (x.n else 0) < 5", {"rows": [None]}, "unknown"),
        ("all x in body.rows: (x.n else 0) < 5", {"rows": [{"n": "1"}]}, "unknown"),
        ("any x in body.list: body.b", {"list": ["a"], "b": True}, "unknown"),
        ("any x in body.list: (all y in body.list: x >= y)", {"list": [1, 3, 2]}, "true"),
    ],
)  # fmt: skip
def test_any_folds_like_or_and_all_folds_like_and(condition, body, expected):
    assert holds(condition, body) == expected


# ── 5. No law of the excluded middle ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "condition", ["body.n == 1 or body.n != 1", "body.b or not body.b", "not (body.b and not body.b)"]
)
@pytest.mark.parametrize("body", [{}, {"n": "1", "b": 1}])
def test_a_tautology_is_unknown_for_an_unknown_fact(condition, body):
    assert holds(condition, body) == "unknown"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("body.b or 1 == 1", "true"), ("body.b and 1 == 2", "false"), ("body.b or 1 == 2", "unknown"),
     ("body.b and 1 == 1", "unknown"), ("not body.b", "unknown")],
)  # fmt: skip
def test_a_known_operand_can_decide_a_condition(condition, expected):
    assert (
        holds(condition.replace("1 == 1", 'body.s == "x"').replace("1 == 2", 'body.s == "y"'), {"s": "x"}) == expected
    )


# ── 6. Pending ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("condition", ["body.n is present", "body.n is absent", "(body.n else 1) == 1", "body.n == 1"])
def test_a_pending_fact_is_neither_present_nor_absent(condition):
    assert holds(condition, pending=["body.n"]) == "unknown"


@pytest.mark.parametrize(
    ("condition", "pending"),
    [
        ('user.roles has "clerk"', "user.roles"),
        ('resource.tenant == "acme"', "resource.tenant"),
        ("resource.tenant is absent", "resource.tenant"),
        ('(resource.tenant else "acme") == "acme"', "resource.tenant"),
        ('user.manager.tenant == "acme"', "user.manager"),
        ('user.manager.tenant == "acme"', "user.manager.tenant"),
        ('user.address.city == "Berlin"', "user.address.city"),
        ('user in resource.editors', "resource.editors"),
        ('resource.owner.tenant == "acme"', "user.tenant"),
        ("user == resource.owner", "user.id"),
        ("user == resource.owner", "user"),
    ],
)  # fmt: skip
def test_a_pending_attribute_is_unknown_even_when_the_entity_store_has_it(condition, pending):
    rows = {
        "user alice": {"roles": ["clerk"], "tenant": "acme", "manager": "bob", "address": {"city": "Berlin"}},
        "user bob": {"tenant": "acme"},
        "doc 7": {"tenant": "acme", "owner": "alice", "editors": [{"type": "user", "id": "alice"}]},
    }
    user = {} if pending == "user" else {"user": {"id": "alice"} if pending != "user.id" else {}}
    if pending not in ("user", "user.id") and "absent" not in condition:
        assert holds(condition, {}, rows, "POST /docs/7", **user) == "true"
    assert holds(condition, {}, rows, "POST /docs/7", **user, pending=[pending]) == "unknown"


def test_a_value_inherited_from_a_pending_attribute_is_unknown():
    policy = """
    entity folder { tags: set<string> inherited } in folder
    entity doc { tags: set<string> inherited } in folder
    anyone { may GET /docs/{d: doc}/in/{f: folder} }
    guard "g" on GET /docs/{d: doc}/in/{f: folder} { require params.d.tags has "x" }
    """
    rows = {"doc 7": {"in": ["folder a"]}, "folder a": {"tags": ["x"]}}
    assert decide(policy, question("GET /docs/7/in/a"), rows).allowed
    assert not decide(policy, question("GET /docs/7/in/a", pending=["resource.tags"]), rows).allowed


def test_an_unknown_pending_fact_has_the_reason_pending():
    policy = 'entity user { roles: set<string> }\nanyone { may GET /x }\nguard "g" { require user.roles has "clerk" }'
    asked = question("GET /x", user={"id": "alice"}, pending=["user.roles"])
    decision = decide(policy, asked, {"user alice": {"roles": ["clerk"]}})
    assert [(one.fact, one.why) for one in decision.unknown] == [("user.roles", "pending")]


# ── 7. Membership ─────────────────────────────────────────────────────────────────────────────

TEAMS = {
    "user alice": {"in": ["team legal"]}, "team legal": {"in": ["team all"]}, "team all": {}, "team sales": {},
    "user lost": {"in": ["team gone"]}, "team round": {"in": ["team trip"]}, "team trip": {"in": ["team round"]},
    "user rounder": {"in": ["team round"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("who", "condition", "expected"),
    [
        ("alice", 'body.who in team "all"', "true"),
        ("alice", 'body.who in team "legal"', "true"),
        ("alice", 'body.who in team "sales"', "false"),
        ("alice", 'team "legal" has body.who', "true"),
        ("alice", 'team "all" has body.who', "false"),
        ("nobody", 'body.who in team "sales"', "unknown"),
        ("nobody", 'body.who not in team "sales"', "unknown"),
        ("lost", 'body.who in team "gone"', "true"),
        ("lost", 'body.who in team "sales"', "unknown"),
        ("lost", 'body.who not in team "sales"', "unknown"),
        ("rounder", 'body.who in team "trip"', "true"),
        ("rounder", 'body.who in team "sales"', "false"),
        ("alice", 'team "legal" below team "legal"', "false"),
        ("alice", 'team "legal" in team "legal"', "true"),
        ("alice", 'body.who in [team "sales", team "all"]', "true"),
        ("lost", 'body.who in [team "sales", team "gone"]', "true"),
        ("lost", 'body.who in [team "sales", team "all"]', "unknown"),
        ("alice", 'any t in body.groups: body.who in t', "true"),
    ],
)  # fmt: skip
def test_membership_is_unknown_when_the_entity_store_has_no_row(who, condition, expected):
    assert holds(condition, {"who": who, "groups": ["sales", "all"]}, TEAMS) == expected


def test_entity_rows_of_a_request_complete_the_membership_path():
    policy = f'{ENTITIES}guard "g" {{ require body.who in team "top" }}'
    asked = question("POST /x", body={"who": "lost"})
    sent = [{"type": "team", "id": "gone", "in": [{"type": "team", "id": "top"}]}, {"type": "team", "id": "top"}]
    assert not decide(policy, asked, TEAMS).allowed
    assert decide(policy, {**asked, "entities": sent}, TEAMS).allowed
    assert not decide(policy, {**asked, "body": {"who": "alice"}, "entities": sent}, TEAMS).allowed


FOLDERS = {
    "doc 7": {"in": ["folder a"], "editors": [{"type": "user", "id": "alice"}]},
    "folder a": {"in": ["folder b"]},
    "folder b": {"editors": [{"type": "team", "id": "legal"}]},
    "doc 8": {"in": ["folder gone"]},
    "doc 9": {"in": ["folder odd"]},
    "doc 10": {"in": ["folder gone"], "editors": [{"type": "user", "id": "alice"}]},
    "doc 11": {"in": ["folder b"], "editors": []},
    "folder odd": {"editors": "everybody"},
    **TEAMS,
}


@pytest.mark.parametrize(
    ("doc", "condition", "expected"),
    [
        ("7", 'resource.editors has user "alice"', "true"),
        ("7", 'resource.editors has team "legal"', "true"),
        ("7", 'resource.editors has team "sales"', "unknown"),
        ("11", 'resource.editors has team "sales"', "false"),
        ("8", 'resource.editors has team "sales"', "unknown"),
        ("9", 'resource.editors has team "sales"', "unknown"),
        ("gone", 'resource.editors has team "sales"', "unknown"),
        ("10", 'resource.editors has user "alice"', "true"),
        ("10", 'resource.editors has team "sales"', "unknown"),
    ],
)
def test_an_inherited_set_is_unknown_when_an_ancestor_is_unknown(doc, condition, expected):
    assert holds(condition, {}, FOLDERS, f"POST /docs/{doc}") == expected


def test_an_allow_decided_by_known_facts_lists_no_unknown_facts():
    decision, effects = spending(
        ENTITIES + 'guard "g" { deny when body.b and body.n > 1 }', question("POST /x", body={"b": False})
    )
    assert decision.allowed
    assert decision.unknown == ()
    assert effects.spends == ()
