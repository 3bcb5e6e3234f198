"""Laws of every decision, searched for counterexamples: equivalences, order, and that less opens nothing."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from policyengine.runtime.decision import Decision
from tests.spec.deciding import ago, chain, codes, decide, hop, kernel, spending, unknown

# Fewer than the profile's examples: each of these decides several times.
few = settings(max_examples=max(15, settings.default.max_examples // 2))  # type: ignore[union-attr]

# ── Conditions and requests at random ─────────────────────────────────────────────────────────

WORLD = """
enum plan = free < team
entity team in team
entity user { roles: set<string>  tenant: string?  plan: plan?  manager: user? } in team
entity doc { tenant: string?  owner: user  editors: set<user or team> inherited } in team
facts { body.n: number?  body.m: number?  body.s: string?  body.b: bool?  body.tags: set<string>?
  body.rows: list<{ n: number? }>?  context.risk: number? }
issuer acme { records chains }
issuer inner { scopes none }
scope docs as "docs" { GET /docs/{id: doc}  POST /docs/{id: doc} }
"""
OPEN = "time > 2020-01-01"
ATOMS = [
    "body.n > 3", "body.n == body.m", "body.n + body.m <= 5", "(body.n else 0) < 5", "body.n is absent",
    'body.s == "x"', 'body.s like "x*"', '(body.s else "x") != "x"', "body.b", "body.b is present",
    'body.tags has "a"', 'body.tags overlaps ["a", "b"]', 'body.tags subset of ["a", "b"]', "size(body.tags) > 1",
    "any r in body.rows: r.n > 1", "all r in body.rows: (r.n else 0) < 5",
    'user.roles has "clerk"', "user.plan >= team", "user.tenant == resource.tenant", "user == resource.owner",
    "user in resource.editors", 'user in team "legal"', 'user.manager.tenant == "t"', "context.risk < 1",
    "credential.age < 10m", "attestation.verified", 'agent.publisher == "p"', "chain.depth < 2",
    "request.ip within 10.0.0.0/8", 'time within mon..fri 08:00..18:00 "UTC"',
]  # fmt: skip
conditions = st.recursive(
    st.sampled_from(ATOMS).map(lambda atom: f"({atom})"),
    lambda inner: st.one_of(
        inner.map(lambda one: f"(not {one})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    ),
    max_leaves=4,
)
odd = st.sampled_from([None, True, "x", 7, [], {}, ["a", 5], {"n": 1}])
members = {
    "n": st.integers(0, 6), "m": st.integers(0, 6), "s": st.sampled_from(["x", "y", ""]), "b": st.booleans(),
    "tags": st.lists(st.sampled_from("abc"), max_size=3),
    "rows": st.lists(st.fixed_dictionaries({}, optional={"n": st.integers(0, 6)}), max_size=2),
}  # fmt: skip
bodies = st.fixed_dictionaries({}, optional={name: st.one_of(good, odd) for name, good in members.items()})
users = st.fixed_dictionaries(
    {},
    optional={
        "roles": st.sampled_from([["clerk"], [], "clerk"]), "tenant": st.sampled_from(["t", "u", 5]),
        "plan": st.sampled_from(["free", "team", "odd"]), "manager": st.just("boss"),
    },
)  # fmt: skip
rows = st.builds(
    lambda user, owner, inside, docs: {
        "user alice": {**user, "in": inside}, "user boss": {"tenant": "t"}, "team legal": {},
        **({"doc 7": {"tenant": "t", "owner": owner, "editors": [{"type": "team", "id": "legal"}]}} if docs else {}),
    },
    users, st.sampled_from(["alice", "bob"]), st.sampled_from([[], ["team legal"], ["team gone"]]), st.booleans(),
)  # fmt: skip
requests = st.builds(
    lambda body, method, agent, credential, extra: {
        "request": {"method": method, "path": "/docs/7", "ip": "10.0.0.1"}, "agent": agent, "user": {"id": "alice"},
        "credential": credential, "body": body, **extra,
    },
    bodies,
    st.sampled_from(["GET", "POST"]),
    st.fixed_dictionaries({"id": st.sampled_from(["bot", "other"]), "issuer": st.just("acme")},
    optional={"publisher": st.just("p")}),
    st.fixed_dictionaries({}, optional={"scopes": st.sampled_from([["docs"], []]), "issued_at": st.just(ago(3))}),
    st.fixed_dictionaries(
        {},
        optional={
            "attestation": st.fixed_dictionaries({"verified": st.booleans()}),
            "context": st.fixed_dictionaries({"risk": st.sampled_from([0, 2, "0"])}),
        },
    ),
)  # fmt: skip


def doors(condition: str) -> str:
    return f"""{WORLD}
    user any {{ may docs }}
    agent "bot" {{ issued by acme, inner  acts for any user  may docs when {condition} }}
    agent "other" {{ issued by acme  acts for any user  may docs }}
    """


def sound(text: str) -> str:
    """The text; a policy that the checker refuses, for it contradicts itself, is none to try."""
    assume(not codes(text))
    return text


def stripped(decision: Decision) -> object:
    """What a decision says, apart from how its rules are written and where."""
    told = [(one.gate, one.rule, one.outcome) for one in decision.reasons]
    return decision.outcome, decision.gate, told, decision.unknown, [(one.kind, one.need) for one in decision.remedies]


# ── Laws ──────────────────────────────────────────────────────────────────────────────────────


@few
@given(conditions, requests, rows)
def test_require_deny_unless_and_deny_when_not_are_equivalent(condition, asked, known):
    items = (f"require {condition}", f"deny unless {condition}", f"deny when not {condition}")
    told = [stripped(decide(sound(f'{doors(OPEN)} guard "g" {{ {item} }}'), asked, known)) for item in items]
    assert told[0] == told[1] == told[2]


@few
@given(conditions, requests, rows)
def test_a_condition_and_its_negation_never_both_open(condition, asked, known):
    one, other = (decide(sound(doors(c)), asked, known) for c in (condition, f"not {condition}"))
    assert not (one.allowed and other.allowed) or asked["agent"]["id"] == "other"


@few
@given(conditions, requests, rows)
def test_a_condition_on_a_grant_is_equivalent_to_a_require_guard(condition, asked, known):
    asked = {**asked, "agent": {**asked["agent"], "id": "bot"}}
    guarded = decide(sound(f'{doors(OPEN)} guard "g" {{ require {condition} }}'), asked, known)
    assert decide(sound(doors(condition)), asked, known).allowed is guarded.allowed


@few
@given(conditions, conditions, requests, rows)
def test_adding_a_guard_never_allows_more(first, second, asked, known):
    less = sound(doors(first))
    more = decide(sound(f'{less} guard "g" {{ deny when {second}  confirm by user unless {second} }}'), asked, known)
    assert not more.allowed or decide(less, asked, known).allowed


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every member of a tree that could be left out."""
    for key in tree if isinstance(tree, dict) else ():
        yield (*path, key)
        yield from leaves(tree[key], (*path, key))


