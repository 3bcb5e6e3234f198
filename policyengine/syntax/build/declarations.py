"""Builders for files and declarations: types, facts, scopes, issuers, maps of other protocols."""

from __future__ import annotations

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build.tokens import BuilderBase, Phrase, unquote
from policyengine.syntax.tokens import Token


class DeclarationBuilder(BuilderBase):
    # ── A file ────────────────────────────────────────────────────────────────────────────────
    def module(self, span: Span, *parts: Phrase) -> ast.Module:
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

    def entity(self, span: Span, name: Token, *parts: tuple[Phrase, ...]) -> ast.EntityDecl:
        fields = next((p for p in parts if p and isinstance(p[0], ast.FieldDecl)), ())
        parents = next((p for p in parts if p and isinstance(p[0], ast.Name)), ())
        return ast.EntityDecl(self._name(name), fields, parents, span=span)

    def facts(self, span: Span, *parts: Phrase) -> ast.FactsDecl:
        return ast.FactsDecl(self._only(ast.Place, parts), parts[-1], span=span)

    def fields(self, span: Span, *fields: ast.FieldDecl) -> tuple[ast.FieldDecl, ...]:
        return fields

    def field(self, span: Span, name: Token, type_: ast.TypeExpr, *inherited: ast.Name) -> ast.FieldDecl:
        else_empty = any(words.text != "inherited" for words in inherited)
        return ast.FieldDecl(self._name(name), type_, bool(inherited), else_empty, span=span)

    def inherited(self, span: Span, *words: Token) -> ast.Name:
        """Return `inherited` or `inherited else []` as a name, because `field` receives only tokens with a value."""
        return ast.Name(" ".join(word.text for word in words), span=span)

    def named_type(self, span: Span, name: Token, *parts: Phrase) -> ast.NamedTypeExpr:
        parameters = tuple(part for part in parts if isinstance(part, ast.NamedTypeExpr | ast.RecordTypeExpr))
        return ast.NamedTypeExpr(self._name(name), parameters, len(parameters) != len(parts), span=span)

    def record_type(self, span: Span, fields: tuple[ast.FieldDecl, ...], *optional: Token) -> ast.RecordTypeExpr:
        return ast.RecordTypeExpr(fields, bool(optional), span=span)

    def let(self, span: Span, name: Token, value: ast.Expr) -> ast.LetDecl:
        return ast.LetDecl(self._name(name), value, span=span)

    def define(self, span: Span, name: Token, condition: ast.Expr) -> ast.DefineDecl:
        return ast.DefineDecl(self._name(name), condition, span=span)

    # ── Scopes, endpoints, places ─────────────────────────────────────────────────────────────
    def scope(self, span: Span, name: Token, *parts: Phrase) -> ast.ScopeDecl:
        alias = self._text(parts[0]) if parts and isinstance(parts[0], Token) else None
        items = tuple(part for part in parts if isinstance(part, ast.Include | ast.ScopeEndpoint))
        return ast.ScopeDecl(self._name(name), alias, items, span=span)

    def include(self, span: Span, scopes: tuple[ast.Name, ...]) -> ast.Include:
        return ast.Include(scopes, span=span)

    def scope_endpoint(
        self, span: Span, endpoint: ast.Endpoint, bindings: tuple[ast.FactAssignment, ...] = ()
    ) -> ast.ScopeEndpoint:
        return ast.ScopeEndpoint(endpoint, bindings, span=span if bindings else endpoint.span)

    def with_(self, span: Span, *bindings: ast.FactAssignment) -> tuple[ast.FactAssignment, ...]:
        return bindings

    def binding(self, span: Span, fact: Token, value: ast.Expr) -> ast.FactAssignment:
        return ast.FactAssignment(self._name(fact), value, span=span)

    def http(self, span: Span, methods: tuple[Token, ...], path: Token) -> ast.HttpPattern:
        return ast.HttpPattern(tuple(method.text for method in methods), path.text, span=span, path_span=self._at(path))

    def methods(self, span: Span, *methods: Token) -> tuple[Token, ...]:
        return methods

    def any_method(self, span: Span, path: Token) -> ast.HttpPattern:
        return ast.HttpPattern((), path.text, span=span, path_span=self._at(path))

    def tool(self, span: Span, pattern: Token) -> ast.ToolPattern:
        return ast.ToolPattern(unquote(pattern) if pattern.type == "STRING" else pattern.text, span=span)

    def action(self, span: Span, verb: Token, type_: Token) -> ast.ActionPattern:
        return ast.ActionPattern(self._name(verb), self._name(type_), span=span)

    def reserved(self, span: Span, word: Token) -> ast.ReservedWord:
        return ast.ReservedWord(word.text, span=span)

    def target_name(self, span: Span, name: Token) -> ast.Name:
        return ast.Name(name.text, span=span)

    def targets(self, span: Span, *targets: ast.Target) -> tuple[ast.Target, ...]:
        return targets

    places = targets

    def on(self, span: Span, targets: tuple[ast.Target, ...], excepts: tuple[ast.Target, ...] = ()) -> ast.Place:
        return ast.Place(targets, excepts, span=span)

    def ignoring_case(self, span: Span) -> ast.PathsIgnoreCase:
        return ast.PathsIgnoreCase(span=span)

    # ── Trust anchors ─────────────────────────────────────────────────────────────────────────
    def issuer(self, span: Span, name: Token, *items: Phrase) -> ast.IssuerDecl:
        return ast.IssuerDecl(self._name(name), items, span=span)

    def attester(self, span: Span, name: Token, *items: Phrase) -> ast.AttesterDecl:
        return ast.AttesterDecl(self._name(name), items, span=span)

    def url(self, span: Span, value: Token) -> ast.TrustAnchorOption:
        return ast.TrustAnchorOption("url", self._text(value), span=span)

    def audience(self, span: Span, value: Token) -> ast.TrustAnchorOption:
        return ast.TrustAnchorOption("audience", self._text(value), span=span)

    def keys(self, span: Span, value: Token) -> ast.TrustAnchorOption:
        return ast.TrustAnchorOption("keys", self._text(value), span=span)

    def records_chains(self, span: Span) -> ast.TrustAnchorOption:
        return ast.TrustAnchorOption("records chains", span=span)

    def scopes_none(self, span: Span) -> ast.TrustAnchorOption:
        return ast.TrustAnchorOption("scopes none", span=span)

    def users_like(self, span: Span, *patterns: Token) -> ast.UsersLike:
        return ast.UsersLike(tuple(self._text(pattern) for pattern in patterns), span=span)

    def claims(self, span: Span, *maps: ast.ClaimMap) -> ast.ClaimsClause:
        return ast.ClaimsClause(maps, span=span)

    def claim_map(self, span: Span, claim: Token, fact: Token) -> ast.ClaimMap:
        name = unquote(claim) if claim.type == "STRING" else claim.text
        return ast.ClaimMap(name, self._name(fact), span=span)

    def attester_age(self, span: Span, limit: Token) -> ast.TrustAnchorOption:
        return ast.TrustAnchorOption("age", self._literal("duration", limit), span=span)

    def model(self, span: Span, name: Token, digest: Token | None = None) -> ast.AttestedModel:
        return ast.AttestedModel(self._text(name), self._literal("hash", digest) if digest else None, span=span)

    def environment(self, span: Span, values: ast.ListLiteral) -> ast.AttestedEnvironment:
        return ast.AttestedEnvironment(values, span=span)

    # ── Other protocols ───────────────────────────────────────────────────────────────────────
    def map(self, span: Span, protocol: Token, *items: Phrase) -> ast.MapDecl:
        return ast.MapDecl(self._name(protocol), items, span=span)

    def map_subject(self, span: Span, foreign: Token, entity: Token, issuer: Token | None = None) -> ast.MapEntity:
        named = None if issuer is None else self._name(issuer)
        return ast.MapEntity("subject", self._text(foreign), self._name(entity), named, span=span)

    def map_resource(self, span: Span, foreign: Token, entity: Token) -> ast.MapEntity:
        return ast.MapEntity("resource", self._text(foreign), self._name(entity), span=span)

    def map_action(self, span: Span, action: Token, *parts: Phrase) -> ast.MapAction:
        on = self._text(parts[0]) if isinstance(parts[0], Token) else None
        endpoint, *bindings = parts[1:] if on else parts
        return ast.MapAction(self._text(action), on, endpoint, bindings[0] if bindings else (), span=span)

    def map_fact(self, span: Span, fact: Token, source: Token) -> ast.MapFact:
        return ast.MapFact(self._name(fact), self._name(source), span=span)
