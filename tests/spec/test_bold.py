"""The sentences in bold are the language: each of them tried here, quoted in the docstring of its tests."""

import re
from datetime import timedelta
from decimal import Decimal
from itertools import permutations
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from policyengine.clock import epoch_microseconds
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.http.body_facts import body_members
from policyengine.kernel import applicable_profile
from policyengine.runtime.current_caller import caller_scope
from policyengine.runtime.decision import Gate
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import NOT_READABLE as UNREADABLE
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import Invalid
from policyengine.server import create_app
from policyengine.server.authzen.adapter import AuthzenAdapter, read_evaluation
from policyengine.spec import reference
from policyengine.stores.memory.store import MemoryStore
from tests.generate.impostors import impostor
from tests.history.plainly import Trace
from tests.spec.deciding import (
    NOW,
    bot,
    chain,
    codes,
    decide,
    directory,
    gates,
    hop,
    kernel,
    question,
    spending,
    unknown,
    verdict,
)
from tests.trusting import TRUSTING

DOCS = Path(__file__).parents[2] / "docs" / "language.md"
HEAD = "issuer acme { scopes none  records chains }\nissuer other { scopes none }\nusers unrestricted\n"


def test_every_bold_sentence_of_the_language_guide_has_a_test():
    prose = re.sub(
        r"```.*?```|`[^`\n]*`", lambda code: re.sub(r"\*", "∗", code[0]), DOCS.read_text("utf-8"), flags=re.DOTALL
    )
    bold = [" ".join(text.split()) for text in re.findall(r"\*\*(.+?)\*\*", prose, flags=re.DOTALL)]
    tried = " ".join(Path(__file__).read_text("utf-8").split())
    assert len(bold) >= 9
    assert [sentence for sentence in bold if f"**{sentence}**" not in tried] == []


def test_a_user_outside_the_patterns_of_the_issuer_is_unknown():
    """**what an issuer says about a user whose ID matches none of its patterns does not count: that user is
    unknown**"""
    policy = 'issuer partner { scopes none  users like "*@partner.example" }\n'
    policy += "user any { may GET /x }\nanyone { may GET /y }\n"
    policy += 'guard "known" on GET /y { deny when user.id == "mallory" }\n'
    for path, wrong in (("/x", "identity"), ("/y", "guard")):
        for user, gate in (("bob@partner.example", None), ("alice", wrong)):
            asked = {
                "user": {"id": user},
                "credential": {"issuer": "partner"},
                "request": {"method": "GET", "path": path},
            }
            decision = Engine.from_text(policy).decide(asked)
            assert (decision.gate and decision.gate.value) == gate


# ── Doors and guards ──────────────────────────────────────────────────────────────────────────

# Everything that can be declared, apart from doors, as generous as it can be said.
NOT_DOORS = """
enum plan = free < team
entity team in team
entity user { roles: set<string>  plan: plan? } in team
facts { body.n: number?  context.ok: bool? }
let everybody = ["a"]
define fine = time > 2000-01-01
scope all as "all" { GET /x }
issuer acme { scopes none  records chains  claims { r -> user.roles } }
attester lab { }
delegation { depth <= 9 }
guard "generous" { deny when not fine  audit full  warn  notify "soc" }
"""


def test_declarations_other_than_blocks_grant_nothing():
    """**Only an agent, user or anyone block opens a door. Only a guard closes one.**"""
    approvals = [{"id": "a", "by": "fin", "granted_at": "2027-01-04T11:00:00Z", "binding": "sha256:x"}]
    who = {**bot(scopes=["all"], claims={"r": ["admin"]}), "attestation": {"verified": True, "by": "lab"}}
    rows = {"user alice": {"roles": ["admin", "root"]}, "agent bot": {}}
    decision = decide(NOT_DOORS, question("GET /x", **who, approvals=approvals), rows)
    assert verdict(decision) == "deny by identity"


def test_a_map_grants_nothing():
    """**A map opens no door:** the mapped question is decided like any other."""
    item = 'subject "user" => user from acme   action "see" => GET /x   fact user.roles = subject.properties.roles'
    authzen = AuthzenAdapter(Engine.from_text(f"{NOT_DOORS}\nmap authzen {{ {item} }}"))
    asked = {
        "subject": {"type": "user", "id": "alice", "properties": {"roles": ["admin", "root"]}},
        "action": {"name": "see"},
        "resource": {"type": "anything", "id": "x"},
    }
    assert verdict(authzen.decided(read_evaluation(asked)).decision) == "deny by identity"


@pytest.mark.parametrize(
    ("block", "who"),
    [
        ("anyone { may GET /x }", {}),
        ("user any { may all }", {"user": {"id": "alice"}, "credential": {"issuer": "acme"}}),
        ('agent "bot" { issued by acme  acts alone  may all }', bot(user=None)),
    ],
)
def test_each_kind_of_block_grants_access(block, who):
    """**Only an agent, user or anyone block opens a door. Only a guard closes one.**"""
    assert decide(NOT_DOORS + block, question("GET /x", **who)).allowed


def test_a_block_does_not_restrict_a_grant_of_another_block():
    """**Only an agent, user or anyone block opens a door. Only a guard closes one.**"""
    policy = HEAD + 'agent "bot" { issued by acme  acts for any user  may GET /x }\n'
    policy += (
        'agent "bot" { issued by acme  acts for any user  credential { bound }  may GET /x when time < 2000-01-01 }\n'
    )
    policy += 'agent where agent.id != "bot" { issued by acme  acts alone  may GET /y }\nuser "mallory" { may GET /y }'
    assert decide(policy, question("GET /x", **bot())).allowed


@pytest.mark.parametrize(
    ("guard", "told"),
    [
        ('guard "g" { require resource.owner == user }', ["E518"]),
        ('guard "g" on GET /docs/{id: doc} { require resource.owner == user }', []),
        ('guard "g" { require resource is absent or resource.owner == user }', []),
        ('rate "r" per resource.id { 1/1m }', ["E518"]),
        ('rate "r" per resource.id on GET /docs/{id: doc} { 1/1m }', []),
    ],
)
def test_a_rule_that_reads_an_unbound_resource_is_an_error(guard, told):
    """**A guard, rate or budget that reads `resource` must apply only to endpoints that bind it, or say what holds
    without it**: at `GET /health` it would be unknown, and shut it."""
    doors = "entity doc { owner: user }\nuser any { may GET /docs/{id: doc}, GET /health }\n"
    assert codes(doors + guard) == set(told)


