"""Scopes and operations to the text of policies, in canonical form. What strangers wrote came through `names`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from policyengine.importers.align_operations import overlapping_pairs
from policyengine.importers.approval_guards import confirm_guard_name, confirm_line
from policyengine.importers.model import Api, ApiOperation, ApiOperationKind, HttpTemplate, PathSegment, ServerTool
from policyengine.importers.path_index import PathIndex
from policyengine.importers.path_patterns import matches_segment
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
CLOSED = "2001-01-01"  # when the doors of a stub ended; its tests play a year earlier
OPEN = "2000-06-01"
AGENT, USER, ISSUER, FIXTURE = "example-agent", "alice", "login", "example_agent"
SECTION_LINE = "─"
NEW_GUARD_REASON = "because what it guards is new, and nobody has it yet"


@dataclass(frozen=True, slots=True)
class ShadowedEndpoint:
    """An endpoint that a pattern of another scope matches, too."""

    operation: ApiOperation
    group: ScopeGroup
    behind: ScopeGroup
    crossed: bool = False  # neither pattern is the narrower one


@dataclass(frozen=True, slots=True)
class ImportRun:
    """How this import stands among those before: the first one makes doors, a later one only what is new."""

    package: str
    number: int = 1
    fixture: bool = True  # whether the tests may use the one that the first import made
    allowed: tuple[tuple[str, str], ...] = ()  # a guard and a rule of the linter that would be told of it
    known: PathIndex = field(default_factory=PathIndex)  # imported before: a guard of what is new leaves it

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


def _file_header(run: ImportRun, *about: str) -> list[str]:
    return ["language 1", f"package {run.package}", "", *(f"# {line}" for line in about), ""]


def _section_comment(title: str) -> str:
    return f"# {SECTION_LINE * 2} {title} {SECTION_LINE * max(2, 90 - len(title))}"


# ── An area: scopes, facts, guards ────────────────────────────────────────────────────────────


def area_text(
    api: Api, run: ImportRun, area: str, groups: Sequence[ScopeGroup], shadows: Sequence[ShadowedEndpoint]
) -> str:
    count = sum(len(group.operations) for group in groups)
    noun = _endpoint_noun(api, count)
    lines = _file_header(
        run,
        f"{area}: {count} {noun}. This file is yours: another import adds files and changes none.",
        *(
            ["How a tool is sorted follows what its server says of it, which nobody has verified."]
            if api.kind == "mcp"
            else []
        ),
    )
    lines.append(_section_comment("Scopes: what can be granted"))
    for group in groups:
        lines += [*carrier_lines(group, run), *scope_lines(group)]
    facts = [line for group in groups for operation in group.operations for line in fact_lines(operation)]
    lines += ["", _section_comment("Facts: what the gateway sends, for conditions to read"), *facts] if facts else []
    guards = [
        *(line for group in groups for line in guard_lines(group, run)),
        *(line for s in shadows for line in shadow_lines(s)),
    ]
    lines += ["", _section_comment("Guards"), *guards] if guards else []
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
    """A scope that tokens carry already is the author's to widen."""
    asked = sorted({scope for ask in group.asks for scope in ask} - {group.alias})
    if asked and not run.first:
        yield f"# Asks for {', '.join(asked)}: add `include {group.name}` to the scope that tokens call so."


def except_clause(run: ImportRun, operations: Iterable[ApiOperation]) -> str:
    """What was there before and a new pattern matches, too, goes on as it did."""
    kept: dict[str, None] = {}
    for operation in operations:
        new = operation.endpoint
        if isinstance(new, HttpTemplate):
            met = [run.known.endpoints[number] for number in run.known.meeting(new.method, new.segments)]
            kept.update((known.written, None) for known in met if _overlaps_partially(known, new))
    return f" except {', '.join(kept)}" if kept else ""


def _overlaps_partially(known: HttpTemplate, new: HttpTemplate) -> bool:
    """The known one, which meets the new one, does not match all that it does: it would open what is new."""
    return known.key != new.key and not _is_within(new, known)


def guard_lines(group: ScopeGroup, run: ImportRun) -> Iterator[str]:
    place = f"{group.name}{except_clause(run, group.operations)}"
    if any(len(ask) > 1 for ask in group.asks):
        name = f"{group.name} needs all its scopes"
        yield f'guard "{name}" on {place} {{{run.allowance(name)}'
        yield f'  require {_scopes_condition(group)} message "the token lacks a scope that this needs"'
        yield "}"
    if group.kind is ApiOperationKind.DELETE:
        yield "# Fill in who may say yes, and when it is no. Until then the person who is served is asked, each time."
        for operation in group.operations:
            name = confirm_guard_name(operation)
            place = f"{operation.endpoint.written}{except_clause(run, [operation])}"
            yield from (f"guard {json.dumps(name)} on {place} {{{run.allowance(name)}", confirm_line(operation), "}")


def _scopes_condition(group: ScopeGroup) -> str:
    """What a token has to carry, as a condition."""
    either = group.asks or (frozenset([group.carried_by]),)
    parts = [" and ".join(f"credential.scopes has {json.dumps(scope)}" for scope in sorted(ask)) for ask in either]
    return parts[0] if len(parts) == 1 else " or ".join(f"({part})" for part in parts)


def shadow_lines(shadow: ShadowedEndpoint) -> Iterator[str]:
    yield f"# A pattern of {shadow.behind.name} matches this, too: without the guard its scope would open it."
    name = json.dumps(f"{shadow.operation.key} is no {shadow.behind.name}")
    yield f"guard {name} on {shadow.operation.endpoint.written} {{"
    yield f'  require {_scopes_condition(shadow.group)} message "this needs a scope of its own"'
    yield "}"


