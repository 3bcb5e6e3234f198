"""A question of AuthZEN, and what it asks here: by `map authzen { … }`, and as is usual where that says nothing.

Nothing that a caller says of itself or of the resource is taken for true, unless the policy says so.
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
# What is usual: the words of the specification, of its interop scenarios and of its profile for MCP.
DEFAULT_SUBJECT_TYPES = {"user": "user", "identity": "user", "agent": "agent", "client": "agent"}
METHODS = frozenset("GET HEAD POST PUT PATCH DELETE OPTIONS".split())
CALL, TOOL = "tools/call", "tool"
# Which of our obligations a gateway means that names a type of theirs.
OBLIGATIONS = {
    "step-up": ("step_up",),
    "notification": ("notify",),
    "custom": ("audit", "redact", "warn", "header"),
}
SUPPORTED_OBLIGATIONS = ("supported_obligations", "obligations_supported")  # the profile has had both names
CONFLICTING_VALUE = Invalid("said in two ways")
# Members of `context` that say how to answer: they are no facts.
CONSUME, APPROVAL = "consume", "approval"


class UnmappedError(Exception):
    """A question that becomes none of ours: nothing is decided, so it is denied."""


# ── The question of AuthZEN ───────────────────────────────────────────────────────────────────


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
    """One question, its structure checked; members that nobody knows are left out.

    `spends` says whether an allow takes what it relies on, `peeks` that the caller asked for an answer that takes
    nothing. Neither: the caller said nothing of it, and no setting says it for that caller.
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
        """From a clean tree; `place` is where it stands. `consumes`: what to do where the question does not say.

        A question that carries an approval spends, whatever it says: an approval counts once.
        Raises RequestError that names the member.
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
        """What a source of a map says here; None where it says nothing."""
        root, *rest = source
        if root == "context":
            return value_at(self.context, rest)
        found: object = getattr(getattr(self, root), rest[0])
        return value_at(found, rest[1:])


def parse_approvals(raw: object, place: str) -> tuple[object, ...]:
    """One, or a list of those of several people, each of the shape that `/decide` takes."""
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


# ── What it asks here ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class QuestionTranslator:
    """By the maps and the issuers of one policy. A kind of item that is written at all stands in place of the usual."""

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
        """By URL; one that two of them share names none."""
        named = [(one.url.rstrip("/"), one.name) for one in self.kernel.issuers.values() if one.url is not None]
        urls = [url for url, _ in named]
        return {url: name for url, name in named if urls.count(url) == 1}

    def question(self, asked: AccessEvaluation) -> JsonObject:
        """In the shape of `/decide`. Raises UnmappedError."""
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

    # ── Who asks ──────────────────────────────────────────────────────────────────────────────

    def who(self, asked: AccessEvaluation) -> JsonObject:
        """The subject, and the agents it acts through; of a type that nobody knows it is nobody."""
        subject, known = asked.subject, self.becomes(asked.subject)
        if known is None:
            return {}
        mapped = self.subjects.get(subject.type)
        issuer = mapped.issuer if mapped and mapped.issuer else self.issuer(subject.properties.get("iss"))
        vouched: JsonObject = {} if issuer is None else {"credential": {"issuer": issuer}}
        if known == "user":
            return {"user": {"id": subject.id}, **vouched, **self.through(asked, issuer)}
        if subject.properties.get("act") is not None:
            raise UnmappedError("an agent for which another agent acts is not understood: the subject is who is served")
        return {"agent": {"id": subject.id}, **vouched}

    def becomes(self, subject: EvaluationEntity) -> str | None:
        if self.subjects:
            mapped = self.subjects.get(subject.type)
            return mapped.becomes if mapped else None
        return DEFAULT_SUBJECT_TYPES.get(subject.type)

    def issuer(self, named: object) -> object:
        """The issuer of ours that has that URL, or that name."""
        return self.issuers.get(named.rstrip("/"), named) if isinstance(named, str) else named

    def through(self, asked: AccessEvaluation, issuer: object) -> JsonObject:
        """`act` names the current actor and, within, those before it; `context.agent` names a current actor alone."""
        actors = list(actor_chain(asked.subject.properties.get("act")))
        named = asked.context.get("agent")
        if not actors:
            return {} if named is None else {"agent": {"id": named}}
        if named is not None and named != actors[0].get("sub"):
            raise UnmappedError("`context.agent` and `subject.properties.act` name two agents")
        presenter = {"id": actors[0].get("sub"), "issuer": self.issuer(actors[0].get("iss"))}
        hops = [
            {"agent": actor.get("sub"), "issuer": issuer if actor.get("iss") is None else self.issuer(actor["iss"])}
            for actor in reversed(actors[1:])
        ]
        return {"agent": presenter, **({"chain": {"hops": hops}} if hops else {})}

    # ── What for ──────────────────────────────────────────────────────────────────────────────

    def action(self, asked: AccessEvaluation) -> k.MapAction | None:
        """What the policy writes about the action: on this type of resource, else on any."""
        name, type_ = asked.action.name, asked.resource.type
        found = self.actions.get((name, type_)) or self.actions.get((name, None))
        if found is None and self.actions:
            raise UnmappedError(f"no `map authzen` says what `{quote_input(name)}` on `{quote_input(type_)}` is")
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
                raise UnmappedError(f"`{quote_input(asked.resource.id)}` is no tool of `{glob}`")
            case k.MapVerb(verb, type_):
                if item.on is None and self.entity(asked) != type_:
                    raise UnmappedError(f"`{quote_input(asked.resource.type)}` is no `{type_}`")
                return action_question(verb, type_, asked)
            case _:
                assert_never(item.endpoint)

    def usual(self, asked: AccessEvaluation) -> JsonObject:
        """A method of HTTP asks for a path, `tools/call` for a tool, anything else is done with an entity."""
        name, resource = asked.action.name, asked.resource
        if name in METHODS:
            return http_question(name, resource.id, asked)
        if (name, resource.type) == (CALL, TOOL):
            return tool_question(resource.id, asked)
        return action_question(name, self.entity(asked), asked)

    def entity(self, asked: AccessEvaluation) -> str:
        type_ = asked.resource.type
        if self.resources and type_ not in self.resources:
            raise UnmappedError(f"no `map authzen` says what a `{quote_input(type_)}` is")
        return self.resources.get(type_, type_)

    # ── Attributes ────────────────────────────────────────────────────────────────────────────

    def rows(self, asked: AccessEvaluation, facts: tuple[k.MapFact, ...], endpoint: JsonObject) -> list[JsonObject]:
        """Attributes that the policy lets a question tell: for what the directory knows it is not asked."""
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
        """Whose attribute it is, if the subject or the resource is of that entity here."""
        if fact.source[0] == "subject":
            return (fact.path[0], asked.subject.id) if self.becomes(asked.subject) == fact.path[0] else None
        thing = endpoint.get("resource")
        type_ = thing.get("type") if isinstance(thing, Mapping) else self.resources.get(asked.resource.type)
        return (fact.path[0], asked.resource.id) if type_ == fact.path[0] else None


def actor_chain(act: object) -> Iterator[Mapping[str, object]]:
    """From the current actor to the one that was first to act for the subject."""
    while act is not None:
        if not isinstance(act, Mapping) or not isinstance(act.get("sub"), str):
            raise UnmappedError("`subject.properties.act` is no chain of actors, each with a `sub`")
        yield act
        act = act.get("act")


# ── Pieces of the question ────────────────────────────────────────────────────────────────────


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
    """A gateway that says which obligations it can meet is denied what it cannot; a list that is none names none."""
    given = next((asked.context[name] for name in SUPPORTED_OBLIGATIONS if asked.context.get(name) is not None), None)
    if given is None:
        return {"consume": asked.spends}
    named = given if isinstance(given, list | tuple) else ()
    kinds = [kind for one in named if isinstance(one, str) for kind in OBLIGATIONS.get(one, ())]
    return {"consume": asked.spends, "obligations_supported": kinds}


def path_segment(segment: k.MapSegment, asked: AccessEvaluation) -> str:
    """Written so that it stays one segment: what cannot be one makes a path that is malformed, and denied."""
    if segment.source is None:
        return quote(segment.text, safe="")
    value = asked.at(segment.source)
    if not isinstance(value, str) or not value:
        raise UnmappedError(f"`{'.'.join(segment.source)}` is no text: there is no path without it")
    return quote(f"{segment.text}{value}{segment.after}", safe="", errors="replace")


def set_fact(question: JsonObject, path: k.MapPath, value: object) -> None:
    """Sets a fact. What is on its way and no object can hold none."""
    if value is None:
        return
    holder = question
    for step in path[:-1]:
        below = holder.get(step, {})
        holder[step] = holder = dict(below) if isinstance(below, Mapping) else {}
    holder[path[-1]] = value
