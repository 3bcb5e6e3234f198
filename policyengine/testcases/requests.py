"""What a test asks: one concrete endpoint in its wire shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from policyengine.checker.patterns.endpoints import HTTP_METHODS, STANDARD_METHODS, read_endpoint
from policyengine.checker.types.constants import lower_id
from policyengine.diagnostics.model import suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.catalogue import Catalogue
from policyengine.testcases.scenario import World
from policyengine.testcases.values import Reading
from policyengine.typesystem import EntityRef

HOLE = re.compile(r"\{([^{}]*)\}")
CONCRETE = "a request of a test has one path: write it out"


@dataclass(frozen=True, slots=True)
class Asked:
    """One endpoint: as people write it, and as the wire has it."""

    text: str
    members: Mapping[str, Mapping[str, object]]


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def asked(request: ast.TestRequest, reading: Reading) -> tuple[Asked, ...]:
    """What the request asks: once for each method. Nothing where something was reported."""
    match request:
        case ast.Http(methods, path, path_span):
            filled = fill(path, path_span, reading) if not is_pattern(path, path_span, reading) else None
            check_methods(request, reading)
            return () if filled is None else tuple(http(methods, filled, filled))
        case ast.RawHttp(methods, path):
            known = HOLE.sub(lambda hole: value_of(hole[1], hole[0], reading), path.value)
            return tuple(http(methods, known, path.span.text))
        case ast.Tool(pattern):
            return tool(pattern, request.span, reading)
        case ast.Action(verb, type_):
            return action(verb.text, type_, None, reading)
        case ast.ActionOn(verb, type_, id_):
            return action(verb.text, type_, id_, reading)
        case ast.Reserved():
            read_endpoint(request, reading.package, reading.catalogue.program, opening=False)
            return ()
        case _:
            assert_never(request)


def http(methods: tuple[str, ...], path: str, shown: str) -> Iterator[Asked]:
    """`ANY` is asked once for each of the methods that it opens."""
    every = (m for method in methods for m in (STANDARD_METHODS if method == "ANY" else (method,)))
    for method in dict.fromkeys(every):
        yield Asked(f"{method} {shown}", {"request": {"method": method, "path": path}})


def check_methods(request: ast.Http, reading: Reading) -> None:
    for method in request.methods:
        if method not in HTTP_METHODS:
            meant = suggest(method, HTTP_METHODS)
            hint = f"did you mean `{meant}`?" if meant else "methods are matched as written"
            reading.report("W321", f"HTTP knows no method `{method}`", request.span, hint)


def is_pattern(path: str, span: Span, reading: Reading) -> bool:
    typed = next((hole for hole in HOLE.finditer(path) if ":" in hole[1]), None)
    if typed is None and "*" not in path:
        return False
    what = f"`{typed[0]}` captures, and a test asks" if typed else "`*` stands for many paths, and a test asks"
    reading.report("E616", f"{what} for one", span, CONCRETE)
    return True


def fill(path: str, span: Span, reading: Reading) -> str | None:
    """The path with the values of the variables it names in braces."""
    for hole in HOLE.finditer(path):
        if hole[1] not in reading.variables:
            place = Span(span.source, span.start + hole.start(), span.start + hole.end())
            meant = suggest(hole[1], reading.variables)
            hint = f"did you mean `{{{meant}}}`?" if meant else CONCRETE
            reading.report("E616", f"`{hole[0]}` is no variable here", place, hint)
            return None
    return HOLE.sub(lambda hole: value_of(hole[1], hole[0], reading), path)


def value_of(name: str, otherwise: str, reading: Reading) -> str:
    value = reading.variables.get(name, otherwise)
    return value.id if isinstance(value, EntityRef) else str(value)


def tool(pattern: str, span: Span, reading: Reading) -> tuple[Asked, ...]:
    if "*" in pattern:
        message = "`*` stands for many tools, and a test asks for one"
        reading.report("E616", message, span, "write the name of one tool")
        return ()
    if read_endpoint(ast.Tool(pattern, span=span), reading.package, reading.catalogue.program, opening=False) is None:
        return ()
    server, slash, name = pattern.partition("/")
    member = {"server": server, "name": name} if slash else {"name": pattern}
    return (Asked(f"TOOL {pattern}", {"tool": member}),)


def action(verb: str, type_: ast.Name, id_: ast.Text | None, reading: Reading) -> tuple[Asked, ...]:
    symbol = reading.catalogue.program.find(reading.package, "entity", type_)
    resource: dict[str, object] = {"type": symbol.name if symbol else type_.text}
    if id_ is not None:
        lower_id(id_, reading.report)
        resource["id"] = HOLE.sub(lambda hole: value_of(hole[1], hole[0], reading), id_.value)
    text = f"ACTION {verb} {type_.text}" + (f' "{resource["id"]}"' if id_ is not None else "")
    return (Asked(text, {"action": {"name": verb}, "resource": resource}),) if symbol else ()


# ── The whole question ────────────────────────────────────────────────────────────────────────


def question(endpoint: Asked, world: World, catalogue: Catalogue) -> dict[str, object]:
    """The request as it would come over the wire."""
    facts = with_chain(with_issuer(world.facts), world.now)
    attestation = facts.get("attestation")
    if isinstance(attestation, Mapping):
        facts["attestation"] = catalogue.attested(attestation)
    for root, members in endpoint.members.items():
        given = facts.get(root)
        kept = root == "request" or "id" not in members  # a resource without an id may have one given
        facts[root] = {**(given if isinstance(given, Mapping) and kept else {}), **members}
    return facts


def with_issuer(facts: Mapping[str, object]) -> dict[str, object]:
    """The credential is the agent's own: its issuer is the agent's, unless another one, or none, is given."""
    agent, credential = facts.get("agent"), facts.get("credential", {})
    issuer = agent.get("issuer") if isinstance(agent, Mapping) else None
    if issuer is None or not isinstance(credential, Mapping):
        return dict(facts)
    return {**facts, "credential": {"issuer": issuer, **credential}}


def with_chain(facts: dict[str, object], now: datetime) -> dict[str, object]:
    """Hops of the presenter's own issuer, issued at the time of the request, unless they say otherwise."""
    chain = facts.get("chain")
    hops = chain.get("hops") if isinstance(chain, Mapping) else None
    if not isinstance(hops, tuple):
        return facts
    said = (facts.get(root) for root in ("agent", "credential"))
    issuers = (one.get("issuer") for one in said if isinstance(one, Mapping))
    issuer = next((one for one in issuers if one is not None), None)
    return {**facts, "chain": {"hops": tuple(hop_at(hop, issuer, now) for hop in hops)}}


def hop_at(hop: Mapping[str, object], issuer: object, now: datetime) -> dict[str, object]:
    age = hop.get("age", timedelta(0))
    issued = {"issued_at": now - age} if isinstance(age, timedelta) else {}
    return {"issuer": issuer, **issued, **{name: value for name, value in hop.items() if name != "age"}}
