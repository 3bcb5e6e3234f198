"""A built-in fact and an operator, each added as one row to a copy of its table, and what the project then does with
them, as JSON. Runs in its own interpreter, because many modules build tables from those when they are imported."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
NOW = datetime(2027, 1, 1, tzinfo=UTC)


def import_changed(name: str, old: str, new: str) -> ModuleType:
    """Import a module of the project with `new` in place of `old` in its text, for all later imports."""
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{name} has `{old}` {text.count(old)} times"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(text.replace(old, new), path, "exec"), module.__dict__)
    package, _, last = name.rpartition(".")
    setattr(sys.modules[package], last, module)
    return module


def command(*arguments: str, **files: str) -> str:
    """Return what a command prints about files of these texts, in its own folder."""
    from policyengine.cli import main

    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        for stem, text in files.items():
            Path(folder, f"{stem}.policy").write_text(text, encoding="utf-8")
        with redirect_stdout(out), redirect_stderr(err):
            main([one.replace("@", f"{folder}/") for one in arguments])
        return (out.getvalue() + err.getvalue()).replace(folder, "")


def decisions(text: str, question: Mapping[str, Any]) -> tuple[str, str]:
    """Return the decisions of the specification and of the engine."""
    from policyengine.engine import Engine
    from policyengine.entities.store import EntityStore
    from policyengine.runtime.request import Request
    from policyengine.runtime.snapshot import Snapshot
    from policyengine.spec.reference import decide

    engine = Engine.from_text(text)
    by_rule, _ = decide(engine.kernel, Request.from_mapping(question), Snapshot(EntityStore()), NOW)
    return str(by_rule.outcome), str(engine.decide(dict(question)).outcome)


# ── A fact ────────────────────────────────────────────────────────────────────────────────────

FACT_ROWS = """
    BuiltInFact(("agent", "version"), _S, "the version it says it is", FactOrigin.CREDENTIAL, optional=True),
    BuiltInFact(("device", "managed"), _B, "whether the device is enrolled", FactOrigin.CREDENTIAL, optional=True),
    BuiltInFact(("request", "http2"), _B, "whether it came by HTTP/2", optional=True),
)  # fmt: skip

# Values for every caller"""
FACT_POLICY = """
issuer acme { scopes none }
agent "*" {
  issued by acme
  acts alone
  may GET /a when agent.version == "2" and device.managed
}
guard "old" on GET /a { deny when request.http2 == false }
"""
CALLER = {"agent": {"id": "bot", "issuer": "acme", "version": "2"}, "device": {"managed": True}}
HTTP2 = {"method": "GET", "path": "/a", "http2": True}
FACT_TEST = """
test "t" {
  given agent "bot" from acme { version: "2" }
  given device { managed: true }
  given request { http2: true }
  GET /a => allow
}
"""


def fact_formatting() -> str:
    return command("fmt", "--diff", "@p.policy", p=FACT_POLICY.replace("==", "  =="))


def fact_mistakes() -> str:
    return command("check", "@p.policy", p=FACT_POLICY.replace("agent.version ==", "agent.verson ==")) + command(
        "check", "@p.policy", p=FACT_POLICY.replace('"2"', "2")
    )


def fact_decisions() -> dict[str, tuple[str, str]]:
    asked = {
        "right": {**CALLER, "request": HTTP2},
        "wrong": {**CALLER, "request": {**HTTP2, "http2": False}},
        "absent": {**CALLER, "device": {}, "request": HTTP2},
        "of another type": {**CALLER, "agent": {**CALLER["agent"], "version": 2}, "request": HTTP2},
    }
    return {name: decisions(FACT_POLICY, question) for name, question in asked.items()}


def fact_in_the_program() -> list[str]:
    """Return the added facts for which the program has slots."""
    from policyengine.engine import Engine

    engine = Engine.from_text(FACT_POLICY)
    engine.decide({**CALLER, "request": HTTP2})
    builder = engine.decider.compiled.evaluator.program.make_rules.__self__
    return sorted(".".join(path) for path in builder.nodes.by_path)


def fact_reading() -> str:
    from policyengine.runtime.request import Request, RequestError

    try:
        Request.from_mapping({"request": {"method": "GET", "path": "/a"}, "agent": {"verson": "2"}})
    except RequestError as error:
        return str(error.hint)
    return "read"


def fact_documents() -> dict[str, Any]:
    from docs.generate import facts
    from policyengine.server.openapi import schema

    models = schema.components()
    return {
        "docs": facts(),
        "agent": models["AgentFacts"]["properties"].get("version"),
        "device": models.get("DeviceFacts"),
        "question": sorted(models["Question"]["properties"]),
    }


def fact_at_gateways() -> list[str]:
    from policyengine.http.gateway_headers import GatewayHeaders
    from policyengine.http.gateway_omissions import ForwardedParts
    from policyengine.http.gateway_questions import GatewayQuestionBuilder, RequestTarget

    given = {"x-agent-id": ("bot",), "x-agent-issuer": ("acme",)}
    target = RequestTarget("GET", "/a", "api.example")
    return GatewayQuestionBuilder(GatewayHeaders(), ForwardedParts(None, False)).build(target, given)["pending"]  # type: ignore[return-value]


def fact_only_proved() -> list[str]:
    from policyengine.identity.verified import PROVABLE_ROOTS

    return list(PROVABLE_ROOTS)


def fact_in_generators() -> dict[str, Any]:
    from tests.generate import vocabulary

    known = {atom.text for atoms in vocabulary.EVERYWHERE.values() for atom in atoms}
    return {"given": vocabulary.GIVEN, "known": sorted(known)}


