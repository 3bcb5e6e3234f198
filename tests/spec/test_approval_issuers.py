"""`confirm by … from ISSUER`: an approval counts only if one of these issuers vouches for the approver."""

from typing import Any

import pytest

from policyengine.engine import Engine
from policyengine.kernel import fingerprint
from policyengine.runtime.request import Request, RequestError
from tests.spec.deciding import NOW, ago, decide, directory, kernel, question, spending
from tests.trusting import TRUSTING

HEAD = """entity team in team
entity user { roles: set<string> } in team
issuer acme { scopes none }
issuer partner { scopes none   users like "*@partner.example" }
issuer open { scopes none }
user any { may POST /pay }
"""
ROWS = {
    "user carol": {"roles": ["finance"], "in": ["team money"]},
    "user dora": {"roles": ["finance"], "in": ["team money"]},
    "user eve@partner.example": {"roles": ["finance"], "in": ["team money"]},
    "user alice": {"roles": ["finance"], "in": ["team money"]},
    "team money": {},
}
ASKED = {**question("POST /pay"), "user": {"id": "alice"}, "credential": {"issuer": "open"}}
EVE = "eve@partner.example"


def guard(confirm: str) -> str:
    return f'{HEAD}guard "ask" on POST /pay {{ confirm {confirm} }}\n'


def outcomes(confirm: str, *granted: tuple[str, str | None], asked: dict[str, Any] = ASKED) -> tuple[str, str]:
    """Return what the specification and the engine decide about a request with these approvals."""
    policy = guard(confirm)
    binding = decide(policy, asked, ROWS).remedies[0].binding
    approvals = [
        {
            "id": f"a{number}",
            "by": by,
            "binding": binding,
            "granted_at": ago(1),
            **({"issuer": issuer} if issuer else {}),
        }
        for number, (by, issuer) in enumerate(granted)
    ]
    engine = Engine.from_text(policy, clock=lambda: NOW, directory=directory(ROWS), approvals=TRUSTING)
    spent = {**asked, "approvals": approvals}
    return str(decide(policy, spent, ROWS).outcome), str(engine.decide(spent).outcome)


@pytest.mark.parametrize(
    ("confirm", "granted", "outcome"),
    [
        ("by role finance from acme", [("carol", "acme")], "allow"),
        ("by role finance from acme", [("carol", None)], "confirm"),
        ("by role finance from acme", [("carol", "open")], "confirm"),
        ("by role finance from acme", [("carol", "nobody")], "confirm"),
        ("by role finance from acme", [("carol", "ACME")], "confirm"),
        ("by role finance from acme", [("bob", "acme")], "confirm"),
        ("by role finance from acme", [("alice", "acme")], "confirm"),
        ("by role finance from acme, partner", [(EVE, "partner")], "allow"),
        ("by role finance from partner, acme", [("carol", "acme")], "allow"),
        ("by role finance from acme, partner", [("carol", "partner")], "confirm"),
        ("by role finance from acme, partner", [("carol", "open")], "confirm"),
        ('by team "money" from partner', [(EVE, "partner")], "allow"),
        ('by team "money" from partner', [(EVE, "acme")], "confirm"),
        ("by user from open", [("alice", "open")], "allow"),
        ("by user from acme", [("alice", "open")], "confirm"),
        ("by 2 of role finance from acme", [("carol", "acme"), ("dora", "acme")], "allow"),
        ("by 2 of role finance from acme", [("carol", "acme"), ("dora", "open")], "confirm"),
        ("by 2 of role finance from acme, partner", [("carol", "acme"), (EVE, "partner")], "allow"),
        ("by 2 of role finance from acme, open", [("carol", "acme"), ("carol", "open")], "confirm"),
        ("by role finance from acme", [("carol", "open"), ("carol", "acme")], "allow"),
        ("by role finance", [("carol", "nobody")], "allow"),
        ("by role finance", [("carol", None)], "allow"),
    ],
)
def test_an_approval_counts_only_if_an_issuer_after_from_vouches_for_the_approver(
    confirm: str, granted: list[tuple[str, str | None]], outcome: str
) -> None:
    assert outcomes(confirm, *granted) == (outcome, outcome)


def test_the_remedy_and_the_opened_approval_list_the_issuers() -> None:
    decision, effects = spending(guard("by 2 of role finance from acme, partner within 15m"), ASKED, ROWS)
    [remedy], [opened] = decision.remedies, effects.opens
    assert (remedy.by, remedy.issuers) == ("2 of role finance from acme, partner", ("acme", "partner"))
    assert (opened.by, opened.count, opened.approvers.issuers) == (remedy.by, 2, ("acme", "partner"))
    [plain] = decide(guard("by role finance"), ASKED, ROWS).remedies
    assert (plain.by, plain.issuers) == ("role finance", None)


def test_an_issuer_of_another_package_is_written_by_its_own_name() -> None:
    shared = "package shared\nexport issuer idp { scopes none }\n"
    rule = guard("by role finance from shared.idp").replace("entity team", "import shared\nentity team", 1)
    found = kernel(shared, rule).guards[0].effects[0].approvers  # type: ignore[union-attr]
    assert (found.words, found.issuers) == ("role finance from idp", ("idp",))


# ── Revisions ─────────────────────────────────────────────────────────────────────────────────


def test_another_from_is_another_revision() -> None:
    clauses = ["", " from acme", " from partner", " from acme, partner"]
    assert len({kernel(guard(f"by role finance{clause}")).revision for clause in clauses}) == len(clauses)


def test_policies_without_from_keep_their_revisions() -> None:
    policy = """issuer acme { scopes none }
entity user { roles: set<string> }
user any { may POST /pay }
guard "ask" on POST /pay { confirm by role finance within 15m }
"""
    assert fingerprint.SEMANTICS_VERSION == 5
    assert kernel(policy).revision == "sha256:8482a4f83079ef9410077938e3711c99d1b5b9a31b4b4bc853c30f5a8c2ee066"


# ── Questions ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("issuer", [7, ["acme"], {}, True], ids=repr)
def test_an_issuer_of_an_approval_is_a_text(issuer: object) -> None:
    approval = {"id": "a", "by": "carol", "issuer": issuer, "granted_at": ago(1), "binding": "sha256:00"}
    with pytest.raises(RequestError, match="issuer"):
        Request.from_mapping({**ASKED, "approvals": [approval]})
