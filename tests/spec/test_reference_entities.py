"""What is known of an entity: the levels of an inherited set, attributes without a row, `is known`."""

import pytest

from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec import reference
from tests.spec.deciding import (
    NOW,
    bot,
    codes,
    decide,
    directory,
    kernel,
    question,
    spending,
    unknown,
    verdict,
)

# ── Levels of an inherited set ────────────────────────────────────────────────────────────────

ALICE, BOB, LEGAL = (
    {"type": kind, "id": name} for kind, name in (("user", "alice"), ("user", "bob"), ("team", "legal"))
)
STRICT, EMPTY = "inherited", "inherited else []"
ENTITIES = """
entity team {{ }}
entity user {{ }} in team
entity org {{ blocked: set<user or team> {org} }}
entity shelf {{ title: string? }} in org
entity folder {{ blocked: set<user or team> {folder} }} in folder, shelf
entity doc {{ blocked: set<user or team> {doc} }} in folder
facts {{ body.n: number? }}
anyone {{ may GET /docs/{{id: doc}} }}
"""


def told(
    condition: str, rows: object, *, org: str = "", folder: str = STRICT, doc: str = STRICT, **more: object
) -> str:
    """`true`, `false` or `unknown` at `GET /docs/7`, asked by alice."""
    policy = ENTITIES.format(org=org, folder=folder, doc=doc)
    policy += f'guard "yes" on GET /docs/{{id: doc}} {{ audit full when {condition} }}\n'
    policy += f'guard "no" on GET /docs/{{id: doc}} {{ audit full unless {condition} }}'
    decision = decide(policy, question("GET /docs/7", user={"id": "alice"}, **more), rows)
    acting = {one.rule for one in decision.obligations}
    return {("yes",): "true", ("no",): "false"}.get(tuple(sorted(acting)), "unknown")


KNOWN = {"user alice": {}, "user bob": {}, "team legal": {}}
LEVELS = {
    "each holds it": {"doc 7": {"blocked": [BOB], "in": ["folder a"]}, "folder a": {"blocked": []}},
    "the document lacks it": {"doc 7": {"in": ["folder a"]}, "folder a": {"blocked": [BOB]}},
    "the folder lacks it": {"doc 7": {"blocked": [BOB], "in": ["folder a"]}, "folder a": {}},
    "it is null": {"doc 7": {"blocked": None, "in": ["folder a"]}, "folder a": {"blocked": [BOB]}},
    "it is of a wrong type": {"doc 7": {"blocked": "all", "in": ["folder a"]}, "folder a": {"blocked": [BOB]}},
    "an element is of a wrong type": {"doc 7": {"blocked": [BOB, 7], "in": ["folder a"]}, "folder a": {"blocked": []}},
    "the folder has no row": {"doc 7": {"blocked": [BOB], "in": ["folder a"]}},
    "the document has no row": {"folder a": {"blocked": [BOB]}},
    "no level has it": {"doc 7": {"in": ["folder a"]}, "folder a": {}},
}


@pytest.mark.parametrize(
    ("levels", "alice", "bob"),
    [
        ("each holds it", "false", "true"),
        ("the document lacks it", "unknown", "true"),
        ("the folder lacks it", "unknown", "true"),
        ("it is null", "unknown", "true"),
        ("it is of a wrong type", "unknown", "true"),
        ("an element is of a wrong type", "unknown", "true"),
        ("the folder has no row", "unknown", "true"),
        ("the document has no row", "unknown", "unknown"),
        ("no level has it", "unknown", "unknown"),
    ],
)
def test_other_elements_of_an_inherited_set_are_unknown_if_a_level_lacks_the_set(levels, alice, bob):
    rows = {**KNOWN, **LEVELS[levels]}
    assert told("user in resource.blocked", rows) == alice
    assert told('user "bob" in resource.blocked', rows) == bob
    assert told('resource.blocked has user "bob"', rows) == bob


@pytest.mark.parametrize(
    ("levels", "alice", "bob"),
    [
        ("each holds it", "false", "true"),
        ("the document lacks it", "false", "true"),
        ("the folder lacks it", "false", "true"),
        ("it is null", "false", "true"),
        ("it is of a wrong type", "unknown", "true"),
        ("an element is of a wrong type", "unknown", "true"),
        ("the folder has no row", "unknown", "true"),
        ("the document has no row", "unknown", "unknown"),
        ("no level has it", "false", "false"),
    ],
)
def test_inherited_else_makes_only_levels_whose_row_lacks_the_set_empty(levels, alice, bob):
    rows = {**KNOWN, **LEVELS[levels]}
    assert told("user in resource.blocked", rows, folder=EMPTY, doc=EMPTY) == alice
    assert told('user "bob" in resource.blocked', rows, folder=EMPTY, doc=EMPTY) == bob


