"""Questions made to order: the facts and the rows for which conditions about them come out as wanted.

What is built is only likely to fit: whoever builds one asks the engines what they say to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice, product
from typing import Any, TypeAlias

from policyengine import kinds
from policyengine.analysis import values
from policyengine.analysis.endpoints import Class, filled
from policyengine.analysis.rewriting import DEPTH, SOUND, UNSURE, Settled
from policyengine.analysis.values import FRESH, MONDAY, address_in, moved, number, rank, spelled, text_like, within_cell
from policyengine.kinds import EntityRef, Scalar
from policyengine.runtime import windows
from policyengine.runtime.endpoints import ActionEndpoint, HttpEndpoint, ToolEndpoint
from policyengine.runtime.windows import Window
from policyengine.semantics import kernel as k
from policyengine.semantics.cells import Plain, State
from policyengine.semantics.formulas import Pair, Space, Subject, read
from policyengine.semantics.possibilities import states_of, truth

Question: TypeAlias = dict[str, Any]

MOST_WORLDS = 2_000
WRONG_TYPE: Mapping[str, object] = {"of": "another type"}


@dataclass(slots=True)
class Filling:
    """A question that grows: `rows` are attributes and memberships of entities, `segments` those of the path."""

    at: Class
    settled: Settled
    question: Question = field(default_factory=dict)
    rows: dict[EntityRef, dict[str, Any]] = field(default_factory=dict)
    parents: dict[EntityRef, list[EntityRef]] = field(default_factory=dict)
    segments: dict[int, str] = field(default_factory=dict)
    elements: dict[str, Any] = field(default_factory=dict)
    windows: list[tuple[Window, bool]] = field(default_factory=list)
    now: datetime = MONDAY
    absence: frozenset[Subject] = frozenset()
    constants: Mapping[Subject, Sequence[Plain]] = field(default_factory=dict)

    # ── What is asked for ─────────────────────────────────────────────────────────────────────

    def fill(self, wanted: Mapping[Subject, Plain]) -> None:
        """Facts first, then what is said of entities and sets, then what compares two facts."""
        for subject, state in sorted(wanted.items(), key=lambda item: rank(item[0])):
            self.want(subject, state)
        for subject, state in wanted.items():
            if isinstance(subject, k.HasRow) and state is False:
                self.rows.pop(self.entity(subject.entity), None)

    def want(self, subject: Subject, state: Plain) -> None:
        if state is State.ABSENT:
            return self.leave_out(subject)
        if state is State.BROKEN:
            self.spoil(subject)
        elif isinstance(subject, Pair):
            self.order(subject, state)
        elif isinstance(state, bool) and not isinstance(subject, k.Fact | k.Attribute | k.Member | k.Variable):
            self.decide(subject, state)
        else:
            self.give(subject, self.nice(subject, state))

    def leave_out(self, subject: Subject) -> None:
        """An attribute is absent only where there is a row that lacks it."""
        if isinstance(subject, k.Attribute):
            self.row(self.entity(subject.base))

    def spoil(self, subject: Subject) -> None:
        """What is unknown is absent, unless the rules tell that from other unknowns."""
        if subject in self.absence and isinstance(subject, k.Fact | k.Attribute | k.Member):
            self.give(subject, WRONG_TYPE if not isinstance(subject.type, kinds.Record) else 7)

    def nice(self, subject: k.Expr, state: Plain) -> Any:
        """The state as a value: one that a person would choose, where the rules do not tell it from others."""
        type_ = subject.type
        if state is State.OTHER:
            return self.fresh(type_)
        if isinstance(state, Fraction):
            return number(within_cell(state, self.constants.get(subject, ()), type_), type_)
        if isinstance(state, str) and state not in self.constants.get(subject, ()):
            return "other" if state == "" else f"{state.rstrip(chr(0))}-other"
        return state

    def fresh(self, type_: kinds.Type) -> Any:
        match type_:
            case kinds.Ref(entities):
                return EntityRef(min(entities), "other")
            case kinds.Set() | kinds.List():
                return []
            case kinds.Record():
                return {}
            case kinds.Enum(_, values):
                return values[0]
            case _:
                return FRESH.get(str(type_), "other")

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
            case k.Negative(operand) if isinstance(raw, int | Decimal | timedelta):
                self.give(operand, -raw)
            case k.Apply(function, (argument, *_)):
                self.give_argument(function, argument, raw)
            case k.Arithmetic():
                self.give_term(to, raw)
            case _:
                pass

    def give_argument(self, function: str, argument: k.Expr, raw: Any) -> None:
        if isinstance(raw, EntityRef):
            self.give(argument, raw.id)
        elif function == "size" and isinstance(raw, int):
            text = argument.type is Scalar.STRING
            self.give(argument, "x" * raw if text else [f"item-{number}" for number in range(min(raw, 100))])
        else:
            self.give(argument, raw)

    def give_term(self, sum_: k.Arithmetic, raw: Any) -> None:
        """Of two facts one is chosen plain; a constant stays."""
        left, right = self.held(sum_.left), self.held(sum_.right)
        known, other = (left, sum_.right) if left is not None else (right, sum_.left)
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
                if self.settled.agent is not State.ABSENT:
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
        if path[0] == "agent" and self.settled.agent is State.ABSENT:
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
            found = self.fresh(expression.type)
            self.give(expression, found)
        return found

    def entity(self, expression: k.Expr) -> EntityRef:
        found = self.known(expression)
        if isinstance(found, EntityRef):
            return found
        type_ = expression.type
        return EntityRef(min(type_.entities) if isinstance(type_, kinds.Ref) else "user", str(found))

    def row(self, ref: EntityRef) -> dict[str, Any]:
        return self.rows.setdefault(ref, {})

    # ── Conditions that are no comparison with a constant ─────────────────────────────────────

    def decide(self, subject: k.Expr, wanted: bool) -> None:
        match subject:
            case k.Contains(collection, item):
                self.contain(collection, item, wanted)
            case k.HasRow(entity):
                self.row(self.entity(entity))  # which `fill` takes away at the end where there is to be none
            case k.Below(item, ancestor):
                self.place(self.entity(item), self.entity(ancestor), wanted)
            case k.InNetwork(address, networks):
                self.give(address, address_in(self.held(networks), wanted))
            case k.InWindow(_, window):
                self.windows.append((window, wanted))
            case k.Like(operand, pattern):
                self.give(operand, filled(pattern, "x") if wanted else "something-else")
            case k.Matches(operand, pattern):
                self.give(operand, text_like(pattern, wanted))
            case k.Overlaps(left, right):
                self.overlap(left, right, wanted)
            case k.Subset(left, right):
                self.include(left, right, wanted)
            case k.Quantifier():
                self.quantify(subject, wanted)
            case _:
                self.give(subject, wanted)

    def contain(self, collection: k.Expr, item: k.Expr, wanted: bool) -> None:
        if isinstance(collection, k.Constant | k.Collection):
            choices = self.held(collection)
            self.give(item, choices[0] if wanted and choices else self.fresh(item.type))
            return
        unsaid = not wanted and self.held(collection) is None and values.empty_unsaid(collection)
        held, one = [] if unsaid else self.known(collection), self.known(item)
        known = [*held] if isinstance(held, list | tuple) else []
        if wanted and one not in known:
            known.append(one)
        elif not wanted:
            known = [other for other in known if other != one]
            if isinstance(one, EntityRef):
                self.row(one)
        self.leave_out(collection) if unsaid else self.give(collection, known)

    def place(self, item: EntityRef, ancestor: EntityRef, wanted: bool) -> None:
        self.row(item)
        self.row(ancestor)
        if wanted and item != ancestor and ancestor not in self.parents.setdefault(item, []):
            self.parents[item].append(ancestor)

    def overlap(self, left: k.Expr, right: k.Expr, wanted: bool) -> None:
        one, other = self.known(left), self.known(right)
        if not wanted:
            for side, held in ((left, one), (right, other)):
                if not isinstance(side, k.Constant) and held:
                    self.give(side, [])
                    return
        common = next(iter([*other, *one, *self.some_of(left)]), None)
        for side, held in ((left, one), (right, other)):
            if common is not None and common not in held:
                self.give(side, [*held, common])

    def include(self, left: k.Expr, right: k.Expr, wanted: bool) -> None:
        one, other = self.known(left), self.known(right)
        if wanted:
            self.give(right, [*other, *(item for item in one if item not in other)])
            if isinstance(right, k.Constant):
                self.give(left, [item for item in one if item in other])
        else:
            self.give(left, [*one, *(item for item in self.some_of(left) if item not in other)])

    def some_of(self, collection: k.Expr) -> list[Any]:
        type_ = collection.type
        return [self.fresh(type_.element)] if isinstance(type_, kinds.Set | kinds.List) else []

    def quantify(self, subject: k.Quantifier, wanted: bool) -> None:
        """`any` is true by one element for which its condition is, `all` is false by one for which it is not."""
        if wanted == (subject.word == "all"):
            self.give(subject.domain, [])
            return
        space = Space()
        formula = read(subject.condition, space)
        choices = [states_of(number, space) for number in range(len(space.subjects))]
        for world in islice(product(*choices), MOST_WORLDS):
            if truth(formula, world) is wanted:
                self.elements.pop(subject.variable, None)
                inner = {one: tuple(space.constants[i]) for i, one in enumerate(space.subjects)}
                self.constants = {**self.constants, **inner}
                self.fill(dict(zip(space.subjects, world, strict=True)))
                break
        element = self.elements.pop(subject.variable, None)
        type_ = subject.domain.type
        if element is None and isinstance(type_, kinds.Set | kinds.List):
            element = self.fresh(type_.element)
        self.give(subject.domain, [element])

    def order(self, pair: Pair, state: Plain) -> None:
        """Two facts in the wanted order: the one that is not known yet is chosen."""
        steps = {Fraction(-1): -1, Fraction(0): 0, Fraction(1): 1}
        left, right = pair.left, pair.right
        step = steps.get(state, 0) if isinstance(state, Fraction) else 0
        if isinstance(right, k.Constant) or (self.held(right) is not None and self.held(left) is None):
            self.give(left, moved(self.known(right), step))
        else:
            self.give(right, moved(self.known(left), -step))

    # ── The whole ─────────────────────────────────────────────────────────────────────────────

    def asked(self) -> Question:
        """The question, with its endpoint, its caller and the rows that it needs."""
        found = deepcopy(self.question)
        match self.at.endpoint:
            case HttpEndpoint(method, _, segments):
                texts = [self.segments.get(number_, text) for number_, text in enumerate(segments)]
                found.setdefault("request", {}).update(method=method, path="/" + "/".join(map(spelled, texts)))
            case ToolEndpoint(server, tool):
                found["tool"] = {"name": tool} if server is None else {"server": server, "name": tool}
            case ActionEndpoint(verb, type_):
                found["action"] = {"name": verb}
                found["resource"] = {"type": type_, "id": found.get("resource", {}).get("id", "x")}
        callers: tuple[tuple[str, str | State], ...] = (("agent", self.settled.agent), ("user", self.settled.user))
        for root, name in callers:
            if name is not State.ABSENT:
                found.setdefault(root, {})["id"] = name if isinstance(name, str) else WRONG_TYPE
        if rows := list(self.entities()):
            found["entities"] = rows
        return found

    def entities(self) -> Iterator[Question]:
        for ref, attributes in self.rows.items():
            above = [{"type": one.type, "id": one.id} for one in self.parents.get(ref, ())]
            if attributes or above or ref in self.parents or not self.at.words:
                yield {"type": ref.type, "id": ref.id, "attributes": attributes, "in": above}
            else:
                yield {"type": ref.type, "id": ref.id}

    def moment(self) -> datetime:
        """The time of the question: one within the windows that were asked for, and outside of the others."""
        for moment in values.moments(self.now, [window for window, _ in self.windows]):
            if all(windows.contains(window, moment) is wanted for window, wanted in self.windows):
                return moment
        return self.now
