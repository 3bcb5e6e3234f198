"""Reads `x-authzen-mapping` of tools: the evaluations of gateways that follow COAZ, AuthZEN's binding for MCP.

A mapping is a claim of the server. It grants nothing: it names actions, which the author of the policies may grant.
Expressions are not evaluated here, because that is the task of the gateway; only references to arguments are
recognized.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from policyengine.importers.model import DeclaredAction, OperationFact
from policyengine.importers.sanitize import is_inner_member, is_member

MAPPING = "x-authzen-mapping"
ENVELOPES = ("evaluation", "evaluations")
MAX_EVALUATIONS = 20
MAX_CONTEXT_MEMBERS = 50
ARGUMENT = re.compile(r"\$params\.arguments\.([A-Za-z_][A-Za-z0-9_]{0,39})")
TOKEN_CLAIM = re.compile(r"\$token\.[A-Za-z_][A-Za-z0-9_]*")
AGENT = "agent"  # the member of `context` with the client, which is a fact of its own


class MappingError(Exception):
    """The error for a mapping that is not used; the message says why."""


def read_mapping(mapping: object, facts: Sequence[OperationFact]) -> tuple[tuple[DeclaredAction, ...], tuple[str, ...]]:
    """Return the actions of a mapping, and notes for the author of the policies; nothing without a mapping. `facts` are
    those of the arguments of the tool.
    """
    if mapping is None:
        return (), ()
    try:
        return read_evaluations(mapping, {fact.name: fact for fact in facts})
    except MappingError as error:
        return (), (f"its `{MAPPING}` is not used: {error}",)


def read_evaluations(
    mapping: object, facts: Mapping[str, OperationFact]
) -> tuple[tuple[DeclaredAction, ...], tuple[str, ...]]:
    """Return the actions and notes. Raises MappingError."""
    if not isinstance(mapping, dict) or len(mapping) != 1 or next(iter(mapping)) not in ENVELOPES:
        raise MappingError("it must have either `evaluation` or `evaluations`")
    envelope, template = next(iter(mapping.items()))
    shared = require_object(template, envelope)
    items = [{}] if envelope == ENVELOPES[0] else shared.get("evaluations")
    if not isinstance(items, list) or not 0 < len(items) <= MAX_EVALUATIONS:
        raise MappingError(f"`evaluations` must be a list of 1 to {MAX_EVALUATIONS} evaluations")
    notes = list(subject_notes(shared))
    found: dict[tuple[str, str], DeclaredAction] = {}
    for item in items:
        entry = require_object(item, "an evaluation")
        if "subject" in entry:
            raise MappingError("an evaluation in `evaluations` has its own `subject`")
        try:
            action = read_action({**shared, **entry}, facts)
        except MappingError as error:
            notes.append(f"its `{MAPPING}` has an evaluation that you must name yourself: {error}")
            continue
        found.setdefault((action.verb, action.type), action)
    return tuple(found.values()), tuple(dict.fromkeys(notes))


def require_object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MappingError(f"{what} must be an object")
    return value


def subject_notes(shared: Mapping[str, Any]) -> Iterator[str]:
    """Yield a note if the identity of the user does not come from a claim of the token, which gateways can verify."""
    subject = shared.get("subject")
    id_ = subject.get("id") if isinstance(subject, dict) else None
    if id_ is not None and not (isinstance(id_, str) and TOKEN_CLAIM.fullmatch(id_)):
        yield f"its `{MAPPING}` does not take the user from the token: do not trust such evaluations"


def read_action(template: Mapping[str, Any], facts: Mapping[str, OperationFact]) -> DeclaredAction:
    """Return the action of one evaluation. Raises MappingError."""
    verb = read_name(require_object(template.get("action"), "`action`").get("name"), "`action.name`")
    type_ = read_name(require_object(template.get("resource"), "`resource`").get("type"), "`resource.type`")
    context = template.get("context", {})
    members = context if isinstance(context, dict) else {}
    return DeclaredAction(verb, type_, tuple(context_facts(members, facts)))


def read_name(value: object, what: str) -> str:
    """Return a literal name that policies can write. Raises MappingError."""
    if not isinstance(value, str):
        raise MappingError(f"{what} is not a string")
    if value.startswith("$") and not value.startswith("$$"):
        raise MappingError(f"{what} is computed")
    if not is_inner_member(value):
        raise MappingError(f"{what} is not a name in policies (`map authzen` can map it)")
    return value


def context_facts(context: Mapping[str, Any], facts: Mapping[str, OperationFact]) -> Iterator[OperationFact]:
    """Yield the facts of the members of the context that are arguments of the tool."""
    for name, value in list(context.items())[:MAX_CONTEXT_MEMBERS]:
        found = ARGUMENT.fullmatch(value) if isinstance(value, str) else None
        fact = None if found is None else facts.get(f"args.{found[1]}")
        if fact is not None and is_member(name) and name != AGENT and fact.type.isalpha():
            yield OperationFact(f"context.{name}", fact.type, optional=True)


def declared_actions(actions: Iterable[DeclaredAction]) -> dict[str, DeclaredAction]:
    """Return one action for each verb and type. Facts that two tools declare with different types are left out."""
    found: dict[str, DeclaredAction] = {}
    for action in actions:
        before = found.get(action.written)
        if before is not None:
            types = {fact.name: fact for fact in before.facts}
            both = {**{fact.name: fact for fact in action.facts}, **types}
            differ = {fact.name for fact in action.facts if types.get(fact.name, fact).type != fact.type}
            kept = tuple(fact for name, fact in both.items() if name not in differ)
            found[action.written] = DeclaredAction(action.verb, action.type, kept)
        else:
            found[action.written] = action
    return found