@pytest.mark.parametrize(
    ("lacks", "folder", "doc", "expected"),
    [
        ("doc", STRICT, EMPTY, "false"), ("doc", EMPTY, STRICT, "unknown"),
        ("folder", STRICT, EMPTY, "unknown"), ("folder", EMPTY, STRICT, "false"),
    ],
)  # fmt: skip
def test_inherited_else_applies_only_to_rows_of_its_own_type(lacks, folder, doc, expected):
    held = {"doc": {"in": ["folder a"]}, "folder": {}}
    held = {name: row if name == lacks else {**row, "blocked": []} for name, row in held.items()}
    rows = {**KNOWN, "doc 7": held["doc"], "folder a": held["folder"]}
    assert told("user in resource.blocked", rows, folder=folder, doc=doc) == expected


def test_a_type_that_does_not_declare_the_inherited_set_is_skipped():
    """The shelf between has no such attribute, and a row of it that has one all the same says nothing."""
    rows = {
        **KNOWN, "doc 7": {"blocked": [], "in": ["folder a"]}, "folder a": {"blocked": [], "in": ["shelf s"]},
        "shelf s": {"in": ["org o"], "blocked": [ALICE]}, "org o": {"blocked": []},
    }  # fmt: skip
    assert told("user in resource.blocked", rows) == "false"
    assert told("user in resource.blocked", {**rows, "org o": {"blocked": [ALICE]}}) == "true"
    assert told("user in resource.blocked", {**rows, "org o": {}}) == "unknown"
    assert told("user in resource.blocked", {**rows, "org o": {}}, org=EMPTY) == "false"


def test_an_inherited_set_terminates_on_cyclic_levels():
    rows = {**KNOWN, "doc 7": {"blocked": [], "in": ["folder a"]}, "folder a": {"blocked": [], "in": ["folder b"]}}
    assert told("user in resource.blocked", {**rows, "folder b": {"blocked": [BOB], "in": ["folder a"]}}) == "false"
    assert told("user in resource.blocked", {**rows, "folder b": {"in": ["folder a"]}}) == "unknown"
    assert told("user in resource.blocked", {**rows, "folder b": {"blocked": [ALICE], "in": ["folder a"]}}) == "true"


def test_a_level_with_too_many_elements_counts_as_lacking_the_set():
    many = [{"type": "user", "id": f"u{number}"} for number in range(10_001)]
    rows = {**KNOWN, "doc 7": {"blocked": many, "in": ["folder a"]}, "folder a": {"blocked": [BOB]}}
    assert told("user in resource.blocked", rows) == "unknown"
    assert told('user "bob" in resource.blocked', rows) == "true"


def test_levels_together_may_exceed_the_size_limit_of_one_set():
    first, second = ([{"type": "user", "id": f"{half}{number}"} for number in range(6_000)] for half in "ab")
    rows = {**KNOWN, "doc 7": {"blocked": first, "in": ["folder a"]}, "folder a": {"blocked": [*second, ALICE]}}
    assert told("user in resource.blocked", rows) == "true"
    assert told('user "bob" in resource.blocked', rows) == "false"


PART, NOTHING = LEVELS["the document lacks it"], LEVELS["no level has it"]
WHOLE = {"doc 7": {"blocked": [], "in": ["folder a"]}, "folder a": {"blocked": [BOB]}}


