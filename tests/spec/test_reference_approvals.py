"""Approvals: a confirm is lifted by its own approval only, once, by the right persons, in time."""

import json
from datetime import timedelta

import pytest

from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.evaluate import build_facts
from policyengine.spec.reference import trace_request
from tests.spec.deciding import NOW, ago, bot, chain, decide, directory, hop, kernel, question, spending, verdict

PAY = """
entity team in team
entity user { roles: set<string>  tenant: string? } in team
entity invoice { approvers: set<user or team>  tenant: string }
facts { body.amount: number?  body.to: string?  body.note: string?  body.tags: set<string>?  context.risk: number? }
scope pay { POST /pay/{id: invoice} }
issuer acme { records chains  scopes none }
issuer other { records chains  scopes none }
user any { may pay }
agent "bot" { issued by acme, other  acts for any user  may pay, GET /x }
agent "bot2" { issued by acme  acts for any user  may pay }
agent "mid" { issued by acme  acts for any user  may pay  may delegate pay to agent "bot" }
guard "ask" on pay { CONFIRM }
"""
CONFIRM = 'confirm by role finance within 15m when body.amount > 500 message "{body.amount} to {body.to}"'
ROWS = {
    "user fin": {"roles": ["finance"]}, "user fin2": {"roles": ["finance"]}, "user fin3": {"roles": ["finance"]},
    "user alice": {"roles": ["finance"]}, "user bot": {"roles": ["finance"]}, "user mid": {"roles": ["finance"]},
    "user clerk": {"roles": ["clerk"]}, "user odd": {"roles": "finance"}, "user none": {},
    "user lead": {"roles": [], "in": ["team legal"]}, "user deep": {"in": ["team sub"]},
    "user lost": {"in": ["team gone"]},
    "team legal": {"in": ["team all"]}, "team sub": {"in": ["team legal"]}, "team all": {},
    "invoice 7": {"approvers": [{"type": "user", "id": "boss"}, {"type": "team", "id": "legal"}], "tenant": "t"},
    "invoice 8": {"approvers": "everybody", "tenant": "t"}, "user boss": {"roles": []},
}  # fmt: skip
BODY = {"amount": 900, "to": "bob"}


def policy(confirm: str = CONFIRM) -> str:
    return PAY.replace("CONFIRM", confirm)


def asked(where: str = "POST /pay/7", **more: object) -> dict[str, object]:
    return question(where, **{**bot(), "body": BODY, **more})


def binding(text: str, ask: dict[str, object], rows: object = ROWS) -> str:
    """What the answer says an approval must be bound to."""
    decision = decide(text, ask, rows)
    assert str(decision.outcome) == "confirm"
    found = decision.remedies[0].binding
    assert found is not None
    return found


def grant(bound: str, by: str = "fin", id: str = "a1", minutes: float = 1) -> dict[str, object]:
    return {"id": id, "by": by, "granted_at": ago(minutes), "binding": bound}


def with_approvals(ask: dict[str, object], *approvals: object) -> dict[str, object]:
    return {**ask, "approvals": list(approvals)}


def lifted(text: str, ask: dict[str, object], *approvals: object, rows: object = ROWS) -> bool:
    return decide(text, with_approvals(ask, *approvals), rows).allowed


def test_a_confirm_with_its_approval_is_allowed_and_the_allow_spends_it():
    bound = binding(policy(), asked())
    decision, effects = spending(policy(), with_approvals(asked(), grant(bound)), ROWS)
    assert decision.allowed
    assert effects.spends == ("a1",)
    again = decide(policy(), with_approvals(asked(), grant(bound)), ROWS, spent=["a1"])
    assert verdict(again) == 'confirm by "ask"'


def test_a_confirm_and_its_allow_name_the_same_confirms_in_their_effects():
    """All that apply, whether they have their approval or not: so the store knows them for one request."""
    limits = 'rate "r" per user.id on pay { 9/1m }\nbudget "b" per user.id on pay { count <= 3 within 1h }\n'
    rules = f'{policy()}\nguard "huge" on pay {{ confirm by role boss when body.amount > 800 }}\n{limits}'
    rows = {**ROWS, "user fin": {"roles": ["finance", "boss"]}}
    asked_, effects = spending(rules, asked(), rows)
    grants = [grant(str(one.binding), id=f"a{number}") for number, one in enumerate(asked_.remedies)]
    one, some = spending(rules, with_approvals(asked(), grants[0]), rows)
    done, all_ = spending(rules, with_approvals(asked(), *grants), rows)
    assert [str(decision.outcome) for decision in (asked_, one, done)] == ["confirm", "confirm", "allow"]
    assert effects.confirms == some.confirms == all_.confirms == tuple(sorted(str(g["binding"]) for g in grants))
    assert [len(found.opens) for found in (effects, some, all_)] == [2, 1, 0]
    assert effects.limits == some.limits == all_.limits
    assert not any(found.records for found in (effects, some))


