"""docs/console.md says what the program does: codes, bounds, rules and settings."""

from __future__ import annotations

import re

from policyengine.audit.query.log_process import MAX_READ_SECONDS
from policyengine.audit.query.log_tail import MAX_TAIL_BYTES, MAX_WATCHED_BYTES
from policyengine.audit.query.requester_history import MAX_LATEST
from policyengine.cli.settings.sections import ConsoleSettings
from policyengine.engine.approval_context import HISTORY_TIME, MAX_ROWS
from policyengine.identity.login.errors import LOGIN_MESSAGES, LoginRefusal
from policyengine.server.console.links import LINK_SECONDS
from policyengine.server.console.options import IDLE, LONGEST
from policyengine.server.console.roles import ConsoleRole, RoleRule
from policyengine.server.console.sessions import MAX_SESSIONS, MAX_SESSIONS_PER_PERSON
from policyengine.server.console.throttle import MAX_ATTEMPTS_PER_ADDRESS
from tests.pages import CHECKOUT

PAGE = " ".join((CHECKOUT / "docs" / "console.md").read_text("utf-8").split())
FORMAT = (CHECKOUT / "docs" / "log-format.md").read_text("utf-8")


def test_every_code_of_a_refusal_is_documented_and_has_a_message() -> None:
    [row] = re.findall(r"^\| `console_refused` .*$", FORMAT, re.MULTILINE)
    codes = row.partition("`code`:")[2].partition("; `why`")[0]
    assert set(re.findall(r"`(\w+)`", codes)) == set(LoginRefusal)
    assert set(LOGIN_MESSAGES) == set(LoginRefusal)


def test_every_role_and_every_kind_of_rule_is_documented() -> None:
    assert set(ConsoleRole) == set(re.findall(r"\| `(\w+)` \| to see", PAGE))
    rules = re.findall(r"\| `([^`]+)` \| (?:the user|users|people|all people)", PAGE)
    assert len(rules) == 5
    assert all(RoleRule.parse(rule) for rule in rules)


def test_the_bounds_on_the_page_are_those_of_the_program() -> None:
    for words in (
        f"after {IDLE.total_seconds() / 60:g} minutes without a request",
        f"after {LONGEST.total_seconds() / 3600:g} hours",
        f"at most {MAX_SESSIONS_PER_PERSON} sessions, and the console at most {MAX_SESSIONS:,}",
        f"complete {MAX_ATTEMPTS_PER_ADDRESS} sign-ins a minute",
        f"at most {MAX_READ_SECONDS:g} seconds",
        f"at most {MAX_ROWS}, with long values cut",
        f"days and the latest {MAX_LATEST} of each",
        f"the last {MAX_TAIL_BYTES // 2**20} MiB of the decision log",
        "in the last seven days",
    ):
        assert words in PAGE
    assert (HISTORY_TIME.days, MAX_WATCHED_BYTES) == (7, 2**20)
    assert LINK_SECONDS == 5 * 60
    assert "within five minutes" in PAGE


def test_every_setting_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(idle_minutes|session_hours|link_\w+|client_\w+|public_url|allowed_hosts)`", PAGE))
    assert named
    assert named <= set(ConsoleSettings.model_fields)
