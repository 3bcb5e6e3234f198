"""Requests of tests: one concrete endpoint each, in wire shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from policyengine.checker.patterns.endpoint_reader import HTTP_METHODS, STANDARD_METHODS, read_endpoint
from policyengine.checker.types.constants import lower_id
from policyengine.diagnostics.suggest import did_you_mean, suggest
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.testcases.fact_catalogue import FactCatalogue
from policyengine.testcases.raw_facts import ValueContext
from policyengine.testcases.scenario import Scenario
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import LEARNED_ROOTS

PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
CONCRETE_HINT = "a test request must have a single path: write it out"


@dataclass(frozen=True, slots=True)
class CaseEndpoint:
    """An endpoint as text, and as members of the wire request."""

    text: str
    members: Mapping[str, Mapping[str, object]]


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def read_endpoints(request: ast.TestRequest, reading: ValueContext) -> tuple[CaseEndpoint, ...]:
    """Return the endpoints of a request, one for each method; empty if a mistake was reported."""
    match request:
        case ast.HttpPattern(methods, path, path_span):
            filled = fill_variables(path, path_span, reading) if not is_pattern(path, path_span, reading) else None
            check_methods(request, reading)
            return () if filled is None else tuple(http_endpoints(methods, filled, filled))
        case ast.RawHttp(methods, path):
            known = PLACEHOLDER.sub(lambda hole: variable_text(hole[1], hole[0], reading), path.value)
            return tuple(http_endpoints(methods, known, path.span.text))
        case ast.ToolPattern(pattern):
            return tool_endpoints(pattern, request.span, reading)
        case ast.ActionPattern(verb, type_):
            return action_endpoints(verb.text, type_, None, reading)
        case ast.ActionOn(verb, type_, id_):
            return action_endpoints(verb.text, type_, id_, reading)
        case ast.ReservedWord():
            read_endpoint(request, reading.package, reading.catalogue.program, opening=False)
            return ()
        case _:
            assert_never(request)


def http_endpoints(methods: tuple[str, ...], path: str, shown: str) -> Iterator[CaseEndpoint]:
    """Yield the endpoint of each method. `ANY` means each method that it covers in a policy."""
    every = (m for method in methods for m in (STANDARD_METHODS if method == "ANY" else (method,)))
    for method in dict.fromkeys(every):
        yield CaseEndpoint(f"{method} {shown}", {"request": {"method": method, "path": path}})


def check_methods(request: ast.HttpPattern, reading: ValueContext) -> None:
    for method in request.methods:
        if method not in HTTP_METHODS:
            hint = did_you_mean(method, HTTP_METHODS) or "methods are matched as written"
            reading.report("W321", f"HTTP has no method `{method}`", request.span, hint)


def is_pattern(path: str, span: Span, reading: ValueContext) -> bool:
    typed = next((hole for hole in PLACEHOLDER.finditer(path) if ":" in hole[1]), None)
    if typed is None and "*" not in path:
        return False
    what = typed[0] if typed else "*"
    reading.report("E616", f"`{what}` is not valid in the path of a test request", span, CONCRETE_HINT)
    return True


def fill_variables(path: str, span: Span, reading: ValueContext) -> str | None:
    """Return the path with the values of the variables in braces; None if a mistake was reported."""
    for hole in PLACEHOLDER.finditer(path):
        if hole[1] not in reading.variables:
            place = Span(span.source, span.start + hole.start(), span.start + hole.end())
            meant = suggest(hole[1], reading.variables)
            hint = f"did you mean `{{{meant}}}`?" if meant else CONCRETE_HINT
            reading.report("E616", f"`{hole[0]}` is not a variable here", place, hint)
            return None
    return PLACEHOLDER.sub(lambda hole: variable_text(hole[1], hole[0], reading), path)


def variable_text(name: str, otherwise: str, reading: ValueContext) -> str:
    value = reading.variables.get(name, otherwise)
    return value.id if isinstance(value, EntityRef) else str(value)


def tool_endpoints(pattern: str, span: Span, reading: ValueContext) -> tuple[CaseEndpoint, ...]:
    if "*" in pattern:
        message = "`*` is not valid in the tool of a test request"
        reading.report("E616", message, span, "write the name of one tool")
        return ()
    if (
        read_endpoint(ast.ToolPattern(pattern, span=span), reading.package, reading.catalogue.program, opening=False)
        is None
    ):
        return ()
    server, slash, name = pattern.partition("/")
    member = {"server": server, "name": name} if slash else {"name": pattern}
    return (CaseEndpoint(f"TOOL {pattern}", {"tool": member}),)


def action_endpoints(
    verb: str, type_: ast.Name, id_: ast.Text | None, reading: ValueContext
) -> tuple[CaseEndpoint, ...]:
    symbol = reading.catalogue.program.find(reading.package, "entity", type_)
    resource: dict[str, object] = {"type": symbol.name if symbol else type_.text}
    if id_ is not None:
        lower_id(id_, reading.report)
        resource["id"] = PLACEHOLDER.sub(lambda hole: variable_text(hole[1], hole[0], reading), id_.value)
    text = f"ACTION {verb} {type_.text}" + (f' "{resource["id"]}"' if id_ is not None else "")
    return (CaseEndpoint(text, {"action": {"name": verb}, "resource": resource}),) if symbol else ()


# ── Questions ────────────────────────────────────────────────────────────────────────


def build_question(endpoint: CaseEndpoint, world: Scenario, catalogue: FactCatalogue) -> dict[str, object]:
    """Return the request in wire shape."""
    facts = with_chain(with_issuer(world.facts), world.now)
    for root in LEARNED_ROOTS:
        facts.pop(root, None)  # callers cannot send what is learned about them
    if "tool" not in endpoint.members:
        facts.pop("tool", None)  # facts about the definition of a tool, which `given` states for all requests
    attestation = facts.get("attestation")
    if isinstance(attestation, Mapping):
        facts["attestation"] = catalogue.attested(attestation)
    for root, members in endpoint.members.items():
        given = facts.get(root)
        kept = root == "request" or "id" not in members  # a resource without an id may get one from `given`
        facts[root] = {**(given if isinstance(given, Mapping) and kept else {}), **members}
    return facts


def with_issuer(facts: Mapping[str, object]) -> dict[str, object]:
    """Add the agent's issuer to the credential, unless the test sets the credential's issuer."""
    agent, credential = facts.get("agent"), facts.get("credential", {})
    issuer = agent.get("issuer") if isinstance(agent, Mapping) else None
    if issuer is None or not isinstance(credential, Mapping):
        return dict(facts)
    return {**facts, "credential": {"issuer": issuer, **credential}}


def with_chain(facts: dict[str, object], now: datetime) -> dict[str, object]:
    """Add defaults to the hops of the chain: the presenter's issuer, and an issuing time at `now`, or at the hop's age
    before it.
    """
    chain = facts.get("chain")
    hops = chain.get("hops") if isinstance(chain, Mapping) else None
    if not isinstance(hops, tuple):
        return facts
    said = (facts.get(root) for root in ("agent", "credential"))
    issuers = (one.get("issuer") for one in said if isinstance(one, Mapping))
    issuer = next((one for one in issuers if one is not None), None)
    return {**facts, "chain": {"hops": tuple(complete_hop(hop, issuer, now) for hop in hops)}}


def complete_hop(hop: Mapping[str, object], issuer: object, now: datetime) -> dict[str, object]:
    age = hop.get("age", timedelta(0))
    issued = {"issued_at": now - age} if isinstance(age, timedelta) else {}
    return {"issuer": issuer, **issued, **{name: value for name, value in hop.items() if name != "age"}}