def find_shadows(plan: ImportPlan) -> list[ShadowedEndpoint]:
    """Where a wider pattern matches what another scope holds."""
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


# ── What tokens carry, and what kinds of things there are ─────────────────────────────────────


def token_scopes_text(run: ImportRun, carried: Sequence[CarrierScope]) -> str:
    lines = _file_header(
        run, "What a token's scope means, where it means several scopes of this policy. Blocks grant those."
    )
    for scope in carried:
        allowed = "# lint: allow unused-scope because tokens carry it, and blocks grant what it includes"
        lines += [f"scope {scope.name} as {json.dumps(scope.alias)} {{ {allowed}"]
        lines += [f"  include {group.name}" for group in scope.groups] + ["}"]
    return "\n".join(lines) + "\n"


def entities_text(run: ImportRun, entities: Iterable[str]) -> str:
    lines = _file_header(
        run, "What paths name. Give them the attributes that the directory knows: `entity pet { owner: user }`."
    )
    return "\n".join([*lines, *(f"entity {name} {{}}" for name in sorted(entities))]) + "\n"


def new_guard_text(run: ImportRun, groups: Sequence[ScopeGroup], stricter: Sequence[ApiOperation]) -> str:
    """What came with a later import stays shut, whatever older patterns match it."""
    lines = _file_header(
        run,
        "What is new is denied, even where an older pattern matches it. Look at it, grant its scopes, and",
        "delete the guard.",
    )
    if groups:
        every = [one for group in groups for one in group.operations]
        place = f"{', '.join(group.name for group in groups)}{except_clause(run, every)}"
        lines += [f'guard "{run.guard}" on {place} {{{run.allowance(run.guard)}']
        lines += ['  deny message "this is new, and nobody has granted it yet"', "}"]
    for operation in stricter:
        endpoint = operation.endpoint
        bare = endpoint.bare if isinstance(endpoint, HttpTemplate) else endpoint
        place = f"{bare.written}{except_clause(run, [operation])}"
        name = f"{operation.key} asks since import {run.number}"
        lines += [
            "",
            "# It may break more than it did when it was granted.",
            f"guard {json.dumps(name)} on {place} {{{run.allowance(name)}",
        ]
        lines += [confirm_line(replace(operation, endpoint=bare, facts=())), "}"]
    return "\n".join(lines) + "\n"


# ── Doors ─────────────────────────────────────────────────────────────────────────────────────


def grants_text(api: Api, run: ImportRun, plan: ImportPlan) -> str:
    mays = [f"  may {group.name}" for group in plan.groups]
    carries = any(group.asks for group in plan.groups)
    scopes = "" if carries else "   scopes none"
    about = "" if carries else " Its tokens name no scopes, so `may` alone decides."
    lines = _file_header(
        run,
        "Who may do what. Nothing is open: both blocks ended long ago, and only the tests come in by them, which ask",
        "at a time before. Leave them for the tests, and put yours into a file beside this one: copy both, take your",
        "own names and conditions, keep the lines that somebody needs, and leave out `valid until`. An agent needs its",
        "user's door, too.",
    )
    lines += [f"# Put the address of who issues your tokens.{about}"]
    lines += [f'issuer {ISSUER} {{ url "https://login.example"{scopes} }}', ""]
    lines += ["user any {", *mays, f"  valid until {CLOSED} # ended: copy this block without this line", "}", ""]
    lines += [f'agent "{AGENT}" {{', f"  issued by {ISSUER}", "  acts for any user"]
    about = " # leave out behind `mcp-gateway`, which verifies none" if api.kind == "mcp" else ""
    lines += [f"  credential {{ kind in [jwt, mtls]   lifetime <= 1h }}{about}"]
    lines += [*mays, f"  valid until {CLOSED} # ended: copy this block without this line", "}"]
    return "\n".join(lines) + "\n"


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────


def fixture_text(run: ImportRun, plan: ImportPlan) -> str:
    asked = any(group.asks for group in plan.groups)
    carried = {group.carried_by for group in plan.groups} | {one.alias for one in plan.carried}
    carried |= {scope for group in plan.groups for ask in group.asks for scope in ask}
    scopes = f"scopes: [{', '.join(json.dumps(scope) for scope in sorted(carried))}], " if asked else ""
    lines = _file_header(run, "The agent of the tests holds every scope, and asks before its blocks ended.")
    lines += [
        f"fixture {FIXTURE} {{",
        f"  given time {OPEN}",
        f'  given agent "{AGENT}" from {ISSUER} for user "{USER}"',
    ]
    lines += [f"  given credential {{ kind: jwt, {scopes}lifetime: 10m }}", "}", 'test "nothing is open today" {']
    first = sample_endpoint(plan.groups[0].operations[0])
    lines += [f"  use {FIXTURE}", "  given time 2026-01-01", f"  {first} => deny by identity", "}"]
    return "\n".join(lines) + "\n"


def tests_text(run: ImportRun, groups: Sequence[ScopeGroup], every: SampleExpectations) -> str:
    lines = _file_header(run, "One test for each endpoint: what an agent with the right scopes gets.")
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
    """The facts that have to be there, each with some value of its type: conditions that the author writes will read
    them. Records are the author's to give."""
    needed = {fact.name: fact.type for fact in operation.facts if not fact.optional}
    values = {
        name: "[]" if type_.startswith("list<") else SAMPLE_VALUES.get(type_, "") for name, type_ in needed.items()
    }
    said = [f"{name}: {value}" for name, value in values.items() if value]
    return f" {{ {', '.join(said)} }}" if said else ""


def _sample_path(endpoint: HttpTemplate) -> list[str]:
    return [part.filled(SAMPLE_ID) for part in endpoint.segments]


class SampleExpectations:
    """What becomes of each example: a guard of another scope may match it, too."""

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
