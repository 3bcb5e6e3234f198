"""What commands say about people and links at the start: approvers that the entities lack, roles that match nobody, and
two URLs of one console."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyengine import Engine
from policyengine.cli.approver_warnings import find_lacking_approvers, unknown_role_attributes
from policyengine.cli.commands.mcp_gateway import GatewayOptions, with_pages
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.sections import ConsoleSettings
from policyengine.entities.store import EntityStore
from policyengine.integrations.mcp.elicit_modes import ElicitMode
from policyengine.lint.approver_supply import NAME_HINT
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef
from tests.entities.test_looking import Clock, looked_up

HEAD = """language 1
package shop
entity team {}
entity user { roles: set<string>  desk: string ? } in team
entity invoice { owner: user }
issuer acme { url "https://login.acme.example" }
anyone { may POST /refund, POST /invoices/{id: invoice}/void }
"""


def user(name: str, *teams: str, **attributes: Any) -> EntityData:
    return EntityData(EntityRef("user", name), attributes, tuple(EntityRef("team", team) for team in teams))


PEOPLE = EntityStore(
    [user("carol", "money", roles=["finance"]), user("dora", "money", roles=["finance"]), user("bob", "sales")]
)


def warnings(clause: str, directory: EntityStore = PEOPLE) -> list[tuple[str, str | None]]:
    engine = Engine.from_text(f'{HEAD}guard "large" on POST /refund {{ confirm by {clause} within 15m }}')
    return [(one.message, one.hint) for one in find_lacking_approvers(engine.kernel, directory)]


@pytest.mark.parametrize(
    ("clause", "message", "hint"),
    [
        ('2 of team "monney"', "no user of the entities can approve", "did you mean `money`?"),
        ("role finnance", "no user of the entities can approve", "did you mean `finance`?"),
        ('2 of team "sales"', "only 1 user of the entities can approve", None),
        ("3 of role finance", "only 2 users of the entities can approve", None),
        ('team "legal"', "no user of the entities can approve", None),
    ],
)
def test_a_confirm_that_too_few_users_can_approve_is_told(clause: str, message: str, hint: str | None) -> None:
    assert warnings(clause) == [(f"{message} `large`, which needs an approval by {clause}", hint or NAME_HINT)]


@pytest.mark.parametrize("clause", ["user", "role finance", '2 of team "money"', "2 of role finance"])
def test_a_confirm_that_enough_users_can_approve_is_not(clause: str) -> None:
    assert warnings(clause) == []


def test_approvers_of_a_resource_depend_on_the_request() -> None:
    guard = 'guard "void" on POST /invoices/{id: invoice}/void { confirm by resource.owner within 15m }'
    assert list(find_lacking_approvers(Engine.from_text(HEAD + guard).kernel, PEOPLE)) == []


def test_users_that_are_looked_up_are_not_known() -> None:
    _, directory = looked_up(PEOPLE, Clock(), "user")
    assert warnings('2 of team "monney"', directory) == []


def test_check_reports_it_and_a_comment_allows_it(run: Any, tmp_path: Path) -> None:
    guard = 'guard "large" on POST /refund { confirm by team "monney" within 15m }'
    (tmp_path / "shop.policy").write_text(HEAD + guard)
    team = {"type": "team", "id": "money"}
    rows = [team, {"type": "user", "id": "carol", "attributes": {"roles": []}, "in": [team]}]
    (tmp_path / "entities.json").write_text(json.dumps({"entities": rows}))
    [found] = run("check", "shop.policy", "--entities", "entities.json", "--format", "json").json["diagnostics"]
    assert (found["code"], found["hint"]) == ("W183", "did you mean `money`?")
    (tmp_path / "shop.policy").write_text(
        f"{HEAD}# lint: allow lacking-approvers because their rows come with requests\n{guard}"
    )
    assert run("check", "shop.policy", "--entities", "entities.json", "--format", "json").json["diagnostics"] == []


# ── Roles of the console ──────────────────────────────────────────────────────────────────────


def role_warnings(**rules: list[str]) -> list[tuple[str, str | None]]:
    return list(unknown_role_attributes(ConsoleSettings(**rules), Engine.from_text(HEAD).kernel, PEOPLE))  # type: ignore[arg-type]


def test_a_rule_with_an_attribute_that_no_user_has_is_told() -> None:
    [(message, hint)] = role_warnings(view=["rolles:ops"], approve=["roles:finance"])
    assert message == (
        "`[console] view`: `rolles:ops` matches nobody: `rolles` is neither an attribute of users nor a type"
    )
    assert hint == "did you mean `roles`?"


def test_other_rules_are_not() -> None:
    rules = ["*", "id:alice", "claim.groups:ops", "roles:x", "desk:y", "team:money"]
    assert role_warnings(view=rules, approve=rules, halt=rules) == []


# ── At the start ──────────────────────────────────────────────────────────────────────────────


def test_a_server_tells_both_when_its_entities_are_loaded(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    guard = 'guard "large" on POST /refund { confirm by role finnance within 15m }'
    (tmp_path / "shop.policy").write_text(HEAD + guard)
    row = {"type": "user", "id": "carol", "attributes": {"roles": ["finance"]}}
    (tmp_path / "entities.json").write_text(json.dumps({"entities": [row]}))
    (tmp_path / "policyengine.toml").write_text('[console]\nport = 8081\nview = ["rolles:ops"]\n')
    monkeypatch.setattr("policyengine.server.serve", lambda *_, **__: None)
    with_entities = run("serve", "shop.policy", "--entities", "entities.json").err
    assert "no user of the entities can approve `large`, which needs" in with_entities
    assert "`[console] view`: `rolles:ops` matches nobody" in with_entities
    assert "no user of the entities" not in run("serve", "shop.policy").err


# ── The URL of the console ────────────────────────────────────────────────────────────────────

CONSOLE = "https://console.example.com"


def front(pages: str | None, elicit: ElicitMode = ElicitMode.URL) -> GatewayOptions:
    given: Any = ("http://127.0.0.1:1/mcp", "billing", {}, {}, False, "127.0.0.1", None, 20.0)
    return GatewayOptions(*given, elicit=elicit, approval_pages=pages)


@pytest.mark.parametrize(
    ("option", "setting"), [(CONSOLE, None), (None, CONSOLE), (f"{CONSOLE}/", CONSOLE), (CONSOLE, f"{CONSOLE}/")]
)
def test_the_gateway_takes_the_console_of_the_option_or_of_the_setting(option: Any, setting: Any) -> None:
    assert with_pages(front(option), setting).approval_pages == (setting or option)


def test_two_consoles_are_a_contradiction() -> None:
    with pytest.raises(CommandError) as error:
        with_pages(front("https://other.example.com"), CONSOLE)
    assert (error.value.message, error.value.hint, error.value.code) == (
        "`--approval-pages` names `https://other.example.com`, and `public_url` in `[console]` names "
        "`https://console.example.com`",
        "keep one of them: `public_url` in `[console]` is enough",
        2,
    )