@pytest.mark.parametrize(
    ("condition", "whole", "part", "nothing"),
    [
        ("not (user in resource.blocked)", "true", "unknown", "unknown"),
        ("user not in resource.blocked", "true", "unknown", "unknown"),
        ('user "bob" not in resource.blocked', "false", "false", "unknown"),
        ('resource.blocked overlaps [user "bob"]', "true", "true", "unknown"),
        ('resource.blocked overlaps [user "alice"]', "false", "unknown", "unknown"),
        ('[user "bob"] subset of resource.blocked', "true", "true", "unknown"),
        ('[user "alice"] subset of resource.blocked', "false", "unknown", "unknown"),
        ('resource.blocked subset of [user "bob"]', "true", "unknown", "unknown"),
        ('resource.blocked subset of [user "alice"]', "false", "false", "unknown"),
        ('(any one in resource.blocked: one == user "bob")', "true", "true", "unknown"),
        ('(any one in resource.blocked: one == user "alice")', "false", "unknown", "unknown"),
        ('(all one in resource.blocked: one == user "bob")', "true", "unknown", "unknown"),
        ('(all one in resource.blocked: one == user "alice")', "false", "false", "unknown"),
        ("size(resource.blocked) == 1", "true", "unknown", "unknown"),
        ("resource.blocked == resource.blocked", "true", "unknown", "unknown"),
        ("resource.blocked is present", "true", "true", "false"),
        ("resource.blocked is absent", "false", "false", "true"),
        ("user in (resource.blocked else [])", "false", "unknown", "false"),
        ('user "bob" in (resource.blocked else [])', "true", "true", "false"),
    ],
)
def test_every_operator_treats_an_inherited_set_as_a_lower_bound(condition, whole, part, nothing):
    found = [told(condition, {**KNOWN, **rows}) for rows in (WHOLE, PART, NOTHING)]
    assert found == [whole, part, nothing]


@pytest.mark.parametrize("levels", ["it is of a wrong type", "the folder has no row", "the document has no row"])
def test_else_on_an_inherited_set_requires_absence_at_every_level(levels):
    """What is of a wrong type, or has no row, is not absent; nor is the set where one level holds it."""
    assert told("user in (resource.blocked else [])", {**KNOWN, **LEVELS[levels]}) == "unknown"
    no_folder = {**KNOWN, "doc 7": {"in": ["folder gone"]}}
    assert told("user in (resource.blocked else [])", no_folder) == "unknown"
    assert told("resource.blocked is present", no_folder) == "unknown"
    assert told("resource.blocked is absent", no_folder) == "unknown"


def test_attributes_of_an_unknown_element_are_not_absent():
    """Else `x.private else false` of what nobody knows would open."""
    policy = """
    entity folder { parts: set<part> inherited } in folder
    entity part { private: bool? }
    entity doc { parts: set<part> inherited } in folder
    anyone { may GET /docs/{id: doc} when (any one in resource.parts: not (one.private else false)) }
    """
    rows = {"doc 7": {"in": ["folder a"]}, "folder a": {"parts": []}}
    assert not decide(policy, question("GET /docs/7"), rows).allowed
    assert not decide(policy, question("GET /docs/7"), {**rows, "doc 7": {"parts": [None]}}).allowed
    assert not decide(policy, question("GET /docs/7"), {**rows, "doc 7": {"parts": [""]}}).allowed
    assert decide(policy, question("GET /docs/7"), {**rows, "doc 7": {"parts": ["p"]}, "part p": {}}).allowed


def test_a_deny_on_an_inherited_set_applies_if_a_level_lacks_the_set():
    """It allowed: an inherited set was taken for complete."""
    policy = ENTITIES.format(org="", folder=STRICT, doc=STRICT)
    policy += 'guard "b" on GET /docs/{id: doc} { deny when user in resource.blocked }'
    asked = question("GET /docs/7", user={"id": "alice"})
    rows = {**KNOWN, "doc 7": {"in": ["folder a"]}, "folder a": {"blocked": []}}
    decision = decide(policy, asked, rows)
    assert verdict(decision) == 'deny by "b"'
    assert [(one.fact, one.why) for one in decision.unknown] == [
        ("resource.blocked", "an entity that the set is inherited from has no such set")
    ]
    assert decide(policy.replace(STRICT, EMPTY), asked, rows).allowed


def test_an_approval_binds_all_levels_of_an_inherited_set():
    """A level that comes to hold more is another thing to approve, though the set was not all known before."""
    policy = ENTITIES.format(org="", folder=STRICT, doc=STRICT)
    policy += 'guard "b" on GET /docs/{id: doc} { confirm by user when user in resource.blocked }'
    asked = question("GET /docs/7", user={"id": "alice"})
    bindings = {
        spending(policy, asked, {**KNOWN, "doc 7": {"in": ["folder a"]}, "folder a": {"blocked": held}})[1]
        .opens[0]
        .binding
        for held in ([], [BOB], [BOB, LEGAL])
    }
    assert len(bindings) == 3


