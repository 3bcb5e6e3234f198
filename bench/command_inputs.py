"""Specifications, rows, requests and logs for `commands`, each growing along one axis."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.command_policies import Text, overlapping, scopes


def write_policy(text: Text) -> Callable[[Path, int], None]:
    """Write `old.policy`, a request, and `new.policy`, which differs in one rule."""

    def write(folder: Path, count: int) -> None:
        old = text(count)
        (folder / "old.policy").write_text(old, encoding="utf-8")
        changed = old.replace("body.amount > 3 ", "body.amount > 4 ").replace("body.amount == 3 ", "body.amount == 5 ")
        (folder / "new.policy").write_text(changed, encoding="utf-8")
        write_json(folder / "request.json", make_question("/s0"))

    return write


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def make_question(path: str, **more: Any) -> dict[str, Any]:
    return {
        "request": {"method": "GET", "path": path},
        "agent": {"id": "bot", "issuer": "acme"},
        "credential": {"kind": "jwt", "scopes": ["s0"]},
        "body": {"amount": 3},
        **more,
    }


# ── Specifications ────────────────────────────────────────────────────────────────────────────


def specification(paths: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"openapi": "3.0.0", "info": {"title": "large", "version": "1"}, "paths": paths, **more}


def operations(paths: list[str], *methods: str) -> dict[str, Any]:
    return {path: {method: {} for method in methods or ("get",)} for path in paths}


def api_paths(count: int) -> dict[str, Any]:
    return specification(operations([f"/r{number}/{{id}}" for number in range(count)], "get", "post"))


def api_one_area(count: int) -> dict[str, Any]:
    return specification(operations([f"/shop/r{number}" for number in range(count)]))


def api_overlapping(count: int) -> dict[str, Any]:
    return specification(operations(overlapping(count)))


def api_crossing(count: int) -> dict[str, Any]:
    half = range(count // 2)
    return specification(operations([*(f"/a{n}/{{x}}" for n in half), *(f"/{{y}}/b{n}" for n in half)]))


def api_deletes(count: int) -> dict[str, Any]:
    return specification(operations([f"/r{number}/{{id}}" for number in range(count)], "get", "delete"))


def api_members(count: int) -> dict[str, Any]:
    """Return a specification whose one operation has `count` members in its body."""
    schema = {"type": "object", "properties": {f"m{number}": {"type": "string"} for number in range(count)}}
    return specification({"/x": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}}})


def api_schemas(count: int) -> dict[str, Any]:
    """Return a specification in which each schema references the previous one twice."""
    link = {"$ref": "#/components/schemas/S{}"}
    schemas: dict[str, Any] = {"S0": {"type": "object", "properties": {"m": {"type": "string"}}}}
    for number in range(1, count):
        before = {"$ref": link["$ref"].format(number - 1)}
        schemas[f"S{number}"] = {"type": "object", "properties": {"a": before, "b": before}}
    content = {"application/json": {"schema": {"$ref": link["$ref"].format(count - 1)}}}
    return specification({"/x": {"post": {"requestBody": {"content": content}}}}, components={"schemas": schemas})


def api_scopes(count: int) -> dict[str, Any]:
    paths = {f"/r{n}": {"get": {"security": [{"o": [f"scope{n}", f"scope{n + 1}"]}]}} for n in range(count)}
    flows = {
        "clientCredentials": {"tokenUrl": "https://x.example", "scopes": {f"scope{n}": "" for n in range(count + 1)}}
    }
    return specification(paths, components={"securitySchemes": {"o": {"type": "oauth2", "flows": flows}}})


def api_tags(count: int) -> dict[str, Any]:
    return specification({f"/r{n}": {"get": {"tags": [f"tag {n}"], "operationId": "same"}} for n in range(count)})


def mcp_tools(count: int) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"path": {"type": "string"}, "count": {"type": "integer"}}}
    return {
        "tools": [{"name": f"tool_{number}", "description": "a tool", "inputSchema": schema} for number in range(count)]
    }


def duplicate_key(folder: Path, count: int) -> None:
    members = ",".join(f'"k{number}":1' for number in range(count))
    (folder / "api.json").write_text(f'{{{members},"k{count - 1}":2}}', encoding="utf-8")


def write_api(make: Callable[[int], dict[str, Any]]) -> Callable[[Path, int], None]:
    return lambda folder, count: write_json(folder / "api.json", make(count))


def write_yaml(make: Callable[[int], dict[str, Any]]) -> Callable[[Path, int], None]:
    def write(folder: Path, count: int) -> None:
        written = ["openapi: 3.0.0", "info: {title: large, version: '1'}", "paths:"]
        for path, methods in make(count)["paths"].items():
            written += [f'  "{path}":', *(f"    {method}: {{}}" for method in methods)]
        (folder / "api.yaml").write_text("\n".join(written) + "\n", encoding="utf-8")

    return write


# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


def entity_row(kind: str, name: str, parents: list[str] | None = None, **attributes: Any) -> dict[str, Any]:
    above = [{"type": "team", "id": parent} for parent in parents or []]
    return {"type": kind, "id": name, "attributes": attributes, "in": above}


def people(count: int) -> list[dict[str, Any]]:
    teams = [entity_row("team", f"t{number}") for number in range(max(1, count // 10))]
    return [*teams, *(entity_row("user", f"u{n}", [f"t{n // 10}"], team="x", level=n) for n in range(count // 10 * 10))]


def team_chain(count: int) -> list[dict[str, Any]]:
    """Return teams, each inside the previous one."""
    return [entity_row("team", f"t{n}", [f"t{n - 1}"] if n else []) for n in range(count)]


def many_parents(count: int) -> list[dict[str, Any]]:
    return [
        *(entity_row("team", f"t{n}") for n in range(count)),
        entity_row("user", "u", [f"t{n}" for n in range(count)]),
    ]


def people_twice(count: int) -> list[dict[str, Any]]:
    return people(count) * 2


def unknown_attributes(count: int) -> list[dict[str, Any]]:
    return [entity_row("user", f"u{n}", **{f"a{n}": 1}) for n in range(count)]


def wrong_values(count: int) -> list[dict[str, Any]]:
    return [entity_row("user", f"u{n}", [f"nowhere{n}"], level="x") for n in range(count)]


def write_rows(make: Callable[[int], list[dict[str, Any]]]) -> Callable[[Path, int], None]:
    def write(folder: Path, count: int) -> None:
        write_policy(scopes)(folder, 2)
        write_json(folder / "rows.json", {"entities": make(count)})

    return write


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


def write_request(make: Callable[[int], str]) -> Callable[[Path, int], None]:
    def write(folder: Path, count: int) -> None:
        write_policy(scopes)(folder, 2)
        (folder / "request.json").write_text(make(count), encoding="utf-8")

    return write


def body_members(count: int) -> str:
    return json.dumps(make_question("/s0", body={f"m{number}": number for number in range(count)}))


def body_twice(count: int) -> str:
    members = ", ".join(f'"m{number}": 1' for number in range(count))
    return json.dumps(make_question("/s0", body="@")).replace('"@"', f'{{{members}, "m{count - 1}": 2}}')


def body_list(count: int) -> str:
    return json.dumps(make_question("/s0", body={"amount": [[number] for number in range(count)]}))


def body_text(count: int) -> str:
    return json.dumps(make_question("/s0", body={"note": "a b" * count}))


def request_path(count: int) -> str:
    return json.dumps(make_question("/s0" * count))


def request_scopes(count: int) -> str:
    return json.dumps(
        make_question("/s0", credential={"kind": "jwt", "scopes": [f"s{number}" for number in range(count)]})
    )


def request_groups(count: int) -> str:
    return json.dumps(
        make_question("/s0", agent={"id": "bot", "issuer": "acme", "groups": [f"g{n}" for n in range(count)]})
    )


def request_rows(count: int) -> str:
    return json.dumps(make_question("/s0", entities=people(count)))


def request_lines(folder: Path, count: int) -> None:
    write_policy(scopes)(folder, 2)
    written = (json.dumps(make_question(f"/s{number}")) for number in range(count))
    (folder / "requests.jsonl").write_text("\n".join(written) + "\n", encoding="utf-8")


# ── Logs ──────────────────────────────────────────────────────────────────────────────────────


def write_log(questions: Callable[[int], Iterator[dict[str, Any]]]) -> Callable[[Path, int], None]:
    """Write a log of decisions of a policy that permits little."""

    def write(folder: Path, count: int) -> None:
        from policyengine.audit import DecisionLog
        from policyengine.engine import Engine

        write_policy(lambda _: scopes(2))(folder, 2)
        log = DecisionLog(folder / "log.jsonl")
        engine = Engine.load(folder / "old.policy", log=log)
        last = [engine.decide(question) for question in questions(count)][-1]
        log.close()
        (folder / "id").write_text(last.id)

    return write


def log_endpoints(count: int) -> Iterator[dict[str, Any]]:
    return (make_question(f"/s{number}") for number in range(count))


def log_same(count: int) -> Iterator[dict[str, Any]]:
    return (make_question("/s0") for _ in range(count))


def log_ids(count: int) -> Iterator[dict[str, Any]]:
    return (make_question(f"/things/{number}/parts/{number % 7}") for number in range(count))


def log_agents(count: int) -> Iterator[dict[str, Any]]:
    return (make_question("/s1", agent={"id": f"a{number}", "issuer": "acme"}) for number in range(count))


def log_users(count: int) -> Iterator[dict[str, Any]]:
    return (make_question("/s1", user={"id": f"u{number}"}) for number in range(count))


def log_bodies(count: int) -> Iterator[dict[str, Any]]:
    return (make_question("/s0", body={"amount": number, "note": f"n{number}"}) for number in range(count))


def log_rows(count: int) -> Iterator[dict[str, Any]]:
    return (
        make_question(f"/s{n}", user={"id": f"u{n}"}, entities=[entity_row("user", f"u{n}", level=n)])
        for n in range(count)
    )


APIS = (
    api_paths, api_one_area, api_overlapping, api_crossing, api_deletes, api_members, api_schemas, api_scopes, api_tags,
)  # fmt: skip
ROWS = (people, team_chain, many_parents, people_twice, unknown_attributes, wrong_values)
REQUESTS = (
    body_members, body_twice, body_list, body_text, request_path, request_scopes, request_groups, request_rows,
)  # fmt: skip
LOGS = (log_endpoints, log_same, log_ids, log_agents, log_users, log_bodies, log_rows)