ABOUT = """
entity doc { owner: user }
facts on TOOL docs/* { args.id: string? }
scope tools { TOOL docs/show with resource = doc(args.id)   TOOL docs/list   ACTION view doc   GET /docs/{id: doc} }
issuer acme { scopes none }
agent "bot" { issued by acme  acts alone  may tools  may GET /** when resource is absent }
guard "g" { RULE }
"""


@pytest.mark.parametrize("rule", [
    'require resource is absent or resource.id == "1"', 'deny when resource is present and resource.id != "1"',
    'deny unless (resource.id else "1") == "1"', 'require not (resource is present and resource.id != "1")',
])  # fmt: skip
@pytest.mark.parametrize(("asked", "more", "allowed"), [
    ("TOOL docs/list", {}, True), ("TOOL docs/show", {"args": {"id": "1"}}, True),
    ("TOOL docs/show", {"args": {"id": "2"}}, False), ("TOOL docs/show", {"args": {}}, False),
    ("TOOL docs/show", {}, False), ("TOOL docs/show", {"args": {"id": ""}}, False),
    ("TOOL docs/show", {"args": {"id": None}}, False), ("TOOL docs/show", {"args": {"id": 7}}, False),
    ("ACTION view doc 1", {}, True), ("ACTION view doc 2", {}, False),
    ("ACTION view doc 1", {"resource": {"type": "doc", "id": ""}}, False),
    ("ACTION view doc 1", {"resource": {"type": "doc", "id": None}}, False),
    ("ACTION view doc 1", {"resource": {"type": "doc"}}, False),
    ("GET /docs/1", {}, True), ("GET /docs/2", {}, False), ("GET /DOCS/1", {}, False),
])  # fmt: skip
def test_a_bound_resource_whose_id_is_missing_is_unknown(rule, asked, more, allowed):
    """**At an endpoint that binds `resource`, the resource is never absent**: a tool may have a default where the
    argument is missing, and a server may treat a path in another case as the same path."""
    policy = ABOUT.replace("RULE", rule)
    caller = {"agent": {"id": "bot", "issuer": "acme"}}
    assert decide(policy, {**question(asked, **caller), **more}).allowed is allowed


def test_a_guard_denies_the_grants_of_every_block():
    """**Only an agent, user or anyone block opens a door. Only a guard closes one.**"""
    policy = (
        HEAD
        + "user any { may GET /x }\nanyone { may GET /x }\n"
        + 'agent "bot" { issued by acme  acts for any user  may GET /x }\n'
    )
    asked = question("GET /x", **bot())
    assert decide(policy, asked).allowed
    assert gates(decide(policy + 'guard "g" { deny }', asked)) == ["guard"]


@pytest.mark.parametrize(("is_", "says", "outcome"), [("bob", "alice", 'deny by "g"'), ("alice", "bob", "allow")])
def test_a_fact_is_the_plain_value_of_the_passed_object(is_, says, outcome):
    """**A fact is the value that was passed, not what the object says about itself:** it is read once, as the plain
    value that it holds."""
    policy = HEAD + 'facts { context.who: string }\nanyone { may GET /x }\nguard "g" { require context.who == "alice" }'
    raw = {"request": {"method": "GET", "path": "/x"}, "context": {"who": impostor(is_, says)}}
    assert verdict(Engine.from_text(policy).decide(raw)) == outcome


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("12345678901234567890", ["number"]), ("9223372036854775808", ["number"]),
        ("9223372036854775807", ["number", "int"]), ("9" * 34, ["number"]), ("9" * 35, []),
        ("1" + "0" * 40, ["number"]), ("1e40", ["number"]), ("1" + "0" * 34 + "1", []),
        ("-12345678901234567890", ["number"]), ("0.1234567890123456789012345678901234", ["number"]),
    ],
)  # fmt: skip
def test_whole_numbers_are_exact_to_34_digits(given, known):
    """**A number is exact up to 34 significant digits, including integers beyond 64 bits; a number with more digits
    is unknown, and so is an `int` beyond 64 bits.**"""
    policy = "facts { body.number: number?  body.int: int? }\nanyone { may GET /x }\n"
    policy += "".join(f'guard "{one}" {{ deny when body.{one} == 3 }}\n' for one in ("number", "int"))
    text = f'{{"request": {{"method": "GET", "path": "/x"}}, "body": {{"number": {given}, "int": {given}}}}}'
    denied = {reason.rule for reason in Engine.from_text(policy).decide(text).reasons}
    assert [one for one in ("number", "int") if one not in denied] == known


@pytest.mark.parametrize(
    ("key", "allowed"), [("request.ip", [True, False, True, True]), ("address(request.ip)", [True, True, True, True])]
)
def test_request_ip_counts_an_ipv6_address_by_its_64_bit_network(key, allowed):
    """**`per request.ip` counts an IPv6 address by its /64, because one subscriber has all addresses of a /64;
    `per address(request.ip)` counts each address separately.**"""
    rules = (
        f'rate "r" per {key} on GET /x {{ 1/1h }}',
        f'guard "g" {{ deny when after GET /x within 1h per ({key}) }}',
    )
    for rule in rules:
        engine = Engine.from_text(f"anyone {{ may GET /x }} {rule}", store=MemoryStore(history_complete=True))
        addresses = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "10.0.0.1")
        asked = [{"request": {"method": "GET", "path": "/x", "ip": ip}} for ip in addresses]
        assert [engine.decide(one).allowed for one in asked] == allowed
        assert not engine.decide({"request": {"method": "GET", "path": "/x", "ip": "::ffff:10.0.0.1"}}).allowed


@pytest.mark.parametrize("options", [None, {"consume": True}])
def test_a_decision_whose_answer_failed_is_still_spent(options):
    """**What was decided once is not decided again:** of two requests a minute the one that got no answer was one."""
    ids = iter(["\ud800", "second", "third"])
    policy = 'anyone { may GET /x }\nrate "r" per request.path on GET /x { 2/1m }'
    engine = Engine.from_text(policy, ids=lambda now: next(ids))
    client = TestClient(create_app(engine), "http://localhost", raise_server_exceptions=False)
    asked = {"request": {"method": "GET", "path": "/x"}, **({} if options is None else {"options": options})}
    answers = [client.post("/decide", json=asked) for _ in range(3)]
    assert [one.status_code for one in answers] == [500, 200, 200]
    assert [one.json()["outcome"] for one in answers[1:]] == ["allow", "throttle"]


# ── Order ─────────────────────────────────────────────────────────────────────────────────────

