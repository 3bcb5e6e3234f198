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
from policyengine.runtime.patterns import Glob
from policyengine.runtime.structure_checks import (
    RequestError,
    get_flag,
    get_object,
    get_text,
    quote_input,
    wrong_type_error,
)
from policyengine.runtime.values import Invalid

JsonObject = dict[str, object]
MEMBERS = ("subject", "action", "resource", "context")
# Defaults: the names of the specification, of its interop scenarios and of its profile for MCP.
DEFAULT_SUBJECT_TYPES = {"user": "user", "identity": "user", "agent": "agent", "client": "agent"}
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
CALL, TOOL = "tools/call", "tool"
# The obligations of the policy language for each registered AuthZEN type.
OBLIGATIONS = {
    "step-up": ("step_up",),
    "notification": ("notify",),
    "custom": ("audit", "redact", "warn", "header"),
}
SUPPORTED_OBLIGATIONS = ("supported_obligations", "obligations_supported")  # versions of the profile use both names
CONFLICTING_VALUE = Invalid("given two different values")
# Members of `context` that control the answer and are not facts.
CONSUME, APPROVAL = "consume", "approval"


class UnmappedError(Exception):
    """The error for an evaluation that has no translation, and is therefore denied."""


# ── AuthZEN evaluations ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class EvaluationEntity:
    type: str
    id: str
    properties: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EvaluationAction:
    name: str
    properties: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class AccessEvaluation:
    """One evaluation with checked structure; unknown members are left out. `spends` means that an allow spends what it
    requires, `peeks` that the caller asked for an answer that spends nothing. If neither is true, neither the
    evaluation nor the settings say whether to spend.
    """

    subject: EvaluationEntity
    action: EvaluationAction
    resource: EvaluationEntity
    context: Mapping[str, object]
    approvals: tuple[object, ...] = ()
    spends: bool = False
    peeks: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, object], place: str = "", *, consumes: bool = False) -> AccessEvaluation:
        """Read an evaluation from a decoded tree; `place` is its location in the body. `consumes` is the default for
        spending.

        A question that carries an approval always spends, because an approval can be used only once. Raises
        RequestError with the member.
        """
        action = required_object(raw, "action", place)
        context = get_object(raw.get("context"), f"{place}context") or {}
        approvals = parse_approvals(context.get(APPROVAL), f"{place}context.{APPROVAL}")
        consume = context.get(CONSUME)
        spends = bool(approvals) or get_flag(consume, f"{place}context.{CONSUME}", default=consumes)
        return cls(
            parse_entity(raw, "subject", place),
            EvaluationAction(
                get_text(action.get("name"), f"{place}action.name"), parse_properties(action, f"{place}action")
            ),
            parse_entity(raw, "resource", place),
            context,
            approvals,
            spends,
            consume is False and not spends,
        )

    def at(self, source: k.MapPath) -> object:
        """Return the value of a map's source in this evaluation, or None if the evaluation does not have it."""
        root, *rest = source
        if root == "context":
            return value_at(self.context, rest)
        found: object = getattr(getattr(self, root), rest[0])
        return value_at(found, rest[1:])


def parse_approvals(raw: object, place: str) -> tuple[object, ...]:
    """Return the approvals: one approval, or a list with the approvals of several people, each with the structure that
    `/decide` accepts. Raises RequestError.
    """
    match raw:
        case None:
            return ()
        case tuple() if raw:
            return tuple(get_object(one, f"{place}[{number}]") for number, one in enumerate(raw))
        case dict():
            return (raw,)
        case _:
            raise wrong_type_error(raw, place, "an approval, or a list of approvals")


def required_object(raw: Mapping[str, object], name: str, place: str) -> Mapping[str, object]:
    found = get_object(raw.get(name), f"{place}{name}")
    if found is None:
        raise RequestError(f"{place}{name}", f"`{place}{name}` is missing")
    return found


def parse_entity(raw: Mapping[str, object], name: str, place: str) -> EvaluationEntity:
    given, member = required_object(raw, name, place), f"{place}{name}"
    type_, id_ = get_text(given.get("type"), f"{member}.type"), get_text(given.get("id"), f"{member}.id")
    return EvaluationEntity(type_, id_, parse_properties(given, member))


def parse_properties(given: Mapping[str, object], member: str) -> Mapping[str, object]:
    return get_object(given.get("properties"), f"{member}.properties") or {}


def value_at(found: object, steps: list[str]) -> object:
    for step in steps:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


# ── Translation ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class QuestionTranslator:
    """Translates evaluations with the maps and the issuers of one policy. If the policy maps a kind of item, the
    defaults for that kind are disabled.
    """

    kernel: k.Kernel

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
        endpoint = self.usual(asked) if written is None else self.written(written, asked)
        given: JsonObject = {**self.who(asked), **endpoint, **context_facts(asked), "options": request_options(asked)}
        if asked.approvals:
            given["approvals"] = list(asked.approvals)
        facts = (*self.facts, *(written.facts if written else ()))
        for fact in (one for one in facts if not one.entity):
            set_fact(given, fact.path, asked.at(fact.source))
        rows = self.rows(asked, facts, endpoint)
        return {**given, "entities": rows} if rows else given

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
            return {} if named is None else {"agent": {"id": named}}
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
        policy maps no actions. Raises UnmappedError if it maps others, but not this action.
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

    def usual(self, asked: AccessEvaluation) -> JsonObject:
        """Return the default endpoint: a path for an HTTP method, a tool for `tools/call`, otherwise an action on an
        entity."""
        name, resource = asked.action.name, asked.resource
        if name in METHODS:
            return http_question(name, resource.id, asked)
        if (name, resource.type) == (CALL, TOOL):
            return tool_question(resource.id, asked)
        return action_question(name, self.entity(asked), asked)

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
    """Yield the actors from the current one to the first one. Raises UnmappedError."""
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
    facts = {name: value for name, value in asked.context.items() if name not in (CONSUME, APPROVAL)}
    return {"context": facts} if facts else {}


def request_options(asked: AccessEvaluation) -> JsonObject:
    """Return the options of the question. A question that may spend also asks for the approvals that a confirm needs,
    as the questions of all gateways do. A decision that needs an obligation outside the gateway's list is a denial; a
    malformed list counts as empty.
    """
    options: JsonObject = {"consume": True, "request_approval": True} if asked.spends else {"consume": False}
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
