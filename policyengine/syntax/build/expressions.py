"""Builders for conditions: expressions, time windows, history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build.tokens import BuilderBase, Phrase, unquote
from policyengine.syntax.tokens import Token


class ExpressionBuilder(BuilderBase):
    # ── Expressions ───────────────────────────────────────────────────────────────────────────
    def quantified(
        self, span: Span, quantifier: Any, variable: Token, domain: ast.Expr, condition: ast.Expr
    ) -> ast.Quantifier:
        return ast.Quantifier(quantifier.text, self._name(variable), domain, condition, span=span)

    def logic(self, span: Span, *parts: Phrase) -> ast.Logic:
        return ast.Logic(tuple(parts[1::2]), tuple(parts[::2]), span=span)

    def connective(self, span: Span, word: Token) -> str:
        return word.text

    def not_(self, span: Span, operand: ast.Expr) -> ast.Not:
        return ast.Not(operand, span=span)

    def comparison(self, span: Span, *words: Token) -> ast.Name:
        return ast.Name(" ".join(word.text for word in words), span=span)

    plus = comparison
    times = comparison

    def binary(self, span: Span, left: ast.Expr, operator: Any, right: ast.Expr) -> ast.Binary:
        return ast.Binary(operator.text, left, right, span=span, operator_span=operator.span)

    def within(self, span: Span, operand: ast.Expr, other: Phrase) -> ast.Binary | ast.WithinWindow:
        if isinstance(other, ast.Window):
            return ast.WithinWindow(operand, other, span=span)
        between = Span(self.source, operand.span.end, other.span.start)
        start = between.start + between.text.find("within")
        word = Span(self.source, start, start + len("within"))
        return ast.Binary("within", operand, other, span=span, operator_span=word)

    def present(self, span: Span, operand: ast.Expr) -> ast.Presence:
        return ast.Presence(operand, True, span=span)

    def absent(self, span: Span, operand: ast.Expr) -> ast.Presence:
        return ast.Presence(operand, False, span=span)

    def has_row(self, span: Span, operand: ast.Expr) -> ast.HasRow:
        return ast.HasRow(operand, span=span)

    def negative(self, span: Span, operand: ast.Expr) -> ast.UnaryMinus:
        return ast.UnaryMinus(operand, span=span)

    def else_(self, span: Span, operand: ast.Expr, fallback: ast.Expr) -> ast.Else:
        return ast.Else(operand, fallback, span=span)

    def call(self, span: Span, function: Token, *arguments: ast.Expr) -> ast.Call:
        return ast.Call(self._name(function), arguments, span=span)

    def parenthesised(self, span: Span, inner: ast.Expr) -> ast.Expr:
        return replace(inner, span=span)  # the span includes the parentheses, for the spans of enclosing phrases

    def reference(self, span: Span, name: Token, *keys: Token) -> ast.Reference:
        return ast.Reference(name.text, tuple(self._text(key) for key in keys) if keys else (), span=span)

    def list(self, span: Span, *items: ast.Expr) -> ast.ListLiteral:
        return ast.ListLiteral(items, span=span)

    def number(self, span: Span, token: Token) -> ast.Literal:
        return ast.Literal("number", token.text, span=span)

    def string(self, span: Span, token: Token) -> ast.Text:
        return ast.Text(unquote(token), span=span)

    def duration(self, span: Span, token: Token) -> ast.Literal:
        return ast.Literal("duration", token.text, span=span)

    def date(self, span: Span, token: Token) -> ast.Literal:
        return ast.Literal("date", token.text, span=span)

    def clock(self, span: Span, token: Token) -> ast.Literal:
        return ast.Literal("clock", token.text, span=span)

    def ip(self, span: Span, token: Token) -> ast.Literal:
        return ast.Literal("ip", token.text, span=span)

    def hash(self, span: Span, token: Token) -> ast.Literal:
        return ast.Literal("hash", token.text, span=span)

    def true(self, span: Span) -> ast.Literal:
        return ast.Literal("bool", "true", span=span)

    def false(self, span: Span) -> ast.Literal:
        return ast.Literal("bool", "false", span=span)

    # ── Windows of time ───────────────────────────────────────────────────────────────────────
    def daily(self, span: Span, *tokens: Token) -> ast.DailyWindow:
        days = [self._name(token) for token in tokens if token.type == "NAME"]
        start, end = (self._literal("clock", token) for token in tokens if token.type == "CLOCK")
        first, last = [*days, None, None][:2]
        return ast.DailyWindow(first, last, start, end, self._text(tokens[-1]), span=span)

    def whole_days(self, span: Span, first: Token, last: Token, zone: Token) -> ast.WholeDaysWindow:
        return ast.WholeDaysWindow(self._name(first), self._name(last), self._text(zone), span=span)

    def weekly(self, span: Span, first: Token, start: Token, last: Token, end: Token, zone: Token) -> ast.WeeklyWindow:
        clocks = self._literal("clock", start), self._literal("clock", end)
        return ast.WeeklyWindow(self._name(first), clocks[0], self._name(last), clocks[1], self._text(zone), span=span)

    def absolute(self, span: Span, start: Token, end: Token, zone: Token) -> ast.AbsoluteWindow:
        return ast.AbsoluteWindow(self._literal("date", start), self._literal("date", end), self._text(zone), span=span)

    # ── History ───────────────────────────────────────────────────────────────────────────────
    def happened(self, span: Span, history: ast.HistoryQuery) -> ast.HistoryCondition:
        return ast.HistoryCondition(history, negated=False, span=span)

    def not_happened(self, span: Span, history: ast.HistoryQuery) -> ast.HistoryCondition:
        return ast.HistoryCondition(history, negated=True, span=span)

    def count(self, span: Span, history: ast.HistoryQuery) -> ast.Aggregate:
        return ast.Aggregate("count", None, history, span=span)

    def total(self, span: Span, field: ast.Expr, history: ast.HistoryQuery) -> ast.Aggregate:
        return ast.Aggregate("sum", field, history, span=span)

    def distinct(self, span: Span, field: ast.Expr, history: ast.HistoryQuery) -> ast.Aggregate:
        return ast.Aggregate("distinct", field, history, span=span)

    def counted_fact(self, span: Span, name: Token) -> ast.Reference:
        return ast.Reference(name.text, span=span)

    def history(self, span: Span, event: ast.EventPattern, within: Token, *parts: Phrase) -> ast.HistoryQuery:
        per = next((part for part in parts if isinstance(part, tuple)), ())
        since = self._only(ast.EventPattern, parts)
        return ast.HistoryQuery(event, self._literal("duration", within), since, per, span=span)

    def since(self, span: Span, event: ast.EventPattern) -> ast.EventPattern:
        return event

    def plain_event(self, span: Span, target: ast.Target) -> ast.EventPattern:
        return ast.EventPattern(target, span=span)

    def qualified_event(self, span: Span, *parts: Phrase) -> ast.EventPattern:
        denied, target, by_user, where = False, None, None, None
        for part in parts:
            match part:
                case ("denied",):
                    denied = True
                case ("by", whose):
                    by_user = whose
                case ast.PrincipalCondition():
                    where = part.condition
                case _:
                    target = part
        return ast.EventPattern(target, denied, by_user, where, span=span)  # type: ignore[arg-type]

    def denied(self, span: Span, word: Token) -> tuple[str]:
        return ("denied",)

    def by_whose_user(self, span: Span, whose: str) -> tuple[str, str]:
        return ("by", whose)

    def whose(self, span: Span, word: Token) -> str:
        return word.text

    def past(self, span: Span, condition: ast.Expr) -> ast.PrincipalCondition:
        return ast.PrincipalCondition(condition, span=span)
