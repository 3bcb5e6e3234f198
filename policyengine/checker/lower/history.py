"""Lowering of history in conditions: which earlier requests match, and which of their facts must be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.checker.names.members import head_span, strip_parentheses
from policyengine.checker.names.scope import ExpressionContext
from policyengine.checker.type_names import describe_type, quote_source
from policyengine.checker.types.compatibility import NUMBERS
from policyengine.checker.types.constants import lower_duration
from policyengine.checker.types.expected_types import needs_expected_type
from policyengine.checker.types.schema import EVERYWHERE, UNRESOLVED
from policyengine.diagnostics.suggest import suggest
from policyengine.kernel.fingerprint import canonical_text
from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.typesystem import ListType, RecordType, Scalar, SetType, Type, UnresolvedType
from policyengine.vocabulary import FACT_ROOT_NAMES

Lower: TypeAlias = Callable[..., k.Expr | None]
STATUS, OUTPUT = ("past", "status"), ("past", "output")
USER = ("user", "id")
NO_STATUS = ",status=False)"  # not part of a digest, so that histories from before this member continue
MAX_HISTORY_WINDOW = timedelta(days=3_660)


def lower_history(
    node: ast.HistoryCondition | ast.Aggregate, context: ExpressionContext, condition: Lower, value: Lower
) -> k.Expr | None:
    if context.past is not None or context.constant:
        where = "another history" if context.past is not None else "a `let`, which is a constant"
        context.report(
            "E253", f"a history cannot be inside {where}", node.span, "write both separately, joined by `and`"
        )
        return None
    history = node.history
    window, keys = lower_history_window(history.within, context), lower_history_keys(history.per, context, value)
    main = EventLowerer(history.event, context, condition)
    named = isinstance(node, ast.Aggregate) and node.field is not None
    field = lower_aggregate_field(node, main, value) if isinstance(node, ast.Aggregate) and named else None
    event = main.event(keys, field, counted=isinstance(node, ast.Aggregate))
    since = None if history.since is None else EventLowerer(history.since, context, condition).event(keys, None)
    context.program.remembers.add(context.package)
    sound = (field is not None or not named) and (since is not None or history.since is None)
    if window is None or event is None or not sound or len(keys or ()) < len(history.per):
        return None
    if isinstance(node, ast.Aggregate):
        summed = field.type if field is not None and node.function == "sum" else Scalar.INT
        return k.Aggregate(node.function, field, event, window, since, summed, span=node.span)
    happened = k.HistoryCondition(event, window, since, span=node.span)
    return k.Not(happened, span=node.span) if node.negated else happened


def lower_history_keys(
    per: tuple[ast.Reference | ast.Call, ...], context: ExpressionContext, value: Lower
) -> tuple[k.Expr, ...] | None:
    """Lower the keys of a history. None means the default, agent and user. Keys cannot read quantifier variables."""
    if not per:
        return None
    found = (value(key, replace(context, variables={})) for key in per)
    return tuple(key for key in found if key is not None)


def lower_aggregate_field(node: ast.Aggregate, reading: EventLowerer, value: Lower) -> k.PastFact | k.Default | None:
    """Lower the fact of a `sum` or `distinct`, with its default if it has one. Return None if an error was reported."""
    written, context = node.field, reading.inside
    assert written is not None
    first = leading_operand(written)
    if not isinstance(first, ast.Reference):
        report_counted(node.function, written, context)
        return None
    if first.name.partition(".")[0] != "past":
        message = f"`{first.name}` is a fact of this request, but `{node.function}` needs facts of earlier requests"
        context.report("E246", message, first.span, f"write `past.{first.name}`")
        return None
    found = value(written, context, expected_field_type(node.function, written, context))
    if found is None:
        return None
    if not isinstance(found, k.PastFact | k.Default):
        report_counted(node.function, written, context)
        return None
    sound = check_counted_parts(found, context) and check_counted_type(node.function, found, context)
    return found if sound else None


def leading_operand(written: ast.Expr) -> ast.Expr:
    """Return `a` of `a else b else c`."""
    while isinstance(written, ast.Else):
        written = written.operand
    return written


def expected_field_type(function: str, written: ast.Expr, context: ExpressionContext) -> Type | None:
    """Return the type of an output, which has no declaration: `sum` adds numbers, and `distinct` counts strings unless
    a default has another type. Return None for a fact whose type is known.
    """
    if function == "sum":
        return Scalar.NUMBER
    return Scalar.STRING if needs_expected_type(written, context) else None


def counted_parts(field: k.Expr) -> Iterator[k.Expr]:
    """Yield the parts of a fact with defaults."""
    if isinstance(field, k.Default):
        yield from counted_parts(field.operand)
        yield from counted_parts(field.fallback)
    else:
        yield field


def check_counted_parts(field: k.PastFact | k.Default, context: ExpressionContext) -> bool:
    """Return whether all defaults are constants or facts of the earlier request. Report the first other default."""
    other = next((part for part in counted_parts(field) if not isinstance(part, k.PastFact | k.Constant)), None)
    if other is None:
        return True
    message = f"{quote_source(other.span)} is neither a constant nor a fact of the earlier request"
    own = isinstance(other, k.Fact | k.Attribute | k.Member)
    hint = (
        f"write a constant, or `past.{other.span.text}`"
        if own
        else "write a constant after `else`, as in `past.output.n else 0`"
    )
    context.report("E258", message, other.span, hint)
    return False


def report_counted(function: str, written: ast.Expr, context: ExpressionContext) -> None:
    message = f"`{function}` takes a fact of the earlier requests, but {quote_source(written.span)} is not one"
    hint = f"name one fact: `{function} past.body.amount of …`; a default may follow it: `(past.output.n else 0)`"
    context.report("E258", message, written.span, hint)


def check_counted_type(function: str, field: k.PastFact | k.Default, context: ExpressionContext) -> bool:
    """Return whether a fact can be added or counted. Report any other fact."""
    type_, name = field.type, quote_source(field.span)
    if function == "sum" and type_ not in NUMBERS:
        message = f"`sum` adds numbers, but {name} is {describe_type(type_)}"
        context.report("E251", message, field.span, "count the requests, or the `distinct` values")
        return False
    if function == "distinct" and isinstance(type_, SetType | ListType | RecordType):
        message = f"`distinct` counts single values, but {name} is {describe_type(type_)}"
        context.report("E251", message, field.span, "name a single value: `past.params.id`")
        return False
    return True


class EventLowerer:
    """Lowers one event: first the context in which `past` refers to the event, then the event itself."""

    def __init__(self, written: ast.EventPattern, context: ExpressionContext, condition: Lower) -> None:
        self.written, self.context, self.condition = written, context, condition
        places = context.schema.places
        self.place = places.place(ast.Place((written.target,), (), span=written.target.span), context.package)
        past = places.facts_here((written.target,), context.package)
        self.inside = replace(context, past=past or EVERYWHERE)

    def event(
        self, keys: tuple[k.Expr, ...] | None, field: k.PastFact | k.Default | None, counted: bool = False
    ) -> k.EventPattern | None:
        written = self.written
        where = None if written.where is None else self.condition(written.where, self.inside)
        if self.place is None or (where is None and written.where is not None):
            return None
        if written.by_user == "another":
            other = other_user_condition(written.span)
            where = other if where is None else k.And((other, where), span=written.span)
        keys = () if keys is None and written.by_user is not None else keys
        return build_event(self.place, written.denied, where, keys, field, written.span, counted=counted)


def build_event(
    place: k.Place,
    denied: bool,
    where: k.Expr | None,
    keys: tuple[k.Expr, ...] | None,
    field: k.PastFact | k.Default | None,
    span: Span,
    *,
    counted: bool,
) -> k.EventPattern:
    read = [node for node in k.walk(where) if isinstance(node, k.PastFact)] if where is not None else []
    summed = [] if field is None else [part for part in counted_parts(field) if isinstance(part, k.PastFact)]
    read += summed
    outcomes = (OUTPUT, STATUS)
    facts = tuple(dict.fromkeys(one.fact for one in read if plain_fact_path(one)[:2] not in outcomes))
    outputs = tuple(dict.fromkeys(plain_fact_path(one)[2:] for one in read if plain_fact_path(one)[:2] == OUTPUT))
    latest = where is None and not counted
    status = any(plain_fact_path(one) == STATUS for one in summed)
    found = k.EventPattern(place, denied, where, keys, facts, outputs, latest, "", status, span=span)
    return replace(found, watch=event_digest(found))


def event_digest(event: k.EventPattern) -> str:
    """Return a digest of everything that is stored for the event: equal events have equal digests in every policy."""
    told = f"{canonical_text(replace(event, watch='')).removesuffix(NO_STATUS)})"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def plain_fact_path(past: k.PastFact) -> tuple[str, ...]:
    """Return the path of a fact, or an empty path for an attribute."""
    return past.fact.path if isinstance(past.fact, k.Fact) else ()


def other_user_condition(span: Span) -> k.Expr:
    """Return the condition for `by another user`: the earlier request had a user, who is not the current user."""
    user = k.Fact(USER, Scalar.STRING, span=span)
    past = k.PastFact(user, Scalar.STRING, span=span)
    return k.And((k.IsPresent(past, span=span), k.Relation("!=", past, user, span=span)), span=span)


def lower_history_window(within: ast.Literal, context: ExpressionContext) -> timedelta | None:
    window = lower_duration(within, context.report)
    if window is None or not isinstance(window.value, timedelta):
        return None
    if not timedelta(0) < window.value <= MAX_HISTORY_WINDOW:
        message = (
            "an empty window matches nothing"
            if not window.value
            else f"history is kept for at most {MAX_HISTORY_WINDOW.days:,} days"
        )
        context.report("E238", message, within.span, "write how far back: `within 1h`")
        return None
    return window.value


def lower_past(
    reference: ast.Reference, context: ExpressionContext, expected: Type | None, value: Lower
) -> k.Expr | None:
    """Lower `past.params.id`: a fact of the earlier request, or a member of that request's outcome. Return None if an
    error was reported.
    """
    if context.past is None:
        message = f"`{reference.name}` is a fact of an earlier request, but no earlier request is matched here"
        hint = "`past` is valid in the `where` of a history: `after (POST /review where past.status < 400) within 1h`"
        context.report("E246", message, reference.span, hint)
        return None
    match reference.name.split("."):
        case ["past", "status" | "output", *_] if reference.keys:
            message = f"`{reference.name}` takes no name in brackets"
            context.report("E244", message, reference.span, "members follow a dot: `past.output.state`")
            return None
        case ["past"]:
            context.report(
                "E250",
                "`past` is an earlier request, not a value",
                reference.span,
                "name one of its facts: `past.status`",
            )
            return None
        case ["past", "status"]:
            return k.PastFact(k.Fact(STATUS, Scalar.INT, span=reference.span), Scalar.INT, span=reference.span)
        case ["past", "output", _, *_]:
            return lower_output(reference, context, expected)
        case [_, root, *_] if root not in FACT_ROOT_NAMES:
            meant = suggest(root, FACT_ROOT_NAMES)
            hint = (
                f"did you mean `past.{meant}`?"
                if meant
                else "name a fact of that request: `past.user.id`, or `past.status`"
            )
            context.report("E201", f"unknown fact `{reference.name}`", reference.span, hint)
            return None
        case _:
            after = len(head_span(reference, 1).text) + 1
            rest = Span(reference.span.source, reference.span.start + after, reference.span.end)
            inner = ast.Reference(reference.name[after:], reference.keys, span=rest)
            found = value(inner, replace(context, here=context.past, past=None, variables={}))
            if not isinstance(found, k.Fact | k.Attribute | k.Member):
                return None
            return k.PastFact(found, found.type, found.optional, span=reference.span)


def lower_tested(operand: ast.Expr, context: ExpressionContext, value: Lower) -> k.Expr | None:
    """Lower the operand of `is present` or `is absent`. A member of the outcome needs no type for that. Return None if
    an error was reported.
    """
    if context.past is None or not isinstance(operand, ast.Reference) or operand.keys:
        return value(operand, context)
    reference = strip_parentheses(operand)
    if not reference.name.startswith("past.output."):
        return value(operand, context)
    return output_fact(reference, UNRESOLVED)


def lower_output(reference: ast.Reference, context: ExpressionContext, expected: Type | None) -> k.PastFact | None:
    """Lower a member of the outcome. A member has no declaration, so it takes the type of the value with which it is
    compared. Return None if an error was reported.
    """
    type_ = Scalar.NUMBER if expected == Scalar.INT else expected
    if type_ is None or isinstance(type_, UnresolvedType):
        message = f"the type of `{reference.name}` is not known here"
        context.report("E253", message, reference.span, 'compare it with a value: `past.output.state == "done"`')
        return None
    return output_fact(reference, type_)


def output_fact(reference: ast.Reference, type_: Type) -> k.PastFact:
    fact = k.Fact(tuple(reference.name.split(".")), type_, True, span=reference.span)
    return k.PastFact(fact, type_, True, span=reference.span)
