"""The rules of a path: every pattern that matches is found, and requests of strangers do not fill the memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from policyengine.analysis.slices import Slices
from policyengine.compiler import branches
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore
from policyengine.evaluator.program import MAX_HEADS
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.reference import decide

CROSSING = "\n".join(
    f'guard "{"".join(way)}" on GET /{"/".join(way)} {{ warn message "{"".join(way)}" }}'
    for way in product("a*", repeat=5)
)


def warned(engine: Engine, path: str) -> list[str | None]:
    decision = engine.decide({"request": {"method": "GET", "path": path}})
    assert decision.allowed
    return [one.message for one in decision.obligations]


@pytest.mark.parametrize("most", [0, 3, branches.MOST_BRANCHES])
def test_patterns_that_cross_in_every_way_are_all_found_however_few_branches_are_kept(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(branches, "MOST_BRANCHES", most)
    engine = Engine.from_text(f"package p\nanyone {{ may GET /** }}\n{CROSSING}")
    for way in product("ab", repeat=5):
        names = ["".join(one) for one in product(*("a*" if part == "a" else "*" for part in way))]
        assert sorted(map(str, warned(engine, "/" + "/".join(way)))) == sorted(names)
    assert len(engine.decider.compiled.evaluator.program.make_rules.__self__.paths._branches) <= most


def test_a_walk_finds_a_literal_a_capture_an_affix_and_the_rest_at_once() -> None:
    engine = Engine.from_text("""package p
