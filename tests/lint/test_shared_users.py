"""Two issuers that speak for the same users: which policies are told, with exact words, and which are left alone."""

from __future__ import annotations

import pytest

from policyengine.check import check_text
from policyengine.diagnostics.model import Diagnostic

HEAD = """
entity team in team
entity user { org: string   roles: set<string> } in team
entity note { owner: user   org: string }
issuer login { url "https://login.acme.example"   records chains }
issuer partner { url "https://id.partner.example"   records chains }
scope notes.read { GET /notes/{id: note} }
scope notes.write { POST /notes }
scope orders { POST /orders/{id} }
"""
USERS = "user any { may notes.read, notes.write, orders }\n"
ASSISTANT = 'agent "assistant" { issued by login   acts for any user   may notes.read }\n'
OURS = HEAD + USERS + ASSISTANT


def courier(
    acts: str = "acts for any user", may: str = "may notes.read", more: str = "", name: str = '"courier"'
) -> str:
    return f"agent {name} {{ issued by partner   {acts}   {more}   {may} }}\n"


def guard(body: str, on: str = "") -> str:
    return f'guard "g"{on and " on "}{on} {{ {body} }}\n'


ANY = courier()


def told(policy: str) -> list[Diagnostic]:
    """Nothing else is found in any of these policies."""
    found = check_text(policy)
    assert {one.code for one in found} <= {"W462"}, [one.render() for one in found]
    return found


def test_shared_users_are_reported_at_the_later_issuer_with_agents_and_a_hint() -> None:
    (found,) = told(OURS + ANY)
    assert (found.code, found.span.text, found.span.line) == ("W462", "partner", 6)
    assert found.message == (
        "a token of `partner` can name a user of `login`: "
        '`agent "courier"` acts for the same users as `agent "assistant"` of `login`'
    )
    assert found.hint == (
        'limit its users with `users like "*@partner.example"` in `partner`; or limit the agents, '
        '`acts for users where user.org == "partner"`, if your entity store has `org`; or deny other issuers, '
        '`deny unless credential.issuer == "login"`, in a guard'
    )
    related = [(one.message, one.span.line, one.span.text) for one in found.related]
    assert related == [("for whom it acts", 12, "acts for any user"), ("the same users", 11, "acts for any user")]


@pytest.mark.parametrize(
    "mended",
    [
        courier('acts for users where user.org == "partner"'),
        ANY + guard('deny unless credential.issuer == "login"', "notes.read"),
    ],
)
def test_the_suggested_lines_resolve_the_shared_users_finding(mended: str) -> None:
    assert told(OURS + mended) == []


def test_the_message_names_at_most_three_agents() -> None:
    several = "".join(courier(name=f'"c{number}"') for number in range(5))
    message = told(OURS + several)[0].message
    assert '`agent "c0"`, `agent "c1"`, `agent "c2"` and 2 more act for the same users as' in message
    two = courier(name='"c0"') + courier(name='"c1"')
    assert '`agent "c0"` and `agent "c1"` act for' in told(OURS + two)[0].message


def test_each_issuer_but_the_first_is_reported_once() -> None:
    third = 'issuer third { url "https://third.example" }\n' + ANY.replace("partner", "third").replace("courier", "c3")
    found = told(OURS + ANY + third)
    assert [one.span.text for one in found] == ["partner", "third"]
    assert all("a user of `login`" in one.message for one in found)