def test_a_confirm_without_a_rate_has_no_confirms_in_its_effects():
    budget = 'budget "b" per user.id on pay { count <= 3 within 1h }\n'
    for rules in (policy(), f"{policy()}\n{budget}"):
        decision, effects = spending(rules, asked(), ROWS)
        assert (str(decision.outcome), effects.confirms, len(effects.opens)) == ("confirm", (), 1)
    assert not spending(policy(), asked(), ROWS)[1]


def test_the_confirm_opens_an_approval_that_the_approver_can_read():
    decision, effects = spending(policy(), asked(), ROWS)
    [remedy], [opened] = decision.remedies, effects.opens
    assert (remedy.kind, remedy.rule, remedy.by, remedy.within) == ("approval", "ask", "role finance", "15m")
    assert (opened.binding, opened.count, opened.summary) == (remedy.binding, 1, '900 to "bob"')


# ── Bound to every part ───────────────────────────────────────────────────────────────────────

MOVED = {
    "another amount": asked(body={**BODY, "amount": 901}),
    "another recipient": asked(body={**BODY, "to": "mallory"}),
    "no recipient": asked(body={"amount": 900}),
    "a recipient of the wrong type": asked(body={**BODY, "to": 7}),
    "an unknown amount": asked(body={**BODY, "amount": "900"}),
    "a much finer amount": asked(body={**BODY, "amount": 900.0000000000001}),
    "another person": asked(user={"id": "carol"}),
    "another agent": asked(**bot("bot2")),
    "another issuer": asked(**bot(issuer="other")),
    "a chain": asked(chain=chain(hop("mid"))),
    "another resource": asked("POST /pay/8"),
}


@pytest.mark.parametrize("moved", MOVED.values(), ids=MOVED)
def test_an_approval_does_not_apply_to_a_changed_request(moved):
    bound = binding(policy(), asked())
    assert lifted(policy(), asked(), grant(bound))
    assert not lifted(policy(), moved, grant(bound))


def test_an_approval_does_not_bind_context_ip_or_task():
    bound = binding(policy(), asked())
    for more in ({"context": {"risk": 1}}, {"request": {"ip": "10.0.0.1"}}, {"task": {"id": "t"}}):
        assert lifted(policy(), asked(**more), grant(bound))


def test_an_approval_binds_the_agents_of_the_chain():
    through = asked(chain=chain(hop("mid")))
    bound = binding(policy(), through)
    assert lifted(policy(), through, grant(bound))
    assert lifted(policy(), asked(chain=chain(hop("mid", minutes=6))), grant(bound))
    assert not lifted(policy(), asked(), grant(bound))


def test_an_approval_is_valid_for_one_revision_of_the_policy():
    bound = binding(policy(), asked())
    for other in (policy() + "anyone { may GET /y }", policy(CONFIRM.replace("500", "501"))):
        assert kernel(other).revision != kernel(policy()).revision
        assert not lifted(other, asked(), grant(bound))


def test_an_approval_is_valid_for_one_rule():
    two = policy(f"{CONFIRM} {CONFIRM.replace('500', '501')}")
    decision = decide(two, asked(), ROWS)
    first, second = (remedy.binding for remedy in decision.remedies)
    assert first != second
    assert not lifted(two, asked(), grant(str(first)))
    assert lifted(two, asked(), grant(str(first)), grant(str(second), id="a2"))


def test_an_approval_for_a_tool_or_action_binds_the_resource():
    text = """
    entity invoice { tenant: string }
    entity user { roles: set<string> }
    facts on TOOL refund { args.invoice: string }
    scope refunds { TOOL refund with resource = invoice(args.invoice) }
    anyone { may refunds, ACTION void invoice }
    guard "ask" { confirm by role finance }
    """
    for one, other in (
        (question("TOOL refund", args={"invoice": "7"}), question("TOOL refund", args={"invoice": "8"})),
        (question("ACTION void invoice 7"), question("ACTION void invoice 8")),
    ):
        bound = binding(text, one)
        assert lifted(text, one, grant(bound))
        assert not lifted(text, other, grant(bound))


