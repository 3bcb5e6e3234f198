"""AuthZEN evaluations with checked structure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policyengine import kernel as k
from policyengine.runtime.structure_checks import (
    RequestError,
    get_flag,
    get_object,
    get_text,
    wrong_type_error,
)

JsonObject = dict[str, object]
MEMBERS = ("subject", "action", "resource", "context")
# Members of `context` that control the answer and are not facts.
CONSUME, APPROVAL = "consume", "approval"


class UnmappedError(Exception):
    """The error for an evaluation that has no translation, and is therefore denied."""


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

    @property
    def facts(self) -> JsonObject:
        """The context without the members that control the answer."""
        return {name: value for name, value in self.context.items() if name not in (CONSUME, APPROVAL)}

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