FILES = (
    'package one\nimport two\nimport three as t\nguard "one" on two.x { require user.plan >= t.limit }\n',
    "package two\nimport three\nexport scope x { GET /x }\nexport issuer acme { scopes none }\nuser any { may x }\n",
    "package three\nimport two\nexport enum plan = free < team\n"
    "export entity user { plan: plan? }\nexport let limit = team\n"
    'agent "bot" { issued by two.acme  acts for any user  may two.x }\n',
    'package one\nguard "two" { audit full }\n',
)


def test_the_order_of_files_changes_nothing():
    """**The order of files, imports and declarations never matters.**"""
    asked = question("GET /x", **bot())
    rows = {"user alice": {"plan": "free"}}
    found = {(kernel(*files).revision, verdict(decide(kernel(*files), asked, rows))) for files in permutations(FILES)}
    assert len(found) == 1
    assert found.pop()[1] == 'deny by "one"'


def test_the_order_of_imports_and_declarations_changes_nothing():
    """**The order of files, imports and declarations never matters.**"""
    first = FILES[0]
    swapped = first.replace("import two\nimport three as t", "import three as t\nimport two")
    lines = FILES[2].splitlines()
    turned = "\n".join([*lines[:2], *reversed(lines[2:])])
    assert swapped != first
    assert kernel(swapped, FILES[1], turned, FILES[3]).revision == kernel(*FILES).revision


# ── Inherited ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("member", "allowed"),
    [("own", True), ("parent", True), ("grandparent", True), ("sibling", False), ("child", False)],
)
def test_an_inherited_set_includes_the_elements_of_all_ancestors(member, allowed):
    """**An `inherited` set is a lower bound: every element of a level's own set is in it; whether any other value is in
    the set is unknown if a level that declares the attribute lacks the attribute; `inherited else []` in the
    declaration makes the own set of such a level empty.**"""
    policy = """
    entity folder { tags: set<string> inherited } in folder
    entity doc { tags: set<string> inherited } in folder
    anyone { may GET /docs/{id: doc} }
    guard "g" on GET /docs/{id: doc} { require resource.tags has "TAG" }
    """
    rows = {
        "doc 7": {"tags": ["own"], "in": ["folder a"]}, "folder a": {"tags": ["parent"], "in": ["folder b"]},
        "folder b": {"tags": ["grandparent"]}, "folder c": {"tags": ["sibling"], "in": ["folder b"]},
        "doc 8": {"tags": ["child"], "in": ["doc 7"]},
    }  # fmt: skip
    assert decide(policy.replace("TAG", member), question("GET /docs/7"), rows).allowed is allowed


@pytest.mark.parametrize(
    ("levels", "folder", "expected"),
    [
        ("inherited", {"tags": ["parent"]}, "deny"),
        ("inherited", {"tags": ["bad"]}, "deny"),
        ("inherited", {}, "deny"),
        ("inherited else []", {"tags": ["parent"]}, "allow"),
        ("inherited else []", {"tags": ["bad"]}, "deny"),
        ("inherited else []", {}, "allow"),
        ("inherited else []", {"tags": "parent"}, "deny"),
        ("inherited else []", None, "deny"),
    ],
)
def test_other_elements_of_an_inherited_set_are_unknown_if_a_level_lacks_the_set(levels, folder, expected):
    """**An `inherited` set is a lower bound: every element of a level's own set is in it; whether any other value is in
    the set is unknown if a level that declares the attribute lacks the attribute; `inherited else []` in the
    declaration makes the own set of such a level empty.**"""
    policy = f"""
    entity folder {{ tags: set<string> {levels} }} in folder
    entity doc {{ tags: set<string> {levels} }} in folder
    anyone {{ may GET /docs/{{id: doc}} }}
    guard "g" on GET /docs/{{id: doc}} {{ deny when resource.tags has "bad" }}
    """
    rows = {"doc 7": {"in": ["folder a"]}} | ({} if folder is None else {"folder a": folder})
    assert str(decide(policy, question("GET /docs/7"), rows).outcome) == expected


ROWLESS = """
entity user { tenant: string?  banned: bool? }
entity doc { private: bool? }
issuer acme { scopes none  claims { org -> user.tenant } }
user any {
  may GET /open/{id: doc} when not (resource.private else false)
  may GET /mine/{id: doc} when (user.tenant else "acme") == "acme"
  may GET /fair/{id: doc} when not (user.banned else false)
  may GET /known/{id: doc} when resource is known
  may GET /new/{id: doc} when not resource is known
}
"""


@pytest.mark.parametrize(
    ("rows", "more", "opened"),
    [
        ({}, {}, {"new"}),
        ({}, {"claims": {"org": "acme"}}, {"mine", "new"}),
        ({"user alice": {}}, {}, {"mine", "fair", "new"}),
        ({"doc 7": {}}, {}, {"open", "known"}),
        ({"doc 7": {"private": True}}, {}, {"known"}),
        ({}, {"entities": [{"type": "doc", "id": "7"}]}, {"open", "known"}),
        ({}, {"entities": [{"type": "doc", "id": "7", "partial": True}]}, set()),
        ({}, {"entities": [{"type": "doc", "id": "7", "attributes": {"private": False}, "partial": True}]}, {"open"}),
    ],
)
def test_attributes_of_an_entity_without_a_row_are_unknown(rows, more, opened):
    """**An attribute of an entity without a row is unknown, also with `else`; claims and `map authzen` make known
    only what they map; only the entity store or trusted rows answer `resource is known`.**"""
    claims = {"claims": more["claims"]} if "claims" in more else {}
    entities = {"entities": more["entities"]} if "entities" in more else {}
    who = {"user": {"id": "alice"}, "credential": {"issuer": "acme", **claims}}
    places = ("open", "mine", "fair", "known", "new")
    assert {p for p in places if decide(ROWLESS, question(f"GET /{p}/7", **who, **entities), rows).allowed} == opened


# ── Requirements ──────────────────────────────────────────────────────────────────────────────


def test_requirements_apply_only_to_the_grants_of_their_block():
    """**A block's requirements apply to that block's doors only; for what must hold for every caller, write a
    guard.**"""
    policy = HEAD + 'agent "bot" { issued by acme  acts for any user  credential { bound }  may GET /x }\n'
    lax = policy + 'agent "bot" { issued by acme  acts for any user  may GET /x }\n'
    asked = question("GET /x", **bot(bound=False))
    assert verdict(decide(policy, asked)) == "deny by identity"
    assert decide(lax, asked).allowed
    assert decide(policy + "anyone { may GET /x }", asked).allowed
    assert verdict(decide(lax + 'guard "all" { require credential.bound }', asked)) == 'deny by "all"'


# ── Chains ────────────────────────────────────────────────────────────────────────────────────