FACT_SURFACES: dict[str, Callable[[], Any]] = {
    "check": lambda: command("check", "@p.policy", p=FACT_POLICY),
    "formatting": fact_formatting,
    "mistakes": fact_mistakes,
    "decisions": fact_decisions,
    "compiled": fact_in_the_program,
    "tests": lambda: command("test", "--coverage", "@p.policy", p=FACT_POLICY + FACT_TEST),
    "mutation": lambda: command("test", "--mutate", "@p.policy", p=FACT_POLICY + FACT_TEST),
    "property": lambda: command(
        "test", "@p.policy", p=FACT_POLICY + 'test "c" { forall request where agent.version == "2" => not allow }'
    ),
    "diff": lambda: command("diff", "@p.policy", "@q.policy", p=FACT_POLICY, q=FACT_POLICY.replace('"2"', '"3"')),
    "reading": fact_reading,
    "documents": fact_documents,
    "gateways": fact_at_gateways,
    "proved": fact_only_proved,
    "generators": fact_in_generators,
}


def add_fact() -> None:
    import policyengine  # noqa: F401

    sys.path.insert(0, str(ROOT))
    import_changed("policyengine.vocabulary", ")  # fmt: skip\n\n# Values for every caller", FACT_ROWS)


# ── An operator ───────────────────────────────────────────────────────────────────────────────

GRAMMAR_LINE = ('    | "in" | "not" "in"', '    | "starts" "with" | "in" | "not" "in"')
OPERATOR_POLICY = """
facts on POST /a { body.name: string   body.prefix: string?   body.count: int }
anyone { may POST /a when body.name starts with "acme-" }
guard "own" on POST /a { deny when not (body.name starts with body.prefix else "a") }
"""
OPERATOR_TEST = """
test "t" { POST /a { body.name: "acme-1", body.prefix: "acme" } => allow }
"""
NAMED = {"request": {"method": "POST", "path": "/a"}, "body": {"name": "acme-1", "prefix": "acme"}}


def operator_mistakes() -> str:
    changes = (('"acme-"', "7"), ("when body.name", "when body.count"))
    return "".join(command("check", "@p.policy", p=OPERATOR_POLICY.replace(*change)) for change in changes)


def operator_decisions() -> dict[str, tuple[str, str]]:
    bodies = {
        "right": {}, "wrong": {"name": "evil-1"}, "absent": {"name": None}, "of another type": {"name": 7},
        "guarded": {"prefix": "acme-2"},
    }  # fmt: skip
    return {
        name: decisions(OPERATOR_POLICY, {**NAMED, "body": {**NAMED["body"], **more}}) for name, more in bodies.items()
    }


def operator_in_bundle() -> str:
    """Return what a bundle is decoded to: the relation with its operator, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        policy, bundle = Path(folder, "p.policy"), Path(folder, "p.bundle")
        policy.write_text(OPERATOR_POLICY, encoding="utf-8")
        from policyengine.cli import main
        from policyengine.engine import Engine

        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as told:
            code = main(["compile", str(policy), "-o", str(bundle)])
        return str(Engine.from_bundle(bundle).decide(dict(NAMED)).outcome) if code == 0 else told.getvalue()


def operator_docs() -> str:
    from docs.generate import relations

    return relations()


OPERATOR_SURFACES: dict[str, Callable[[], Any]] = {
    "check": lambda: command("check", "@p.policy", p=OPERATOR_POLICY),
    "formatting": lambda: command(
        "fmt", "--diff", "@p.policy", p=OPERATOR_POLICY.replace('starts with "', 'starts   with   "')
    ),
    "mistakes": operator_mistakes,
    "decisions": operator_decisions,
    "bundle": operator_in_bundle,
    "tests": lambda: command("test", "--coverage", "@p.policy", p=OPERATOR_POLICY + OPERATOR_TEST),
    "mutation": lambda: command("test", "--mutate", "@p.policy", p=OPERATOR_POLICY + OPERATOR_TEST),
    "property": lambda: command(
        "test", "@p.policy", p=OPERATOR_POLICY + 'test "c" { forall request where body.prefix == "acme" => not allow }'
    ),
    "diff": lambda: command(
        "diff", "@p.policy", "@q.policy", p=OPERATOR_POLICY, q=OPERATOR_POLICY.replace('"acme-"', '"acme"')
    ),
    "docs": operator_docs,
}


def add_operator() -> None:
    import policyengine.syntax.parse_table as parse_table

    sys.path.insert(0, str(ROOT))
    grammar = parse_table.GRAMMAR.read_text(encoding="utf-8")
    assert grammar.count(GRAMMAR_LINE[0]) == 1
    changed = Path(tempfile.mkdtemp()) / "policy.lark"
    changed.write_text(grammar.replace(*GRAMMAR_LINE), encoding="utf-8")
    parse_table.GRAMMAR = changed
    from policyengine.kernel.binary_relations import RELATIONS, Operands, RelationRow

    RELATIONS["starts with"] = RelationRow(
        "starts with",
        Operands.STRINGS,
        "the left text begins with the right one",
        'body.path starts with "/srv/"',
        lambda text, start: text.startswith(start),
        samples=lambda start: (start, f"{start}x"),
        flipped="like",
    )


if __name__ == "__main__":
    add_fact()
    add_operator()
    additions = {"fact": FACT_SURFACES, "operator": OPERATOR_SURFACES}
    print(json.dumps({name: {at: surface() for at, surface in some.items()} for name, some in additions.items()}))