def without(tree: Any, path: tuple[Any, ...]) -> Any:
    copied = copy.deepcopy(tree)
    holder = copied
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return copied


def wrong(tree: Any, path: tuple[Any, ...], value: object) -> Any:
    copied = copy.deepcopy(tree)
    holder = copied
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return copied


KEPT = {"request", "method", "path", "agent", "user", "id"}  # without these it is another question
SURE = st.sampled_from([atom for atom in ATOMS if "else" not in atom and "absent" not in atom])


@few
@given(SURE, SURE, requests, rows, st.data())
def test_removing_a_fact_never_turns_a_deny_into_an_allow(door, guard, asked, known, data):
    """`else` and `is absent` are left out: they say themselves what absence means."""
    policy = sound(f'{doors(door)} guard "g" {{ require {guard} }}')
    path = data.draw(st.sampled_from([path for path in leaves(asked) if path[-1] not in KEPT]))
    if decide(policy, without(asked, path), known).allowed:
        assert decide(policy, asked, known).allowed


@few
@given(conditions, conditions, requests, rows, st.data())
def test_a_pending_fact_never_turns_a_deny_into_an_allow(door, guard, asked, known, data):
    """Pending is unknown and nothing else, so this holds for every condition, `else` included."""
    policy = sound(f'{doors(door)} guard "g" {{ require {guard} }}')
    name = data.draw(
        st.sampled_from(
            [
                "body.n",
                "body.s",
                "body.b",
                "body.tags",
                "body.rows",
                "context.risk",
                "user.roles",
                "user.plan",
                "resource.owner",
                "attestation.verified",
                "credential.scopes",
            ]
        )
    )
    root, member = name.split(".")
    given_ = asked.get(root)
    bare = without(asked, (root, member)) if isinstance(given_, dict) and member in given_ else asked
    if decide(policy, {**bare, "pending": [name]}, known).allowed:
        for value in (1, 5, "x", True, ["a"], ["clerk"], ["docs"], None):
            whole = wrong({**bare, root: bare.get(root, {})}, (root, member), value)
            assert root in ("user", "resource") or decide(policy, whole, known).allowed