NARROW = """
scope x { GET /x }
scope y { GET /y }
issuer acme { records chains }
USER
agent "first" { issued by acme  acts for any user  FIRST  DELEGATE }
agent "last" { issued by acme  acts for any user  LAST }
"""
WHOLE = {
    "USER": "user any { may x, y }",
    "FIRST": "may x, y",
    "DELEGATE": 'may delegate x, y to agent "last"',
    "LAST": "may x, y",
}


@pytest.mark.parametrize(
    ("part", "less"),
    [
        ("USER", "user any { may y }"), ("FIRST", "may y"), ("LAST", "may y"),
        ("DELEGATE", 'may delegate y to agent "last"'), ("DELEGATE", 'may delegate x, y to agent "other"'),
        ("DELEGATE", ""),
        ("hop", ["y"]), ("hop", []), ("credential", ["y"]), ("credential", []), (None, None),
    ],
)  # fmt: skip
def test_authority_missing_in_one_part_is_missing_for_the_whole_chain(part, less):
    """**Authority only narrows along a chain.**"""
    text = NARROW
    for name, whole in {**WHOLE, part or "": less}.items():
        text = text.replace(name, str(whole)) if name in WHOLE else text
    scopes = {"hop": ["x", "y"], "credential": ["x", "y"], **({part: less} if part in ("hop", "credential") else {})}
    who = bot("last", scopes=scopes["credential"])
    asked = question("GET /x", **who, chain=chain(hop("first", *scopes["hop"])))
    assert decide(text, asked).allowed is (part is None)


# ── Unknown ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("given", [{}, {"n": "1"}, {"n": True}, {"n": None}, {"n": [1]}])
@pytest.mark.parametrize(
    "rule",
    [
        'agent "bot" { issued by acme  acts for any user  may GET /x when context.n < 5 }',
        'agent "bot" { issued by acme  acts for any user  may GET /x }\nguard "g" { require context.n < 5 }',
        'agent "bot" { issued by acme  acts for any user  may GET /x }\nguard "g" { deny when context.n >= 5 }',
        'agent "bot" { issued by acme  acts for any user  may GET /x }\n'
        'guard "g" { confirm by user when context.n >= 5 }',
    ],
)
def test_an_unknown_fact_grants_nothing_and_the_reason_names_it(rule, given):
    """**An unknown fact never opens a door and never loosens a limit**, and the reason names the fact."""
    policy = "facts { context.n: number }\n" + HEAD + rule
    assert decide(policy, question("GET /x", **bot(), context={"n": 1})).allowed
    decision = decide(policy, question("GET /x", **bot(), context=given))
    assert not decision.allowed
    assert unknown(decision) == {"context.n"}
    assert "`context.n` is unknown" in decision.reasons[0].message


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"body": {}}, True),
        ({"body": {}, "pending": ["body.*"]}, False),
        ({"body": {"note": None}, "pending": ["body.*"]}, True),
        ({"body": {"note": "urgent"}, "pending": ["body.*"]}, False),
        ({"body": {"note": "later"}, "pending": ["body.*"]}, True),
    ],
)
def test_only_null_members_of_a_partly_known_object_are_absent(given, allowed):
    """**in an object that is partly known, stated members are facts, `null` members are known to be absent, and all
    others are unknown.**"""
    policy = "facts { body.note: string? }\n" + HEAD + 'agent "bot" { issued by acme  acts for any user  may GET /x }\n'
    policy += 'guard "g" { deny when (body.note else "") == "urgent" }'
    assert decide(policy, question("GET /x", **bot(), **given)).allowed is allowed


def test_a_member_in_another_case_is_unknown():
    """**A member whose name exists only in another case is unknown, not absent**: `Amount` is `amount` to some."""
    policy = "anyone { may GET /x }\nfacts { body.role: string? }\n" + 'guard "g" { require body.role is absent }'
    assert decide(policy, question("GET /x", body={"roles": "admin"})).allowed
    assert verdict(decide(policy, question("GET /x", body={"Role": "admin"}))) == 'deny by "g"'


def test_a_header_in_another_spelling_is_unknown():
    """**A header whose name exists only in another spelling is unknown, not absent**: `X.Role` is `X-Role`."""
    policy = "anyone { may GET /x }\n" + 'guard "g" { require request.headers["x-role"] is absent }'
    for name, found in (("x-roles", "allow"), ("x.role", 'deny by "g"'), ("X_Role", 'deny by "g"')):
        asked = question("GET /x", request={"method": "GET", "path": "/x", "headers": {name: "7"}})
        assert verdict(decide(policy, asked)) == found


def test_a_body_that_parsers_read_differently_is_unknown():
    """**A value of a body is known only if all common parsers read the same value; otherwise it is unknown.**"""
    form = "application/x-www-form-urlencoded"
    assert body_members([form], [], b"to=alice") == {"to": "alice"}
    assert isinstance(body_members([form], [], b'{"x":"&to=alice&y=","to":"mallory"}'), Invalid)


# ── Outcomes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("guards", "outcome"),
    [
        ("", "allow"),
        ("A", "allow"),
        ("C", "confirm"),
        ("AC", "confirm"),
        ("D", "deny"),
        ("CD", "deny"),
        ("ACD", "deny"),
    ],
)
def test_the_strongest_outcome_wins_in_any_order(guards, outcome):
    """**`deny` beats `throttle` beats `confirm` beats `allow`; if nothing applies, the outcome is `deny`.**"""
    items = {"A": "audit full", "C": "confirm by user", "D": "deny"}
    for order in permutations(guards):
        policy = "anyone { may GET /x }\n" + "\n".join(f'guard "{name}" {{ {items[name]} }}' for name in order)
        assert str(decide(policy, question("GET /x")).outcome) == outcome


@pytest.mark.parametrize(
    "policy", ["let a = 1", "language 1\npackage empty\nlet a = 1", "anyone { may GET /y }", 'guard "g" { audit full }']
)
def test_a_request_that_no_rule_covers_is_denied(policy):
    """**`deny` beats `throttle` beats `confirm` beats `allow`; if nothing applies, the outcome is `deny`.**"""
    for where in ("GET /x", "TOOL t", "ACTION view doc 7"):
        assert str(decide(policy, question(where)).outcome) == "deny"


# ── Approvals and limits ──────────────────────────────────────────────────────────────────────

REFUNDS = """entity user { roles: set<string> }
facts on POST /refund { body.amount: number }
anyone { may POST /refund }
guard "large" on POST /refund { confirm by role finance when body.amount > 500 message "{body.amount}" }
rate "calls" per request.ip on POST /refund { 2/1h }
budget "refunds" per request.ip on POST /refund { sum body.amount <= 5_000 within 24h }
"""


