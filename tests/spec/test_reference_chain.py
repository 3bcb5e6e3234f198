"""How a request is decided, step 5: authority only narrows along a chain."""

import pytest

from policyengine.engine import Engine
from tests.spec.deciding import NOW, bot, chain, decide, gates, hop, question, unknown, verdict

CHAINS = """
entity user { roles: set<string> }
scope notes.read { GET /notes/** }
scope notes.write { POST /notes/** }
issuer acme { records chains }
issuer inner { records chains  scopes none }
issuer plain { }
user any { may notes.read, notes.write }
agent "root" {
  issued by acme  acts for any user  may notes.read
  may delegate notes.read to agent "mid" for 1h
  may delegate notes.read to group "helpers"
}
agent "mid" {
  issued by acme  acts for any user  may notes.read, notes.write
  may delegate notes.read to agent "end" for 30m
}
agent "end" { issued by acme, plain  acts for any user  may notes.read, notes.write }
agent "helper" { issued by acme  acts for any user  may notes.read }
"""
LIMITS = "delegation { depth <= 2  lifetime <= 45m  no cycles }\n"
READ = "notes.read"
ROOT, MID = hop("root", READ), hop("mid", READ)


def asked(
    *hops: object, agent: str = "end", where: str = "GET /notes/7", issuer: str = "acme", **more: object
) -> dict[str, object]:
    who = bot(agent, issuer=issuer, scopes=["notes.read", "notes.write"])
    return question(where, **{**who, **more}, chain=chain(*hops))


@pytest.mark.parametrize("hops", [(), (MID,), (ROOT, MID)])
@pytest.mark.parametrize("limits", ["", LIMITS])
def test_a_chain_is_valid_if_each_hop_delegates_what_it_may_do(hops, limits):
    assert decide(CHAINS + limits, asked(*hops)).allowed


BROKEN = {
    "a hop that hands nothing on": (hop("helper", READ),),
    "a hop that names another": (ROOT,),
    "a link left out": (ROOT, hop("helper", READ), MID),
    "the order turned round": (MID, ROOT),
    "a hop spliced in": (ROOT, hop("end", READ), MID),
    "a stranger first": (hop("stranger", READ), MID),
    "a stranger last": (MID, hop("stranger", READ)),
    "a hop of another issuer": (hop("mid", READ, issuer="plain"),),
    "a hop of an undeclared issuer": (hop("mid", READ, issuer="nobody"),),
    "a hop without an issuer": ({**MID, "issuer": None},),
    "a hop of a wrong-typed issuer": ({**MID, "issuer": ["acme"]},),
    "a hop without scopes": (hop("mid"),),
    "a hop whose scopes are absent": ({**MID, "scopes": None},),
    "a hop whose scopes are a string": ({**MID, "scopes": READ},),
    "a hop with other scopes": (hop("mid", "notes.write"),),
    "a hop without a name": ({**MID, "agent": ""},),
    "a hop whose name is a number": ({**MID, "agent": 7},),
    "a hop whose name is not in NFC": ({**MID, "agent": "mide\u0301"},),
    "a hop too old": (hop("mid", READ, minutes=31),),
    "a hop from the future": (hop("mid", READ, minutes=-1),),
    "a hop without its time": ({**MID, "issued_at": None},),
    "a hop whose time is a number": ({**MID, "issued_at": 1_700_000_000},),
    "a hop whose time has no zone": ({**MID, "issued_at": "2027-01-04T11:55:00"},),
    "a first hop too old": (hop("root", READ, minutes=61), MID),
}