@few
@given(conditions, conditions, requests, rows)
def test_the_same_question_gets_the_same_decision_and_effects(door, guard, asked, known):
    policy = sound(f'{doors(door)} guard "g" {{ deny when {guard} }}')
    assert spending(policy, asked, known) == spending(policy, json.dumps(asked), copy.deepcopy(known))


@few
@given(conditions, requests, rows)
def test_every_unknown_fact_of_a_decision_appears_in_a_reason(condition, asked, known):
    decision = decide(sound(f'{doors(OPEN)} guard "g" {{ require {condition} }}'), asked, known)
    in_message = {fact for fact in unknown(decision) if any(f"`{fact}`" in one.message for one in decision.reasons)}
    assert in_message == unknown(decision)


# ── Order ─────────────────────────────────────────────────────────────────────────────────────

DECLARATIONS = [
    "enum plan = free < team",
    "entity team in team",
    "entity user { roles: set<string>  plan: plan? } in team",
    "entity doc { owner: user }",
    "facts { body.n: number? }",
    'let clerks = ["clerk", "boss"]',
    "define small = body.n < 10",
    "issuer acme { records chains }",
    "issuer inner { scopes none }",
    'scope read as "r" { GET /docs/{id: doc}  GET /docs }',
    'scope write as "w" { include read  POST /docs/{id: doc} }',
    "user any { may read }",
    "user where user.roles overlaps clerks { may write }",
    'agent "bot" { issued by acme, inner  acts for any user  credential { bound  age <= 1h }'
    "  may read  may write when small }",
    'agent where agent.publisher == "p" { issued by acme  acts for any user  may write'
    '  may delegate read to agent "bot" }',
    "delegation { depth <= 2  no cycles }",
    "anyone { may GET /health }",
    'guard "small" on write { require small  audit full }',
    'guard "owner" on GET /docs/{id: doc} { deny unless user == resource.owner  confirm by role boss when body.n > 5 }',
    'guard "all" { notify "soc" when body.n is absent }',
]
REORDERED = [
    ("issued by acme, inner  acts for any user", "acts for any user  issued by inner, acme"),
    (
        "credential { bound  age <= 1h }  may read  may write when small",
        "may write when small  may read  credential { age <= 1h  bound }",
    ),
    ("GET /docs/{id: doc}  GET /docs }", "GET /docs  GET /docs/{id: doc} }"),
    ("include read  POST /docs/{id: doc}", "POST /docs/{id: doc}  include read"),
    ("depth <= 2  no cycles", "no cycles  depth <= 2"),
]


def ask_about_docs(body: object, scopes: object, bound: object, hops: int) -> dict[str, object]:
    return {
        "request": {"method": "POST", "path": "/docs/7"}, "agent": {"id": "bot", "issuer": "acme"},
        "user": {"id": "alice"},
        "credential": {"scopes": scopes, "bound": bound, "age": "5m"},
        "body": body, "chain": chain(*[hop("bot", "r")] * hops),
    }  # fmt: skip