def test_a_confirm_spends_rates_once_and_its_allow_spends_the_rest():
    """**A confirm checks all limits but takes from rates only, and only once for the same binding; the allow takes what
    the confirm did not take; if a limit has no room, the outcome is `throttle`, and the approval stays unspent.**"""
    now = [NOW]
    boss = {"user fin": {"roles": ["finance"]}}
    engine = Engine.from_text(REFUNDS, directory=directory(boss), clock=lambda: now[0], approvals=TRUSTING)

    def refund(amount, *approvals):
        asked = {**question("POST /refund", request={"ip": "10.0.0.1"}, body={"amount": amount})}
        decision = engine.decide({**asked, "approvals": list(approvals)})
        return str(decision.outcome), {one.rule: one.remaining for one in decision.rates}, decision

    def grant(decision, name):
        binding = decision.remedies[0].binding
        return {"id": name, "by": "fin", "granted_at": now[0].isoformat(), "binding": binding}

    asked = [refund(3_000) for _ in range(3)]
    assert [one[:2] for one in asked] == [("confirm", {"calls": 1, "refunds": 5_000})] * 3
    assert refund(5_500)[0] == "throttle"
    assert refund(3_000, grant(asked[0][2], "a"))[:2] == ("allow", {"calls": 1, "refunds": 2_000})
    late = refund(1_500)[2]
    assert refund(3_000)[0] == "throttle"
    now[0] = NOW + timedelta(hours=2)
    approval = grant(late, "b")
    assert refund(400)[0] == refund(400)[0] == "allow"
    assert [refund(1_500, approval)[0] for _ in range(2)] == ["throttle"] * 2
    now[0] = NOW + timedelta(hours=25)
    assert refund(1_500, approval)[0] == "allow"


# ── History ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ahead", [timedelta(seconds=20), timedelta(seconds=-20), timedelta(hours=1)], ids=str)
def test_windows_end_by_the_clock_of_the_store(ahead):
    """**The store's own clock decides windows on every store**, and never runs back."""
    trace = Trace.of('guard "g" on POST /pay { require no POST /pay within 10s }')
    trace.now, trace.stored = NOW + ahead, NOW
    assert [trace.says("POST /pay") for _ in range(2)] == ["allow", 'deny by "g"']
    trace.stored += timedelta(seconds=10)
    assert trace.says("POST /pay") == "allow"


@pytest.mark.parametrize("text", ["", "\n\t ", "# only words", "language 1\npackage app", "import app.common"])
def test_a_file_that_declares_nothing_is_an_error(text):
    """**A file that declares nothing is an error**"""
    assert "E155" in codes(text)
    assert "E155" not in codes(f"{text}\nlet a = 1")


# ── Paths ─────────────────────────────────────────────────────────────────────────────────────

CANONICAL = ["/", "/a", "/a/b", "/a/b/", "/caf%C3%A9", "/a%20b", "/a.b", "/.well-known/x", "/...x", "/a:b", "/~a", "/A"]
NOT_CANONICAL = [
    "", "a", "*", "//", "/a//b", "/a/b//", "/.", "/..", "/a/./b", "/a/../b", "/%2e%2e/a", "/%2E", "/a%2Fb",
    "/a%5cb", "/a\\b",
    "/a%00b", "/a;b", "/a%3Bb", "/a\tb", "/a%0Ab", "/a?b", "/a%3Fb", "/a#b", "/a%23", "/%80", "/%C0%AF", "/%ED%A0%80",
    "/%252e", "/%25", "/a%", "/a%g1",
]  # fmt: skip


@pytest.mark.parametrize("path", CANONICAL)
def test_a_canonical_path_is_matched(path):
    """A path is **canonical** when it starts with `/` and holds nothing that two servers could read differently."""
    assert decide("anyone { may GET /** }", question(f"GET {path}")).allowed


@pytest.mark.parametrize("path", [path for path in NOT_CANONICAL if path])
def test_a_non_canonical_path_is_malformed(path):
    """A path is **canonical** when it starts with `/` and holds nothing that two servers could read differently."""
    decision = decide("anyone { may GET /** }", {"request": {"method": "GET", "path": path}})
    assert gates(decision) == ["malformed_path"]


# ── History ───────────────────────────────────────────────────────────────────────────────────

REVIEWED = """
anyone { may POST /review, POST /pay }
guard "g" on POST /pay { require after (POST /review where past.status < 400) within 1h }
"""


def test_a_report_of_another_caller_is_ignored():
    """**Only the caller that asked for a decision can report its outcome.**"""
    engine = Engine.from_text(REVIEWED, store=MemoryStore(history_complete=True))
    who = {"agent": {"id": "bot"}, "user": {"id": "alice"}}
    review, pay = ({"request": {"method": "POST", "path": path}, **who} for path in ("/review", "/pay"))
    with caller_scope("name edge"):
        decision = engine.decide(review).id
    assert not engine.report(decision, status=200)
    assert not engine.decide(pay).allowed
    with caller_scope("name edge"):
        assert engine.report(decision, status=200)
    assert engine.decide(pay).allowed


@pytest.mark.parametrize(
    ("reported", "waiting", "without"),
    [
        (None, True, True), ((200, {}), False, True), ((500, {"x": None}), False, True),
        ((200, {"x": 0}), False, False), ((None, {"x": [1]}), True, False), ((204, {"x": {}}), False, False),
        ((204, {"x": "a" * 1_000}), False, False),
    ],
)  # fmt: skip
def test_an_outcome_is_absent_until_it_is_reported(reported, waiting, without):
    """**`past.status is absent` means that the request is not answered yet, and `past.output.x is absent` that no
    report contains `x`: both are always true or false.**"""
    for condition, expected in (("past.status is absent", waiting), ("past.output.x is absent", without)):
        for rule, holds in ((condition, expected), (condition.replace("absent", "present"), not expected)):
            trace = Trace.of(f'guard "g" on POST /pay {{ require after (POST /run where {rule}) within 1h }}')
            run = trace.ask("POST /run")
            if reported is not None:
                trace.report(run, reported[0], **reported[1])
            decision = trace.ask("POST /pay")
            assert (decision.allowed, decision.unknown) == (holds, ())


@pytest.mark.parametrize(
    ("output", "total"),
    [(None, 40), ({}, 40), ({"n": None}, 40), ({"n": 7}, 7), ({"n": "7"}, None), ({"n": [7]}, None)],
)
def test_a_default_stands_for_a_missing_report_only(output, total):
    """**A default replaces an outcome that is not reported, but not a value of the wrong type.**"""
    for bound in (7, 40):
        rule = f"require sum (past.output.n else 40) of POST /run within 1h == {bound}"
        trace = Trace.of(f'guard "g" on POST /pay {{ {rule} }}')
        run = trace.ask("POST /run")
        if output is not None:
            trace.report(run, 200, **output)
        decision = trace.ask("POST /pay")
        assert (decision.allowed, bool(decision.unknown)) == (total == bound, total is None)