@pytest.mark.parametrize("hops", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("limits", ["", LIMITS])
def test_a_chain_with_one_broken_link_is_denied(hops, limits):
    decision = decide(CHAINS + limits, asked(*hops))
    assert verdict(decision) == "deny by chain"
    assert set(gates(decision)) == {"chain"}


@pytest.mark.parametrize(("minutes", "sound"), [(29.9, True), (30, True), (30.1, False)])
def test_a_delegation_expires_relative_to_the_issue_time_of_its_hop(minutes, sound):
    assert decide(CHAINS, asked(hop("mid", READ, minutes=minutes))).allowed is sound


def test_a_delegation_must_cover_the_endpoint():
    hops = [hop("mid", "notes.read", "notes.write")]
    assert decide(CHAINS, asked(*hops)).allowed
    decision = decide(CHAINS, asked(*hops, where="POST /notes/7"))
    assert verdict(decision) == "deny by chain"
    assert "delegate this" in decision.reasons[0].message


def test_a_hop_cannot_delegate_what_it_may_not_do_itself():
    decision = decide(CHAINS, asked(ROOT, hop("mid", "notes.read", "notes.write"), where="POST /notes/7"))
    assert 'agent "root" may not do this itself' in [reason.message for reason in decision.reasons]


def test_a_chain_requires_a_grant_for_the_user():
    policy = CHAINS.replace("user any { may notes.read, notes.write }", 'user "root" { may notes.read }')
    decision = decide(policy, asked(MID))
    assert gates(decision) == ["user"]
    assert decide(policy, asked(MID, user={"id": "root"})).allowed


@pytest.mark.parametrize("groups", [["helpers"], ["x", "helpers"]])
def test_a_delegation_to_a_group_accepts_a_member_agent(groups):
    who = {"agent": {"id": "helper", "issuer": "acme", "groups": groups}}
    assert decide(
        CHAINS, question("GET /notes/7", **{**bot("helper", scopes=[READ]), **who}, chain=chain(ROOT))
    ).allowed


@pytest.mark.parametrize("groups", [None, [], "helpers", ["helper"], [7]])
def test_a_delegation_to_a_group_rejects_an_agent_that_is_not_certainly_a_member(groups):
    who = {"agent": {"id": "helper", "issuer": "acme", "groups": groups}}
    assert (
        verdict(decide(CHAINS, question("GET /notes/7", **{**bot("helper", scopes=[READ]), **who}, chain=chain(ROOT))))
        == "deny by chain"
    )


# ── What binds every hop, and what the presenter only ─────────────────────────────────────────


def through(requirement: str, when: str = "") -> str:
    return f"""
    scope x {{ GET /x }}
    issuer acme {{ records chains }}
    entity user {{ roles: set<string> }}
    user any {{ may x }}
    attester lab {{ }}
    agent "mid" {{ issued by acme  {requirement}  may x {when}  may delegate x to agent "end" }}
    agent "end" {{ issued by acme  acts for any user  may x }}
    """


def handed(**more: object) -> dict[str, object]:
    return question("GET /x", **{**bot("end", scopes=["x"]), **more}, chain=chain(hop("mid", "x")))


def test_credential_and_attestation_requirements_apply_only_to_the_presenter():
    assert decide(through("acts for any user  credential { bound  kind in [jwt] }  attested by lab"), handed()).allowed


@pytest.mark.parametrize(
    "requirement",
    ["acts alone", 'acts for users where user.roles has "x"', "acts for any user  valid until 2027-01-01"],
)
def test_issued_by_acts_and_valid_requirements_apply_to_every_hop(requirement):
    decision = decide(through(requirement), handed(), {"user alice": {"roles": []}})
    assert verdict(decision) == "deny by chain"


@pytest.mark.parametrize(
    "when",
    [
        "when attestation.verified",
        "when credential.bound",
        "when credential.kind == jwt",
        'when agent.publisher == "acme"',
    ],
)
def test_proofs_of_the_presenter_do_not_count_for_a_hop(when):
    proof = {
        "attestation": {"verified": True, "by": "lab"},
        "credential": {"scopes": ["x"], "bound": True, "kind": "jwt"},
        "agent": {"id": "end", "issuer": "acme", "publisher": "acme"},
    }
    decision = decide(through("acts for any user", when), handed(**proof))
    assert verdict(decision) == "deny by chain"
    assert unknown(decision) == {when.split()[1]}


def test_a_claim_about_the_presenter_does_not_count_for_a_hop_of_the_same_name():
    policy = """
    entity agent { cleared: bool }
    scope x { GET /x }
    issuer acme { records chains  claims { ok -> agent.cleared } }
    issuer other { records chains }
    user any { may x }
    agent "twin" { issued by acme, other  acts for any user  may x when agent.cleared  may delegate x to agent "twin" }
    """
    asked = question("GET /x", **bot("twin", scopes=["x"], claims={"ok": True}))
    assert decide(policy, asked).allowed
    through_the_other = {**asked, "chain": chain(hop("twin", "x", issuer="other"))}
    assert verdict(decide(policy, through_the_other)) == "deny by chain"


def test_conditions_on_a_hop_read_its_own_issuer_scopes_and_age():
    for when in (
        "when credential.age <= 5m",
        'when credential.scopes has "x"',
        'when credential.issuer == "acme"',
        'when agent.id == "mid"',
    ):
        assert decide(through("acts for any user", when), handed()).allowed


# ── Limits ────────────────────────────────────────────────────────────────────────────────────

LONG = """
scope x { GET /x }
issuer acme { records chains }
user any { may x }
agent where agent.issuer == "acme" {
  issued by acme  acts for any user  may x
  may delegate x to agent "a"  may delegate x to agent "b"  may delegate x to agent "c"
}
"""


def along(*names: str, minutes: float = 5) -> dict[str, object]:
    hops = [hop(name, "x", minutes=minutes) for name in names[:-1]]
    return question("GET /x", **bot(names[-1], scopes=["x"]), chain=chain(*hops))


@pytest.mark.parametrize(
    ("limit", "names", "holds"),
    [
        ("depth <= 1", "a", True), ("depth <= 1", "ab", True), ("depth <= 1", "abc", False),
        ("depth <= 2", "abc", True),
        ("no cycles", "abc", True), ("no cycles", "aba", False), ("no cycles", "aa", False),
        ("no cycles", "abb", False),
        ("lifetime <= 5m", "ab", True), ("lifetime <= 4m", "ab", False), ("lifetime <= 4m", "a", True),
    ],
)  # fmt: skip
def test_delegation_limits_apply_to_every_chain(limit, names, holds):
    decision = decide(f"{LONG}delegation {{ {limit} }}", along(*names))
    assert verdict(decision) == ("allow" if holds else "deny by chain")
    assert holds or limit.split(" <")[0] in decision.reasons[0].message


def test_every_delegation_block_applies():
    policy = f"{LONG}delegation {{ depth <= 5 }}\ndelegation {{ depth <= 1 }}"
    assert verdict(decide(policy, along("a", "b", "c"))) == "deny by chain"


# ── Chains that are not recorded ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limits", ["", LIMITS])
def test_hops_are_denied_if_the_issuer_of_the_presenter_does_not_record_chains(limits):
    decision = decide(CHAINS + limits, asked(MID, issuer="plain"))
    assert verdict(decision) == "deny by chain"
    assert unknown(decision) == {"chain.hops"}


def test_delegation_limits_deny_an_agent_whose_chain_is_not_recorded():
    assert decide(CHAINS, asked(issuer="plain")).allowed
    decision = decide(CHAINS + LIMITS, asked(issuer="plain"))
    assert verdict(decision) == "deny by chain"
    assert unknown(decision) == {"chain.depth"}


def test_hops_that_are_pending_are_unknown():
    who = bot("end", scopes=["notes.read"])
    decision = decide(CHAINS, question("GET /notes/7", **who, pending=["chain.hops"]))
    assert verdict(decision) == "deny by chain"
    assert [(one.fact, one.why) for one in decision.unknown] == [("chain.hops", "pending")]


def test_a_user_who_claims_hops_without_an_agent_is_denied():
    who = {"user": {"id": "alice"}, "credential": {"issuer": "acme", "scopes": ["notes.read"]}}
    assert decide(CHAINS, question("GET /notes/7", **who)).allowed
    decision = decide(CHAINS, question("GET /notes/7", **who, chain=chain(MID)))
    assert verdict(decision) == "deny by chain"


def test_delegation_limits_do_not_apply_to_users_without_an_agent():
    who = {"user": {"id": "alice"}, "credential": {"issuer": "plain", "scopes": ["notes.read"]}}
    assert decide(CHAINS + LIMITS, question("GET /notes/7", **who)).allowed


@pytest.mark.parametrize(
    ("condition", "issuer", "hops", "allowed"),
    [
        ("chain.depth == 1", "acme", (MID,), True),
        ("chain.depth == 0", "acme", (), True),
        ("chain.depth == 0", "plain", (), False),
        ("chain.depth <= 100", "plain", (), False),
        ('chain.agents == ["mid", "end"]', "acme", (MID,), True),
        ('chain.root == "mid"', "acme", (MID,), True),
        ('chain.root == "end"', "acme", (), True),
        ('chain.root == "end"', "plain", (), True),
        ('any h in chain.hops: h.issuer == "acme"', "acme", (MID,), True),
        ('not (any h in chain.hops: h.issuer == "evil")', "plain", (), False),
    ],
)  # fmt: skip
def test_depth_and_members_are_unknown_unless_the_issuer_records_chains(condition, issuer, hops, allowed):
    policy = f'{CHAINS}guard "g" {{ require {condition} }}'
    assert verdict(decide(policy, asked(*hops, issuer=issuer))) == ("allow" if allowed else 'deny by "g"')


def test_the_principal_chain_runs_from_the_user_to_the_presenter():
    principal = decide(CHAINS, asked(ROOT, MID)).principal
    assert (principal.agent, principal.issuer, principal.user) == ("end", "acme", "alice")
    assert principal.chain == ("alice", "root", "mid", "end")


def test_an_explanation_of_a_hop_shows_the_facts_of_the_hop():
    policy = through("acts for any user", "when credential.bound")
    asked = handed(credential={"scopes": ["x"], "bound": True})
    text = Engine.from_text(policy, clock=lambda: NOW).explain(asked).render()
    assert "? credential.bound — `credential.bound` is absent" in text
    assert "credential.bound = true" not in text
