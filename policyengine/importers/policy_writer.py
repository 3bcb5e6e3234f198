"""Writes scopes and operations as policies in canonical form. `sanitize` has cleaned all untrusted texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from policyengine.importers.approval_guards import confirm_guard_name, confirm_line
from policyengine.importers.model import (
    Api,
    ApiOperation,
    ApiOperationKind,
    DeclaredAction,
    HttpTemplate,
    PathSegment,
    ServerTool,
)
from policyengine.importers.path_overlaps import PathIndex
from policyengine.importers.path_patterns import matches_segment
from policyengine.importers.reconcile_overlaps import overlapping_pairs
from policyengine.importers.scope_plan import CarrierScope, ImportPlan, ScopeGroup
from policyengine.source import Source
from policyengine.syntax.format import format_module

SAMPLE_ID = "x1"
SAMPLE_VALUES = {
    "string": f'"{SAMPLE_ID}"',
    "int": "1",
    "number": "1",
    "bool": "true",
    "time": "2000-06-01",
    "ip": '"192.0.2.1"',
}
CLOSED = "2001-01-01"  # end of the sample grants; their tests run a year earlier
OPEN = "2000-06-01"
AGENT, USER, ISSUER, FIXTURE = "example-agent", "alice", "login", "example_agent"
SECTION_LINE = "─"
DECLARED_SCOPE = "authzen.declared"
NEW_GUARD_REASON = "because it guards new endpoints, which no block grants yet"


@dataclass(frozen=True, slots=True)
class ShadowedEndpoint:
    """An endpoint that a pattern of another scope also matches."""

    operation: ApiOperation
    group: ScopeGroup
    behind: ScopeGroup
    crossed: bool = False  # neither pattern is narrower


@dataclass(frozen=True, slots=True)
class ImportRun:
    """The position of this import among all imports: the first import writes grants, later imports only new
    endpoints.
    """

    package: str
    number: int = 1
    fixture: bool = True  # whether the tests may use the fixture of the first import
    allowed: tuple[tuple[str, str], ...] = ()  # guards, each with the lint rule that it may break
    known: PathIndex = field(default_factory=PathIndex)  # earlier endpoints, which guards of new endpoints exclude

    @property
    def first(self) -> bool:
        return self.number == 1

    def allowance(self, guard: str) -> str:
        rules = [rule for name, rule in self.allowed if name == guard]
        return f" # lint: allow {', '.join(rules)} {NEW_GUARD_REASON}" if rules else ""

    @property
    def guard(self) -> str:
        return f"new with import {self.number}"


def format_policy(name: str, text: str) -> str:
    return format_module(Source(name, text))


def file_header(run: ImportRun, *about: str) -> list[str]:
    return ["language 1", f"package {run.package}", "", *(f"# {line}" for line in about), ""]


def section_comment(title: str) -> str:
    return f"# {SECTION_LINE * 2} {title} {SECTION_LINE * max(2, 90 - len(title))}"


# ── An area: scopes, facts, guards ────────────────────────────────────────────────────────────


def area_text(
    api: Api, run: ImportRun, area: str, groups: Sequence[ScopeGroup], shadows: Sequence[ShadowedEndpoint]
) -> str:
    count = sum(len(group.operations) for group in groups)
    noun = _endpoint_noun(api, count)
    lines = file_header(
        run,
        f"{area}: {count} {noun}. This file is yours: later imports add files but never change it.",
        *(
            ["The kinds of tools are based on claims of the server, which are not verified."]
            if api.kind == "mcp"
            else []
        ),
    )
    lines.append(section_comment("Scopes: what can be granted"))
    for group in groups:
        lines += [*carrier_lines(group, run), *scope_lines(group)]
    facts = [line for group in groups for operation in group.operations for line in fact_lines(operation)]
    lines += ["", section_comment("Facts: what the gateway sends, for conditions to read"), *facts] if facts else []
    guards = [
        *(line for group in groups for line in guard_lines(group, run)),
        *(line for s in shadows for line in shadow_lines(s)),
    ]
    lines += ["", section_comment("Guards"), *guards] if guards else []
    return "\n".join(lines) + "\n"


def _endpoint_noun(api: Api, count: int) -> str:
    what = "tool" if api.kind == "mcp" else "endpoint"
    return what if count == 1 else f"{what}s"


def scope_lines(group: ScopeGroup) -> Iterator[str]:
    alias = f" as {json.dumps(group.alias)}" if group.alias else ""
    yield f"scope {group.name}{alias} {{"
    for operation in group.operations:
        said = " ".join(["deprecated"] * operation.deprecated + [operation.summary] * bool(operation.summary))
        yield f"  {operation.endpoint.written}{f' # {said}' if said else ''}"
    yield "}"


def fact_lines(operation: ApiOperation) -> Iterator[str]:
    if operation.facts:
        yield f"facts on {operation.endpoint.written} {{"
        yield from (f"  {fact.written}" for fact in operation.facts)
        yield "}"


def carrier_lines(group: ScopeGroup, run: ImportRun) -> Iterator[str]:
    """Yield a comment on scopes that tokens already carry: only the author may extend them."""
    asked = sorted({scope for ask in group.asks for scope in ask} - {group.alias})
    if asked and not run.first:
        yield f"# Requires {', '.join(asked)}: add `include {group.name}` to the scope with this alias."


def except_clause(run: ImportRun, operations: Iterable[ApiOperation]) -> str:
    """Return an `except` clause for earlier endpoints that a new pattern matches, so that they stay unchanged."""
    kept: dict[str, None] = {}
    for operation in operations:
        new = operation.endpoint
        if isinstance(new, HttpTemplate):
            met = [run.known.endpoints[number] for number in run.known.meeting(new.method, new.segments)]
            kept.update((known.written, None) for known in met if _overlaps_partially(known, new))
    return f" except {', '.join(kept)}" if kept else ""


def _overlaps_partially(known: HttpTemplate, new: HttpTemplate) -> bool:
    """Return whether an earlier endpoint overlaps the new endpoint without matching all of it."""
    return known.key != new.key and not _is_within(new, known)


def guard_lines(group: ScopeGroup, run: ImportRun) -> Iterator[str]:
    place = f"{group.name}{except_clause(run, group.operations)}"
    if any(len(ask) > 1 for ask in group.asks):
        name = f"{group.name} needs all its scopes"
        yield f'guard "{name}" on {place} {{{run.allowance(name)}'
        yield f'  require {_scopes_condition(group)} message "the token lacks a scope that this request needs"'
        yield "}"
    if group.kind is ApiOperationKind.DELETE:
        yield "# Choose the approvers, and add the conditions that deny. Until then the user approves each request."
        for operation in group.operations:
            name = confirm_guard_name(operation)
            place = f"{operation.endpoint.written}{except_clause(run, [operation])}"
            yield from (f"guard {json.dumps(name)} on {place} {{{run.allowance(name)}", confirm_line(operation), "}")


def _scopes_condition(group: ScopeGroup) -> str:
    """Return the scopes that a token needs, as a condition."""
    either = group.asks or (frozenset([group.carried_by]),)
    parts = [" and ".join(f"credential.scopes has {json.dumps(scope)}" for scope in sorted(ask)) for ask in either]
    return parts[0] if len(parts) == 1 else " or ".join(f"({part})" for part in parts)


def shadow_lines(shadow: ShadowedEndpoint) -> Iterator[str]:
    yield (
        f"# A pattern of {shadow.behind.name} also matches this endpoint: without this guard, that scope would "
        f"grant it."
    )
    name = json.dumps(f"{shadow.operation.key} is not in {shadow.behind.name}")
    yield f"guard {name} on {shadow.operation.endpoint.written} {{"
    yield f'  require {_scopes_condition(shadow.group)} message "this request needs a separate scope"'
    yield "}"


def find_shadows(plan: ImportPlan) -> list[ShadowedEndpoint]:
    """Return the endpoints that a wider pattern of another scope matches. Raises ApiImportError."""
    every = [(operation, group) for group in plan.groups for operation in group.operations]
    found: dict[str, ShadowedEndpoint] = {}
    for here, there in overlapping_pairs([operation for operation, _ in every]):
        (a, in_a), (b, in_b) = every[here], every[there]
        assert isinstance(a.endpoint, HttpTemplate)
        assert isinstance(b.endpoint, HttpTemplate)
        if in_a is not in_b:
            inside = _is_within(a.endpoint, b.endpoint)
            narrow, own, behind = (a, in_a, in_b) if inside else (b, in_b, in_a)
            crossed = not inside and not _is_within(b.endpoint, a.endpoint)
            found.setdefault(narrow.key, ShadowedEndpoint(narrow, own, behind, crossed))
    return list(found.values())


def _is_within(inner: HttpTemplate, outer: HttpTemplate) -> bool:
    pairs = zip(inner.segments, outer.segments, strict=True)
    return all((b.capture and (a.capture or matches_segment(b, a.text))) or a.text == b.text for a, b in pairs)


# ── Scopes of tokens, and entities ─────────────────────────────────────


def token_scopes_text(run: ImportRun, carried: Sequence[CarrierScope]) -> str:
    lines = file_header(run, "Scopes of tokens that stand for several scopes of this policy. Blocks grant the latter.")
    for scope in carried:
        allowed = "# lint: allow unused-scope because tokens carry it, and blocks grant the scopes that it includes"
        lines += [f"scope {scope.name} as {json.dumps(scope.alias)} {{ {allowed}"]
        lines += [f"  include {group.name}" for group in scope.groups] + ["}"]
    return "\n".join(lines) + "\n"


def entities_text(run: ImportRun, entities: Iterable[str]) -> str:
    lines = file_header(
        run, "Entities that paths name. Declare the attributes of your entity store: `entity pet { owner: user }`."
    )
    return "\n".join([*lines, *(f"entity {name} {{}}" for name in sorted(entities))]) + "\n"


def declared_actions_text(run: ImportRun, actions: Mapping[str, DeclaredAction], entities: Collection[str]) -> str:
    """Return the actions that gateways request if they follow COAZ, in a scope that nothing grants. `entities` are
    declared elsewhere.
    """
    lines = file_header(
        run,
        "Gateways that follow COAZ ask for these actions instead of the tools that declare them. The server chose the",
        "names, which are not verified: grant an action only if every server behind such a gateway may have it.",
    )
    types = sorted({action.type for action in actions.values()} - {*entities})
    lines += [f"entity {type} {{}}" for type in types]
    for action in actions.values():
        if action.facts:
            lines += [f"facts on {action.written} {{", *(f"  {fact.written}" for fact in action.facts), "}"]
    allowed = "# lint: allow unused-scope because the actions are yours to grant"
    lines += [f"scope {DECLARED_SCOPE} {{ {allowed}", *(f"  {written}" for written in actions), "}"]
    return "\n".join(lines) + "\n"


def new_guard_text(run: ImportRun, groups: Sequence[ScopeGroup], stricter: Sequence[ApiOperation]) -> str:
    """Return the guard that keeps the endpoints of a later import denied, even if older patterns match them."""
    lines = file_header(
        run,
        "New endpoints are denied, even if an older pattern matches them. Review them, grant their scopes, and",
        "delete the guard.",
    )
    if groups:
        every = [one for group in groups for one in group.operations]
        place = f"{', '.join(group.name for group in groups)}{except_clause(run, every)}"
        lines += [f'guard "{run.guard}" on {place} {{{run.allowance(run.guard)}']
        lines += ['  deny message "this endpoint is new, and no block grants it yet"', "}"]
    for operation in stricter:
        endpoint = operation.endpoint
        bare = endpoint.bare if isinstance(endpoint, HttpTemplate) else endpoint
        place = f"{bare.written}{except_clause(run, [operation])}"
        name = f"{operation.key} needs approval since import {run.number}"
        lines += [
            "",
            "# This endpoint may do more harm than when it was granted.",
            f"guard {json.dumps(name)} on {place} {{{run.allowance(name)}",
        ]
        lines += [confirm_line(replace(operation, endpoint=bare, facts=())), "}"]
    return "\n".join(lines) + "\n"


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def grants_text(api: Api, run: ImportRun, plan: ImportPlan, more: Sequence[str] = ()) -> str:
    """Return the blocks that grant every scope. `more` are lines that grant everything else that the server offers."""
    mays = [*(f"  may {group.name}" for group in plan.groups), *more]
    carries = any(group.asks for group in plan.groups)
    scopes = "" if carries else "   scopes none"
    about = "" if carries else " Its tokens contain no scopes, so only `may` decides."
    lines = file_header(
        run,
        "The grants. Nothing is allowed yet: both blocks have expired; only the tests use them, at an earlier time.",
        "Keep them for the tests. For your own grants, copy both blocks into a new file next to this one, use your",
        "own names and conditions, keep the lines that you need, and remove `valid until`. An agent also needs the",
        "grants of its user.",
    )
    lines += [f"# Set the URL of your token issuer.{about}"]
    lines += [f'issuer {ISSUER} {{ url "https://login.example"{scopes} }}', ""]
    lines += ["user any {", *mays, f"  valid until {CLOSED} # expired: copy this block without this line", "}", ""]
    lines += [f'agent "{AGENT}" {{', f"  issued by {ISSUER}", "  acts for any user"]
    about = (
        " # remove this line if you use `mcp-gateway` without `--identity`, which verifies no credentials"
        if api.kind == "mcp"
        else ""
    )
    lines += [f"  credential {{ kind in [jwt, mtls]   lifetime <= 1h }}{about}"]
    lines += [*mays, f"  valid until {CLOSED} # expired: copy this block without this line", "}"]
    return "\n".join(lines) + "\n"


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────


def fixture_text(run: ImportRun, plan: ImportPlan, otherwise: str = "", more: Sequence[str] = ()) -> str:
    """Return the fixture, and a test that nothing is allowed. `otherwise` is the endpoint of the test without tools,
    `more` are scopes without tools.
    """
    asked = any(group.asks for group in plan.groups)
    carried = {*more} | {group.carried_by for group in plan.groups} | {one.alias for one in plan.carried}
    carried |= {scope for group in plan.groups for ask in group.asks for scope in ask}
    scopes = f"scopes: [{', '.join(json.dumps(scope) for scope in sorted(carried))}], " if asked else ""
    lines = file_header(run, "The test agent has every scope, and its requests come before its blocks expire.")
    lines += [
        f"fixture {FIXTURE} {{",
        f"  given time {OPEN}",
        f'  given agent "{AGENT}" from {ISSUER} for user "{USER}"',
    ]
    lines += [f"  given credential {{ kind: jwt, {scopes}lifetime: 10m }}", "}", 'test "nothing is allowed today" {']
    first = sample_endpoint(plan.groups[0].operations[0]) if plan.groups else otherwise
    lines += [f"  use {FIXTURE}", "  given time 2026-01-01", f"  {first} => deny by identity", "}"]
    return "\n".join(lines) + "\n"


def tests_text(run: ImportRun, groups: Sequence[ScopeGroup], every: SampleExpectations) -> str:
    lines = file_header(run, "One test for each scope: the outcome for an agent with the right scopes.")
    for group in groups:
        lines += [f'test "{group.name}" {{']
        lines += [f"  use {FIXTURE}"] if run.fixture else []
        lines += [
            f"  {sample_endpoint(one)}{sample_facts(one)} => {every.of(run, one, group)}" for one in group.operations
        ]
        if run.first and every.asked:
            lines += [f"  {sample_endpoint(group.operations[0])} {{ credential.scopes: [] }} => deny by default"]
        lines += ["}"]
    return "\n".join(lines) + "\n"


def sample_endpoint(operation: ApiOperation) -> str:
    endpoint = operation.endpoint
    return (
        endpoint.written
        if isinstance(endpoint, ServerTool)
        else f"{endpoint.method} /{'/'.join(_sample_path(endpoint))}"
    )


def sample_facts(operation: ApiOperation) -> str:
    """Return the required facts, each with a sample value, for conditions that the author adds. The author fills in
    records.
    """
    needed = {fact.name: fact.type for fact in operation.facts if not fact.optional}
    values = {
        name: "[]" if type_.startswith("list<") else SAMPLE_VALUES.get(type_, "") for name, type_ in needed.items()
    }
    said = [f"{name}: {value}" for name, value in values.items() if value]
    return f" {{ {', '.join(said)} }}" if said else ""


def _sample_path(endpoint: HttpTemplate) -> list[str]:
    return [part.filled(SAMPLE_ID) for part in endpoint.segments]


class SampleExpectations:
    """The expected outcome of each sample request. A guard of another scope may also match the request."""

    def __init__(self, plan: ImportPlan) -> None:
        self.asked = any(group.asks for group in plan.groups)
        deletes = [one for group in plan.groups if group.kind is ApiOperationKind.DELETE for one in group.operations]
        self.asking = [(one, one.endpoint) for one in deletes if isinstance(one.endpoint, HttpTemplate)]
        self.index = PathIndex.of(endpoint for _, endpoint in self.asking)

    def of(self, run: ImportRun, operation: ApiOperation, group: ScopeGroup) -> str:
        if not run.first:
            return f'deny by "{run.guard}"' if run.fixture else "deny"
        if group.kind is ApiOperationKind.DELETE:
            return f"confirm by {json.dumps(confirm_guard_name(operation))}"
        endpoint = operation.endpoint
        if isinstance(endpoint, HttpTemplate):
            for number in self.index.meeting(endpoint.method, [PathSegment(text) for text in _sample_path(endpoint)]):
                return f"confirm by {json.dumps(confirm_guard_name(self.asking[number][0]))}"
        return "allow"