# ── Where facts come from ─────────────────────────────────────────────────────────────────────

SOURCES = """
entity user { level: string? }
issuer acme { scopes none  claims { lvl -> user.level } }
users unrestricted
agent "bot" { issued by acme  acts for any user  may GET /x }
guard "g" { require user.level == "high" }
"""


@pytest.mark.parametrize(
    ("claim", "row", "gateway", "allowed"),
    [
        ("high", "low", "low", True), ("low", "high", "high", False),
        (None, "high", "low", True), (None, "low", "high", False),
        (None, None, "high", True), (None, None, "low", False),
        (None, None, None, False),
    ],
)  # fmt: skip
def test_an_attribute_comes_from_the_first_source_that_knows_it(claim, row, gateway, allowed):
    """**Verified credential, then entity store, then a trusted gateway, then nothing.**"""
    sent = [] if gateway is None else [{"type": "user", "id": "alice", "attributes": {"level": gateway}}]
    rows = {} if row is None else {"user alice": {"level": row}}
    asked = question("GET /x", **bot(claims={} if claim is None else {"lvl": claim}), entities=sent)
    assert decide(SOURCES, asked, rows).allowed is allowed


@pytest.mark.parametrize("member", ["body", "args", "context", "params"])
def test_no_other_member_of_a_request_gives_an_attribute(member):
    """**Verified credential, then entity store, then a trusted gateway, then nothing.**"""
    if member == "params":
        assert codes("anyone { may GET /x }\nfacts { params.x: string }")
    else:
        asked = question(
            "GET /x", **bot(), **{member: {"level": "high", "user": {"level": "high"}, "user.level": "high"}}
        )
        assert not decide(SOURCES, asked).allowed


# ── Approvals ─────────────────────────────────────────────────────────────────────────────────

APPROVING = """
entity user { roles: set<string> }
anyone { may POST /pay, TOOL fs/delete, ACTION open door }
entity door
guard "ask" { confirm by role boss CLAUSE }
"""


def asked_and_approved(clause: str, asked: dict[str, object], then: dict[str, object]) -> str:
    """What comes of one request with the approval of another."""
    rows = {"user boss": {"roles": ["boss"]}}
    text = APPROVING.replace("CLAUSE", clause)
    binding = decide(text, asked, rows).remedies[0].binding
    approval = {"id": "a", "by": "boss", "granted_at": "2027-01-04T11:00:00Z", "binding": binding}
    return verdict(decide(text, {**then, "approvals": [approval]}, rows))


@pytest.mark.parametrize(
    ("where", "member", "one", "other"),
    [
        ("POST /pay", "body", {"amount": 1}, {"amount": 500}),
        ("TOOL fs/delete", "args", {"path": "/tmp/x"}, {"path": "/etc/passwd"}),
        ("POST /pay", "request", {"query": {"amount": "1"}}, {"query": {"amount": "500"}}),
        ("POST /pay", "request", {"host": "a.example"}, {"host": "b.example"}),
        ("ACTION open door 7", "context", {"wide": False}, {"wide": True}),
    ],
)
def test_an_approval_binds_the_whole_request_content(where, member, one, other):
    """**an approval binds the whole `body` and `args` as read, including undeclared members; for an HTTP request the
    query and the host; for an action its `context`; and the resource and everything that the rule and its message
    read.**"""
    asked, changed = question(where, **{member: one}), question(where, **{member: other})
    assert asked_and_approved("", asked, asked) == "allow"
    assert asked_and_approved("", asked, changed) == 'confirm by "ask"'
    assert asked_and_approved("bound to (resource)", asked, changed) == "allow"


@pytest.mark.parametrize(
    ("by", "issuer", "outcome"),
    [
        ("boss", "acme", "allow"), ("boss", None, "confirm"), ("boss", "other", "confirm"),
        ("boss", "partner", "confirm"),
        ("boss@partner.example", "partner", "allow"), ("boss@partner.example", "other", "confirm"),
    ],
)  # fmt: skip
def test_an_approval_counts_only_with_an_issuer_after_from(by, issuer, outcome):
    """**With `from`, an approval counts only if one of these issuers vouches for the approver, and its `users like`
    patterns, if it has any, match the approver.**"""
    partner = 'issuer partner { users like "*@partner.example" }\n'
    text = HEAD + partner + APPROVING.replace("CLAUSE", "").replace("role boss", "role boss from acme, partner")
    rows = {"user boss": {"roles": ["boss"]}, "user boss@partner.example": {"roles": ["boss"]}}
    binding = decide(text, question("POST /pay"), rows).remedies[0].binding
    approval = {"id": "a", "by": by, "issuer": issuer, "granted_at": "2027-01-04T11:00:00Z", "binding": binding}
    assert str(decide(text, question("POST /pay", approvals=[approval]), rows).outcome) == outcome


@pytest.mark.parametrize(
    ("clause", "more", "expected"),
    [
        ("", {}, 'confirm by "ask"'),
        ("", {"body": {"amount": "much"}}, 'confirm by "ask"'),
        ("", {"pending": ["body"]}, 'deny by "ask"'),
        ("", {"pending": ["body.note"]}, 'deny by "ask"'),
        ("bound to (request.query)", {"pending": ["body"]}, 'confirm by "ask"'),
        ("bound to (body except body.note)", {"pending": ["body.note"]}, 'confirm by "ask"'),
    ],
)
def test_a_confirm_that_binds_a_pending_fact_is_a_deny(clause, more, expected):
    """**Absent and wrongly typed facts can be bound, but pending facts cannot: a confirm that would bind a pending fact
    is a deny, unless `bound to (…)` leaves the fact out.**"""
    assert verdict(decide(APPROVING.replace("CLAUSE", clause), question("POST /pay", **more))) == expected


@pytest.mark.parametrize("host", ["api.example", "API.example", "api.example.", "api.example:8443", "API.Example.:80"])
def test_request_host_is_compared_without_port_trailing_dot_and_case(host):
    """**At every entry point, `request.host` is compared without port, trailing dot and case:** `API.Example.:8443` is
    …"""
    policy = 'anyone { may GET /x }\nguard "g" { require request.host == "api.example" }'
    assert decide(policy, question("GET /x", request={"host": host})).allowed
    assert not decide(policy, question("GET /x", request={"host": f"evil.{host}"})).allowed
    assert codes(policy.replace("api.example", "api.example:8443")) == {"E255"}


