"""Doors from a log: as narrow as what was asked for, none that a credential or a guard is in the way of, and proved."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.analysis.suggest import policy as suggested
from policyengine.analysis.suggest.policy import PolicySuggester, PolicySuggestion
from policyengine.audit import DecisionLog
from policyengine.check import check, lint_text
from policyengine.engine.observe_mode import Observe
from policyengine.source import Source
from policyengine.syntax import nodes as ast
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
POLICY = """language 1
package site
entity invoice {}
issuer acme { url "https://login.acme.example" }
issuer loose { url "https://login.loose.example"   scopes none }
attester lab { url "https://attest.acme.example"   model "m" }
scope things.read as "read:things" { GET /v1/things/{id} }
scope things.all as "all:things" { GET /v1/**   DELETE /v1/** }
scope items.edit as "edit:items" { GET /v1/items/{id}   DELETE /v1/items/{id} }
scope invoices.read as "read:invoices" { GET /v1/invoices/{id: invoice}   GET /v1/invoices }
scope invoices.wide as "wide:invoices" { include invoices.read, things.read }
user "carol" { may things.read, things.all, invoices.wide }
agent "bot" {
  issued by acme   acts for any user   credential { kind in [jwt]   lifetime <= 15m   bound }   may things.read
}
agent "attested" { issued by loose   acts for any user   attested by lab   may GET /v3/x }
agent "timid" { issued by loose   acts for any user   may GET /v3/x when request.query.ok == "yes" }
guard "shut" on GET /v3/shut { deny message "no" }
"""
CREDENTIAL = {"kind": "jwt", "lifetime": "10m", "bound": True, "scopes": ["read:things", "read:reports"]}


class Traffic:
    def __init__(self, folder: Path) -> None:
        self.policy, self.log = folder / "site.policy", folder / "decisions.jsonl"
        self.policy.write_text(POLICY, encoding="utf-8")
        self.engine = Engine.load(self.policy, clock=lambda: NOW, log=DecisionLog(self.log))
        self.engine.observe(Observe(NOW + timedelta(days=1)))

    def ask(
        self, path: str, method: str = "GET", *, agent: str | None = "plain", issuer: str = "loose",
        user: str = "carol", **more: Any,
    ) -> None:  # fmt: skip
        who = {} if agent is None else {"agent": {"id": agent, "issuer": issuer}, "credential": CREDENTIAL}
        person = {"user": {"id": user}} if user else {}
        self.engine.decide({"request": {"method": method, "path": path}, **who, **person, **more})

    def bot(self, path: str, method: str = "GET", **more: Any) -> None:
        self.ask(path, method, agent="bot", issuer="acme", **more)

    def suggested(self) -> PolicySuggestion:
        module, problems = parse(Source("site.policy", POLICY))
        assert module is not None
        return PolicySuggester([module], check([module], problems), self.log, pytest.fail).suggested()


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic(tmp_path)


def mays(found: PolicySuggestion) -> list[tuple[str, str, int]]:
    return [(one.who, one.target.may, len(one.lines)) for one in found.doors]


def whys(found: PolicySuggestion) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in found.left:
        counts[one.why] = counts.get(one.why, 0) + one.decisions
    return counts


def test_an_item_of_a_list_is_no_request(traffic: Traffic) -> None:
    """A grant for another request may list it: that changes no decision."""
    asked = {"agent": {"id": "plain", "issuer": "loose"}, "user": {"id": "carol"}, "credential": CREDENTIAL}
    for path in ("/v2/listed", "/v2/items/7"):
        question = {**asked, "request": {"method": "GET", "path": path}}
        traffic.engine.evaluate(question, is_listing=True)
    traffic.ask("/v2/items/7")
    found = traffic.suggested()
    assert (found.records, found.allowed) == (1, 0)
    assert {may for _, may, _ in mays(found)} == {"GET /v2/items/7"}
    assert found.others == ()


# ── How narrow ────────────────────────────────────────────────────────────────────────────────


def test_one_id_is_suggested_literally_and_several_as_a_wildcard(traffic: Traffic) -> None:
    traffic.ask("/v2/items/7")
    for number in range(3):
        traffic.ask(f"/v2/orders/{number}/lines")
    found = traffic.suggested()
    assert mays(found) == [
        ('agent "plain"', "GET /v2/items/7", 1), ('user "carol"', "GET /v2/items/7", 1),
        ('agent "plain"', "GET /v2/orders/*/lines", 3), ('user "carol"', "GET /v2/orders/*/lines", 3),
    ]  # fmt: skip
    assert (found.holds, found.meant, len(found.flips)) == (True, 4, 4)


def test_a_word_in_a_path_is_never_generalized(traffic: Traffic) -> None:
    traffic.ask("/v2/items/all")
    traffic.ask("/v2/items/mine")
    assert {may for _, may, _ in mays(traffic.suggested())} == {"GET /v2/items/all", "GET /v2/items/mine"}


def test_a_suggestion_uses_patterns_of_the_policy_without_double_stars(traffic: Traffic) -> None:
    traffic.ask("/v1/things/7")
    traffic.ask("/v1/other/thing")
    assert {may for _, may, _ in mays(traffic.suggested())} == {"GET /v1/things/*", "GET /v1/other/thing"}


def test_a_suggestion_grants_the_smallest_carried_scope(traffic: Traffic) -> None:
    scopes = {**CREDENTIAL, "scopes": ["wide:invoices", "read:invoices", "all:things"]}
    traffic.bot("/v1/invoices/7", credential=scopes)
    found = traffic.suggested()
    assert mays(found) == [('agent "bot"', "invoices.read", 1)]
    assert found.holds


def test_a_double_star_scope_is_not_suggested_and_an_undeclared_one_is_declared(traffic: Traffic) -> None:
    traffic.bot("/v1/reports/7", credential={**CREDENTIAL, "scopes": ["all:things"]})
    traffic.bot("/v1/reports/8", credential={**CREDENTIAL, "scopes": ["all:things", "read:reports"]})
    found = traffic.suggested()
    assert ('agent "bot"', "suggested_1", 1) in mays(found)
    assert 'scope suggested_1 as "read:reports" {' in found.text
    assert whys(found) == {"the credential has no scope that a grant could use": 1}


def test_a_suggested_block_keeps_the_credential_requirements_of_the_agent(traffic: Traffic) -> None:
    traffic.bot("/v1/reports/7")
    assert "credential { kind in [jwt]   lifetime <= 15m   bound }" in traffic.suggested().text


def test_a_suggested_block_of_a_new_agent_requires_the_credentials_it_used(traffic: Traffic) -> None:
    traffic.ask("/v2/x", user="")
    found = traffic.suggested()
    assert 'agent "plain" {\n  issued by loose\n  acts alone\n' in found.text
    assert "credential { kind in [jwt]   lifetime <= 10m   bound }" in found.text


def test_users_are_combined_in_one_suggested_block(traffic: Traffic) -> None:
    for user in ("bob", "alice", "alice"):
        traffic.bot("/v1/things/7", user=user)
    found = traffic.suggested()
    assert mays(found) == [("2 users", "things.read", 3)]
    assert 'user where user.id in ["alice", "bob"] {' in found.text


def test_too_many_users_are_not_suggested(traffic: Traffic) -> None:
    for number in range(51):
        traffic.bot("/v1/things/7", user=f"u{number}")
    found = traffic.suggested()
    assert (found.doors, found.text) == ((), "")
    assert whys(found) == {"more than 50 users need the grant: grant it to a role or a team": 51}


# ── What destroys ─────────────────────────────────────────────────────────────────────────────


def test_a_destructive_request_is_suggested_with_a_confirm(traffic: Traffic) -> None:
    traffic.ask("/v2/items/7", "DELETE")
    traffic.ask("", tool={"name": "drop_table", "server": "db"}, request={})
    found = traffic.suggested()
    assert found.text.count("confirm by user within 15m") == 2
    assert found.text.count("this may destroy data: {request.path}") == 1
    assert found.text.count("this may destroy data: {tool.name}") == 1
    assert {one.new for one in found.flips} == {"confirm (user within 15m)"}
    assert found.holds


def test_a_destructive_request_without_a_user_is_not_suggested(traffic: Traffic) -> None:
    traffic.ask("/v2/items/7", "DELETE", user="")
    assert whys(traffic.suggested()) == {"the request is destructive, and has no user who could approve it": 1}


def test_a_destructive_scope_is_not_suggested_for_a_read(traffic: Traffic) -> None:
    held = {**CREDENTIAL, "scopes": ["edit:items"]}
    traffic.bot("/v1/items/7", credential=held)
    found = traffic.suggested()
    assert (found.doors, whys(found)) == ((), {"the credential has no scope that a grant could use": 1})
    traffic.bot("/v1/items/7", "DELETE", credential=held)
    assert [door.target.may for door in traffic.suggested().doors] == ["items.edit"]


# ── What no door helps ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"agent": None, "user": ""}, "the agent is not identified"),
        ({"agent": "bot", "issuer": "acme", "credential": {**CREDENTIAL, "kind": "api_key"}},
         "the agent's block requires `kind in [jwt]`"),
        ({"agent": "bot", "issuer": "loose"}, "the agent's block requires `issued by acme`"),
        ({"agent": "attested", "path": "/v3/x"}, "the agent's block requires `attested by lab`"),
        ({"agent": "timid", "path": "/v3/x"}, "the condition of an existing grant is not true"),
        ({"agent": "bot", "issuer": "acme", "path": "/v1/things/7", "credential": {**CREDENTIAL, "scopes": []}},
         "the credential lacks the scope of an existing grant"),
        ({"issuer": "unknown"}, "the issuer is not declared"),
        ({"path": "/v2/../x"}, "servers may interpret the path differently"),
        ({"path": "/v3/shut"}, 'a grant would not help, because the guard "shut" stops the request'),
    ],
)  # fmt: skip
def test_a_denial_no_grant_can_lift_is_listed_with_its_reason(
    traffic: Traffic, asked: dict[str, Any], why: str
) -> None:
    traffic.ask(asked.pop("path", "/v2/x"), **asked)
    found = traffic.suggested()
    assert (found.doors, found.text, whys(found)) == ((), "", {why: 1})


HOSTILE = [
    'x" { may GET /** } #', "*", "bot-*", "x\n}", "x\u202e", "\\", '"', "# lint: allow all because", "ä", "{user.id}",
    "plain2",
]  # fmt: skip


@pytest.mark.parametrize("where", ["agent", "user", "path", "tool", "kind", "scope"])
def test_names_in_a_log_cannot_inject_policy_text(traffic: Traffic, where: str) -> None:
    for name in HOSTILE:
        match where:
            case "agent" | "user":
                traffic.ask("/v2/x", **{where: name})
            case "path":
                traffic.ask(f"/v2/{name}")
            case "tool":
                traffic.ask("", tool={"server": "s", "name": name}, request={})
            case "kind":
                traffic.ask("/v2/x", credential={**CREDENTIAL, "kind": name})
            case "scope":
                traffic.bot("/v1/new", credential={**CREDENTIAL, "scopes": [name]})
    found = traffic.suggested()
    assert found.holds
    assert found.meant + sum(one.decisions for one in found.left) == len(HOSTILE)
    assert format_module(Source("s", found.text)) == found.text
    module, problems = parse(Source("s", found.text))
    assert module is not None
    assert problems == []
    heads = [one.head for one in module.declarations if isinstance(one, ast.AgentDecl)]
    names = {head.name.value for head in heads if isinstance(head, ast.PrincipalName)}
    assert len(names) == len(heads) >= 1
    assert names <= {"plain", "bot", *(HOSTILE if where == "agent" else ())}
    assert "**" not in found.text.replace(json.dumps(HOSTILE[0]), "")
    assert not any("lint:" in line.partition("#")[2] for line in found.text.splitlines() if '"' not in line)


def test_a_suggested_guard_does_not_stop_requests_that_were_allowed(traffic: Traffic) -> None:
    policy = POLICY + 'anyone { may DELETE /v2/items/* when request.query.by else "" == "nobody" }\n'
    traffic.ask("/v2/items/7", "DELETE")
    nobody = {"method": "DELETE", "path": "/v2/items/7", "query": {"by": "nobody"}}
    traffic.ask("", agent=None, user="", request=nobody)
    module, problems = parse(Source("site.policy", policy))
    assert module is not None
    found = PolicySuggester([module], check([module], problems), traffic.log, pytest.fail).suggested()
    assert (found.allowed, found.meant, found.others, found.text.count("confirm by user")) == (1, 1, (), 1)


def test_a_suggestion_that_changes_other_decisions_does_not_hold(
    traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof finds a door that is too wide, whoever made it."""
    lines_of = suggested.policy_lines
    wide = "anyone { may GET /v2/** }"
    monkeypatch.setattr(suggested, "policy_lines", lambda doors, guards: [*lines_of(doors, guards), wide])
    traffic.ask("/v2/x")
    traffic.ask("/v2/y", issuer="unknown")
    found = traffic.suggested()
    assert [(one.old, one.new) for one in found.others] == [("deny", "allow")]
    assert not found.holds


def test_applied_suggestions_leave_nothing_to_suggest(traffic: Traffic, tmp_path: Path) -> None:
    traffic.ask("/v2/x")
    traffic.bot("/v1/reports/7", user="dave")
    first = traffic.suggested()
    modules = [parse(Source(name, text))[0] for name, text in (("site", POLICY), ("more", first.text))]
    kept = [module for module in modules if module is not None]
    again = PolicySuggester(kept, check(kept), traffic.log, pytest.fail).suggested()
    assert (again.doors, again.allowed, again.records) == ((), 2, 2)
    assert [one for one in lint_text(POLICY + first.text.partition("site\n")[2]) if one.is_error] == []