@pytest.mark.parametrize(
    "declarations",
    [
        "entity org { a: set<int> inherited else [] }",
        "entity folder { a: set<int>? inherited else [] } in folder",
        "entity folder { a: int inherited else [] } in folder",
        "entity org { a: string }\nentity doc { a: set<int> inherited } in org",
        "entity org { a: set<string> }\nentity folder in org\nentity doc { a: set<int> inherited } in folder",
        "facts { body.a: set<int> inherited else [] }",
    ],
)
def test_an_invalid_inherited_declaration_is_an_error(declarations):
    assert codes(f"{declarations}\nanyone {{ may GET /x }}") in ({"E218"}, {"E217"})


@pytest.mark.parametrize(
    "declarations",
    [
        "entity org { a: set<int> inherited else [] }\nentity doc in org",
        "entity org { a: set<int> }\nentity doc { a: set<number> inherited } in org",
        "entity org { a: set<user> }\nentity doc { a: set<user or doc> inherited else [] } in org",
        "entity org { a: set<string> }\nentity doc { a: set<string> inherited } in org",
    ],
)
def test_a_valid_inherited_declaration_is_accepted(declarations):
    assert codes(f"{declarations}\nanyone {{ may GET /x }}") == set()


# ── Things without a row ──────────────────────────────────────────────────────────────────────

THINGS = """
entity team { }
entity user { tenant: string?  roles: set<string>?  manager: user?  suspended: bool? } in team
entity doc { private: bool?  owner: user?  tags: set<string>?  note: { text: string? }? }
entity tool { dangerous: bool? }
entity agent { tier: int? }
issuer acme { scopes none  claims { org -> user.tenant } }
users unrestricted
agent "bot" { issued by acme  acts for any user  may GET /x, TOOL t, GET /docs/{id: doc}, ACTION view doc }
"""
OF_ALL = [
    ("GET /docs/7", "resource.private", "not (resource.private else false)"),
    ("GET /docs/7", "resource.private", "resource.private is absent"),
    ("GET /docs/7", "resource.private", "resource.private is absent or resource.private is present"),
    ("GET /docs/7", "resource.tags", '(resource.tags else []) subset of ["a"]'),
    ("GET /docs/7", "resource.note", "resource.note.text is absent"),
    ("ACTION view doc 7", "resource.private", "not (resource.private else false)"),
    ("GET /x", "user.roles", '"banned" not in (user.roles else [])'),
    ("GET /x", "user.suspended", "user.suspended is absent"),
    ("GET /x", "agent.tier", "(agent.tier else 0) == 0"),
    ("TOOL t", "tool.dangerous", "not (tool.dangerous else false)"),
]
NAMES = {"resource": "doc 7", "user": "user alice", "agent": "agent bot", "tool": "tool t"}


@pytest.mark.parametrize(("where", "fact", "condition"), OF_ALL)
def test_an_attribute_of_an_entity_without_a_row_is_unknown_even_with_else(where, fact, condition):
    """It was absent, and `else` opened for things that nobody has heard of."""
    on = f" on {where.removesuffix(' 7').replace('/7', '/{id: doc}')}"
    policy = f'{THINGS}guard "g"{on} {{ require {condition} }}'
    nobody = decide(policy, question(where, **bot()))
    assert verdict(nobody) == 'deny by "g"'
    assert unknown(nobody) == {fact}
    assert [one.why for one in nobody.unknown] == ["the entity has no row"]
    assert decide(policy, question(where, **bot()), {NAMES[fact.partition(".")[0]]: {}}).allowed


def test_a_grant_does_not_open_for_an_entity_without_a_row():
    policy = "entity doc { private: bool? }\nanyone { may GET /docs/{id: doc} when not (resource.private else false) }"
    rows = {"doc 7": {}, "doc 8": {"private": True}}
    allowed = [name for name in "7 8 9".split() if decide(policy, question(f"GET /docs/{name}"), rows).allowed]
    assert allowed == ["7"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"doc 7": {"owner": "bob"}, "user bob": {}}, True),
        ({"doc 7": {"owner": "bob"}, "user bob": {"suspended": True}}, False),
        ({"doc 7": {"owner": "bob"}}, False),
        ({"doc 7": {}}, True),  # there is no owner: absent, not unknown
        ({}, False),
    ],
)
def test_a_navigated_entity_needs_its_own_row(rows, expected):
    policy = f'{THINGS}guard "g" on GET /docs/{{id: doc}} {{ require not (resource.owner.suspended else false) }}'
    assert decide(policy, question("GET /docs/7", **bot()), rows).allowed is expected