# ── Tasks ─────────────────────────────────────────────────────────────────────────────────────

FOR_TASKS = """
entity invoice { }
issuer acme { scopes none }
users unrestricted
agent "bot" { issued by acme  acts for any user  may TOOL *, GET /v1/{id: invoice} }
"""


@pytest.mark.parametrize(
    ("where", "task", "gate"),
    [
        ("TOOL fs/read", {"tools": ["fs/read"]}, []), ("TOOL fs/read", {"tools": ["read"]}, []),
        ("TOOL fs/write", {"tools": ["fs/read"]}, ["task"]), ("TOOL db/read", {"tools": ["fs/read"]}, ["task"]),
        ("TOOL fs/read", {"tools": []}, ["task"]), ("TOOL fs/read", {}, []), ("TOOL fs/read", {"entities": []}, []),
        ("GET /v1/7", {"entities": [{"type": "invoice", "id": "7"}]}, []), ("GET /v1/7", {"tools": []}, []),
        ("GET /v1/7", {"entities": [{"type": "user", "id": "7"}]}, ["task"]), ("GET /v1/7", {}, []),
        ("GET /v1/7", {"entities": [{"type": "invoice", "id": "8"}]}, ["task"]),
        ("GET /v1/7", {"entities": []}, ["task"]),
    ],
)  # fmt: skip
def test_a_task_restricts_tools_and_entities(where, task, gate):
    """**`task.tools` restricts tool calls (`server/name`, or a bare name for any server), and `task.entities` restricts
    endpoints that bind `resource`, by type and ID. Each of them restricts nothing if it is absent, and allows nothing
    if it is empty.**"""
    asked = question(where, **bot(), task=task)
    assert gates(decide(FOR_TASKS, asked)) == gate
    assert gates(decide(f"tasks advisory\n{FOR_TASKS}", asked)) == []


# ── Case ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ignoring", [False, True])
def test_guards_and_limits_ignore_the_case_of_paths_and_grants_do_not(ignoring):
    """**Guards and limits match paths case-insensitively; doors and `except` match exactly, unless `paths ignore
    case`.**"""
    head = "paths ignore case\n" if ignoring else ""
    guarded = f'{head}anyone {{ may GET /** }}\nguard "g" on /a/** except /a/b {{ deny }}'
    assert [decide(guarded, question(f"GET {path}")).allowed for path in ("/A/x", "/a/b", "/a/B")] == [
        False,
        True,
        ignoring,
    ]
    assert decide(f"{head}anyone {{ may GET /a }}", question("GET /A")).allowed is ignoring
    limited = f'{head}anyone {{ may GET /** }}\nrate "r" per request.ip on /a {{ 1/1m }}'
    assert spending(limited, question("GET /A", request={"ip": "10.0.0.1"}))[1].limits


# ── Bindings ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("path", "sent", "gate"), [("z", "y", Gate.GUARD), ("y", "z", None)])
def test_a_bound_fact_replaces_the_one_that_the_caller_sends(path, sent, gate):
    """**A bound fact replaces a fact of the same name that the caller sends.**"""
    policy = """
    facts { body.n: string? }
    scope s { POST /b/{n} with body.n = params.n }
    anyone { may s }
    guard "z" on POST /b/* { deny when body.n == "z" }
    """
    assert decide(policy, question(f"POST /b/{path}", body={"n": sent})).gate == gate


# ── Learned behavior ──────────────────────────────────────────────────────────────────────────

LEARNED = """
anyone { may GET /x, GET /y }
rate "r" per request.ip on /x {
  10/1m   raise x2 at most 20/1m when behavior.trust > 0.9   clamp 5/1m when behavior.burst
}
guard "g" on GET /y { deny when behavior.novelty > 0.3 }
"""


def admitted_at_once(**behavior):
    """Return how many requests are admitted at one moment."""
    asked = Request.from_mapping(question("GET /x", request={"ip": "10.0.0.1"}))
    effects = reference.decide(kernel(LEARNED), asked, Snapshot(EntityStore(), behavior=behavior), NOW)[1]
    store = MemoryStore()
    return sum(store.commit(effects, f"{number}", epoch_microseconds(NOW)).admitted for number in range(30))


@pytest.mark.parametrize(
    "policy",
    [
        "anyone { may GET /x when behavior.trust > 0.9 }",
        "anyone { may GET /x when after (GET /x where past.behavior.trust > 0.9) within 1h }",
        "user where behavior.ready { may GET /x }",
        "agent where behavior.ready { issued by acme  acts alone  may GET /x }\nissuer acme { scopes none }",
        "user where after (GET /x where past.behavior.ready) within 1h { may GET /x }",
    ],
)
def test_learned_facts_are_errors_in_doors(policy):
    """**Behavior never opens a door: a learned fact is an error in a `may` and in the head of a block, also as a fact
    of a past request.**"""
    assert codes(policy) & {"E414", "E415"}


def test_nothing_learned_is_neutral():
    """**Until enough is known about a caller, each learned fact has its neutral value**"""
    neutral = "behavior.trust == 0.5 and behavior.novelty == 0 and behavior.error_rate == 0"
    neutral += " and not behavior.burst and not behavior.ready and behavior.sequence"
    policy = f'anyone {{ may GET /x }}\nguard "g" on GET /x {{ require {neutral} }}'
    assert decide(policy, question("GET /x")).allowed


@pytest.mark.parametrize(
    ("behavior", "limit"),
    [({}, 10), ({"trust": Decimal("0.95")}, 20), ({"trust": UNREADABLE}, 10), ({"burst": True}, 5),
     ({"burst": UNREADABLE}, 5), ({"trust": Decimal("0.95"), "burst": UNREADABLE}, 5)],
)  # fmt: skip
def test_an_unknown_learned_fact_tightens(behavior, limit):
    """**A learned fact that cannot be read is unknown: a `clamp` or a guard acts, and a `raise` does not.**"""
    assert admitted_at_once(**behavior) == limit
    for novelty, allowed in ((UNREADABLE, False), (0, True)):
        snapshot = Snapshot(EntityStore(), behavior={"novelty": novelty})
        asked = Request.from_mapping(question("GET /y"))
        assert reference.decide(kernel(LEARNED), asked, snapshot, NOW)[0].allowed is allowed


GROUPED = """
issuer acme { scopes none }
issuer other { scopes none }
agent "*" { issued by acme, other  acts alone  may GET /x }
user any { may GET /x }
rate "r" per cluster.id { 40/1m floor 4/1m }
rate "large" per agent.issuer when cluster.size != 1 { 1/1h }
"""


