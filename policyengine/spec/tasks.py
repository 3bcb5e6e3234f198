"""The bounds of a task as conditions: `task.tools` bounds tool calls, `task.entities` bounds endpoints that bind
`resource`.

A bound acts if the request lies outside it, or if that is unknown. An absent set bounds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, ToolEndpoint
from policyengine.source import Source, Span
from policyengine.spec.reason_texts import A_TASK_ABOUT_IT, A_TASK_WITH_IT, NOT_OF_THE_TASK, TOOL_NOT_OF_THE_TASK
from policyengine.typesystem import RefType, Scalar, SetType
from policyengine.vocabulary import STRINGS

NOWHERE = Span(Source("", ""), 0, 0)
TOOLS, ENTITIES, RESOURCE = ("task", "tools"), ("task", "entities"), ("resource",)


@dataclass(frozen=True, slots=True)
class TaskConstraint:
    """One bound of a task: its fact, the message for a request outside the bound, and the task that the
    request needs.
    """

    given: k.Fact
    message: str
    need: str
    inside: k.Expr

    @property
    def path(self) -> tuple[str, ...]:
        return self.given.path

    @property
    def outside(self) -> k.Expr:
        there = k.IsPresent(self.given, span=NOWHERE)
        return k.And((there, k.Not(self.inside, span=NOWHERE)), span=NOWHERE)


def task_constraints(kind: str, binds_resource: bool, entities: Iterable[str]) -> Iterator[TaskConstraint]:
    """Yield the bounds that a task can set at an endpoint: `kind` is "http", "tool" or "action"; `entities` are the
    types of the policy.
    """
    if kind == "tool":
        yield tool_constraint(TOOL, NAME)
    if binds_resource:
        yield entity_constraint(frozenset(entities))


def endpoint_task_constraints(
    endpoint: Endpoint, bound: Iterable[tuple[str, ...]], entities: Iterable[str]
) -> Iterator[TaskConstraint]:
    """Yield the bounds of an endpoint with these bound facts."""
    is_action = isinstance(endpoint, ActionEndpoint)
    kind = "tool" if isinstance(endpoint, ToolEndpoint) else "action" if is_action else "http"
    return task_constraints(kind, is_action or RESOURCE in bound, entities)


TOOL = k.Fact(("tool",), Scalar.STRING, span=NOWHERE)
NAME = k.Fact(("tool", "name"), Scalar.STRING, span=NOWHERE)


def tool_constraint(qualified: k.Expr, name: k.Expr) -> TaskConstraint:
    """Return the bound of a tool: the list must contain `server/name`, or the name alone if it has no slash (a listed
    name with a slash is the tool of another server).
    """
    tools = k.Fact(TOOLS, STRINGS, True, span=NOWHERE)
    slash = k.Constant("/", Scalar.STRING, span=NOWHERE)
    whole = k.Relation("has", tools, qualified, span=NOWHERE)
    has_slash = k.Call("contains", (name, slash), Scalar.BOOL, span=NOWHERE)
    bare = k.And((k.Relation("has", tools, name, span=NOWHERE), k.Not(has_slash, span=NOWHERE)), span=NOWHERE)
    inside = k.Or((whole, bare), span=NOWHERE)
    return TaskConstraint(tools, TOOL_NOT_OF_THE_TASK, A_TASK_WITH_IT, inside)


def entity_constraint(types: frozenset[str]) -> TaskConstraint:
    """Return the bound of a resource by type and id. Membership is ignored, because it may change during the task."""
    entities = k.Fact(ENTITIES, SetType(RefType(types)), True, span=NOWHERE)
    resource = k.Fact(RESOURCE, RefType(types), span=NOWHERE)
    inside = k.Relation("has", entities, resource, span=NOWHERE)
    return TaskConstraint(entities, NOT_OF_THE_TASK, A_TASK_ABOUT_IT, inside)
