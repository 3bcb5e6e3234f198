"""Policies, tests, questions, logs and files in which every name is hostile, for tests of what commands print."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from policyengine.audit import DecisionLog
from policyengine.audit.seal.find_line import LogIndex
from policyengine.audit.seal.proofs import prove_line
from policyengine.engine import Engine
from policyengine.engine.observe_mode import Observe

# Visible characters, and characters with a meaning in some format.
SIGNS = "</script><script>alert(1)</script>|`]]>&'\"\\n -->#%0A*_[x](y)::error::x"
LINES = f"\r\n::error::x\n\t| a |\n### h\n{SIGNS}"  # also valid in an id
ALL = f"\x1b[2J\r\n::error::x\n### h\n\t\x9b31m\x85\u202e\u2028\u2029\u200b\x00\x07{SIGNS}"  # valid in prose only
IN_A_PATH = "\x1b[2J\n::error::x\n### h\n\x9b31m\x85\u202e\u2028\u200b<script>|`]]>&'\"\\n#%0A*_[x](y)"
FOLDER = IN_A_PATH + "\udcff"


def text(value: str) -> str:
    """Return a string literal of a policy, with JSON escapes."""
    return json.dumps(value)


POLICY = f"""language 1
package shop
entity user {{ roles: set<string> }}
entity doc {{ title: string? }}
facts on POST /p/{{id: doc}} {{ body.amount: number   body.name: string? }}
scope s.act as "act" {{ POST /p/{{id: doc}}   GET /a }}
issuer idp {{ url "https://id.example" }}
user where user.roles has {text(LINES)} {{ may s.act }}
agent {text("a " + LINES)} {{
  issued by idp
  acts for any user
  may s.act
}}
anyone {{ may GET /health }}
guard {text("g " + ALL)} on POST /p/{{id: doc}} {{ deny when body.name == {text(LINES)} message {text("m " + ALL)} }}
guard {text("c " + ALL)} on POST /p/{{id: doc}} {{
  confirm by role lead within 15m when body.amount > 10 message {text("please " + ALL)}
  notify {text(LINES)}
}}
rate {text("r " + ALL)} per agent.id on GET /a {{ 2/1m }}
budget {text("b " + ALL)} per user.id on POST /p/{{id: doc}} {{ sum body.amount <= 100 within 24h }}
"""
TESTS = f"""fixture f {{
  given time 2026-06-01T09:00:00Z
  given entities {{ user {text("u " + ALL)} {{ roles: [{text(LINES)}] }}   doc "d" {{ title: {text(ALL)} }} }}
  given agent {text("a " + LINES)} from idp for user {text("u " + ALL)}
  given credential {{ kind: jwt, scopes: ["act"] }}
  given body.amount 1
}}
"""
PASSING = f"""test {text("t " + ALL)} {{
  use f
  GET /a => allow
  POST /p/d {{ body.name: {text(ALL)} }} => allow
}}
"""
FAILING = f"""test {text("t " + ALL)} {{
  use f
  POST /p/d {{ body.name: {text(LINES)} }} => allow
  GET /nothing {{ body.name: {text(ALL)} }} => allow
}}
test {text("s " + ALL)} {{ skip {text("later " + ALL)} GET /health => deny }}
"""
BROKEN = f"""package shop
agent {text(ALL)} {{ may GET /x }}
guard {text("g " + ALL)} on POST /p/:x {{ deny message {text(ALL)} }}
guard {text("g " + ALL)} on POST /p {{ deny when body.{"x" * 9} == {text(LINES)} }}
agent "\x1b[2J\x9b\u202e\u200b" {{ may tools.{"y" * 9} }}
"""
OTHER = POLICY.replace("budget", "# \nbudget").replace("body.amount > 10", "body.amount > 20").replace("2/1m", "3/1m")


def question(path: str = "/p/d", **body: object) -> dict[str, object]:
    return {
        "request": {
            "method": "POST" if path == "/p/d" else "GET",
            "path": path,
            "host": "h.example",
            "headers": {"x-a": ALL, "authorization": ALL},
            "query": {"q": [ALL + "\ud800"]},
        },
        "agent": {"id": "a " + LINES, "issuer": "idp"},
        "user": {"id": "u " + ALL.replace("\x00", "")},
        "credential": {"kind": "jwt", "scopes": ["act", ALL], "claims": {ALL: ALL}},
        "body": {"amount": 11, "name": ALL, ALL: ALL, **body},
        "context": {"of": ALL},
    }


ROWS = [
    {"type": "user", "id": "u " + ALL.replace("\x00", ""), "attributes": {"roles": [LINES]}},
    {"type": "doc", "id": "d", "attributes": {"title": ALL}},
]
SPECIFICATION = {
    "openapi": "3.0.3",
    "info": {"title": ALL, "description": ALL, "version": ALL},
    "tags": [{"name": ALL, "description": ALL}],
    "paths": {
        "/pets": {"get": {"tags": [ALL], "summary": ALL, "description": ALL, "operationId": ALL}},
        "/pets/{petId}": {
            "delete": {
                "tags": [ALL],
                "summary": ALL,
                "parameters": [{"name": ALL, "in": "query", "description": ALL, "schema": {"type": "string"}}],
            }
        },
        f"/odd/{SIGNS}": {"get": {"summary": ALL}},
    },
    "components": {"securitySchemes": {ALL: {"type": "apiKey", "name": ALL, "in": "header"}}},
}


def write_world(root: Path) -> str:
    """Write files with short names and a folder with a hostile one. Return the ID of a decision in the log."""
    odd = Path(os.fsdecode(os.fsencode(root / FOLDER)))
    odd.mkdir()
    for folder, parts in {
        "good": (POLICY, TESTS, PASSING),
        "other": (OTHER, TESTS, PASSING),
        "failing": (POLICY, TESTS, FAILING),
        "broken": (BROKEN,),
    }.items():
        (odd / folder).mkdir()
        (odd / folder / f"{IN_A_PATH}.policy").write_text("".join(parts), encoding="utf-8")
    (odd / "request.json").write_text(json.dumps(question()))
    (odd / "denied.json").write_text(json.dumps(question("/nothing")))
    (odd / "odd.json").write_text(json.dumps({**question(), "agent": {"id": ALL + "\ud800", "issuer": ALL}, ALL: 1}))
    (odd / "entities.json").write_text(json.dumps({"entities": ROWS}))
    (odd / "bad-entities.json").write_text(json.dumps({"entities": [{"type": ALL, "id": ALL, ALL: ALL}]}))
    (odd / "api.json").write_text(json.dumps(SPECIFICATION))
    (odd / "bad-api.json").write_text(json.dumps({**SPECIFICATION, "paths": {"/a": {"get": {"$ref": "#/" + ALL}}}}))
    (odd / "broken" / "policyengine.toml").write_text(f"[lint]\nselect = [{text('no ' + SIGNS)}]\n")
    (odd / "policyengine.toml").write_text(f"[serve]\nhost = {text(LINES)}\nentities = [{text(LINES)}]\n")
    (odd / "hooked").mkdir()
    (odd / "hooked" / "policyengine.toml").write_text(
        f"[webhooks.a]\nurl_file = {text(SIGNS)}\nformat = 'slack'\napprovers = [{text(LINES)}]\n"
    )
    (odd / "trace.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (question("/a"), question())))
    event = {"at": 1, "agent": ALL, "issuer": ALL, "run": ALL, "endpoint": ALL}
    (odd / "events.jsonl").write_text(json.dumps(event) + "\n" + json.dumps({**event, "at": 2, "run": SIGNS}) + "\n")
    labels = [{"run": ALL, "label": "normal"}, {"run": SIGNS, "label": ALL}]
    (odd / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    return write_log(odd)


def write_log(odd: Path) -> str:
    log = DecisionLog(odd / "log.jsonl")
    engine = Engine.load(odd / "good", entities=odd / "entities.json", log=log)
    engine.observe(Observe(datetime.now(UTC) + timedelta(hours=1)))
    ids = [engine.decide(one).id for one in (question(), question("/a"), question("/nothing"), question(name=LINES))]
    engine.decide({**question("/health"), "agent": {"id": ALL, "issuer": ALL}})
    log.close()
    found = LogIndex(odd / "log.jsonl", odd / "log.jsonl.tlog").find(ids[0])
    assert found is not None
    (odd / "proof").write_text(str(prove_line(odd / "log.jsonl.tlog", found.line, found.index)))
    with (odd / "log.jsonl").open("a") as file:
        file.write(json.dumps({"v": ALL}) + "\n")
        file.write(json.dumps({"v": 1, "time": ALL, "call": ALL, ALL: ALL}) + "\n")
    return ids[0]
