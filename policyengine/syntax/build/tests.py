"""Builders for fixtures and tests."""

from __future__ import annotations

from typing import Any

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build.tokens import BuilderBase, Phrase
from policyengine.syntax.tokens import Token


class ExampleBuilder(BuilderBase):
    # ── Fixtures and tests ────────────────────────────────────────────────────────────────────
    def fixture(self, span: Span, name: Token, *setup: ast.Setup) -> ast.FixtureDecl:
        return ast.FixtureDecl(self._name(name), setup, span=span)

    def test(self, span: Span, name: Token, *items: ast.TestItem) -> ast.TestDecl:
        return ast.TestDecl(self._text(name), items, span=span)

    def skip(self, span: Span, reason: Token) -> ast.Skip:
        return ast.Skip(self._text(reason), span=span)

    def use(self, span: Span, fixtures: tuple[ast.Name, ...]) -> ast.UseFixtures:
        return ast.UseFixtures(fixtures, span=span)

    def given_entities(self, span: Span, *rows: ast.EntityRow) -> ast.GivenEntities:
        return ast.GivenEntities(rows, span=span)

    def given_agent(self, span: Span, name: Token, *parts: Phrase) -> ast.GivenAgent:
        tokens = {part.type: part for part in parts if isinstance(part, Token)}
        issuer = self._name(tokens["NAME"]) if "NAME" in tokens else None
        user = self._text(tokens["STRING"]) if "STRING" in tokens else None
        return ast.GivenAgent(self._text(name), issuer, user, self._only(ast.RecordLiteral, parts), span=span)

    def given_fact(self, span: Span, fact: Token, value: ast.Value) -> ast.GivenFact:
        return ast.GivenFact(ast.Reference(fact.text, span=self._at(fact)), value, span=span)

    def entity_row(self, span: Span, type_: Token, id_: Token, *parts: Phrase) -> ast.EntityRow:
        entity = self.entity_literal(self._at(type_).to(self._at(id_)), type_, id_)
        parents = tuple(part for part in parts if isinstance(part, ast.EntityLiteral))
        return ast.EntityRow(entity, self._only(ast.RecordLiteral, parts), parents, span=span)

    def shot(self, span: Span, *parts: Phrase) -> ast.Shot:
        moments = tuple(part for part in parts if isinstance(part, ast.Repeat | ast.AfterClause | ast.AtClause))
        request, *rest = parts[len(moments) :]
        facts, wanted = self._only(ast.RecordLiteral, tuple(rest)), self._only(ast.ExpectationClause, tuple(rest))
        return ast.Shot(moments, request, facts, wanted, self._only(ast.ResponseClause, tuple(rest)), span=span)

    def repeat_in(self, span: Span, count: Token, within: Token) -> ast.Repeat:
        return ast.Repeat(self._literal("number", count), self._literal("duration", within), span=span)

    def after(self, span: Span, duration: Token) -> ast.AfterClause:
        return ast.AfterClause(self._literal("duration", duration), span=span)

    def at(self, span: Span, date: Token) -> ast.AtClause:
        return ast.AtClause(self._literal("date", date), span=span)

    def raw_http(self, span: Span, methods: tuple[Token, ...], path: Token) -> ast.RawHttp:
        return ast.RawHttp(tuple(method.text for method in methods), self._text(path), span=span)

    def action_on(self, span: Span, verb: Token, type_: Token, id_: Token) -> ast.ActionOn:
        return ast.ActionOn(self._name(verb), self._name(type_), self._text(id_), span=span)

    def expected(self, span: Span, outcome: Any, *rest: Phrase) -> ast.ExpectationClause:
        return self._build_expectation(span, outcome.text, rest)

    def expected_not(self, span: Span, outcome: Any, *rest: Phrase) -> ast.ExpectationClause:
        return self._build_expectation(span, outcome.text, rest, negated=True)

    def expected_first(self, span: Span, outcome: Any, at: Token, *rest: Phrase) -> ast.ExpectationClause:
        return self._build_expectation(span, outcome.text, rest, first_at=self._literal("number", at))

    def _build_expectation(
        self,
        span: Span,
        outcome: ast.OutcomeWord,
        rest: tuple[Phrase, ...],
        negated: bool = False,
        first_at: ast.Literal | None = None,
    ) -> ast.ExpectationClause:
        """Build the clause from its outcome and the parts after it: `by …` and `with { … }`, both optional."""
        reason = rest[0] if rest and not isinstance(rest[0], ast.RecordLiteral) else None
        details = rest[-1] if rest and isinstance(rest[-1], ast.RecordLiteral) else None
        return ast.ExpectationClause(outcome, reason, negated, first_at, details, span=span)

    def details(self, span: Span, record: ast.RecordLiteral) -> ast.RecordLiteral:
        return record

    def responded(self, span: Span, status: Token, output: ast.RecordLiteral | None = None) -> ast.ResponseClause:
        return ast.ResponseClause(self._literal("number", status), output, span=span)

    def by_rule(self, span: Span, name: Token) -> ast.ByRule:
        return ast.ByRule(self._text(name), span=span)

    def by_gate(self, span: Span, gate: Token) -> ast.ByGate:
        return ast.ByGate(self._name(gate), span=span)

    def table(self, span: Span, columns: tuple[ast.CaseTableColumn, ...], *rows: ast.CaseTableRow) -> ast.CaseTable:
        return ast.CaseTable(columns, rows, span=span)

    def head(self, span: Span, *columns: ast.CaseTableColumn) -> tuple[ast.CaseTableColumn, ...]:
        return columns

    def fact_column(self, span: Span, fact: ast.Reference) -> ast.CaseTableColumn:
        return ast.CaseTableColumn(fact, span=span)

    def request_column(self, span: Span) -> ast.CaseTableColumn:
        return ast.CaseTableColumn(None, span=span)

    def row(self, span: Span, *cells: ast.Cell) -> ast.CaseTableRow:
        return ast.CaseTableRow(cells, span=span)

    def matrix(self, span: Span, *parts: Phrase) -> ast.CaseMatrix:
        axes = tuple(part for part in parts if isinstance(part, ast.CaseMatrixAxis))
        setup = tuple(
            p for p in parts if isinstance(p, ast.UseFixtures | ast.GivenEntities | ast.GivenAgent | ast.GivenFact)
        )
        shots = tuple(part for part in parts if isinstance(part, ast.Shot))
        rows = tuple(part for part in parts if isinstance(part, ast.CaseTableRow))
        return ast.CaseMatrix(axes, setup, shots, rows, self._only(ast.ExpectationClause, parts), span=span)

    def axis(self, span: Span, column: ast.CaseTableColumn, *choices: Phrase) -> ast.CaseMatrixAxis:
        return ast.CaseMatrixAxis(column, choices, span=span)

    def otherwise(self, span: Span, expected: ast.ExpectationClause) -> ast.ExpectationClause:
        return expected

    def forall(self, span: Span, *parts: Phrase) -> ast.Forall:
        return ast.Forall(parts[0] if len(parts) == 2 else None, parts[-1], span=span)

    # ── Values ────────────────────────────────────────────────────────────────────────────────
    def word(self, span: Span, word: Token) -> ast.WordValue:
        return ast.WordValue(word.text, span=span)

    def negative_number(self, span: Span, number: Token) -> ast.NegativeNumber:
        return ast.NegativeNumber(self._literal("number", number), span=span)

    def value_list(self, span: Span, *items: Phrase) -> ast.ValueList:
        return ast.ValueList(items, span=span)

    def record(self, span: Span, *pairs: ast.RecordEntry) -> ast.RecordLiteral:
        return ast.RecordLiteral(pairs, span=span)

    def pair(self, span: Span, key: Any, value: ast.Value) -> ast.RecordEntry:
        return ast.RecordEntry(key, value, span=span)
