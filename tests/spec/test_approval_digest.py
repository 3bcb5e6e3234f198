"""Binding of an approval: all of the request that it was granted for, and nothing that nobody saw."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from policyengine import kernel as k
from policyengine.entities.store import EntityStore
from policyengine.runtime import canonical_form
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import NOT_ANSWERED, Snapshot
from policyengine.runtime.values import Invalid
from policyengine.spec import match_endpoint, reference
from policyengine.spec.approval_digest import exclusions_of
from policyengine.spec.evaluate import build_facts
from tests.spec.deciding import NOW, ago, bot, chain, codes, decide, hop, kernel, question, verdict

POLICY = """
entity user { roles: set<string>  tenant: string? }
entity account { owner: string? }
facts { body.amount: number?  body.to: string?  context.step: int? }
facts on TOOL * { args.path: string?  args.id: string? }
scope pay { POST /pay/{id: account} }
scope tools { TOOL fs/delete   TOOL fs/move with resource = account(args.id), body.to = args.path }
issuer acme { records chains  scopes none }
anyone { may pay, tools, GET /look, ACTION open account }
guard "ask" { confirm by role boss CLAUSE }
"""
ROWS = {"user boss": {"roles": ["boss"]}}
PAID: dict[str, Any] = {"amount": 1, "to": "alice"}
DELETED: dict[str, Any] = {"path": "/tmp/x"}


def policy(clause: str = "") -> str:
    return POLICY.replace("CLAUSE", clause)


def paid(body: object = PAID, where: str = "POST /pay/7", **more: object) -> dict[str, object]:
    return question(where, **{"body": body, **more})


def called(args: object = DELETED, where: str = "TOOL fs/delete", **more: object) -> dict[str, object]:
    return question(where, **{"args": args, **more})


def opened(**more: object) -> dict[str, object]:
    return question("ACTION open account 7", **more)


def lifts(text: str, asked: Any, then: Any, rows: Any = ROWS) -> bool:
    """Whether the approval that one request got lets another one pass."""
    decision = decide(text, asked, rows)
    assert str(decision.outcome) == "confirm", decision.reasons
    tree = dict(then) if isinstance(then, dict) else json.loads(then)
    approval = {"id": "a", "by": "boss", "granted_at": ago(1), "binding": decision.remedies[0].binding}
    if isinstance(then, str):
        return decide(text, then[:-1] + f', "approvals": [{json.dumps(approval)}]}}', rows).allowed
    return decide(text, {**tree, "approvals": [approval]}, rows).allowed


OTHERS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "another amount": (paid(), paid({**PAID, "amount": 500})),
    "another recipient": (paid(), paid({**PAID, "to": "mallory"})),
    "an undeclared member more": (paid(), paid({**PAID, "cc": "mallory"})),
    "an undeclared member changed": (paid({**PAID, "x": 1}), paid({**PAID, "x": 2})),
    "a member deep inside": (paid({"x": {"y": [{"z": 1}]}}), paid({"x": {"y": [{"z": 2}]}})),
    "a list in another order": (paid({"x": [1, 2]}), paid({"x": [2, 1]})),
    "a whole number and a fraction": (paid({"x": 1}), paid({"x": 1.0})),
    "a number and a text": (paid({"x": 1}), paid({"x": "1"})),
    "null and nothing": (paid({"x": None}), paid({})),
    "false and nothing": (paid({"x": False}), paid({})),
    "no members and no body": (paid({}), question("POST /pay/7")),
    "an empty list and an empty object": (paid({"x": []}), paid({"x": {}})),
    "another Unicode form": (paid({"x": "\u00e9"}), paid({"x": "e\u0301"})),
    "another parameter": (paid(request={"query": {"a": "1"}}), paid(request={"query": {"a": "500"}})),
    "a parameter more": (paid(), paid(request={"query": {"a": "1"}})),
    "a parameter twice": (paid(request={"query": {"a": "1"}}), paid(request={"query": {"a": ["1", "2"]}})),
    "another host": (paid(request={"host": "a.example"}), paid(request={"host": "b.example"})),
    "another resource": (paid(), paid(where="POST /pay/8")),
    "another method": (question("GET /look"), paid(None, where="POST /pay/7")),
    "another argument": (called(), called({"path": "/etc/passwd"})),
    "an undeclared argument": (called(), called({**DELETED, "recursive": True})),
    "another tool": (called(), called({**DELETED, "id": "7"}, where="TOOL fs/move")),
    "an argument that is the resource": (
        called({"id": "7"}, where="TOOL fs/move"),
        called({"id": "8"}, where="TOOL fs/move"),
    ),
    "a body beside a tool": (called(), called(body={"amount": 1})),
    "another detail of an action": (opened(args={"with": "a"}), opened(args={"with": "b"})),
    "another context of an action": (opened(context={"with": "a"}), opened(context={"with": "b"})),
    "another person": (paid(user={"id": "alice"}), paid(user={"id": "bob"})),
    "an agent of that name": (paid(user={"id": "alice"}), paid(user={"id": "alice"}, agent={"id": "alice"})),
    "nobody, in another way": (paid(user={"id": 7}), paid(user={"id": 8})),
    "a chain of nobody, in another way": (
        paid(**bot(user=None), chain={"hops": [{"agent": 7}]}),
        paid(**bot(user=None), chain={"hops": [{"agent": 8}]}),
    ),
    "a chain of another agent": (
        paid(**bot(user=None), chain=chain(hop("a"))),
        paid(**bot(user=None), chain=chain(hop("b"))),
    ),
    "what the request says of the resource": (
        paid(entities=[{"type": "account", "id": "7", "attributes": {"owner": "alice"}}]),
        paid(entities=[{"type": "account", "id": "7", "attributes": {"owner": "mallory"}}]),
    ),
}


@pytest.mark.parametrize(("asked", "then"), OTHERS.values(), ids=OTHERS)
def test_an_approval_of_one_request_does_not_lift_another(asked: dict[str, object], then: dict[str, object]) -> None:
    assert lifts(policy(), asked, asked)
    assert not lifts(policy(), asked, then)
    assert not lifts(policy(), then, asked) if verdict(decide(policy(), then, ROWS)).startswith("confirm") else True


SAME: dict[str, tuple[Any, Any]] = {
    "members in another order": (paid({"a": 1, "b": 2}), paid({"b": 2, "a": 1})),
    "a number with zeros at its end": (
        json.dumps(paid({"x": 1.5})),
        json.dumps(paid({"x": 1.5})).replace("1.5", "1.50"),
    ),
    "a trailing slash": (paid(), paid(where="POST /pay/7/")),
    "HEAD, which reads as GET": (question("GET /look"), question("HEAD /look")),
    "what the gateway adds": (paid(), paid(context={"step": 7})),
    "another address": (paid(), paid(request={"ip": "10.0.0.1"})),
    "the HTTP request that a call came in": (called(), called(request={"host": "a.example", "query": {"x": "1"}})),
    "another header": (paid(), paid(request={"headers": {"x-trace": "1"}})),
    "another task": (paid(), paid(task={"id": "t"})),
    "other scopes": (paid(), paid(credential={"scopes": ["x"]})),
    "rows of others": (paid(), paid(entities=[{"type": "user", "id": "x", "attributes": {"tenant": "t"}}])),
    "what the gateway can meet": (paid(), paid(options={"obligations_supported": []})),
}


@pytest.mark.parametrize(("asked", "then"), SAME.values(), ids=SAME)
def test_an_approval_stays_valid_if_only_unbound_parts_of_the_request_change(asked: Any, then: Any) -> None:
    assert lifts(policy(), asked, then)


# ── What is a value, and what is none ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("given", [[], {}, "1", True, 0, -1.5, "x" * 70_000, "\ud800", 2**64, Decimal("1" * 40)])
def test_an_approval_binds_a_wrongly_typed_value_as_given(given: object) -> None:
    text, read = policy(), policy("when body.amount > 5")
    for body in ({"amount": given}, {"x": [given]}):
        asked = {**paid(body), "user": {"id": "alice"}}
        request = Request.from_mapping(asked)
        decision, _ = reference.decide(kernel(text), request, Snapshot(EntityStore(())), NOW)
        assert str(decision.outcome) == "confirm"
    one, other = (binding_of(read, {"amount": value}) for value in (given, [given]))
    assert one != other


def binding_of(text: str, body: object, **more: object) -> str | None:
    request = Request.from_mapping(paid(body, **more))
    decision, _ = reference.decide(kernel(text), request, Snapshot(EntityStore(())), NOW)
    return decision.remedies[0].binding if str(decision.outcome) == "confirm" else None


@pytest.mark.parametrize(
    ("one", "other"), [("x" * 70_000, "y" * 70_000), (2**64, 2**65), (b"a", b"b"), ("\ud800", "\ud801")]
)
def test_an_approval_binds_an_unrepresentable_value_as_given(one: object, other: object) -> None:
    assert None is not binding_of(policy(), {"x": one}) != binding_of(policy(), {"x": other}) is not None


HIDDEN: dict[str, tuple[Any, str]] = {
    "the body": (question("POST /pay/7", pending=["body"]), "`body` is unknown: pending"),
    "a member of it": (paid(pending=["body.note"]), "`body.note` is unknown: pending"),
    "one deep inside": (paid({"a": {}}, pending=["body.a.b"]), "`body.a.b` is unknown: pending"),
    "members that are not given": (paid(pending=["body.*"]), "`body.*` is unknown: pending"),
    "such in an object inside": (paid({"a": {"b": 1}}, pending=["body.a.*"]), "`body.a.*` is unknown: pending"),
    "other parameters": (
        paid(request={"query": {"a": "1"}}, pending=["request.query.*"]),
        "`request.query.*` is unknown: pending",
    ),
    "one in brackets": (paid(pending=['body["x-y"]']), '`body["x-y"]` is unknown: pending'),
    "the arguments": (question("TOOL fs/delete", pending=["args"]), "`args` is unknown: pending"),
    "an argument": (called(pending=["args.more"]), "`args.more` is unknown: pending"),
    "the query": (paid(pending=["request.query"]), "`request.query` is unknown: pending"),
    "a parameter": (paid(pending=['request.query["a"]']), "`request.query.a` is unknown: pending"),
    "the host": (paid(pending=["request.host"]), "`request.host` is unknown: pending"),
    "the person": (paid(pending=["user.id"]), "`user.id` is unknown: pending"),
    "the agent": (paid(pending=["agent.id"]), "`agent.id` is unknown: pending"),
    "the chain": (paid(pending=["chain.hops"]), "`chain.hops` is unknown: pending"),
    "the context of an action": (opened(pending=["context"]), "`context` is unknown: pending"),
    "a key given twice": (
        json.dumps(paid({"a": 1})).replace('"a": 1', '"a": 1, "a": 2'),
        "`body.a` is unknown: a duplicate key",
    ),
    "a key given twice in a list": (
        json.dumps(paid({"x": [{"a": 1}]})).replace('"a": 1', '"a": 1, "a": 2'),
        "`body.x[0].a` is unknown: a duplicate key",
    ),
    "more members than are read": (
        paid({"x": {str(n): n for n in range(10_001)}}),
        "`body.x` is unknown: more than 10,000 members",
    ),
}


@pytest.mark.parametrize(("asked", "why"), HIDDEN.values(), ids=HIDDEN)
def test_a_confirm_that_binds_an_unknown_value_is_a_deny(asked: Any, why: str) -> None:
    decision = decide(policy(), asked, ROWS)
    assert verdict(decision) == 'deny by "ask"'
    assert why in decision.reasons[0].message
    [remedy] = decision.remedies
    assert (remedy.kind, remedy.rule) == ("facts", "ask")
    assert "`bound to (…)`" in str(remedy.need)


@pytest.mark.parametrize(("asked", "why"), HIDDEN.values(), ids=HIDDEN)
def test_an_approval_bound_to_an_unknown_value_is_a_deny(asked: Any, why: str) -> None:
    """Not even one that is bound to the very digest that such a request has."""
    request = asked if isinstance(asked, str) else json.dumps(asked)
    meant, snapshot = kernel(policy()), Snapshot(EntityStore(()))
    facts = build_facts(meant, Request.from_json(request), snapshot, NOW)
    [guard] = [one for one in reference.trace_request(facts, snapshot).guards if one.covers]
    digest = guard.effects[0].approval.binding  # type: ignore[union-attr]
    granted = {"id": "a", "by": "boss", "granted_at": ago(1), "binding": digest}
    decision = decide(policy(), request[:-1] + f', "approvals": [{json.dumps(granted)}]}}', ROWS)
    assert verdict(decision) == 'deny by "ask"'


def test_a_confirm_whose_condition_is_false_does_not_deny_a_pending_fact() -> None:
    text = policy("when body.amount > 5")
    assert decide(text, paid(pending=["body.note"]), ROWS).allowed
    assert verdict(decide(text, paid({"amount": 6}, pending=["body.note"]), ROWS)) == 'deny by "ask"'


def test_a_confirm_is_a_deny_if_the_entity_store_does_not_answer() -> None:
    class Silent(EntityStore):
        def attribute(self, ref: object, name: str) -> object:
            return Invalid(NOT_ANSWERED)

    text = policy('when user.tenant == "t"').replace("anyone {", "user any { may pay }\nanyone {")
    request = Request.from_mapping(paid(user={"id": "alice"}))
    decision, _ = reference.decide(kernel(text), request, Snapshot(Silent(())), NOW)
    assert (verdict(decision), decision.remedies[0].kind) == ('deny by "ask"', "facts")
    known, _ = reference.decide(kernel(text), request, Snapshot(EntityStore(())), NOW)
    assert verdict(known) == 'confirm by "ask"'


# ── `bound to (…)` ────────────────────────────────────────────────────────────────────────────

NARROWED: dict[str, tuple[str, Any, Any, bool]] = {
    "a member left out": ("bound to (body except body.id)", paid({**PAID, "id": 1}), paid({**PAID, "id": 2}), True),
    "and not there at all": ("bound to (body except body.id)", paid({**PAID, "id": 1}), paid(), True),
    "but no other": ("bound to (body except body.id)", paid({**PAID, "id": 1}), paid({"amount": 2, "id": 1}), False),
    "one deep inside": (
        "bound to (body except body.a.b)",
        paid({"a": {"b": 1, "c": 1}}),
        paid({"a": {"b": 2, "c": 1}}),
        True,
    ),
    "but not beside it": (
        "bound to (body except body.a.b)",
        paid({"a": {"b": 1, "c": 1}}),
        paid({"a": {"b": 1, "c": 2}}),
        False,
    ),
    "and not where no object is": ("bound to (body except body.a.b)", paid({"a": [1]}), paid({"a": [2]}), False),
    "several": (
        "bound to (body except (body.a, body.b))",
        paid({"a": 1, "b": 1, "c": 1}),
        paid({"a": 2, "b": 2, "c": 1}),
        True,
    ),
    "in brackets": ('bound to (body except body["x-id"])', paid({"x-id": 1}), paid({"x-id": 2}), True),
    "a parameter": (
        'bound to (request.query except request.query["t"])',
        paid(request={"query": {"a": "1", "t": "1"}}),
        paid(request={"query": {"a": "1", "t": "2"}}),
        True,
    ),
    "the whole body": ("bound to (request.query)", paid(), paid({"amount": 500}), True),
    "the query": ("bound to (body)", paid(request={"query": {"a": "1"}}), paid(request={"query": {"a": "2"}}), True),
    "the host": ("bound to (body)", paid(request={"host": "a"}), paid(request={"host": "b"}), True),
    "never the resource": ("bound to (resource)", paid(), paid(where="POST /pay/8"), False),
    "never who asks": ("bound to (resource)", paid(user={"id": "a"}), paid(user={"id": "b"}), False),
    "never what the rule reads": ("bound to (resource) when body.amount > 0", paid(), paid({"amount": 2}), False),
    "never what the message reads": ('bound to (resource) message "{body.to}"', paid(), paid({"to": "eve"}), False),
    "never what stands in its place": (
        'bound to (resource) message "{body.to}"',
        paid({"to": 7}),
        paid({"to": 8}),
        False,
    ),
    "all else": ("bound to (resource)", paid(), paid({"amount": 2, "x": 1}), True),
    "facts that it names": ("bound to (body.to)", paid(), paid({"amount": 2, "to": "alice"}), True),
    "and no other value of them": ("bound to (body.to)", paid(), paid({"amount": 1, "to": "eve"}), False),
    "headers": (
        'bound to (request.headers["x-id"])',
        paid(request={"headers": {"x-id": "1"}}),
        paid(request={"headers": {"X-ID": "2"}}),
        False,
    ),
    "all headers but one": (
        'bound to (request.headers except request.headers["x-trace"])',
        paid(request={"headers": {"x-id": "1", "x-trace": "1"}}),
        paid(request={"headers": {"x-id": "1", "x-trace": "2"}}),
        True,
    ),
    "what `with` reads": (
        'bound to (resource) message "{body.to}"',
        called({"id": "7", "path": 1}, where="TOOL fs/move"),
        called({"id": "7", "path": 2}, where="TOOL fs/move"),
        False,
    ),
    "an id of the resource that is none": (
        "bound to (resource)",
        called({"id": 7}, where="TOOL fs/move"),
        called({"id": 8}, where="TOOL fs/move"),
        False,
    ),
}


@pytest.mark.parametrize(("clause", "asked", "then", "passes"), NARROWED.values(), ids=NARROWED)
def test_bound_to_decides_what_may_change(clause: str, asked: Any, then: Any, passes: bool) -> None:
    text = policy(clause)
    if "body.to" in clause and "tool" not in asked:
        text = text.replace('guard "ask"', 'guard "ask" on pay')
    assert lifts(text, asked, then) is passes


SEEN: dict[str, tuple[str, Any, bool]] = {
    "the body": ("bound to (request.query)", question("POST /pay/7", pending=["body"]), True),
    "a member that is left out": ("bound to (body except body.id)", paid(pending=["body.id"]), True),
    "a member of what is left out": ("bound to (body except body.a)", paid(pending=["body.a.b"]), True),
    "other members than one that is left out": ("bound to (body except body.id)", paid(pending=["body.*"]), False),
    "all members of what is left out": ("bound to (body except body.a)", paid({"a": {}}, pending=["body.a.*"]), True),
    "other members than one that the rule reads": ("bound to (body.amount)", paid(pending=["body.*"]), True),
    "another member": ("bound to (body except body.id)", paid(pending=["body.note"]), False),
    "what holds a member that is left out": ("bound to (body except body.a.b)", paid(pending=["body.a"]), False),
    "what the rule reads all the same": (
        "bound to (resource) when body.amount > 0",
        paid({}, pending=["body.amount"]),
        False,
    ),
    "what the message reads": ('bound to (resource) message "{body.to}"', paid({}, pending=["body.to"]), False),
}


@pytest.mark.parametrize(("clause", "asked", "approvable"), SEEN.values(), ids=SEEN)
def test_a_fact_that_bound_to_leaves_out_may_be_unknown(clause: str, asked: Any, approvable: bool) -> None:
    decision = decide(policy(clause).replace('guard "ask"', 'guard "ask" on pay'), asked, ROWS)
    assert verdict(decision) == ('confirm by "ask"' if approvable else 'deny by "ask"')


@pytest.mark.parametrize(
    ("clause", "asked", "bound"),
    [
        ("", paid(), ("args", "body", "request.host", "request.query")),
        ("", called(), ("args", "body")),
        ("", opened(), ("args", "body", "context")),
        (
            "bound to (body except (body.b, body.a), request.host)",
            paid(),
            ("body except body.a, body.b", "request.host"),
        ),
        ("bound to (resource)", paid(), ("resource",)),
        (
            'bound to (request.query except request.query["a.b"])',
            paid(),
            ('request.query except request.query["a.b"]',),
        ),
    ],
)
def test_the_remedy_lists_what_an_approval_is_bound_to(clause: str, asked: Any, bound: tuple[str, ...]) -> None:
    assert decide(policy(clause), asked, ROWS).remedies[0].bound == bound


@pytest.mark.parametrize(
    ("clause", "code"),
    [
        ("bound to (body, body)", "E516"),
        ("bound to (body, body.amount)", "E516"),
        ("bound to (body.amount, body)", "E516"),
        ("bound to (time)", "E516"),
        ("bound to (credential.age)", "E516"),
        ("bound to (body.amuont)", "E201"),
        ("bound to (credential)", "E250"),
        ("bound to (body except args.path)", "E517"),
        ("bound to (body except body)", "E517"),
        ("bound to (body except (body.a, body.a.b))", "E517"),
        ("bound to (body except (body.a.b, body.a))", "E517"),
        ("bound to (body except (body.a.b, body.c, body.a.b.d))", "E517"),
        ("bound to (resource except resource.owner)", "E517"),
        ("bound to (request.host except request.host)", "E517"),
        ("bound to (body except body.amount) when body.amount > 5", "E517"),
        ('bound to (body except body.to) message "to {body.to}"', "E517"),
        ("bound to ()", "E101"),
    ],
)
def test_an_invalid_bound_to_clause_is_an_error(clause: str, code: str) -> None:
    text = policy(clause).replace('guard "ask"', 'guard "ask" on pay')
    assert code in codes(text)


def test_the_order_of_bound_to_parts_does_not_matter() -> None:
    one = policy("bound to (body except (body.b, body.a), request.host, request.query)")
    other = policy("bound to (request.query, request.host, body except (body.a, body.b))")
    assert clause_of(one) == clause_of(other) != clause_of(policy("bound to (body, request.host, request.query)"))


def clause_of(text: str) -> object:
    [confirm] = kernel(text).guards[0].effects
    assert isinstance(confirm, k.Confirm)
    return confirm.bound


PARTS = (("body", "a"), ("body", "a", "b"), ("body", "a", "b", "c"), ("body", "d", "e"))


@pytest.mark.parametrize("excepts", list(permutations(PARTS)), ids=str)
def test_an_exclusion_below_another_exclusion_changes_nothing(excepts: tuple[tuple[str, ...], ...]) -> None:
    """The checker refuses it; a kernel of elsewhere may have it. It once wrote into what all approvals share."""
    assert exclusions_of(k.BoundObject(("body",), excepts)) == {"a": {}, "d": {"e": {}}}
    assert canonical_form.OMIT_NOTHING == {}


@pytest.mark.parametrize("shared", [canonical_form.OMIT_NOTHING, match_endpoint.NOTHING])
def test_shared_empty_objects_are_read_only(shared: Any) -> None:
    with pytest.raises(TypeError):
        shared["id"] = {}


def test_the_bound_to_clause_is_part_of_the_revision() -> None:
    texts = [policy(one) for one in ("", "bound to (body)", "bound to (body except body.a)", "bound to (body.to)")]
    assert len({kernel(one).revision for one in texts}) == len(texts)


@pytest.mark.parametrize("note", ["a", "\u00e9", 1.5, {"x": 2.5}, [0.1], None])
def test_an_excluded_member_of_any_kind_changes_no_binding(note: Any) -> None:
    text = policy("bound to (body except body.note)")
    asked = question("POST /pay/7", **bot(), body={**PAID, "note": note})
    plain = question("POST /pay/7", **bot(), body={**PAID, "note": "b"})
    assert decide(text, asked, ROWS).remedies[0].binding == decide(text, plain, ROWS).remedies[0].binding
