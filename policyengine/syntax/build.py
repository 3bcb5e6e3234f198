"""Grammar phrases to AST nodes, while lark parses: one function per phrase of `grammar/policy.lark`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from lark import Token

from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast

Part: TypeAlias = Any  # a Node, a Token, or a tuple of them: lark's callbacks are untyped

VALUES = frozenset(
    "NAME METHOD RESERVED PATH TOOLPAT STRING NUMBER DURATION RATE DATE CLOCK IP HASH FACTOR OPTIONAL".split()
)
WORDS = frozenset(
    "comparison connective plus times quantifier inherited modality effect result denied whose repeat per".split()
)


def _start(part: Part) -> int | None:
    match part:
        case Token():
            return part.start_pos
        case ast.Node():
            return part.span.start
        case tuple() | list():
            return next((start for item in part if (start := _start(item)) is not None), None)
        case _:
            return None


def _end(part: Part) -> int | None:
    match part:
        case Token():
            return part.end_pos
        case ast.Node():
            return part.span.end
        case tuple() | list():
            return next((end for item in reversed(part) if (end := _end(item)) is not None), None)
        case _:
            return None


class Phrases:
    """What lark calls: for each phrase, the builder's function of that name, given the whole phrase's span and its
    parts without keywords and punctuation."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getattr__(self, phrase: str) -> Callable[[list[Part]], Part]:
        build = getattr(self._builder, phrase)
        builder, is_word = self._builder, phrase in WORDS

        def built(parts: list[Part]) -> Part:
            span = Span(builder.source, _start(parts) or 0, _end(parts) or 0)
            if is_word:
                return build(span, *parts)
            return build(span, *(part for part in parts if not isinstance(part, Token) or part.type in VALUES))

        return built


def _unquote(token: Token) -> str:
    """The text a string stands for: JSON's escapes; any other escaped character is itself."""
    try:
        return str(json.loads(str(token).replace("\t", "\\t"), strict=False))
    except ValueError:
        body, result, i = str(token)[1:-1], [], 0
        while i < len(body):
            i += body[i] == "\\"
            result.append(body[i : i + 1])
            i += 1
        return "".join(result)


