"""Translates AuthZEN evaluations to questions, with the policy's `map authzen { … }` or, without it, with defaults.
Statements of a caller about itself or the resource are trusted only if the policy permits it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never
from urllib.parse import quote

from policyengine import kernel as k
from policyengine.runtime.globs import Glob
from policyengine.runtime.structure_checks import quote_input
from policyengine.runtime.values import Invalid
from policyengine.server.authzen.evaluations import AccessEvaluation, EvaluationEntity, JsonObject, UnmappedError
from policyengine.server.authzen.mcp_evaluations import (
    COMPLETE,
    UNKNOWN_ARGUMENTS,
    McpEvaluations,
    is_about_mcp,
    passes_undecided,
)
from policyengine.server.mcp.servers import NO_MCP_SERVERS, McpServerTable

# Defaults: the names of the specification, of its interop scenarios and of its profile for MCP.
DEFAULT_SUBJECT_TYPES = {"user": "user", "identity": "user", "agent": "agent", "client": "agent"}
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
# The obligations of the policy language for each registered AuthZEN type.
OBLIGATIONS = {
    "step-up": ("step_up",),
    "notification": ("notify",),
    "custom": ("audit", "redact", "warn", "header"),
}
SUPPORTED_OBLIGATIONS = ("supported_obligations", "obligations_supported")  # versions of the profile use both names
CONFLICTING_VALUE = Invalid("given two different values")


# ── Translation ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class QuestionTranslator:
    """Translates evaluations with the maps and the issuers of one policy. If the policy maps a kind of item, the
    defaults for that kind are disabled.
    """

    kernel: k.Kernel
    mcp_servers: McpServerTable = NO_MCP_SERVERS

    @cached_property
    def mcp(self) -> McpEvaluations:
        return McpEvaluations(self.kernel, self.mcp_servers)

    @cached_property
    def subjects(self) -> Mapping[str, k.MapSubject]:
        return {item.type: item for item in self.kernel.maps if isinstance(item, k.MapSubject)}

    @cached_property
    def resources(self) -> Mapping[str, str]:
        return {item.type: item.entity for item in self.kernel.maps if isinstance(item, k.MapResource)}

    @cached_property
    def actions(self) -> Mapping[tuple[str, str | None], k.MapAction]:
        return {(item.name, item.on): item for item in self.kernel.maps if isinstance(item, k.MapAction)}

    @cached_property
    def facts(self) -> tuple[k.MapFact, ...]:
        return tuple(item for item in self.kernel.maps if isinstance(item, k.MapFact))

    @cached_property
    def issuers(self) -> Mapping[str, str]:
        """Issuers by URL, without URLs that two of them share."""
        named = [(one.url.rstrip("/"), one.name) for one in self.kernel.issuers.values() if one.url is not None]
        urls = [url for url, _ in named]
        return {url: name for url, name in named if urls.count(url) == 1}

    def question(self, asked: AccessEvaluation) -> JsonObject:
        """Return the question with the structure of `/decide`. Raises UnmappedError."""
        written = self.action(asked)
        endpoint = self.default_endpoint(asked) if written is None else self.written(written, asked)
        given: JsonObject = {**self.who(asked), **context_facts(asked), **endpoint, "options": request_options(asked)}
        if asked.approvals:
            given["approvals"] = list(asked.approvals)
        facts = (*self.facts, *(written.facts if written else ()))
        for fact in (one for one in facts if not one.entity):
            set_fact(given, fact.path, asked.at(fact.source))
        if "args" in given and given.get("pending") == UNKNOWN_ARGUMENTS:
            given["pending"] = ["args.*"]  # the arguments that the map does not set
        rows = self.rows(asked, facts, endpoint)
        return {**given, "entities": rows} if rows else given

    def passes(self, asked: AccessEvaluation) -> bool:
        """Return whether an evaluation passes without a decision: COAZ lets `ping` and notifications pass, unless the
        policy maps actions."""
        return not self.actions and passes_undecided(asked.action.name)

    # ── Subject and agents ────────────────────────────────────────────────────────────────────

    def who(self, asked: AccessEvaluation) -> JsonObject:
        """Return the subject and the agents that act for it; for a subject of an unknown type, return no caller. Raises
        UnmappedError.
        """
        subject, known = asked.subject, self.becomes(asked.subject)
        if known is None:
            return {}
        mapped = self.subjects.get(subject.type)
        issuer = mapped.issuer if mapped and mapped.issuer else self.issuer(subject.properties.get("iss"))
        vouched: JsonObject = {} if issuer is None else {"credential": {"issuer": issuer}}
        if known == "user":
            return {"user": {"id": subject.id}, **vouched, **self.through(asked, issuer)}
        if subject.properties.get("act") is not None:
            raise UnmappedError(
                "an agent cannot act for an agent: the subject must be the user for whom the agent acts"
            )
        return {"agent": {"id": subject.id}, **vouched}

    def becomes(self, subject: EvaluationEntity) -> str | None:
        if self.subjects:
            mapped = self.subjects.get(subject.type)
            return mapped.becomes if mapped else None
        return DEFAULT_SUBJECT_TYPES.get(subject.type)

    def issuer(self, named: object) -> object:
        """Return the name of the issuer with this URL or name."""
        return self.issuers.get(named.rstrip("/"), named) if isinstance(named, str) else named

    def through(self, asked: AccessEvaluation, issuer: object) -> JsonObject:
        """Return the actors: `act` holds the current actor and, nested in it, the previous actors; `context.agent`
        names only the current actor. Raises UnmappedError.
        """
        actors = list(actor_chain(asked.subject.properties.get("act")))
        named = asked.context.get("agent")
        if not actors:
            if named is None:
                return {}
            # In COAZ, the subject and the agent are the user and the client of one token.
            same = {"issuer": issuer} if issuer is not None and is_about_mcp(asked) else {}
            return {"agent": {"id": named, **same}}
        if named is not None and named != actors[0].get("sub"):
            raise UnmappedError("`context.agent` and `subject.properties.act` name different agents")
        presenter = {"id": actors[0].get("sub"), "issuer": self.issuer(actors[0].get("iss"))}
        hops = [
            {"agent": actor.get("sub"), "issuer": issuer if actor.get("iss") is None else self.issuer(actor["iss"])}
            for actor in reversed(actors[1:])
        ]
        return {"agent": presenter, **({"chain": {"hops": hops}} if hops else {})}

    # ── Endpoint ──────────────────────────────────────────────────────────────────────────────

    def action(self, asked: AccessEvaluation) -> k.MapAction | None:
        """Return the map of the action on this resource type, or else the map of the action on every type; None if the
        policy maps no actions. Raises UnmappedError if the policy maps other actions, but not this action.
        """
        name, type_ = asked.action.name, asked.resource.type
        found = self.actions.get((name, type_)) or self.actions.get((name, None))
        if found is None and self.actions:
            raise UnmappedError(f"no `map authzen` defines `{quote_input(name)}` on `{quote_input(type_)}`")
        return found

    def written(self, item: k.MapAction, asked: AccessEvaluation) -> JsonObject:
        match item.endpoint:
            case k.MapHttp(method, segments):
                path = "/" + "/".join(path_segment(segment, asked) for segment in segments)
                return http_question(method, path, asked)
            case k.MapTool(glob):
                if "*" not in glob:
                    return tool_question(glob, asked)
                if Glob(glob).matches(asked.resource.id):
                    return tool_question(asked.resource.id, asked)
                raise UnmappedError(f"`{quote_input(asked.resource.id)}` is not a tool of `{glob}`")
            case k.MapVerb(verb, type_):
                if item.on is None and self.entity(asked) != type_:
                    raise UnmappedError(f"`{quote_input(asked.resource.type)}` is not of the type `{type_}`")
                return action_question(verb, type_, asked)
            case _:
                assert_never(item.endpoint)

    def default_endpoint(self, asked: AccessEvaluation) -> JsonObject:
        """Return the default endpoint: a path for an HTTP method, a tool for `tools/call` and similar for other methods
        of MCP, otherwise an action on an entity."""
        name, resource = asked.action.name, asked.resource
        if name in METHODS:
            return http_question(name, resource.id, asked)
        about_mcp = None if resource.type in self.resources else self.mcp.endpoint(asked)
        return about_mcp if about_mcp is not None else action_question(name, self.entity(asked), asked)

    def entity(self, asked: AccessEvaluation) -> str:
        type_ = asked.resource.type
        if self.resources and type_ not in self.resources:
            raise UnmappedError(f"no `map authzen` defines the resource type `{quote_input(type_)}`")
        return self.resources.get(type_, type_)

    # ── Attributes ────────────────────────────────────────────────────────────────────────────

    def rows(self, asked: AccessEvaluation, facts: tuple[k.MapFact, ...], endpoint: JsonObject) -> list[JsonObject]:
        """Return the attributes that the policy accepts from a question. If the entity store has an attribute, the
        stored value takes precedence.
        """
        found: dict[tuple[str, str], JsonObject] = {}
        for fact in (one for one in facts if one.entity):
            value, holder = asked.at(fact.source), self.holder(fact, asked, endpoint)
            if value is not None and holder is not None:
                attributes = found.setdefault(holder, {})
                same = attributes.get(fact.path[1], value) == value
                attributes[fact.path[1]] = value if same else CONFLICTING_VALUE
        return [
            {"type": type_, "id": id_, "attributes": attributes, "partial": True}
            for (type_, id_), attributes in found.items()
        ]

    def holder(self, fact: k.MapFact, asked: AccessEvaluation, endpoint: JsonObject) -> tuple[str, str] | None:
        """Return the entity to which the attribute belongs, if the subject or the resource is of its type; otherwise
        None.
        """
        if fact.source[0] == "subject":
            return (fact.path[0], asked.subject.id) if self.becomes(asked.subject) == fact.path[0] else None
        thing = endpoint.get("resource")
        type_ = thing.get("type") if isinstance(thing, Mapping) else self.resources.get(asked.resource.type)
        return (fact.path[0], asked.resource.id) if type_ == fact.path[0] else None


def actor_chain(act: object) -> Iterator[Mapping[str, object]]:
    """Yield the actors, from the current actor to the first. Raises UnmappedError."""
    while act is not None:
        if not isinstance(act, Mapping) or not isinstance(act.get("sub"), str):
            raise UnmappedError("`subject.properties.act` is not a chain of actors, each with a `sub`")
        yield act
        act = act.get("act")


# ── Parts of the question ─────────────────────────────────────────────────────────────────────


def http_question(method: str, path: str, asked: AccessEvaluation) -> JsonObject:
    body = asked.action.properties
    return {"request": {"method": method, "path": path}, **({"body": dict(body)} if body else {})}


def tool_question(name: str, asked: AccessEvaluation) -> JsonObject:
    server, slash, short = name.partition("/")
    return {"tool": {"server": server, "name": short} if slash else {"name": name}, **argument_facts(asked)}


def action_question(verb: str, type_: str, asked: AccessEvaluation) -> JsonObject:
    return {"action": {"name": verb}, "resource": {"type": type_, "id": asked.resource.id}, **argument_facts(asked)}


def argument_facts(asked: AccessEvaluation) -> JsonObject:
    return {"args": dict(asked.action.properties)} if asked.action.properties else {}


def context_facts(asked: AccessEvaluation) -> JsonObject:
    return {"context": asked.facts} if asked.facts else {}


def request_options(asked: AccessEvaluation) -> JsonObject:
    """Return the options of the question. A question that may spend also asks for the approvals that a confirm needs,
    as the questions of all gateways do. A decision that needs an obligation outside the gateway's list is a denial; a
    malformed list counts as empty.
    """
    spends = asked.spends and asked.action.name != COMPLETE
    options: JsonObject = {"consume": True, "request_approval": True} if spends else {"consume": False}
    given = next((asked.context[name] for name in SUPPORTED_OBLIGATIONS if asked.context.get(name) is not None), None)
    if given is None:
        return options
    named = given if isinstance(given, list | tuple) else ()
    kinds = [kind for one in named if isinstance(one, str) for kind in OBLIGATIONS.get(one, ())]
    return {**options, "obligations_supported": kinds}


def path_segment(segment: k.MapSegment, asked: AccessEvaluation) -> str:
    """Return an escaped segment. A value that cannot be a single segment makes the path malformed, so that the request
    is denied. Raises UnmappedError for a value that is empty or not a string.
    """
    if segment.source is None:
        return quote(segment.text, safe="")
    value = asked.at(segment.source)
    if not isinstance(value, str) or not value:
        raise UnmappedError(
            f"`{'.'.join(segment.source)}` must be a non-empty string, because the path is built from it"
        )
    return quote(f"{segment.text}{value}{segment.after}", safe="", errors="replace")


def set_fact(question: JsonObject, path: k.MapPath, value: object) -> None:
    """Set a fact; if a value on its path is not an object, replace the value."""
    if value is None:
        return
    holder = question
    for step in path[:-1]:
        below = holder.get(step, {})
        holder[step] = holder = dict(below) if isinstance(below, Mapping) else {}
    holder[path[-1]] = value