def charged_groups(caller, behavior=None):
    """Return the decision about a request, and the charges of its limits, that of the group first."""
    asked = Request.from_mapping({**caller, "request": {"method": "GET", "path": "/x"}})
    decision, effects = reference.decide(kernel(GROUPED), asked, Snapshot(EntityStore(), behavior=behavior), NOW)
    return decision, sorted(effects.limits, key=lambda one: one.name, reverse=True)


def test_a_caller_in_no_group_is_a_group_of_its_own():
    """**A caller that is in no group is a group of its own: `cluster.size` is 1, and no other agent or user has its
    `cluster.id`, not even one with the same name at another issuer.**"""
    callers = [
        {"agent": {"id": "bot", "issuer": "acme"}},
        {"agent": {"id": "bot", "issuer": "other"}},
        {"user": {"id": "bot"}, "credential": {"issuer": "acme"}},
        {"agent": {"id": "acme/bot", "issuer": "acme"}},
    ]
    found = [charged_groups(caller)[1] for caller in callers]
    assert [len(limits) for limits in found] == [1] * 4
    assert len({limits[0].charge.key for limits in found}) == 4


def test_no_other_caller_takes_the_floor_from_a_member():
    """**In a rate per `cluster.id`, no other caller can take the `floor` from a member: the member has its floor for
    itself, and all members share what the floors of all leave.**"""
    ring = {"cluster.id": "ring", "cluster.size": 6}
    ann, bob = (charged_groups({"agent": {"id": name, "issuer": "acme"}}, ring)[1][0] for name in ("ann", "bob"))
    assert ann.charge == bob.charge
    assert ann.own.charge.key != bob.own.charge.key
    assert (ann.charge.flow.most, ann.own.charge.flow.most) == (40 - 6 * 4, 4)
    alone = charged_groups({"agent": {"id": "ann", "issuer": "acme"}}, {**ring, "cluster.size": 10})[1][0]
    assert (alone.charge.flow.most, alone.own) == (4, None)


@pytest.mark.parametrize("unread", [{"cluster.id": UNREADABLE}, {"cluster.id": "ring", "cluster.size": UNREADABLE}])
def test_a_group_that_cannot_be_read_denies(unread):
    """**If the group of a caller cannot be read, a request that such a limit counts is denied.**"""
    decision, _ = charged_groups({"agent": {"id": "ann", "issuer": "acme"}}, unread)
    assert (str(decision.outcome), decision.answer.gate) == ("deny", Gate.RATE)


ORDER = """
issuer acme { scopes none }
agent "*" { issued by acme  acts alone  may GET /a, GET /b }
profile "p" for agent "bot" { expect GET /a -> GET /b repeated }
guard "large" on GET /a { deny when request.size > 5   confirm by user when request.size > 3 }
guard "order" { deny when not behavior.sequence }
rate "r" per agent.id on GET /a when request.size > 1 { 1/1h }
"""


def in_order(*calls, agent="bot"):
    """Return whether each call of a run is allowed; a call is a path and the size of the request."""
    engine, caller = Engine.from_text(ORDER), {"id": agent, "issuer": "acme"}
    requests = [{"method": "GET", "path": path, "size": size} for path, size in calls]
    return [engine.decide({"request": request, "agent": caller}).allowed for request in requests]


def test_a_run_follows_the_declared_order():
    """**`behavior.sequence` is true if the calls of the run so far, including this request, are the beginning of a
    sequence that `expect` allows, and if the profile of the agent has no `expect`.**"""
    assert in_order(("/a", 1), ("/b", 1), ("/b", 1), ("/a", 1)) == [True, True, True, False]
    assert in_order(("/b", 1), ("/a", 1)) == [False, True]
    assert in_order(("/b", 1), ("/a", 1), ("/a", 1), agent="other") == [True, True, True]


@pytest.mark.parametrize("size", [9, 4])
def test_only_allowed_requests_are_calls_of_a_run(size):
    """**Only allowed requests count as calls of a run: a request that is denied, throttled or waits for an approval
    changes nothing.**"""
    assert in_order(("/a", size), ("/b", 1), ("/a", 1), ("/b", 1)) == [False, False, True, True]
    assert in_order(("/a", 1), ("/a", size), ("/b", 1)) == [True, False, True]


def test_a_throttled_request_is_no_call_of_a_run():
    """**Only allowed requests count as calls of a run: a request that is denied, throttled or waits for an approval
    changes nothing.**"""
    engine = Engine.from_text(ORDER)
    question = {"request": {"method": "GET", "path": "/a", "size": 2}, "agent": {"id": "bot", "issuer": "acme"}}
    state = engine.behavior.state
    assert engine.decide(question).allowed
    (known,) = state.rows.values()
    before = known.row.step_state
    known.row.run_length = 0  # the run has ended
    assert engine.decide(question).outcome == "throttle"
    assert (known.row.step_state, known.row.run_length) == (before, 0)


@pytest.mark.parametrize(
    ("agent", "groups", "name"),
    [("bot", ["ops"], "exact"), ("bob", ["ops"], "pattern"), ("cat", ["ops"], "group"), ("cat", [], None)],
)
def test_at_most_one_profile_applies(agent, groups, name):
    """**At most one profile applies to an agent: the profile with the agent's exact name, otherwise the profile whose
    pattern matches the name, otherwise the profile of one of the agent's groups.**"""
    policy = 'issuer acme { scopes none }\nagent "*" { issued by acme  acts alone  may GET /x }\n'
    for one, agents in (("group", 'group "ops"'), ("pattern", 'agent "bo*"'), ("exact", 'agent "bot"')):
        policy += f'profile "{one}" for {agents} {{ learn 14d }}\n'
    found = applicable_profile(kernel(policy).profiles, agent, groups)
    assert (found and found.name) == name
    assert codes(policy + 'profile "other" for agent "*t" { learn 14d }') == {"E913"}


# ── Steps ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("many", "gate"), [(199, None), (200, Gate.FAILURE)])
def test_a_decision_over_200000_steps_is_a_deny_at_the_failure_gate(many, gate):
    """**A decision takes at most 200,000 steps, counted by the sizes of collections and never by the clock: a
    decision that would take more is a deny at the gate `failure`.**"""
    policy = "facts { body.a: list<int> }\nanyone { may GET /x }\n"
    policy += 'guard "g" { deny when (any x in body.a: (any y in body.a: x > y + 1_000)) }\n'
    assert decide(policy, question("GET /x", body={"a": list(range(many))})).gate == gate
