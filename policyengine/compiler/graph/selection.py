"""Selects a part of the tree: an endpoint as the user typed it, or the blocks of one agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.checker.patterns.endpoint_reader import CAPTURE, segment_mistake, tool_mistake
from policyengine.diagnostics.suggest import did_you_mean, suggest
from policyengine.runtime import paths
from policyengine.runtime.globs import Glob
from policyengine.source import Source, Span

ENDPOINT_HINT = "write `GET /v1/invoices/{id}`, `/v1/**`, `TOOL server/name` or `ACTION verb type`"


@dataclass(eq=False)
class SelectionError(Exception):
    """The error for a selected `endpoint` or `agent` (`kind`) that does not exist; `hint` says how to correct that."""

    kind: str
    message: str
    hint: str | None = None


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def read_endpoint(text: str) -> k.Pattern:
    """Parse an endpoint or a pattern as policies write it; without a method, any method. Raises SelectionError."""
    first, _, rest = text.strip().partition(" ")
    if first == "TOOL":
        return _tool(text, rest.strip())
    if first == "ACTION":
        return _action(text, rest.split())
    methods, path = ("", first + (f" {rest}" if rest else "")) if first.startswith("/") else (first, rest.strip())
    if not path.startswith("/"):
        raise _endpoint_error(text, None)
    return _http(text, _methods(text, methods), path)


def is_area(pattern: k.Pattern) -> bool:
    """Return whether the selection is an area of the tree, not a single endpoint."""
    return (isinstance(pattern, k.HttpPattern) and pattern.rest) or (
        isinstance(pattern, k.ToolPattern) and "*" in pattern.glob
    )


def _endpoint_error(text: str, why: str | None, hint: str | None = None) -> SelectionError:
    return SelectionError("endpoint", f"`{text}` is not an endpoint{f': {why}' if why else ''}", hint or ENDPOINT_HINT)


def _text_span(text: str) -> Span:
    return Span(Source("--endpoint", text), 0, len(text))


def _tool(text: str, glob: str) -> k.ToolPattern:
    if why := tool_mistake(glob):
        raise _endpoint_error(text, why)
    return k.ToolPattern(glob, span=_text_span(text))


def _action(text: str, words: Sequence[str]) -> k.ActionPattern:
    if len(words) != 2:
        raise _endpoint_error(text, "an action must consist of a verb and a type")
    return k.ActionPattern(*words, span=_text_span(text))


def _methods(text: str, words: str) -> tuple[str, ...] | None:
    if words in ("", "ANY"):
        return None
    found = [paths.canonical_method(word) for word in words.split("|")]
    if any(isinstance(method, paths.MalformedPath) for method in found):
        raise _endpoint_error(
            text, f"`{words}` is not a method", None if words.isupper() else "methods must be in upper case"
        )
    return tuple(sorted({str(method) for method in found}))


def _http(text: str, methods: tuple[str, ...] | None, path: str) -> k.HttpPattern:
    parts = path[1:].removesuffix("/").split("/") if path != "/" else []
    rest = parts[-1:] == ["**"]
    if len(parts) > paths.MAX_SEGMENTS:
        raise _endpoint_error(text, f"a path can have at most {paths.MAX_SEGMENTS} segments")
    segments = tuple(_segment(text, part) for part in (parts[:-1] if rest else parts))
    return k.HttpPattern(methods, segments, rest, span=_text_span(text))


def _segment(text: str, part: str) -> k.Segment:
    captures = list(CAPTURE.finditer(part))
    if mistake := segment_mistake(part, len(captures)):
        raise _endpoint_error(text, mistake[1], mistake[2])
    if part == "*":
        return k.Segment("", wild=True)
    if not captures:
        return k.Segment(part)
    return k.Segment(part[: captures[0].start()], True, part[captures[0].end() :], captures[0][1])


# ── Agents ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AgentReach:
    """The blocks of an agent, by number, and the blocks of groups that the user did not select."""

    name: str
    blocks: frozenset[int]
    groups: tuple[int, ...]


def agent_reach(kernel: k.Kernel, name: str, groups: Sequence[str]) -> AgentReach:
    """Return the blocks of an agent. Blocks with a condition are included, because they may match any agent. Raises
    SelectionError for an agent or a group that no block names.
    """
    blocks = list(enumerate(kernel.agents))
    known_groups = {block.who.group for _, block in blocks if isinstance(block.who, k.InGroup)}
    for group in groups:
        if group not in known_groups:
            raise _unknown_error("group", group, known_groups, None)
    found = {number for number, block in blocks if _is_about(block.who, name, groups)}
    asking = {number for number, block in blocks if isinstance(block.who, k.PrincipalCondition)}
    names = {block.who.name for _, block in blocks if isinstance(block.who, k.ExactName)}
    if not found and (suggest(name, names) or not asking):
        raise _unknown_error("agent", name, names, "name the agent's groups with `--group`" if known_groups else None)
    found |= asking
    others = [number for number, block in blocks if isinstance(block.who, k.InGroup) and number not in found]
    return AgentReach(name, frozenset(found), tuple(others))


def _is_about(
    who: k.ExactName | k.NamePattern | k.InGroup | k.PrincipalCondition, name: str, groups: Sequence[str]
) -> bool:
    match who:
        case k.ExactName(called):
            return called == name
        case k.NamePattern(glob):
            return Glob(glob).matches(name)
        case k.InGroup(group):
            return group in groups
        case k.PrincipalCondition():
            return False


def _unknown_error(kind: str, name: str, known: set[str], otherwise: str | None) -> SelectionError:
    hint = did_you_mean(name, known) or otherwise
    return SelectionError("agent", f"no block names {kind} `{name}`", hint)