CLAIMING = OURS.replace('partner.example"', 'partner.example"   claims { org -> user.org }')
CLERKS = OURS.replace("acts for any user", 'acts for users where user.roles has "clerk"')
UNRESTRICTED = HEAD.replace("scope notes.write { POST /notes }\n", "") + "users unrestricted\n" + ASSISTANT


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(OURS + courier(may="may notes.write"), id="doors of one user block"),
        pytest.param(OURS.replace("any {", '"alice" {') + ANY, id="a user by name"),
        pytest.param(CLERKS + courier('acts for users where user.roles has "clerk"'), id="the same condition"),
        pytest.param(
            OURS.replace("may notes.read }", "may notes.read when resource.owner == user }")
            + courier(may="may notes.write when time > 2026-01-01"),
            id="conditions that are not about whose users",
        ),
        pytest.param(UNRESTRICTED + courier(may="may notes.read, orders"), id="unrestricted, and a common door"),
        pytest.param(
            OURS + ANY + guard('deny unless credential.issuer in ["login", "partner"]'), id="a guard for both"
        ),
        pytest.param(
            OURS + ANY + guard('deny when agent.issuer in ["login", "partner"] and time < 2027-01-01', "notes.read"),
            id="a guard that acts alike",
        ),
        pytest.param(OURS + ANY + guard('deny when agent.issuer == "third"'), id="a guard against another"),
        pytest.param(
            OURS + ANY + guard('deny unless credential.issuer == "login"', "orders"), id="a guard elsewhere"
        ),
        pytest.param(
            OURS + ANY + guard('audit full when credential.issuer == "partner"'), id="a guard that only records"
        ),
        pytest.param(
            OURS + ANY + guard('require user.org == resource.org', "notes.read"), id="islands of our directory"
        ),
        pytest.param(
            OURS + courier(may="may orders") + guard('require user.roles has "boss" or request.size < 9', "orders"),
            id="a guard about something else",
        ),
        pytest.param(
            OURS + courier(may="may orders") + guard('require user.org == "partner"', "/orders/7"),
            id="a guard of a part of what is open",
        ),
        pytest.param(
            OURS + ANY + guard('deny unless credential.issuer == "login"', "/** except GET /notes/*"),
            id="a guard that leaves its door out",
        ),
        pytest.param(
            OURS.replace("may notes.read }", "may notes.read, notes.write }")
            + ANY + guard('deny unless credential.issuer == "login"', "notes.write"),
            id="a guard where it has no door",
        ),
        pytest.param(
            CLERKS.replace("user any", 'user where user.roles has "clerk"') + ANY, id="users who lend to clerks"
        ),
        pytest.param(
            CLAIMING + courier('acts for users where user.org == "partner"'), id="by what the issuer itself claims"
        ),
        pytest.param(
            OURS + courier(more="credential { kind in [jwt, mtls] }"), id="kinds of which one names users"
        ),
        pytest.param(
            OURS.replace("may notes.read }", 'may notes.read   may delegate notes.read to agent "courier" }').replace(
                'partner.example"   records chains', 'partner.example"'
            )
            + ANY,
            id="handed on, and chains that are not recorded",
        ),
    ],
)  # fmt: skip
def test_indistinguishable_users_of_two_issuers_are_reported(policy: str) -> None:
    assert [one.code for one in told(policy)] == ["W462"]


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(OURS, id="one issuer with agents"),
        pytest.param(OURS + courier("acts alone"), id="it acts alone"),
        pytest.param(OURS.replace("https://id.partner", "spiffe://id.partner") + ANY, id="workloads"),
        pytest.param(OURS + courier(more="credential { kind in [mtls, api_key] }"), id="kinds that name agents alone"),
        pytest.param(OURS + courier('acts for users where user.id like "*@partner.example"'), id="by their names"),
        pytest.param(OURS + courier('acts for users where user in team "partner"'), id="by their team"),
        pytest.param(OURS + courier(may='may notes.read when user.org == "partner"'), id="when"),
        pytest.param(OURS + courier(may='may notes.read when resource.org == "partner"'), id="things of theirs alone"),
        pytest.param(
            OURS.replace("acts for any user", "acts for users where user.org == agent.issuer")
            + courier("acts for users where user.org == agent.issuer"),
            id="users of the agent's issuer",
        ),
        pytest.param(
            OURS.replace("acts for any user", "acts for users where user.org == agent.publisher")
            + courier("acts for users where user.org == agent.publisher"),
            id="users of the agent's publisher",
        ),
        pytest.param(OURS + ANY + guard('require user.org == credential.issuer'), id="a guard for all"),
        pytest.param(
            OURS.replace("notes.write, orders }", 'notes.write   may orders when user.org == "partner" }')
            + courier(may="may orders"),
            id="a door of the user block",
        ),
        pytest.param(
            OURS + ANY + guard('deny when agent.issuer == "partner" and user.org != "partner"'), id="a guard for it"
        ),
        pytest.param(
            OURS + ANY + guard('deny when agent.id == "courier" and user.org != "partner"'), id="by its agent"
        ),
        pytest.param(OURS + ANY + guard('require request.host == user.org'), id="by the host that was asked"),
        pytest.param(
            OURS + ANY + guard('confirm by user from partner when credential.issuer == "partner"'), id="users are asked"
        ),
        pytest.param(
            OURS + courier(may="may orders") + guard('require user.org == "partner"', "orders"),
            id="a guard where it alone has doors",
        ),
        pytest.param(
            OURS + courier(may="may orders") + guard('require user.org == "partner"', "/** except /notes/**"),
            id="a guard that leaves out where it has none",
        ),
        pytest.param(
            HEAD + "user any { may notes.read, notes.write }\nuser any { may orders }\n"
            + ASSISTANT + courier(may="may orders"),
            id="doors of another user block",
        ),
        pytest.param(
            HEAD + 'user where credential.issuer == "login" { may notes.read, notes.write }\n'
            'user where credential.issuer == "partner" { may notes.read, orders }\n' + ASSISTANT + ANY,
            id="user blocks of each issuer",
        ),
        pytest.param(UNRESTRICTED + courier(may="may orders"), id="unrestricted, and no common door"),
        pytest.param(
            UNRESTRICTED + courier(may="may orders")
            + ASSISTANT.replace("for any user", "alone").replace("notes.read", "notes.read, orders"),
            id="unrestricted, and a common door of an agent that acts alone",
        ),
        pytest.param(OURS + ANY.replace("issued by partner", "issued by partner, login"), id="one agent of both"),
        pytest.param(
            OURS + ANY + courier(name='"other"', may="may notes.write").replace("by partner", "by login, partner"),
            id="another agent of both",
        ),
        pytest.param(
            OURS.replace("may notes.read }", 'may notes.read   may delegate notes.read to agent "courier" }') + ANY,
            id="handed on",
        ),
        pytest.param(
            OURS.replace("may notes.read }", 'may notes.read   may delegate notes.read to agent "cour*" }') + ANY,
            id="handed on by a pattern",
        ),
        pytest.param(
            OURS.replace("may notes.read }", 'may notes.read   may delegate notes.read to group "couriers" }') + ANY,
            id="handed on to a group",
        ),
        pytest.param(
            OURS.replace("issuer p", "# lint: allow shared-users because both know our staff\nissuer p") + ANY,
            id="allowed at the issuer",
        ),
    ],
)  # fmt: skip
def test_distinguished_users_of_two_issuers_are_not_reported(policy: str) -> None:
    assert told(policy) == []


@pytest.mark.parametrize("name", ['"courier"', '"cour*"'])
def test_a_delegation_to_another_agent_does_not_suppress_the_finding(name: str) -> None:
    handing = OURS.replace("may notes.read }", 'may notes.read   may delegate notes.read to agent "reader" }')
    reader = 'agent "reader" { issued by login   acts for any user   may notes.read }\n'
    assert [one.code for one in told(handing + reader + courier(name=name))] == ["W462"]


def test_an_issuer_of_a_shared_agent_is_not_reported_and_the_partner_is() -> None:
    house = 'issuer desk { url "https://desk.acme.example" }\n' + courier(name='"clerk"').replace("partner", "desk")
    both = courier(name='"both"').replace("by partner", "by login, desk")
    assert [one.span.text for one in told(OURS + ANY + house + both)] == ["partner"]


def test_a_define_in_acts_for_counts_as_its_condition() -> None:
    named = 'define theirs = user.org == "partner"\n' + courier("acts for users where theirs")
    assert told(OURS + named) == []


def test_a_condition_beyond_issuer_claims_distinguishes_users() -> None:
    acts = 'acts for users where user.org == "partner" or user in team "partner"'
    assert told(CLAIMING + courier(acts)) == []
