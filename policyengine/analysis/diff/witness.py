"""Questions made to order: the facts and the rows for which conditions about them come out as wanted.

What is built is only likely to fit: whoever builds one asks the engines what they say to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice, product
from typing import Any, TypeAlias

from policyengine import kernel as k
from policyengine import typesystem
from policyengine.analysis.diff import witness_memberships
from policyengine.analysis.diff import witness_texts as texts
from policyengine.analysis.diff import witness_values as values
from policyengine.analysis.diff.endpoint_classes import EndpointClass
from policyengine.analysis.diff.specialize import DEPTH, SOUND, UNSURE, CallerAssumption
from policyengine.analysis.diff.witness_values import (
    FRESH_VALUES,
    MONDAY,
    fill_rank,
    must_differ,
    quote_segment,
    rounded_state,
    sample_address,
    shift_value,
    state_value,
)
from policyengine.runtime import windows
from policyengine.runtime.endpoints import ActionEndpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.windows import Window
from policyengine.solver.satisfiability import evaluate_formula, subject_states
from policyengine.solver.symbolic import FactPair, FactSpace, Subject, to_formula
from policyengine.solver.value_partition import AbstractValue, SpecialValue
from policyengine.typesystem import EntityRef, Scalar

QuestionData: TypeAlias = dict[str, Any]

MAX_COMBINATIONS = 2_000
MAX_ELEMENTS = 1_000  # of a set or list whose size is asked for
AROUND = {"domain": "x@{}", "host": "https://{}/"}
WRONG_TYPE: Mapping[str, object] = {"of": "another type"}


@dataclass(slots=True)
class WitnessBuilder:
    """A question that grows: `rows` are attributes and memberships of entities, `segments` those of the path."""

    at: EndpointClass
    settled: CallerAssumption
    question: QuestionData = field(default_factory=dict)
    rows: dict[EntityRef, dict[str, Any]] = field(default_factory=dict)
    parents: dict[EntityRef, list[EntityRef]] = field(default_factory=dict)
    segments: dict[int, str] = field(default_factory=dict)
    elements: dict[str, Any] = field(default_factory=dict)
    windows: list[tuple[Window, bool]] = field(default_factory=list)
    now: datetime = MONDAY
    absence: frozenset[Subject] = frozenset()
    constants: Mapping[Subject, Sequence[AbstractValue]] = field(default_factory=dict)
    refused: Mapping[k.Expr, Sequence[Any]] = field(default_factory=dict)  # what sets are not to hold

    # ── What is asked for ─────────────────────────────────────────────────────────────────────

    def fill(self, wanted: Mapping[Subject, AbstractValue]) -> None:
        """Facts first, then what is said of entities and sets, then what compares two facts: equal ones first."""
        self.refused = witness_memberships.forbidden_items(wanted)
        ordered = sorted(wanted.items(), key=lambda item: (fill_rank(item[0]), must_differ(*item)))
        for subject, state in ordered:
            self.want(subject, state)
        for quantifiers in witness_memberships.quantifiers_by_domain(wanted):
            witness_memberships.fill_quantifiers(self, quantifiers)
        for operand, asked in texts.questions_by_operand(wanted).items():
            self.spell(operand, asked)
        for subject, state in wanted.items():
            if isinstance(subject, k.HasRow) and state is False:
                self.rows.pop(self.entity(subject.entity), None)

    def want(self, subject: Subject, state: AbstractValue) -> None:
        if state is SpecialValue.ABSENT:
            return self.leave_out(subject)
        if state is SpecialValue.BROKEN:
            self.spoil(subject)
        elif isinstance(subject, FactPair):
            self.order(subject, state)
        elif isinstance(state, bool) and not isinstance(subject, k.Fact | k.Attribute | k.Member | k.Variable):
            self.decide(subject, state)
        else:
            self.give(subject, self.nice(subject, state))

    def spell(self, operand: k.Expr, asked: texts.TextQuestions) -> None:
        """A text for which all that is asked about it comes out as wanted."""
        known = self.held(operand)
        fitting = texts.sample_text(asked, [known] if isinstance(known, str) else [])
        if fitting is not None and fitting != known:
            self.give(operand, fitting)

    def complete(self, read: Iterable[k.Expr], wanted: Mapping[Subject, AbstractValue]) -> None:
        """Values for what limits count by: where that is unknown they let nothing through."""
        for operand in read:
            if operand not in wanted and self.held(operand) is None:
                self.give(operand, self.fresh_for(operand))

    def meet(self, conditions: Iterable[k.Expr], wanted: Mapping[Subject, AbstractValue]) -> bool:
        """Whether facts that were not asked for by now are such that all the conditions hold."""
        space = FactSpace()
        formulas = [to_formula(one, space) for one in conditions]
        choices = [subject_states(number, space) for number in range(len(space.subjects))]
        worlds = islice(product(*choices), MAX_COMBINATIONS)
        world = next((one for one in worlds if all(evaluate_formula(formula, one) for formula in formulas)), None)
        if world is None or not formulas:
            return False
        inner = {one: tuple(space.constants[place]) for place, one in enumerate(space.subjects)}
        self.constants = {**inner, **self.constants}
        self.fill({one: state for one, state in zip(space.subjects, world, strict=True) if one not in wanted})
        return True

    def leave_out(self, subject: Subject) -> None:
        """An attribute is absent only where there is a row that lacks it."""
        if isinstance(subject, k.Attribute):
            self.row(self.entity(subject.base))

    def spoil(self, subject: Subject) -> None:
        """What is unknown is absent, unless the rules tell that from other unknowns."""
        if subject in self.absence and isinstance(subject, k.Fact | k.Attribute | k.Member):
            self.give(subject, WRONG_TYPE if not isinstance(subject.type, typesystem.RecordType) else 7)

    def nice(self, subject: k.Expr, state: AbstractValue) -> Any:
        """The state as a value: one that a person would choose, where the rules do not tell it from others."""
        type_ = subject.type
        if state is SpecialValue.OTHER:
            return self.fresh_for(subject)
        if isinstance(state, Fraction):
            return state_value(rounded_state(state, self.constants.get(subject, ()), type_), type_)
        if isinstance(state, str) and state not in self.constants.get(subject, ()):
            return "other" if state == "" else f"{state.rstrip(chr(0))}-other"
        return state

    def fresh_for(self, subject: k.Expr) -> Any:
        """The tools of a task are those that are called: it would let no other through."""
        if isinstance(subject, k.Fact) and subject.path == ("task", "tools"):
            endpoint = self.at.endpoint
            return [endpoint.qualified] if isinstance(endpoint, ToolEndpoint) else []
        return self.fresh(subject.type)

    def fresh(self, type_: typesystem.Type) -> Any:
        match type_:
            case typesystem.RefType(entities):
                return EntityRef(min(entities), "other")
            case typesystem.SetType() | typesystem.ListType():
                return []
            case typesystem.RecordType():
                return {}
            case typesystem.EnumType(_, values):
                return values[0]
            case _:
                return FRESH_VALUES.get(str(type_), "other")

    # ── Values of facts, attributes and members ───────────────────────────────────────────────

    def give(self, to: k.Expr, raw: Any) -> None:
        match to:
            case k.Fact(path):
                self.give_fact(path, raw)
            case k.Attribute(base, name):
                self.row(self.entity(base))[name] = raw
            case k.Member(base, name):
                held = self.held(base)
                record = held if isinstance(held, dict) else {}
                record[name] = raw
                self.give(base, record)
            case k.Default(operand):
                self.give(operand, raw)
            case k.Variable(name):
                self.elements[name] = raw
            case k.UnaryMinus(operand) if isinstance(raw, int | Decimal | timedelta):
                self.give(operand, -raw)
            case k.Call(function, (argument, *_)):
                self.give_argument(function, argument, raw)
            case k.Arithmetic():
                self.give_term(to, raw)
            case _:
                pass

    def give_argument(self, function: str, argument: k.Expr, raw: Any) -> None:
        if isinstance(raw, EntityRef):
            self.give(argument, raw.id)
        elif function == "size" and isinstance(raw, int):
            type_ = argument.type
            self.give(
                argument, "x" * raw if type_ is Scalar.STRING else values.sample_elements(type_, min(raw, MAX_ELEMENTS))
            )
        elif function in AROUND and isinstance(raw, str):
            self.give(argument, AROUND[function].format(raw))
        else:
            self.give(argument, raw)

    def give_term(self, sum_: k.Arithmetic, raw: Any) -> None:
        """Of two facts one is chosen plain; a constant stays."""
        left, right = self.held(sum_.left), self.held(sum_.right)
        free = left is None or isinstance(sum_.right, k.Constant)
        known, other = (right, sum_.left) if free else (left, sum_.right)
        if known is None:
            known = 1 if sum_.operator == "*" else 0
            self.give(sum_.left, known)
            other = sum_.right
        try:
            if sum_.operator == "*":
                self.give(other, Decimal(raw) / Decimal(known))
            elif sum_.operator == "+":
                self.give(other, raw - known)
            else:
                self.give(other, known - raw if other is sum_.right else raw + known)
        except (TypeError, ArithmeticError):
            return

    def give_fact(self, path: tuple[str, ...], raw: Any) -> None:
        match path:
            case ("", "issuer"):
                self.put(("credential", "issuer"), raw)
                if self.settled.agent is not SpecialValue.ABSENT:
                    self.put(("agent", "issuer"), raw)
            case ("segment", number_, prefix, suffix):
                as_here = self.text_of(int(number_))  # in whatever case
                self.segments[int(number_)] = f"{as_here[: len(prefix)]}{raw}{as_here[len(as_here) - len(suffix) :]}"
            case ("resource", _, *place) if place and isinstance(raw, EntityRef):
                self.give_fact(tuple(place), raw.id)
            case ("resource", _) if isinstance(raw, EntityRef):
                self.put(("resource", "id"), raw.id)
            case ("time",):
                self.now = raw if isinstance(raw, datetime) else self.now
            case _ if path[0] in (SOUND[0], UNSURE, DEPTH, "claimed") or path[0] in ("chain", "approval", "params"):
                pass
            case ("agent" | "user" | "tool",) | ("agent" | "user", "id") | ("request", "method" | "path") | ("tool", _):
                pass
            case _:
                self.put(path, raw)

    def put(self, path: tuple[str, ...], raw: Any) -> None:
        if path[0] == "agent" and self.settled.agent is SpecialValue.ABSENT:
            return
        below = self.question
        for name in path[:-1]:
            inner = below.setdefault(name, {})
            if not isinstance(inner, dict):
                return
            below = inner
        below[path[-1]] = raw

    def held(self, expression: k.Expr) -> Any:
        """What is known of it by now; None where nothing is."""
        match expression:
            case k.Constant(value):
                return value
            case k.Variable(name):
                return self.elements.get(name)
            case k.Attribute(base, name):
                return self.row(self.entity(base)).get(name)
            case k.Member(base, name):
                record = self.held(base)
                return record.get(name) if isinstance(record, dict) else None
            case k.Default(operand, fallback):
                found = self.held(operand)
                return self.held(fallback) if found is None else found
            case k.Fact(path):
                return self.held_fact(path)
            case k.Collection(items):
                return [self.held(item) for item in items]
            case k.Arithmetic(operator=operator, left=left, right=right):
                return values.compute(operator, self.held(left), self.held(right))
            case _:
                return None

    def held_fact(self, path: tuple[str, ...]) -> Any:
        match path:
            case ("segment", number_, prefix, suffix):
                text = self.segments.get(int(number_)) or self.text_of(int(number_))
                return text[len(prefix) : len(text) - len(suffix)]
            case ("resource", type_, *place) if place:
                return EntityRef(type_, str(self.held_fact(tuple(place))))
            case ("resource", type_):
                return EntityRef(type_, str(self.question.get("resource", {}).get("id", "x")))
            case ("time",):
                return self.now
            case ("tool",) if isinstance(self.at.endpoint, ToolEndpoint):
                return EntityRef("tool", self.at.endpoint.qualified)
            case ("", "issuer"):
                return self.question.get("credential", {}).get("issuer")
            case _:
                below: Any = self.question
                for name in path:
                    below = below.get(name) if isinstance(below, dict) else None
                return below

    def text_of(self, number_: int) -> str:
        endpoint = self.at.endpoint
        return endpoint.segments[number_] if isinstance(endpoint, HttpEndpoint) else "x"

    def known(self, expression: k.Expr) -> Any:
        """What is known of it, or else a value chosen now."""
        found = self.held(expression)
        if found is None or found is WRONG_TYPE:
            found = self.fresh_for(expression)
            self.give(expression, found)
        return found

    def entity(self, expression: k.Expr) -> EntityRef:
        found = self.known(expression)
        if isinstance(found, EntityRef):
            return found
        type_ = expression.type
        return EntityRef(min(type_.entities) if isinstance(type_, typesystem.RefType) else "user", str(found))

    def row(self, ref: EntityRef) -> dict[str, Any]:
        return self.rows.setdefault(ref, {})

    # ── Conditions that are no comparison with a constant ─────────────────────────────────────

    def decide(self, subject: k.Expr, wanted: bool) -> None:
        match subject:
            case k.Relation("has" | "holds", collection, item):
                witness_memberships.fill_contains(self, collection, item, wanted)
            case k.HasRow(entity):
                self.row(self.entity(entity))  # which `fill` takes away at the end where there is to be none
            case k.Relation("in" | "below" | "child of", item, ancestor):
                witness_memberships.fill_membership(self, self.entity(item), self.entity(ancestor), wanted)
            case k.Relation("within", address, networks):
                self.give(address, sample_address(self.held(networks), wanted))
            case k.InWindow(_, window):
                self.windows.append((window, wanted))
            case k.Relation("overlaps", left, right):
                witness_memberships.fill_overlap(self, left, right, wanted)
            case k.Relation("subset of", left, right):
                witness_memberships.fill_subset(self, left, right, wanted)
            case _:
                self.give(subject, wanted)

    def order(self, pair: FactPair, state: AbstractValue) -> None:
        """Two facts in the wanted order: the one that is not known yet is chosen."""
        steps = {Fraction(-1): -1, Fraction(0): 0, Fraction(1): 1}
        left, right = pair.left, pair.right
        step = steps.get(state, 0) if isinstance(state, Fraction) else 0
        if values.are_in_order(self.held(left), self.held(right), step):
            return
        if is_fixed(right) or (not is_fixed(left) and self.held(right) is not None and self.held(left) is None):
            self.give(left, shift_value(self.known(right), step))
        else:
            self.give(right, shift_value(self.known(left), -step))

    # ── The whole ─────────────────────────────────────────────────────────────────────────────

    def asked(self) -> QuestionData:
        """The question, with its endpoint, its caller and the rows that it needs."""
        found = deepcopy(self.question)
        match self.at.endpoint:
            case HttpEndpoint(method, _, segments):
                texts = [self.segments.get(number_, text) for number_, text in enumerate(segments)]
                found.setdefault("request", {}).update(method=method, path="/" + "/".join(map(quote_segment, texts)))
            case ToolEndpoint(server, tool):
                found["tool"] = {"name": tool} if server is None else {"server": server, "name": tool}
            case ActionEndpoint(verb, type_):
                found["action"] = {"name": verb}
                found["resource"] = {"type": type_, "id": found.get("resource", {}).get("id", "x")}
        callers: tuple[tuple[str, str | SpecialValue], ...] = (
            ("agent", self.settled.agent),
            ("user", self.settled.user),
        )
        for root, name in callers:
            if name is not SpecialValue.ABSENT:
                found.setdefault(root, {})["id"] = name if isinstance(name, str) else WRONG_TYPE
        if rows := list(self.entities()):
            found["entities"] = rows
        return found

    def entities(self) -> Iterator[QuestionData]:
        for ref, attributes in self.rows.items():
            above = [{"type": one.type, "id": one.id} for one in self.parents.get(ref, ())]
            if attributes or above or ref in self.parents or not self.at.words:
                yield {"type": ref.type, "id": ref.id, "attributes": attributes, "in": above}
            else:
                yield {"type": ref.type, "id": ref.id}

    def moment(self) -> datetime:
        """The time of the question: one within the windows that were asked for, and outside of the others."""
        for moment in values.candidate_times(self.now, [window for window, _ in self.windows]):
            if all(windows.contains(window, moment) is wanted for window, wanted in self.windows):
                return moment
        return self.now


def is_fixed(operand: k.Expr) -> bool:
    """A constant, or the time: what is compared with it is moved instead."""
    return isinstance(operand, k.Constant) or (isinstance(operand, k.Fact) and operand.path == ("time",))