def test_an_approval_binds_the_wrongly_typed_value_of_an_unknown_fact():
    strange = asked(body={"amount": "900", "to": "bob"})
    bound = binding(policy(), strange)
    assert lifted(policy(), strange, grant(bound))
    for amount in ("900000", 900, None, [900]):
        assert not lifted(policy(), asked(body={"amount": amount, "to": "bob"}), grant(bound))


def test_numbers_of_34_digits_give_different_bindings():
    digits = "1" * 33
    one, other = (json.dumps(asked()).replace("900", f"{digits}{last}.0e-1") for last in "23")
    text = policy()
    bound = decide(text, one, ROWS).remedies[0].binding
    assert bound != decide(text, other, ROWS).remedies[0].binding


def test_the_binding_of_a_set_does_not_depend_on_its_order():
    text = policy('confirm by role finance bound to (resource) when body.tags has "x"')
    bound = binding(text, asked(body={"tags": ["x", "y"]}))
    assert lifted(text, asked(body={"tags": ["y", "x", "x"]}), grant(bound))
    assert not lifted(text, asked(body={"tags": ["x"]}), grant(bound))


def test_an_approval_binds_the_memberships_that_the_rule_reads():
    text = policy('confirm by role finance when user in team "legal" or body.amount > 500')
    inside = {**ROWS, "user alice": {"in": ["team legal"]}}
    bound = binding(text, asked(), inside)
    assert lifted(text, asked(), grant(bound), rows=inside)
    assert not lifted(text, asked(), grant(bound), rows={**ROWS, "user alice": {"in": ["team all"]}})


def test_an_approval_distinguishes_names_with_dots_from_nested_members():
    facts = "facts { body.a: { b: string } }\n"
    text = facts + policy('confirm by role finance when body["a.b"] == "x" or body.a.b == "x" or body.amount > 1')
    bound = binding(text, asked(body={"amount": 9, "a.b": "p", "a": {"b": "r"}}))
    assert lifted(text, asked(body={"amount": 9, "a.b": "p", "a": {"b": "r"}}), grant(bound))
    assert not lifted(text, asked(body={"amount": 9, "a.b": "q", "a": {"b": "r"}}), grant(bound))


def test_an_approval_does_not_bind_time_and_credential_age():
    text = policy("confirm by role finance when time > 2027-01-01 and (credential.age < 1h or body.amount > 500)")
    credential = {"issued_at": ago(10)}
    bound = binding(text, asked(credential=credential))
    later = decide(text, with_approvals(asked(credential=credential), grant(bound)), ROWS, NOW + timedelta(minutes=3))
    assert later.allowed


# ── By whom ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("who", "by", "counts"),
    [
        ("role finance", "fin", True),
        ("role finance", "clerk", False),
        ("role finance", "odd", False),
        ("role finance", "none", False),
        ("role finance", "nobody", False),
        ("role finance", "alice", False),
        ("role finance", "bot", False),
        ("role finance", "mid", False),
        ("role finance", "FIN", False),
        ("user", "alice", True),
        ("user", "fin", False),
        ("user", "bot", False),
        ("resource.approvers", "boss", True),
        ("resource.approvers", "lead", True),
        ("resource.approvers", "deep", True),
        ("resource.approvers", "fin", False),
        ("resource.approvers", "legal", False),
        ("resource.approvers", "lost", False),
        ('team "legal"', "lead", True),
        ('team "legal"', "deep", True),
        ('team "legal"', "boss", False),
    ],
)
def test_only_an_approver_that_the_rule_names_counts(who, by, counts):
    text, ask = policy(f"confirm by {who}"), asked(chain=chain(hop("mid")))
    assert lifted(text, ask, grant(binding(text, ask), by)) is counts


def test_nobody_can_approve_if_the_set_of_approvers_is_unknown():
    text, ask = policy("confirm by resource.approvers"), asked("POST /pay/8")
    for by in ("boss", "fin", "everybody"):
        assert not lifted(text, ask, grant(binding(text, ask), by))


def test_confirm_by_user_does_not_accept_an_agent_with_the_same_name():
    text, ask = policy("confirm by user"), asked(user={"id": "bot"})
    assert not lifted(text, ask, grant(binding(text, ask), "bot"))


def test_a_role_from_a_claim_does_not_make_an_approver():
    text = policy("confirm by role finance").replace(
        "scopes none }\nissuer other", "scopes none  claims { r -> user.roles } }\nissuer other"
    )
    ask = asked(credential={"claims": {"r": ["finance"]}})
    assert not lifted(text, ask, grant(binding(text, ask), "clerk"))