class Builder:
    """Builds the AST of one source at a time; `source` is set before each parse."""

    source: Source

    # ── Leaves ────────────────────────────────────────────────────────────────────────────────
    def _name(self, token: Token) -> ast.Name:
        return ast.Name(str(token), span=self._at(token))

    def _text(self, token: Token) -> ast.Text:
        return ast.Text(_unquote(token), span=self._at(token))

    def _literal(self, kind: ast.LiteralKind, token: Token) -> ast.Literal:
        return ast.Literal(kind, str(token), span=self._at(token))

    def _at(self, token: Token) -> Span:
        return Span(self.source, token.start_pos or 0, token.end_pos or 0)

    def _only(self, kind: type, parts: tuple[Part, ...]) -> Any:
        return next((part for part in parts if isinstance(part, kind)), None)

    # ── A file ────────────────────────────────────────────────────────────────────────────────
    def module(self, span: Span, *parts: Part) -> ast.Module:
        language = package = None
        imports, declarations = [], []
        for part in parts:
            match part:
                case ast.Literal():
                    language = part
                case ast.Name():
                    package = part
                case ast.Import():
                    imports.append(part)
                case _:
                    declarations.append(part)
        whole = Span(self.source, 0, len(self.source.text))
        return ast.Module(language, package, tuple(imports), tuple(declarations), span=whole)

    def language(self, span: Span, number: Token) -> ast.Literal:
        return self._literal("number", number)

    def package(self, span: Span, name: Token) -> ast.Name:
        return self._name(name)

    def import_(self, span: Span, name: Token, alias: Token | None = None) -> ast.Import:
        return ast.Import(self._name(name), self._name(alias) if alias else None, span=span)

    def export(self, span: Span, declaration: ast.Declaration) -> ast.Export:
        return ast.Export(declaration, span=span)

    # ── Vocabulary ────────────────────────────────────────────────────────────────────────────
    def enum(self, span: Span, name: Token, *values: Token) -> ast.EnumDecl:
        return ast.EnumDecl(self._name(name), tuple(self._name(v) for v in values), span=span)

    def entity(self, span: Span, name: Token, *parts: tuple[Part, ...]) -> ast.EntityDecl:
        fields = next((p for p in parts if p and isinstance(p[0], ast.FieldDecl)), ())
        parents = next((p for p in parts if p and isinstance(p[0], ast.Name)), ())
        return ast.EntityDecl(self._name(name), fields, parents, span=span)

    def facts(self, span: Span, *parts: Part) -> ast.FactsDecl:
        return ast.FactsDecl(self._only(ast.Place, parts), parts[-1], span=span)

    def fields(self, span: Span, *fields: ast.FieldDecl) -> tuple[ast.FieldDecl, ...]:
        return fields

    def field(self, span: Span, name: Token, type_: ast.TypeExpr, *inherited: ast.Name) -> ast.FieldDecl:
        return ast.FieldDecl(self._name(name), type_, bool(inherited), span=span)

    def inherited(self, span: Span, word: Token) -> ast.Name:
        return ast.Name(str(word), span=span)  # no token: `field` is given only those that hold a value

    def named_type(self, span: Span, name: Token, *parts: Part) -> ast.NamedType:
        parameters = tuple(part for part in parts if isinstance(part, ast.NamedType | ast.RecordType))
        return ast.NamedType(self._name(name), parameters, len(parameters) != len(parts), span=span)

    def record_type(self, span: Span, fields: tuple[ast.FieldDecl, ...], *optional: Token) -> ast.RecordType:
        return ast.RecordType(fields, bool(optional), span=span)

    def let(self, span: Span, name: Token, value: ast.Expr) -> ast.LetDecl:
        return ast.LetDecl(self._name(name), value, span=span)

    def define(self, span: Span, name: Token, condition: ast.Expr) -> ast.DefineDecl:
        return ast.DefineDecl(self._name(name), condition, span=span)

    def names(self, span: Span, *names: Token) -> tuple[ast.Name, ...]:
        return tuple(self._name(name) for name in names)

    # ── Scopes, endpoints, places ─────────────────────────────────────────────────────────────
    def scope(self, span: Span, name: Token, *parts: Part) -> ast.ScopeDecl:
        alias = self._text(parts[0]) if parts and isinstance(parts[0], Token) else None
        items = tuple(part for part in parts if isinstance(part, ast.Include | ast.ScopeEndpoint))
        return ast.ScopeDecl(self._name(name), alias, items, span=span)

    def include(self, span: Span, scopes: tuple[ast.Name, ...]) -> ast.Include:
        return ast.Include(scopes, span=span)

    def scope_endpoint(
        self, span: Span, endpoint: ast.Endpoint, bindings: tuple[ast.Binding, ...] = ()
    ) -> ast.ScopeEndpoint:
        return ast.ScopeEndpoint(endpoint, bindings, span=span)

    def with_(self, span: Span, *bindings: ast.Binding) -> tuple[ast.Binding, ...]:
        return bindings

    def binding(self, span: Span, fact: Token, value: ast.Expr) -> ast.Binding:
        return ast.Binding(self._name(fact), value, span=span)

    def http(self, span: Span, methods: tuple[Token, ...], path: Token) -> ast.Http:
        return ast.Http(tuple(map(str, methods)), str(path), span=span, path_span=self._at(path))

    def methods(self, span: Span, *methods: Token) -> tuple[Token, ...]:
        return methods

    def any_method(self, span: Span, path: Token) -> ast.Http:
        return ast.Http((), str(path), span=span, path_span=self._at(path))

    def tool(self, span: Span, pattern: Token) -> ast.Tool:
        return ast.Tool(_unquote(pattern) if pattern.type == "STRING" else str(pattern), span=span)

    def action(self, span: Span, verb: Token, type_: Token) -> ast.Action:
        return ast.Action(self._name(verb), self._name(type_), span=span)

    def reserved(self, span: Span, word: Token) -> ast.Reserved:
        return ast.Reserved(str(word), span=span)

    def target_name(self, span: Span, name: Token) -> ast.Name:
        return self._name(name)

    def targets(self, span: Span, *targets: ast.Target) -> tuple[ast.Target, ...]:
        return targets

    places = targets

    def on(self, span: Span, targets: tuple[ast.Target, ...], excepts: tuple[ast.Target, ...] = ()) -> ast.Place:
        return ast.Place(targets, excepts, span=span)

    # ── Trust anchors ─────────────────────────────────────────────────────────────────────────
    def issuer(self, span: Span, name: Token, *items: Part) -> ast.IssuerDecl:
        return ast.IssuerDecl(self._name(name), items, span=span)

    def attester(self, span: Span, name: Token, *items: Part) -> ast.AttesterDecl:
        return ast.AttesterDecl(self._name(name), items, span=span)

    def url(self, span: Span, value: Token) -> ast.Setting:
        return ast.Setting("url", self._text(value), span=span)

    def audience(self, span: Span, value: Token) -> ast.Setting:
        return ast.Setting("audience", self._text(value), span=span)

    def keys(self, span: Span, value: Token) -> ast.Setting:
        return ast.Setting("keys", self._text(value), span=span)

    def records_chains(self, span: Span) -> ast.Setting:
        return ast.Setting("records chains", span=span)

    def scopes_none(self, span: Span) -> ast.Setting:
        return ast.Setting("scopes none", span=span)

    def claims(self, span: Span, *maps: ast.ClaimMap) -> ast.Claims:
        return ast.Claims(maps, span=span)

    def claim_map(self, span: Span, claim: Token, fact: Token) -> ast.ClaimMap:
        name = _unquote(claim) if claim.type == "STRING" else str(claim)
        return ast.ClaimMap(name, self._name(fact), span=span)

    def attester_age(self, span: Span, limit: Token) -> ast.Setting:
        return ast.Setting("age", self._literal("duration", limit), span=span)

    def model(self, span: Span, name: Token, digest: Token | None = None) -> ast.AttestedModel:
        return ast.AttestedModel(self._text(name), self._literal("hash", digest) if digest else None, span=span)

    def environment(self, span: Span, values: ast.ListLiteral) -> ast.AttestedEnvironment:
        return ast.AttestedEnvironment(values, span=span)

    # ── Doors ─────────────────────────────────────────────────────────────────────────────────
    def unrestricted(self, span: Span) -> ast.UsersUnrestricted:
        return ast.UsersUnrestricted(span=span)

    def user(self, span: Span, head: Part, *items: Part) -> ast.UserDecl:
        return ast.UserDecl(head, items, span=span)

    def anyone(self, span: Span, *items: ast.May) -> ast.AnyoneDecl:
        return ast.AnyoneDecl(items, span=span)

    def agent(self, span: Span, head: Part, *items: Part) -> ast.AgentDecl:
        return ast.AgentDecl(head, items, span=span)

    def called(self, span: Span, name: Token) -> ast.Called:
        return ast.Called(self._text(name), span=span)

    def in_group(self, span: Span, group: Token) -> ast.InGroup:
        return ast.InGroup(self._text(group), span=span)

    def matching(self, span: Span, condition: ast.Expr) -> ast.Matching:
        return ast.Matching(condition, span=span)

    def anybody(self, span: Span) -> ast.Anybody:
        return ast.Anybody(span=span)

    def issued_by(self, span: Span, issuers: tuple[ast.Name, ...]) -> ast.IssuedBy:
        return ast.IssuedBy(issuers, span=span)

    def acts_alone(self, span: Span) -> ast.Acts:
        return ast.Acts("alone", span=span)

    def acts_any(self, span: Span) -> ast.Acts:
        return ast.Acts("any", span=span)

    def acts_where(self, span: Span, condition: ast.Expr) -> ast.Acts:
        return ast.Acts("where", condition, span=span)

    def credential(self, span: Span, *items: Part) -> ast.CredentialDecl:
        return ast.CredentialDecl(items, span=span)

    def credential_kinds(self, span: Span, kinds: ast.ListLiteral) -> ast.CredentialKinds:
        return ast.CredentialKinds(kinds, span=span)

    def credential_lifetime(self, span: Span, limit: Token) -> ast.CredentialLimit:
        return ast.CredentialLimit("lifetime", self._literal("duration", limit), span=span)

    def credential_age(self, span: Span, limit: Token) -> ast.CredentialLimit:
        return ast.CredentialLimit("age", self._literal("duration", limit), span=span)

    def credential_bound(self, span: Span) -> ast.CredentialBound:
        return ast.CredentialBound(span=span)

    def attested_by(self, span: Span, attesters: tuple[ast.Name, ...]) -> ast.AttestedBy:
        return ast.AttestedBy(attesters, span=span)

    def may(self, span: Span, targets: tuple[ast.Target, ...], when: ast.Expr | None = None) -> ast.May:
        return ast.May(targets, when, span=span)

    def delegate(self, span: Span, scopes: tuple[ast.Name, ...], to: ast.AgentRef, *rest: Part) -> ast.MayDelegate:
        lifetime, when = self._duration_and_rest(rest)
        return ast.MayDelegate(scopes, to, lifetime, when, span=span)

    def _duration_and_rest(self, parts: tuple[Part, ...]) -> tuple[ast.Literal | None, Any]:
        """An optional duration, then an optional expression."""
        token = parts[0] if parts and isinstance(parts[0], Token) else None
        rest = parts[1:] if token else parts
        return self._literal("duration", token) if token else None, rest[0] if rest else None

    def valid_until(self, span: Span, *dates: Token) -> ast.Valid:
        start = self._literal("date", dates[0]) if len(dates) == 2 else None
        return ast.Valid(start, self._literal("date", dates[-1]), span=span)

    def valid_from(self, span: Span, date: Token) -> ast.Valid:
        return ast.Valid(self._literal("date", date), None, span=span)

    def delegation(self, span: Span, *limits: ast.DelegationLimit) -> ast.DelegationDecl:
        return ast.DelegationDecl(limits, span=span)

    def depth_limit(self, span: Span, limit: Token) -> ast.DelegationLimit:
        return ast.DelegationLimit("depth", self._literal("number", limit), span=span)

    def lifetime_limit(self, span: Span, limit: Token) -> ast.DelegationLimit:
        return ast.DelegationLimit("lifetime", self._literal("duration", limit), span=span)

    def no_cycles(self, span: Span) -> ast.DelegationLimit:
        return ast.DelegationLimit("no cycles", span=span)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────
    def guard(self, span: Span, name: Token, *parts: Part) -> ast.GuardDecl:
        items = tuple(part for part in parts if not isinstance(part, ast.Place))
        return ast.GuardDecl(self._text(name), self._only(ast.Place, parts), items, span=span)

    def when(self, span: Span, condition: ast.Expr) -> ast.Condition:
        return ast.Condition("when", condition, span=span)

    def unless(self, span: Span, condition: ast.Expr) -> ast.Condition:
        return ast.Condition("unless", condition, span=span)

    def message(self, span: Span, text: Token) -> ast.Text:
        return self._text(text)

    def deny(self, span: Span, *parts: Part) -> ast.Deny:
        return ast.Deny(self._only(ast.Condition, parts), self._only(ast.Text, parts), span=span)

    def require(self, span: Span, condition: ast.Expr, message: ast.Text | None = None) -> ast.Require:
        return ast.Require(condition, message, span=span)

    def confirm(self, span: Span, approver: ast.Approver, *parts: Part) -> ast.Confirm:
        within, _ = self._duration_and_rest(parts)
        condition, message = self._only(ast.Condition, parts), self._only(ast.Text, parts)
        return ast.Confirm(approver, within, condition, message, span=span)

    def by_user(self, span: Span) -> ast.ByUser:
        return ast.ByUser(span=span)

    def by_role(self, span: Span, role: Token) -> ast.ByRole:
        return ast.ByRole(self._name(role), span=span)

    def by_fact(self, span: Span, fact: Token) -> ast.ByFact:
        return ast.ByFact(self._name(fact), span=span)

    def by_entity(self, span: Span, entity: ast.EntityLiteral) -> ast.ByEntity:
        return ast.ByEntity(entity, span=span)

    def quorum(self, span: Span, count: Token, of: ast.ByRole | ast.ByFact | ast.ByEntity) -> ast.Quorum:
        return ast.Quorum(self._literal("number", count), of, span=span)

    def _obligation(self, kind: str, span: Span, parts: tuple[Part, ...]) -> ast.Obligation:
        arguments: list[ast.Name | ast.Text] = []
        for part in parts:
            match part:
                case Token(type="NAME"):
                    arguments.append(self._name(part))
                case Token(type="STRING"):
                    arguments.append(self._text(part))
                case tuple():
                    arguments += part
        condition, message = self._only(ast.Condition, parts), self._only(ast.Text, parts)
        return ast.Obligation(kind, tuple(arguments), condition, message, span=span)  # type: ignore[arg-type]

    def audit(self, span: Span, *parts: Part) -> ast.Obligation:
        return self._obligation("audit", span, parts)

    def redact(self, span: Span, *parts: Part) -> ast.Obligation:
        return self._obligation("redact", span, parts)

    def notify(self, span: Span, *parts: Part) -> ast.Obligation:
        return self._obligation("notify", span, parts)

    def warn(self, span: Span, *parts: Part) -> ast.Obligation:
        return self._obligation("warn", span, parts)

    def step_up(self, span: Span, *parts: Part) -> ast.Obligation:
        return self._obligation("step_up", span, parts)

    def header(self, span: Span, *parts: Part) -> ast.Obligation:
        return self._obligation("header", span, parts)

    # ── Rates, budgets, profiles, invariants ──────────────────────────────────────────────────
    def _limits(self, name: Token, parts: tuple[Part, ...], items: tuple[type, ...]) -> tuple[Any, ...]:
        """name, per, place, when, items: what a rate and a budget share."""
        place = self._only(ast.Place, parts)
        found = tuple(part for part in parts[1:] if isinstance(part, items))
        when = self._only(ast.Node, tuple(p for p in parts[1:] if p is not place and not isinstance(p, items)))
        return self._text(name), self._keys(parts[0]), place, when, found

    def rate(self, span: Span, name: Token, *parts: Part) -> ast.RateDecl:
        kinds = (ast.RateLimit, ast.RateFloor, ast.CountingDenials, ast.Raise, ast.Clamp)
        return ast.RateDecl(*self._limits(name, parts, kinds), span=span)

    def rate_limit(self, span: Span, rate: Token, burst: Token | None = None) -> ast.RateLimit:
        return ast.RateLimit(str(rate), self._literal("number", burst) if burst else None, span=span)

    def rate_floor(self, span: Span, rate: Token) -> ast.RateFloor:
        return ast.RateFloor(str(rate), span=span)

    def counting_denials(self, span: Span) -> ast.CountingDenials:
        return ast.CountingDenials(span=span)

    def raise_(self, span: Span, factor: Token, at_most: Token, when: ast.Expr) -> ast.Raise:
        return ast.Raise(str(factor), str(at_most), when, span=span)

    def clamp(self, span: Span, rate: Token, *rest: Part) -> ast.Clamp:
        duration, when = self._duration_and_rest(rest)
        return ast.Clamp(str(rate), duration, when, span=span)

    def budget(self, span: Span, name: Token, *parts: Part) -> ast.BudgetDecl:
        return ast.BudgetDecl(*self._limits(name, parts, (ast.BudgetLimit,)), span=span)

    def budget_sum(self, span: Span, fact: Token, bound: Part, within: Token) -> ast.BudgetLimit:
        return ast.BudgetLimit("sum", self._name(fact), bound, self._literal("duration", within), span=span)

    def budget_count(self, span: Span, bound: Part, within: Token) -> ast.BudgetLimit:
        return ast.BudgetLimit("count", None, bound, self._literal("duration", within), span=span)

    def budget_distinct(self, span: Span, fact: Token, bound: Part, within: Token) -> ast.BudgetLimit:
        return ast.BudgetLimit("distinct", self._name(fact), bound, self._literal("duration", within), span=span)

    def name(self, span: Span, token: Token) -> ast.Name:
        return self._name(token)

    def per(self, span: Span, *tokens: Token) -> tuple[Token, ...]:
        return tokens  # with its parentheses, so that a phrase that ends with it has its place

    def _keys(self, per: tuple[Token, ...]) -> tuple[ast.Name, ...]:
        return tuple(self._name(token) for token in per if token.type == "NAME")

    def profile(self, span: Span, name: Token, agent: ast.AgentRef, *steps: ast.ProfileStep) -> ast.ProfileDecl:
        return ast.ProfileDecl(self._text(name), agent, steps, span=span)

    def step(self, span: Span, target: ast.Target, repeat: Any = None) -> ast.ProfileStep:
        return ast.ProfileStep(target, repeat.text if repeat else None, span=span)

    def invariant(self, span: Span, name: Token, *claims: ast.Claim) -> ast.InvariantDecl:
        return ast.InvariantDecl(self._text(name), claims, span=span)

    def claim(self, span: Span, modality: Any, effect: Any, targets: Any, when: ast.Expr | None = None) -> ast.Claim:
        return ast.Claim(modality.text, effect.text, targets, when, span=span)

    def modality(self, span: Span, word: Token) -> ast.Name:
        return ast.Name(str(word), span=span)  # a node, so that a phrase that begins with it has its place

    effect = modality
    repeat = modality
    result = modality
    quantifier = modality

    # ── Fixtures and tests ────────────────────────────────────────────────────────────────────
    def fixture(self, span: Span, name: Token, *setup: ast.Setup) -> ast.FixtureDecl:
        return ast.FixtureDecl(self._name(name), setup, span=span)

    def test(self, span: Span, name: Token, *items: ast.TestItem) -> ast.TestDecl:
        return ast.TestDecl(self._text(name), items, span=span)

    def skip(self, span: Span, reason: Token) -> ast.Skip:
        return ast.Skip(self._text(reason), span=span)

    def use(self, span: Span, fixtures: tuple[ast.Name, ...]) -> ast.Use:
        return ast.Use(fixtures, span=span)

    def given_entities(self, span: Span, *rows: ast.EntityRow) -> ast.GivenEntities:
        return ast.GivenEntities(rows, span=span)

    def given_agent(self, span: Span, name: Token, *parts: Part) -> ast.GivenAgent:
        tokens = {part.type: part for part in parts if isinstance(part, Token)}
        issuer = self._name(tokens["NAME"]) if "NAME" in tokens else None
        user = self._text(tokens["STRING"]) if "STRING" in tokens else None
        return ast.GivenAgent(self._text(name), issuer, user, self._only(ast.RecordLiteral, parts), span=span)

    def given_fact(self, span: Span, fact: Token, value: ast.Value) -> ast.GivenFact:
        return ast.GivenFact(ast.Reference(str(fact), span=self._at(fact)), value, span=span)

    def entity_row(self, span: Span, type_: Token, id_: Token, *parts: Part) -> ast.EntityRow:
        entity = self.entity_literal(self._at(type_).to(self._at(id_)), type_, id_)
        parents = tuple(part for part in parts if isinstance(part, ast.EntityLiteral))
        return ast.EntityRow(entity, self._only(ast.RecordLiteral, parts), parents, span=span)

    def shot(self, span: Span, *parts: Part) -> ast.Shot:
        moments = tuple(part for part in parts if isinstance(part, ast.Repeat | ast.After | ast.At))
        facts = self._only(ast.RecordLiteral, parts)
        return ast.Shot(moments, parts[len(moments)], facts, parts[-1], span=span)

    def repeat_in(self, span: Span, count: Token, within: Token) -> ast.Repeat:
        return ast.Repeat(self._literal("number", count), self._literal("duration", within), span=span)

    def after(self, span: Span, duration: Token) -> ast.After:
        return ast.After(self._literal("duration", duration), span=span)

    def at(self, span: Span, date: Token) -> ast.At:
        return ast.At(self._literal("date", date), span=span)

    def raw_http(self, span: Span, methods: tuple[Token, ...], path: Token) -> ast.RawHttp:
        return ast.RawHttp(tuple(map(str, methods)), self._text(path), span=span)

    def action_on(self, span: Span, verb: Token, type_: Token, id_: Token) -> ast.ActionOn:
        return ast.ActionOn(self._name(verb), self._name(type_), self._text(id_), span=span)

    def expected(self, span: Span, outcome: Any, by: Any = None) -> ast.Expected:
        return ast.Expected(outcome.text, by, span=span)

    def expected_not(self, span: Span, outcome: Any, by: Any = None) -> ast.Expected:
        return ast.Expected(outcome.text, by, negated=True, span=span)

    def expected_first(self, span: Span, outcome: Any, at: Token, by: Any = None) -> ast.Expected:
        return ast.Expected(outcome.text, by, first_at=self._literal("number", at), span=span)

    def by_rule(self, span: Span, name: Token) -> ast.ByRule:
        return ast.ByRule(self._text(name), span=span)

    def by_gate(self, span: Span, gate: Token) -> ast.ByGate:
        return ast.ByGate(self._name(gate), span=span)

    def table(self, span: Span, columns: tuple[ast.Column, ...], *rows: ast.Row) -> ast.Table:
        return ast.Table(columns, rows, span=span)

    def head(self, span: Span, *columns: ast.Column) -> tuple[ast.Column, ...]:
        return columns

    def fact_column(self, span: Span, fact: ast.Reference) -> ast.Column:
        return ast.Column(fact, span=span)

    def request_column(self, span: Span) -> ast.Column:
        return ast.Column(None, span=span)

    def row(self, span: Span, *cells: ast.Cell) -> ast.Row:
        return ast.Row(cells, span=span)

    def matrix(self, span: Span, *parts: Part) -> ast.Matrix:
        axes = tuple(part for part in parts if isinstance(part, ast.Axis))
        setup = tuple(p for p in parts if isinstance(p, ast.Use | ast.GivenEntities | ast.GivenAgent | ast.GivenFact))
        shots = tuple(part for part in parts if isinstance(part, ast.Shot))
        rows = tuple(part for part in parts if isinstance(part, ast.Row))
        return ast.Matrix(axes, setup, shots, rows, self._only(ast.Expected, parts), span=span)

    def axis(self, span: Span, column: ast.Column, *choices: Part) -> ast.Axis:
        return ast.Axis(column, choices, span=span)

    def otherwise(self, span: Span, expected: ast.Expected) -> ast.Expected:
        return expected

    def forall(self, span: Span, *parts: Part) -> ast.Forall:
        return ast.Forall(parts[0] if len(parts) == 2 else None, parts[-1], span=span)

    # ── Other protocols ───────────────────────────────────────────────────────────────────────
    def map(self, span: Span, protocol: Token, *items: Part) -> ast.MapDecl:
        return ast.MapDecl(self._name(protocol), items, span=span)

    def map_subject(self, span: Span, foreign: Token, entity: Token) -> ast.MapEntity:
        return ast.MapEntity("subject", self._text(foreign), self._name(entity), span=span)

    def map_resource(self, span: Span, foreign: Token, entity: Token) -> ast.MapEntity:
        return ast.MapEntity("resource", self._text(foreign), self._name(entity), span=span)

    def map_action(self, span: Span, action: Token, *parts: Part) -> ast.MapAction:
        on = self._text(parts[0]) if isinstance(parts[0], Token) else None
        endpoint, *bindings = parts[1:] if on else parts
        return ast.MapAction(self._text(action), on, endpoint, bindings[0] if bindings else (), span=span)

    def map_fact(self, span: Span, fact: Token, source: Token) -> ast.MapFact:
        return ast.MapFact(self._name(fact), self._name(source), span=span)

    # ── Values ────────────────────────────────────────────────────────────────────────────────
    def word(self, span: Span, word: Token) -> ast.WordValue:
        return ast.WordValue(str(word), span=span)

    def negative_number(self, span: Span, number: Token) -> ast.NegativeNumber:
        return ast.NegativeNumber(self._literal("number", number), span=span)

    def value_list(self, span: Span, *items: Part) -> ast.ValueList:
        return ast.ValueList(items, span=span)

    def record(self, span: Span, *pairs: ast.Pair) -> ast.RecordLiteral:
        return ast.RecordLiteral(pairs, span=span)

    def pair(self, span: Span, key: Any, value: ast.Value) -> ast.Pair:
        return ast.Pair(key, value, span=span)

    # ── Expressions ───────────────────────────────────────────────────────────────────────────
    def quantified(
        self, span: Span, quantifier: Any, variable: Token, domain: ast.Expr, condition: ast.Expr
    ) -> ast.Quantified:
        return ast.Quantified(quantifier.text, self._name(variable), domain, condition, span=span)

    def logic(self, span: Span, *parts: Part) -> ast.Logic:
        return ast.Logic(tuple(parts[1::2]), tuple(parts[::2]), span=span)

    def connective(self, span: Span, word: Token) -> str:
        return str(word)

    def not_(self, span: Span, operand: ast.Expr) -> ast.Not:
        return ast.Not(operand, span=span)

    def comparison(self, span: Span, *words: Token) -> ast.Name:
        return ast.Name(" ".join(words), span=span)

    plus = comparison
    times = comparison

    def binary(self, span: Span, left: ast.Expr, operator: Any, right: ast.Expr) -> ast.Binary:
        return ast.Binary(operator.text, left, right, span=span, operator_span=operator.span)

    def within(self, span: Span, operand: ast.Expr, other: Part) -> ast.Binary | ast.WithinWindow:
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

    def negative(self, span: Span, operand: ast.Expr) -> ast.Negative:
        return ast.Negative(operand, span=span)

    def else_(self, span: Span, operand: ast.Expr, fallback: ast.Expr) -> ast.Else:
        return ast.Else(operand, fallback, span=span)

    def call(self, span: Span, function: Token, *arguments: ast.Expr) -> ast.Call:
        return ast.Call(self._name(function), arguments, span=span)

    def parenthesised(self, span: Span, inner: ast.Expr) -> ast.Expr:
        return replace(inner, span=span)  # with its parentheses, so that a phrase that ends with it has its place

    def reference(self, span: Span, name: Token, *keys: Token) -> ast.Reference:
        return ast.Reference(str(name), tuple(self._text(key) for key in keys), span=span)

    def list(self, span: Span, *items: ast.Expr) -> ast.ListLiteral:
        return ast.ListLiteral(items, span=span)

    def entity_literal(self, span: Span, type_: Token, id_: Token) -> ast.EntityLiteral:
        return ast.EntityLiteral(self._name(type_), self._text(id_), span=span)

    parent = entity_literal

    def number(self, span: Span, token: Token) -> ast.Literal:
        return self._literal("number", token)

    def string(self, span: Span, token: Token) -> ast.Text:
        return self._text(token)

    def duration(self, span: Span, token: Token) -> ast.Literal:
        return self._literal("duration", token)

    def date(self, span: Span, token: Token) -> ast.Literal:
        return self._literal("date", token)

    def clock(self, span: Span, token: Token) -> ast.Literal:
        return self._literal("clock", token)

    def ip(self, span: Span, token: Token) -> ast.Literal:
        return self._literal("ip", token)

    def hash(self, span: Span, token: Token) -> ast.Literal:
        return self._literal("hash", token)

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
    def happened(self, span: Span, history: ast.History) -> ast.Happened:
        return ast.Happened(history, negated=False, span=span)

    def not_happened(self, span: Span, history: ast.History) -> ast.Happened:
        return ast.Happened(history, negated=True, span=span)

    def count(self, span: Span, history: ast.History) -> ast.Aggregate:
        return ast.Aggregate("count", None, history, span=span)

    def total(self, span: Span, field: Token, history: ast.History) -> ast.Aggregate:
        return ast.Aggregate("sum", self._name(field), history, span=span)

    def distinct(self, span: Span, field: Token, history: ast.History) -> ast.Aggregate:
        return ast.Aggregate("distinct", self._name(field), history, span=span)

    def history(self, span: Span, event: ast.Event, within: Token, *parts: Part) -> ast.History:
        per = self._keys(next((part for part in parts if isinstance(part, tuple)), ()))
        since = self._only(ast.Event, parts)
        return ast.History(event, self._literal("duration", within), since, per, span=span)

    def since(self, span: Span, event: ast.Event) -> ast.Event:
        return event

    def plain_event(self, span: Span, target: ast.Target) -> ast.Event:
        return ast.Event(target, span=span)

    def qualified_event(self, span: Span, *parts: Part) -> ast.Event:
        denied, target, by_user, where = False, None, None, None
        for part in parts:
            match part:
                case ("denied",):
                    denied = True
                case ("by", whose):
                    by_user = whose
                case ast.Matching():
                    where = part.condition
                case _:
                    target = part
        return ast.Event(target, denied, by_user, where, span=span)  # type: ignore[arg-type]

    def denied(self, span: Span, word: Token) -> tuple[str]:
        return ("denied",)

    def by_whose_user(self, span: Span, whose: str) -> tuple[str, str]:
        return ("by", whose)

    def whose(self, span: Span, word: Token) -> str:
        return str(word)

    def past(self, span: Span, condition: ast.Expr) -> ast.Matching:
        return ast.Matching(condition, span=span)