def test_the_id_of_an_entity_is_known_without_a_row():
    policy = f'{THINGS}guard "g" on GET /docs/{{id: doc}} {{ require resource.id == "7" and user.id == "alice" }}'
    assert decide(policy, question("GET /docs/7", **bot())).allowed


def test_a_reason_does_not_reveal_which_entity_has_no_row():
    """Whose it is may be known from the directory alone: the caller is not told."""
    policy = f'{THINGS}guard "g" on GET /docs/{{id: doc}} {{ require not (resource.owner.suspended else false) }}'
    decision = decide(policy, question("GET /docs/7", **bot()), {"doc 7": {"owner": "mallory"}})
    assert unknown(decision) == {"resource.owner.suspended"}
    assert "mallory" not in str(decision.to_dict())


def test_a_claim_makes_only_its_mapped_attribute_known():
    policy = THINGS + 'guard "t" { require user.tenant == "acme" }\n'
    closing = policy + 'guard "s" { deny when (user.suspended else false) }'
    claimed = bot(claims={"org": "acme"})
    assert decide(policy, question("GET /x", **claimed)).allowed
    assert verdict(decide(closing, question("GET /x", **claimed))) == 'deny by "s"'
    assert decide(closing, question("GET /x", **claimed), {"user alice": {}}).allowed
    assert not decide(closing, question("GET /x", **claimed), {"user alice": {"suspended": True}}).allowed


@pytest.mark.parametrize(("claims", "allowed"), [({}, False), ({"org": None}, False), ({"org": "acme"}, True)])
def test_an_absent_claim_does_not_make_its_attribute_known(claims, allowed):
    policy = THINGS + 'guard "t" { require (user.tenant else "acme") == "acme" }'
    assert decide(policy, question("GET /x", **bot(claims=claims))).allowed is allowed
    assert decide(policy, question("GET /x", **bot(claims=claims)), {"user alice": {}}).allowed


def test_a_partial_row_makes_only_its_own_attributes_known():
    policy = THINGS + 'guard "s" { deny when (user.suspended else false) or user.tenant != "acme" }'
    row = {"type": "user", "id": "alice", "attributes": {"tenant": "acme"}}
    assert decide(policy, question("GET /x", **bot(), entities=[row])).allowed
    partial = decide(policy, question("GET /x", **bot(), entities=[{**row, "partial": True}]))
    assert [(one.fact, one.why) for one in partial.unknown] == [
        ("user.suspended", "the row of the entity is partial and does not contain it")
    ]
    both = {**row, "attributes": {"tenant": "acme", "suspended": False}, "partial": True}
    assert decide(policy, question("GET /x", **bot(), entities=[both])).allowed


def test_an_approver_without_a_row_has_no_role():
    policy = THINGS + 'guard "c" on GET /x { confirm by role boss }'
    _, effects = spending(policy, question("GET /x", **bot()))
    approval = {"id": "a", "by": "eve", "granted_at": NOW.isoformat(), "binding": effects.opens[0].binding}
    asked = question("GET /x", **bot(), approvals=[approval])
    assert verdict(decide(policy, asked)) == 'confirm by "c"'
    assert verdict(decide(policy, asked, {"user eve": {}})) == 'confirm by "c"'
    assert decide(policy, asked, {"user eve": {"roles": ["boss"]}}).allowed


def test_a_rate_per_attribute_denies_a_user_without_a_row():
    policy = THINGS + 'rate "r" per user.tenant on GET /x { 5/1m }'
    decision = decide(policy, question("GET /x", **bot()))
    assert (verdict(decision), unknown(decision)) == ('deny by "r"', {"user.tenant"})


# ── `is known` ────────────────────────────────────────────────────────────────────────────────

WHETHER = """
entity user { tenant: string?  manager: user? }
entity doc { owner: user? }
issuer acme { scopes none  claims { org -> user.tenant } }
users unrestricted
agent "bot" { issued by acme  acts for any user  may GET /docs/{id: doc} when CONDITION }
"""