@pytest.mark.parametrize(
    ("by", "enough"),
    [(["fin"], False), (["fin", "fin2"], True), (["fin", "fin"], False), (["fin", "clerk"], False),
     (["fin", "alice"], False), (["fin", "fin2", "fin3"], True)],
)  # fmt: skip
def test_a_quorum_needs_different_persons(by, enough):
    text = policy("confirm by 2 of role finance")
    bound = binding(text, asked())
    grants = [grant(bound, who, f"a{number}") for number, who in enumerate(by)]
    decision, effects = spending(text, with_approvals(asked(), *grants), ROWS)
    assert decision.allowed is enough
    assert len(effects.spends) == (2 if enough else 0)


def test_two_approvals_with_the_same_id_do_not_make_a_quorum():
    text = policy("confirm by 2 of role finance")
    bound = binding(text, asked())
    assert not lifted(text, asked(), grant(bound, "fin", "same"), grant(bound, "fin2", "same"))


def test_an_approval_sent_twice_still_counts():
    bound = binding(policy(), asked())
    assert lifted(policy(), asked(), grant(bound), grant(bound))


# ── When ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("minutes", "counts"), [(0, True), (15, True), (15.1, False), (-1, False)])
def test_within_counts_from_the_time_of_the_grant(minutes, counts):
    bound = binding(policy(), asked())
    assert lifted(policy(), asked(), grant(bound, minutes=minutes)) is counts


@pytest.mark.parametrize("change", [{"granted_at": None}, {"binding": None}, {"binding": "sha256:" + "0" * 64}])
def test_an_approval_without_its_time_or_its_binding_does_not_count(change):
    bound = binding(policy(), asked())
    assert not lifted(policy(), asked(), {**grant(bound), **change})


# ── `approval.granted`, and what an approval does not do ──────────────────────────────────────


def test_an_approval_never_lifts_a_deny():
    text = policy(CONFIRM) + 'guard "no" on pay { deny when body.amount > 800 }'
    approved = with_approvals(asked(), grant(bound_to_the_confirm(text, asked())))
    decision = decide(text, approved, ROWS)
    assert [(reason.rule, str(reason.outcome)) for reason in decision.reasons] == [("no", "deny")]


def test_approval_granted_is_true_only_with_an_approval():
    text = (
        policy(CONFIRM)
        + 'guard "told" on pay { audit full when approval.granted  audit brief unless approval.granted }'
    )
    decision = decide(text, asked(), ROWS)
    assert decision.obligations[0].arguments == ("brief",)
    allowed = decide(text, with_approvals(asked(), grant(str(decision.remedies[0].binding))), ROWS)
    assert [one.arguments for one in allowed.obligations] == [("full",)]


def test_an_approval_that_only_approval_granted_reads_is_spent():
    text = policy(CONFIRM) + 'guard "need" on pay { require approval.granted }'
    small = asked(body={"amount": 1, "to": "bob"})
    assert verdict(decide(text, small, ROWS)) == 'deny by "need"'
    approved = with_approvals(small, grant(bound_to_the_confirm(text, small)))
    decision, effects = spending(text, approved, ROWS)
    assert decision.allowed
    assert effects.spends == ("a1",)
    assert not decide(text, approved, ROWS, spent=["a1"]).allowed


def bound_to_the_confirm(text: str, ask: dict[str, object]) -> str:
    """The binding of the first confirm, also where it does not ask."""
    snapshot = Snapshot(directory(ROWS))
    asked_with_one = Request.from_mapping(with_approvals(ask, grant("of something else")))
    seen = trace_request(build_facts(kernel(text), asked_with_one, snapshot, NOW), snapshot)
    return next(one.approval.binding for guard in seen.guards for one in guard.effects if one.approval)


def test_a_denied_request_spends_and_opens_nothing():
    text = policy(CONFIRM) + 'guard "no" on pay { deny when body.note == "x" }'
    bound = binding(text, asked(body={**BODY, "note": "y"}))
    decision, effects = spending(text, with_approvals(asked(body={**BODY, "note": "x"}), grant(bound)), ROWS)
    assert verdict(decision) == 'deny by "no"'
    assert (effects.spends, effects.opens) == ((), ())


def test_a_caller_without_a_block_gets_no_approval_remedy():
    decision, effects = spending(policy(), asked(agent={"id": "stranger", "issuer": "acme"}), ROWS)
    assert verdict(decision) == "deny by identity"
    assert (decision.remedies, effects.opens) == ((), ())
