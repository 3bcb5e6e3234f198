"""Lists of resource templates: a template is listed if the policy could allow one of its URIs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from policyengine.audit import DecisionLog, read_records
from policyengine.audit.replay import replay_decision
from policyengine.client.http_exchange import to_encodable
from policyengine.engine import Engine
from policyengine.integrations.mcp.methods import DENIED, LIST_METHODS, evaluate_item, is_visible
from policyengine.runtime.decode import decode_extension
from policyengine.runtime.pending_texts import MAX_GLOB_LENGTH, pending_glob, pending_text
from policyengine.runtime.values import Invalid
from tests.generate.specified import said
from tests.integrations.conftest import Watched
from tests.integrations.relaying import relayed

TEMPLATES = LIST_METHODS["resources/templates/list"]
CALLER: dict[str, Any] = {"agent": {"id": "bot", "issuer": "local"}, "credential": {"issuer": "local"}}
POLICY = """
entity mcp_resource { owner: string? }
facts on ACTION read mcp_resource { context.server: string }
issuer local { scopes none }
agent "bot" { issued by local   acts alone   may ACTION read mcp_resource when %s }
%s
"""
SHUT = 'guard "shut" on ACTION read mcp_resource { deny when resource.id like "notes://shut/*" }'


def engine_of(condition: str, guard: str = "") -> Engine:
    return Engine.from_text(POLICY % (condition, guard))


class QuestionsOf:
    """A decision point that compares the engine with the specification. With `is_remote`, questions pass through the
    encoding of the clients of another process."""

    def __init__(self, engine: Engine, *, is_remote: bool = False) -> None:
        self.engine, self.is_remote = engine, is_remote

    async def evaluate_async(self, question: Any) -> Any:
        if self.is_remote:
            encoded = msgspec.msgpack.encode(to_encodable(question))
            question = msgspec.msgpack.decode(encoded, ext_hook=lambda code, data: decode_extension(code, bytes(data)))
        decision = self.engine.evaluate(question)
        assert said(decision) == said(self.engine.explain(question).decision)
        return decision


def is_listed(engine: Engine, template: str, *, is_remote: bool = False) -> bool:
    decides: Any = QuestionsOf(engine, is_remote=is_remote)
    return asyncio.run(is_visible(decides, TEMPLATES, template, "notes", CALLER))


@pytest.mark.parametrize("is_remote", [False, True], ids=["engine", "client"])
@pytest.mark.parametrize(
    ("condition", "template", "listed"),
    [
        ('resource.id like "notes://open/*"', "notes://{box}/{name}", True),
        ('resource.id like "notes://open/*"', "notes://open/{name}", True),
        ('resource.id like "notes://open/*"', "NOTES://open/{name}", True),
        ('resource.id like "notes://open/*"', "notes://{box}{/name}{?q}", True),
        ('resource.id like "notes://open/*"', "{+uri}", True),
        ('resource.id like "notes://open/*"', "notes://shut/{name}", False),
        ('resource.id like "notes://open/*"', "files://open/{name}", False),
        ('resource.id like "notes://open/*"', "notes://%6Fpen/{name}", False),
        ('resource.id like "*/public"', "notes://{box}/secret", False),
        ('resource.id like "*/public"', "notes://{box}/{name}", True),
        ('resource.id == "notes://open/a"', "notes://{box}/{name}", True),
        ('resource.id == "notes://open/a"', "notes://shut/{name}", False),
        ('"notes://open/a" == resource.id', "notes://shut/{name}", False),
        ('resource.id != "notes://open/a"', "notes://shut/{name}", True),
        ('resource.id in ["notes://open/a", "files://b"]', "files://{name}", True),
        ('resource.id in ["notes://open/a", "files://b"]', "files://c/{name}", False),
        ('not (resource.id like "notes://shut/*")', "notes://shut/{name}", False),
        ('not (resource.id like "notes://shut/*")', "notes://{box}/{name}", True),
        ('lower(resource.id) like "notes://open/*"', "notes://OPEN/{name}", True),
        ('resource.id matches "notes://[a-z]*/x"', "notes://{box}/{name}", True),
        ('(resource.id else "") like "notes://open/*"', "notes://shut/{name}", True),  # not told apart
        ('resource.owner == "bot"', "notes://{box}/{name}", True),
        ('context.server == "notes"', "notes://{box}/{name}", True),
        ('context.server == "other"', "notes://{box}/{name}", False),
        ('context.server == "other" and resource.id like "notes://*"', "notes://{box}/{name}", False),
    ],
)
def test_a_template_is_listed_if_one_of_its_uris_could_be_allowed(
    condition: str, template: str, listed: bool, is_remote: bool
) -> None:
    assert is_listed(engine_of(condition), template, is_remote=is_remote) is listed


def test_a_template_of_which_a_guard_denies_every_uri_is_not_listed() -> None:
    engine = engine_of('resource.id like "notes://*"', SHUT)
    assert is_listed(engine, "notes://open/{name}")
    assert is_listed(engine, "notes://{box}/{name}")
    assert not is_listed(engine, "notes://shut/{name}")


def test_a_long_template_is_compared_by_its_beginning() -> None:
    engine = engine_of('resource.id like "notes://open/*"')
    assert is_listed(engine, f"notes://open/{'a' * MAX_GLOB_LENGTH}/{{name}}", is_remote=True)
    assert not is_listed(engine, f"notes://shut/{'a' * MAX_GLOB_LENGTH}/{{name}}", is_remote=True)


@pytest.mark.parametrize("glob", ["notes://\u202e*", "notes://`* is unknown: pending", "*" * 10_000, "\0", "é*"])
def test_a_pending_text_is_short_and_printable_and_matches_more(glob: str) -> None:
    found = pending_text(glob)
    kept = pending_glob(found)
    assert kept is not None
    assert found.why.isprintable()
    assert found.why.count("`") == 2
    assert "*" in kept


@pytest.mark.parametrize("why", ["pending", "pending, like `", "pending, like `" + "a" * 300 + "`", "pending, like `a"])
def test_other_missing_values_have_no_glob(why: str) -> None:
    assert pending_glob(Invalid(why)) in (None, "")
    assert pending_glob("notes://*") is None


def test_a_replay_of_the_log_decides_a_template_again(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log.jsonl", seal=None)
    engine = Engine.from_text(POLICY % ('resource.id like "notes://open/*"', ""), log=log)
    decides: Any = engine
    for name in ("notes://open/{x}", "notes://{x}", "notes://shut/{x}"):
        asyncio.run(evaluate_item(decides, TEMPLATES, name, "notes", CALLER))
    log.close()
    records = list(read_records(log.path))
    assert [(record.call, record.outcome) for record in records] == [
        ("list", "allow"),
        ("list", "deny"),
        ("list", "deny"),
    ]
    assert all(replay_decision(record, engine.kernel).same for record in records)


def test_attack_a_completion_names_no_values_of_a_template_of_which_only_some_uris_are_allowed(
    watched: Watched,
) -> None:
    async def run() -> None:
        async with relayed(watched) as session:
            ref = {"type": "ref/resource", "uri": "docs://{box}/{name}"}
            params = {"ref": ref, "argument": {"name": "box", "value": "s"}}
            assert (await session.refused(1, "completion/complete", params)).code == DENIED
            sent = {"resourceTemplates": [{"uriTemplate": ref["uri"]}, {"uriTemplate": "docs://shut/{name}"}]}
            result = (await session.call(2, "resources/templates/list", None, sent)).result
            assert result["resourceTemplates"] == sent["resourceTemplates"][:1]

    anyio.run(run)
    assert watched.asked == []