def open_when(condition: str, rows: object, claims: object = None, **more: object) -> bool:
    asked = question("GET /docs/7", **bot(claims=claims), **more)
    return decide(WHETHER.replace("CONDITION", condition), asked, rows).allowed


@pytest.mark.parametrize(
    ("what", "rows", "known"),
    [
        ("resource", {"doc 7": {}}, True),
        ("resource", {"doc 8": {}}, False),
        ("user", {"user alice": {}}, True),
        ("user", {}, False),
        ("resource.owner", {"doc 7": {"owner": "bob"}, "user bob": {}}, True),
        ("resource.owner", {"doc 7": {"owner": "bob"}}, False),
        ("resource.owner", {"doc 7": {}}, None),
        ("resource.owner", {}, None),
        ('user "root"', {"user root": {}}, True),
        ('user "root"', {}, False),
    ],
)
def test_is_known_is_true_if_the_entity_has_a_row(what, rows, known):
    assert open_when(f"{what} is known", rows) is (known is True)
    assert open_when(f"not {what} is known", rows) is (known is False)


@pytest.mark.parametrize(
    ("more", "known"),
    [
        ({"entities": [{"type": "doc", "id": "7"}]}, True),
        ({"entities": [{"type": "doc", "id": "8"}]}, False),
        ({"entities": [{"type": "doc", "id": "7", "partial": True}]}, None),
        ({"pending": ["resource"]}, False),  # the path says which it is, whatever is pending
    ],
)
def test_is_known_is_true_for_a_trusted_row_and_unknown_for_a_partial_row(more, known):
    assert open_when("resource is known", {}, **more) is (known is True)
    assert open_when("not resource is known", {}, **more) is (known is False)


def test_is_known_is_false_for_a_user_with_only_claims():
    claims = {"org": "acme"}
    assert not open_when('user is known and user.tenant == "acme"', {}, claims)
    assert open_when('not (user is known) and user.tenant == "acme"', {}, claims)
    assert open_when('user is known and user.tenant == "acme"', {"user alice": {}}, claims)


def test_is_known_is_unknown_if_no_entity_store_is_loaded():
    policy = kernel(WHETHER.replace("CONDITION", "not resource is known"))
    asked = Request.from_mapping(question("GET /docs/7", **bot()))
    with_row = Request.from_mapping(question("GET /docs/7", **bot(), entities=[{"type": "doc", "id": "8"}]))
    for request in (asked, with_row):
        for loaded in (True, False):
            snapshot = Snapshot(EntityStore(loaded=loaded))
            assert reference.decide(policy, request, snapshot, NOW)[0].allowed is loaded


def test_a_user_block_may_require_that_the_user_is_known():
    policy = "entity user\nissuer acme { scopes none }\nuser where user is known { may GET /x }"
    asked = question("GET /x", user={"id": "alice"}, credential={"issuer": "acme"})
    assert not decide(policy, asked).allowed
    assert decide(policy, asked, {"user alice": {}}).allowed


# ── Why it is unknown ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("condition", "rows", "why"),
    [
        ("not (resource.private else false)", {}, 'unknown: the entity has no row, `doc "7"`'),
        ("resource.owner.private", {"doc 7": {"owner": "8"}}, 'unknown: the entity has no row, `doc "8"`'),
        ('resource.tags has "x"', {"doc 7": {"in": ["folder a"]}, "folder a": {"tags": []}},
         'unknown: an entity that the set is inherited from has no such set, `doc "7"`'),
        ('resource.tags has "x"', {"doc 7": {"tags": [], "in": ["folder a"]}, "folder a": {}},
         'unknown: an entity that the set is inherited from has no such set, `folder "a"`'),
    ],
)  # fmt: skip
def test_an_explanation_names_the_entity_whose_row_is_missing(condition, rows, why):
    """To the operator: a decision says only that there is none."""
    policy = """
    entity folder { tags: set<string> inherited } in folder
    entity doc { private: bool?  owner: doc?  tags: set<string> inherited } in folder
    """
    policy += f'anyone {{ may GET /docs/{{id: doc}} }}\nguard "g" on GET /docs/{{id: doc}} {{ require {condition} }}'
    engine = Engine.from_text(policy, directory=directory(rows))
    explanation = engine.explain(question("GET /docs/7"))
    assert why in explanation.render()
    assert why.partition(", ")[2] not in str(explanation.decision.to_dict())
    assert verdict(explanation.decision) == 'deny by "g"'