anyone { may GET /** }
guard "literal" on /users/me { warn message "literal" }
guard "capture" on /users/{id} { warn message "capture" }
guard "affix" on /users/{name}.json { warn message "affix" }
guard "rest" on /users/** { warn message "rest" }
""")
    assert warned(engine, "/users/me") == ["capture", "literal", "rest"]
    assert warned(engine, "/users/7") == ["capture", "rest"]
    assert warned(engine, "/users/7.json") == ["affix", "capture", "rest"]
    assert warned(engine, "/users/.json") == ["capture", "rest"]
    assert warned(engine, "/users") == ["rest"]
    assert warned(engine, "/users/7/x/y") == ["rest"]
    assert warned(engine, "/other") == []


SPELLED = """package p
anyone { may GET /v1/{one}, GET /v1/{one}/{two} }
guard "secret" on /v1/secret { warn message "secret" }
guard "below" on /v1/Secret/{two} { warn message "below" }
guard "shown" on /v1/{name}.JSON { warn message "shown" }
"""


@pytest.mark.parametrize("most", [0, branches.MOST_BRANCHES])
def test_a_walk_finds_other_spellings_whatever_was_requested_before(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(branches, "MOST_BRANCHES", most)
    engine = Engine.from_text(SPELLED)
    for _ in range(2):
        assert warned(engine, "/v1/other") == []
        assert (
            warned(engine, "/v1/secret") == warned(engine, "/v1/SECRET") == warned(engine, "/v1/Secret") == ["secret"]
        )
        assert warned(engine, "/v1/secret/x") == warned(engine, "/v1/SeCret/X") == ["below"]
        assert warned(engine, "/v1/secreT.json") == warned(engine, "/v1/secret.JSON") == ["shown"]
        assert warned(engine, "/v1/%C4%B1.jso%6E") == ["shown"]


BOUND = """package p
entity file { owner: string   locked: bool }
scope files { GET /files/{id: file} }
issuer i { scopes none }
user "bob" { may GET /** when resource.owner == "bob" }
user "eve" { may GET /** when params.id == file "a" }
user any { may GET /** when user.id == "ann" }
guard "locked" on files { deny when resource.locked }
"""


@pytest.mark.parametrize(
    ("user", "path", "allowed"),
    [("bob", "/files/a", True), ("bob", "/FILES/a", False), ("eve", "/files/a", True), ("eve", "/Files/a", False),
     ("ann", "/files/a", True), ("ann", "/FILES/a", True), ("ann", "/FILES/A", False), ("ann", "/other", True)],
)  # fmt: skip
def test_grants_read_exact_bindings_and_guards_read_bindings_in_any_case(
    tmp_path: Path, user: str, path: str, allowed: bool
) -> None:
    (tmp_path / "p.policy").write_text(BOUND)
    rows = [{"type": "file", "id": id_, "attributes": {"owner": "bob", "locked": id_ == "A"}} for id_ in "aA"]
    (tmp_path / "rows.json").write_text(json.dumps({"entities": rows}))
    engine = Engine.load(tmp_path / "p.policy", entities=tmp_path / "rows.json")
    asked = {"request": {"method": "GET", "path": path}, "user": {"id": user}, "credential": {"issuer": "i"}}
    for _ in range(2):
        assert engine.decide(asked).allowed is allowed


def test_another_spelling_is_looked_up_even_if_no_pattern_distinguishes_the_segments() -> None:
    engine = Engine.from_text('package p\nanyone { may GET /** }\nguard "g" on GET /v1/secret { deny }')
    asked = ["/v1/other", "/v1/SECRET", "/v1/secret", "/v1/x/y", "/v1/secreT"]
    found = [engine.decide({"request": {"method": "GET", "path": path}}).allowed for path in asked * 2]
    assert found == [True, False, False, True, False] * 2


def test_requests_of_strangers_are_not_cached() -> None:
    engine = Engine.from_text("""package p
issuer acme { scopes none }
agent "bot" { issued by acme  acts alone  may GET /things/{id}, TOOL mail/*, ACTION read thing }
entity thing {}
guard "all" on /** { audit full when request.method == "GET" }
""")
    program = engine.decider.compiled.evaluator.program
    builder = program.make_rules.__self__

    def kept() -> list[int]:
        rules = builder.rules.values()
        return [
            len(builder.paths._branches), len(rules), sum(len(one.agents._blocks) for one in rules),
            sum(len(one.agents._names) for one in rules), len(program.verdicts), len(builder.nodes.slots),
        ]  # fmt: skip

    def respelled(text: str, n: int) -> str:
        return "".join(char.upper() if n >> place & 1 else char for place, char in enumerate(text))

    def ask(n: int) -> None:
        who: dict[str, Any] = {"agent": {"id": f"stranger{n}", "issuer": "acme", "groups": [f"g{n}"]}}
        for place in (
            {"request": {"method": "GET", "path": f"/things/{n}/more{n}/{n}"}},
            {"request": {"method": f"M{'A' * (n % 9)}", "path": f"/x{n}/y"}},
            {"request": {"method": "GET", "path": f"/{respelled('things', n)}/{n}"}},
            {"tool": {"server": f"s{n}", "name": f"t{n}"}},
            {"tool": {"server": "mail", "name": f"t{n}"}},
            {"action": {"name": f"v{n}"}, "resource": {"type": f"t{n}", "id": "1"}},
        ):
            assert not engine.decide({**place, **who}).allowed

    for n in range(20):
        ask(n)
    before = kept()
    for n in range(20, 1_000):
        ask(n)
    assert kept() == before
    assert len(program.heads) <= MAX_HEADS


def test_heads_of_paths_are_forgotten_before_they_fill_the_memory() -> None:
    engine = Engine.from_text("package p\nanyone { may GET /** }")
    heads, most = engine.decider.compiled.evaluator.program.heads, 0
    for n in range(MAX_HEADS + 50):
        assert engine.decide({"request": {"method": "GET", "path": f"/a{n}/b{n}/c"}}).allowed
        most = max(most, len(heads))
    assert most == MAX_HEADS
    assert len(heads) <= 50


def test_a_slice_contains_only_what_affects_one_request() -> None:
    blocks = "\n".join(f'agent "a{n}" {{ issued by i  acts alone  may GET /x{n}/{{id}} }}' for n in range(300))
    guards = "\n".join(f'guard "g{n}" on /x{n}/** {{ warn when request.size > 1 }}' for n in range(300))
    engine = Engine.from_text(f"package p\nissuer i {{ scopes none }}\n{blocks}\n{guards}")
    asked = Request.from_mapping(
        {"request": {"method": "GET", "path": "/x7/1", "size": 0.5}, "agent": {"id": "a7", "issuer": "i"}}
    )
    small = Slices(engine.decider.compiled.evaluator).of(asked)
    assert [block.label for block in small.agents] == ['agent "a7"']
    assert [guard.name for guard in small.guards] == ["g7"]
    now = datetime(2027, 1, 4, tzinfo=UTC)
    whole, part = (decide(one, asked, Snapshot(EntityStore()), now) for one in (engine.kernel, small))
    assert whole == part
