"""Warnings of `mcp-gateway` about facts that `--as` does not state and that every grant needs."""

from __future__ import annotations

import pytest

from policyengine.cli.caller_warnings import CallerProbe, missing_facts_warning, sample_questions
from policyengine.engine import Engine

HEAD = "language 1\npackage notes\nissuer local { scopes none }\n"
ALONE = HEAD + 'agent "coder" { issued by local   acts alone   may TOOL notes/read }\n'
FOR_USERS = (
    HEAD
    + 'user any { may TOOL notes/* }\nagent "coder" { issued by local   acts for any user   may TOOL notes/read }\n'
)
SCOPED = """
language 1
issuer local {}
scope read { TOOL notes/read }
agent "coder" { issued by local   acts alone   may read }
"""
TWO_ISSUERS = """
language 1
issuer a { scopes none }
issuer b { scopes none }
issuer other { scopes none }
agent "coder" { issued by a, b   acts alone   may TOOL notes/read }
"""
RESOURCES = (
    HEAD
    + """
entity mcp_resource {}
facts on ACTION read mcp_resource { context.server: string }
agent "coder" {
  issued by local
  acts alone
  may ACTION read mcp_resource when resource.id like "notes://*" and context.server == "notes"
}
"""
)
ARGUMENTS = (
    HEAD
    + """
facts on TOOL notes/write { args.path: string }
agent "coder" { issued by local   acts alone   may TOOL notes/write when args.path like "drafts/*" }
"""
)
NOTHING = 'agent "coder" may use nothing of server "notes" with these facts: no grant applies without '


@pytest.mark.parametrize(
    ("policy", "said", "options"),
    [
        (ALONE, {"agent": "coder"}, "`--as issuer=local`"),
        (FOR_USERS, {"agent": "coder", "issuer": "local"}, "`--as user=NAME`"),
        (FOR_USERS, {"agent": "coder"}, "`--as issuer=local` and `--as user=NAME`"),
        (SCOPED, {"agent": "coder", "issuer": "local"}, "`--as scopes=SCOPE`"),
        (TWO_ISSUERS, {"agent": "coder"}, "`--as issuer=NAME` (one of `a`, `b`)"),
        (RESOURCES, {"agent": "coder"}, "`--as issuer=local`"),
        (ARGUMENTS, {"agent": "coder"}, "`--as issuer=local`"),
    ],
)
def test_a_caller_that_may_use_nothing_without_further_facts_is_warned_of(
    policy: str, said: dict[str, str], options: str
) -> None:
    assert missing_facts_warning(Engine.from_text(policy), "notes", said) == NOTHING + options


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (ALONE, {"agent": "coder", "issuer": "local"}),
        (ALONE, {"agent": "other"}),  # no fact helps
        (FOR_USERS, {"agent": "coder", "issuer": "local", "user": "alice"}),
        (SCOPED, {"agent": "coder", "issuer": "local", "scopes": "read"}),
        (RESOURCES, {"agent": "coder", "issuer": "local"}),
        (ARGUMENTS, {"agent": "coder", "issuer": "local"}),
        (ALONE + "anyone { may TOOL notes/look }\n", {"agent": "coder"}),  # some grants need nothing
        (HEAD + "anyone { may GET /a }\n", {"agent": "coder"}),
    ],
)
def test_a_caller_that_may_use_something_or_can_use_nothing_is_not_warned_of(policy: str, said: dict[str, str]) -> None:
    assert missing_facts_warning(Engine.from_text(policy), "notes", said) is None


def test_a_caller_without_an_agent_is_warned_of() -> None:
    policy = HEAD + "users unrestricted\nuser any { may TOOL notes/* }\n"
    warning = missing_facts_warning(Engine.from_text(policy), "notes", {"issuer": "local"})
    assert warning == NOTHING.replace('agent "coder"', "the caller") + "`--as user=NAME`"


def test_the_number_of_questions_is_bounded() -> None:
    issuers = "".join(f"issuer i{number} {{ scopes none }}\n" for number in range(9))
    tools = ", ".join(f"TOOL notes/t{number}" for number in range(30))
    policy = f'language 1\n{issuers}agent "coder" {{ issued by i8   acts alone   may {tools} }}\n'
    engine = Engine.from_text(policy)
    probe = CallerProbe(engine, list(sample_questions(engine.kernel, "notes")), {"agent": "coder"}, 40)
    assert probe.helpful_issuers(["issuer"]) is None
    assert probe.left < 0
