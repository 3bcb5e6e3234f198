"""W522: confirms that no user can approve."""

from __future__ import annotations

import pytest

from policyengine.check import check_text

ACME, OPEN = "issuer acme { scopes none }\n", "issuer open { scopes none }\n"
PARTNER = 'issuer partner { scopes none   users like "*@partner.example" }\n'
USERS = "entity team\nentity user { roles: set<string> } in team\nuser any { may POST /pay }\n"
CHOOSE = (
    "write `from ISSUER` after the approvers, or declare `users like` in the issuers; the setting `issuers` in "
    "`[approvals]` names them for the whole server"
)
OTHER = "name another issuer or another approver, or change `users like` of the issuer"


def found(confirm: str, issuers: str, more: str = "") -> list[tuple[str, str, str | None]]:
    policy = f'{issuers}{USERS}{more}guard "ask" on POST /pay {{ confirm {confirm} }}\n'
    return [(one.code, one.message, one.hint) for one in check_text(policy)]


@pytest.mark.parametrize(
    ("confirm", "issuers"),
    [
        ("by role boss", ACME),
        ("by role boss", PARTNER),
        ("by role boss", ACME + PARTNER),
        ("by role boss", ACME + OPEN + PARTNER),
        ("by role boss from acme", ACME + OPEN),
        ("by role boss from partner", PARTNER),
        ("by user from acme, open", ACME + OPEN),
    ],
)
def test_a_confirm_that_somebody_can_approve_is_not_reported(confirm: str, issuers: str) -> None:
    assert found(confirm, issuers) == []


@pytest.mark.parametrize(
    ("confirm", "issuers", "message", "hint"),
    [
        ("by role boss", "", "no issuer is declared that could vouch for a person",
         'declare the issuer of these people: `issuer acme { url "https://login.acme.example" }`'),
        ("by role boss", ACME + OPEN, "2 issuers may name any user, so none of them may vouch for an approver", CHOOSE),
        ("by user", ACME + OPEN, "2 issuers may name any user, so none of them may vouch for an approver", CHOOSE),
        ('by 2 of team "x"', ACME + OPEN, "2 issuers may name any user, so none of them may vouch for an approver",
         CHOOSE),
    ],
)  # fmt: skip
def test_a_confirm_that_nobody_can_approve_is_reported(confirm: str, issuers: str, message: str, hint: str) -> None:
    assert found(confirm, issuers) == [("W522", f"no user can approve `ask`: {message}", hint)]


ONE = 'let boss = user "carol"\n'
TWO = 'let bosses = [user "carol", user "dan"]\n'
MIXED = 'let bosses = [user "carol", user "dan@partner.example"]\n'


@pytest.mark.parametrize(
    ("confirm", "more", "message"),
    [
        ("by boss from partner", ONE, "no user can approve `ask`: no issuer may name `carol`"),
        ("by bosses from partner", TWO, "no user can approve `ask`: no issuer may name `carol` or `dan`"),
        ("by boss from acme, partner", ONE,
         "no approver of `ask` comes from `partner`, which may not name any of them"),
        ("by bosses from partner", MIXED, None),
        ("by bosses from acme, partner", MIXED, None),
        ("by boss from acme", ONE, None),
    ],
)  # fmt: skip
def test_an_issuer_that_may_not_name_the_approvers_is_reported(confirm: str, more: str, message: str | None) -> None:
    assert found(confirm, ACME + PARTNER, more) == ([] if message is None else [("W522", message, OTHER)])


def test_named_users_whom_no_issuer_may_name_are_reported_without_from_too() -> None:
    assert found("by boss", PARTNER, ONE) == [("W522", "no user can approve `ask`: no issuer may name `carol`", OTHER)]


def test_a_comment_allows_the_finding() -> None:
    allowed = "by role boss # lint: allow confirm-without-approver because the gateway asks people\n"
    assert found(allowed, "") == []