@settings(max_examples=30)
@given(
    st.permutations(DECLARATIONS), st.integers(0, len(DECLARATIONS)), st.integers(0, 2 ** len(REORDERED) - 1), bodies,
    st.sampled_from([["r"], ["w"], []]), st.booleans(), st.integers(0, 2), users,
)  # fmt: skip
def test_the_order_of_declarations_files_and_items_changes_nothing(
    shuffled, cut, swaps, body, scopes, bound, hops, user
):
    assert all(before in "\n".join(DECLARATIONS) for before, _ in REORDERED)
    text = ["\n".join(part) for part in (shuffled[:cut], shuffled[cut:]) if part]
    for number, (before, after) in enumerate(REORDERED):
        text = [one.replace(before, after) for one in text] if swaps >> number & 1 else text
    one, other = kernel("\n".join(DECLARATIONS)), kernel(*text)
    assert one.revision == other.revision
    asked, known = ask_about_docs(body, scopes, bound, hops), {"user alice": user, "doc 7": {"owner": "alice"}}
    here, there = decide(one, asked, known), decide(other, asked, known)
    assert here.outcome is there.outcome
    assert {replace(one, at=None) for one in here.reasons} == {replace(one, at=None) for one in there.reasons}
    assert set(here.unknown) == set(there.unknown)
    assert {one.binding for one in here.remedies} == {one.binding for one in there.remedies}


@pytest.mark.parametrize(
    "change",
    ["free < team", "number?", '["clerk", "boss"]', "< 10", "bound", "GET /health", "depth <= 2", "audit full"],
)
def test_a_change_of_meaning_changes_the_revision(change):
    text = "\n".join(DECLARATIONS)
    other = {"free < team": "team < free", "number?": "int?", '["clerk", "boss"]': '["clerk"]', "< 10": "<= 10",
             "bound": "", "GET /health": "GET /healthz", "depth <= 2": "depth <= 3",
             "audit full": "audit brief"}  # fmt: skip
    assert kernel(text).revision != kernel(text.replace(change, other[change], 1)).revision


# ── Chains ────────────────────────────────────────────────────────────────────────────────────

LINKS = """
scope x { GET /x }
issuer acme { records chains }
user any { may x }
agent "a" { issued by acme  acts for any user  may x  may delegate x to agent "b" for 20m  may delegate x to agent "a" }
agent "b" { issued by acme  acts for any user  may x  may delegate x to agent "c" }
agent "c" { issued by acme  acts for any user  may x when credential.age < 20m }
agent "d" { issued by acme  acts for any user  may delegate x to agent "c" }
LIMITS
"""
links = st.builds(
    lambda agent, scopes, minutes: hop(agent, *scopes, minutes=minutes),
    st.sampled_from(["a", "b", "c", "d", "e", ""]), st.sampled_from([["x"], ["x"], []]),
    st.sampled_from([5, 10, 25, -1]),
)  # fmt: skip


@few
@given(st.lists(links, max_size=3), links, st.integers(0, 3), st.sampled_from("abcd"), st.booleans())
def test_adding_a_hop_never_allows_what_the_presenter_alone_is_denied(hops, extra, place, presenter, limited):
    policy = LINKS.replace("LIMITS", "delegation { depth <= 2  lifetime <= 30m  no cycles }" if limited else "")
    asked = {
        "request": {"method": "GET", "path": "/x"},
        "agent": {"id": presenter, "issuer": "acme"},
        "user": {"id": "u"},
    }
    asked |= {"credential": {"scopes": ["x"], "age": "5m"}}
    longer = decide(policy, {**asked, "chain": chain(*hops[:place], extra, *hops[place:])})
    assert not longer.allowed or decide(policy, asked).allowed


@few
@given(st.lists(links, max_size=3), st.sampled_from("abcd"))
def test_every_suffix_of_a_valid_chain_is_valid(hops, presenter):
    asked = {
        "request": {"method": "GET", "path": "/x"},
        "agent": {"id": presenter, "issuer": "acme"},
        "user": {"id": "u"},
    }
    asked |= {"credential": {"scopes": ["x"], "age": "5m"}}
    if decide(LINKS.replace("LIMITS", ""), {**asked, "chain": chain(*hops)}).allowed:
        for start in range(len(hops) + 1):
            assert decide(LINKS.replace("LIMITS", ""), {**asked, "chain": chain(*hops[start:])}).allowed
