"""Builders for rules: grants, guards, rates and budgets."""

from __future__ import annotations

from typing import Any, get_args

from policyengine.source import Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.build.tokens import BuilderBase, Phrase
from policyengine.syntax.tokens import Token


class RuleBuilder(BuilderBase):
    # ── Grants ──────────────────────────────────────────────────────────────────────────────────
    def unrestricted(self, span: Span) -> ast.UnrestrictedUsers:
        return ast.UnrestrictedUsers(span=span)

    def advisory(self, span: Span) -> ast.TasksAdvisory:
        return ast.TasksAdvisory(span=span)

    def user(self, span: Span, head: Phrase, *items: Phrase) -> ast.UserDecl:
        return ast.UserDecl(head, items, span=span)

    def anyone(self, span: Span, *items: ast.May) -> ast.AnyoneDecl:
        return ast.AnyoneDecl(items, span=span)

    def agent(self, span: Span, head: Phrase, *items: Phrase) -> ast.AgentDecl:
        return ast.AgentDecl(head, items, span=span)

    def called(self, span: Span, name: Token) -> ast.PrincipalName:
        return ast.PrincipalName(self._text(name), span=span)

    def in_group(self, span: Span, group: Token) -> ast.InGroup:
        return ast.InGroup(self._text(group), span=span)

    def matching(self, span: Span, condition: ast.Expr) -> ast.PrincipalCondition:
        return ast.PrincipalCondition(condition, span=span)

    def anybody(self, span: Span) -> ast.AnyUser:
        return ast.AnyUser(span=span)

    def issued_by(self, span: Span, issuers: tuple[ast.Name, ...]) -> ast.IssuedBy:
        return ast.IssuedBy(issuers, span=span)

    def acts_alone(self, span: Span) -> ast.ActsClause:
        return ast.ActsClause("alone", span=span)

    def acts_any(self, span: Span) -> ast.ActsClause:
        return ast.ActsClause("any", span=span)

    def acts_where(self, span: Span, condition: ast.Expr) -> ast.ActsClause:
        return ast.ActsClause("where", condition, span=span)

    def credential(self, span: Span, *items: Phrase) -> ast.CredentialDecl:
        return ast.CredentialDecl(items, span=span)

    def credential_kinds(self, span: Span, kinds: ast.ListLiteral) -> ast.CredentialKinds:
        return ast.CredentialKinds(kinds, span=span)

    def credential_lifetime(self, span: Span, limit: Token) -> ast.CredentialLimit:
        return ast.CredentialLimit("lifetime", self._literal("duration", limit), span=span)

    def credential_age(self, span: Span, limit: Token) -> ast.CredentialLimit:
        return ast.CredentialLimit("age", self._literal("duration", limit), span=span)

    def credential_bound(self, span: Span) -> ast.ProofOfPossession:
        return ast.ProofOfPossession(span=span)

    def attested_by(self, span: Span, attesters: tuple[ast.Name, ...]) -> ast.AttestedBy:
        return ast.AttestedBy(attesters, span=span)

    def may(self, span: Span, targets: tuple[ast.Target, ...], when: ast.Expr | None = None) -> ast.May:
        return ast.May(targets, when, span=span)

    def delegate(self, span: Span, scopes: tuple[ast.Name, ...], to: ast.AgentRef, *rest: Phrase) -> ast.MayDelegate:
        lifetime, when = self._duration_and_rest(rest)
        return ast.MayDelegate(scopes, to, lifetime, when, span=span)

    def valid_until(self, span: Span, *dates: Token) -> ast.ValidityPeriod:
        start = self._literal("date", dates[0]) if len(dates) == 2 else None
        return ast.ValidityPeriod(start, self._literal("date", dates[-1]), span=span)

    def valid_from(self, span: Span, date: Token) -> ast.ValidityPeriod:
        return ast.ValidityPeriod(self._literal("date", date), None, span=span)

    def delegation(self, span: Span, *limits: ast.DelegationLimit) -> ast.DelegationDecl:
        return ast.DelegationDecl(limits, span=span)

    def depth_limit(self, span: Span, limit: Token) -> ast.DelegationLimit:
        return ast.DelegationLimit("depth", self._literal("number", limit), span=span)

    def lifetime_limit(self, span: Span, limit: Token) -> ast.DelegationLimit:
        return ast.DelegationLimit("lifetime", self._literal("duration", limit), span=span)

    def no_cycles(self, span: Span) -> ast.DelegationLimit:
        return ast.DelegationLimit("no cycles", span=span)

    # ── Guards ────────────────────────────────────────────────────────────────────────────────
    def guard(self, span: Span, name: Token, *parts: Phrase) -> ast.GuardDecl:
        items = tuple(part for part in parts if not isinstance(part, ast.Place))
        return ast.GuardDecl(self._text(name), self._only(ast.Place, parts), items, span=span)

    def when(self, span: Span, condition: ast.Expr) -> ast.ConditionClause:
        return ast.ConditionClause("when", condition, span=span)

    def unless(self, span: Span, condition: ast.Expr) -> ast.ConditionClause:
        return ast.ConditionClause("unless", condition, span=span)

    def message(self, span: Span, text: Token) -> ast.Text:
        return self._text(text)

    def deny(self, span: Span, *parts: Phrase) -> ast.Deny:
        return ast.Deny(self._only(ast.ConditionClause, parts), self._only(ast.Text, parts), span=span)

    def require(self, span: Span, condition: ast.Expr, message: ast.Text | None = None) -> ast.Require:
        return ast.Require(condition, message, span=span)

    def confirm(self, span: Span, approver: ast.Approver, *parts: Phrase) -> ast.Confirm:
        issuers: tuple[ast.Name, ...] = self._only(tuple, parts) or ()
        within, _ = self._duration_and_rest(parts[1:] if issuers else parts)
        bound = self._only(ast.BoundTo, parts)
        condition, message = self._only(ast.ConditionClause, parts), self._only(ast.Text, parts)
        return ast.Confirm(approver, issuers, within, bound, condition, message, span=span)

    def bound_to(self, span: Span, *items: ast.BoundItem) -> ast.BoundTo:
        return ast.BoundTo(items, span=span)

    def bound_item(self, span: Span, of: ast.Reference, left_out: tuple[ast.Reference, ...] = ()) -> ast.BoundItem:
        return ast.BoundItem(of, left_out, span=span)

    def left_out(self, span: Span, *paths: ast.Reference) -> tuple[ast.Reference, ...]:
        return paths

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

    def _obligation(self, kind: str, span: Span, parts: tuple[Phrase, ...]) -> ast.ObligationEffect:
        arguments: list[ast.Name | ast.Text] = []
        for part in parts:
            match part:
                case Token(type="NAME"):
                    arguments.append(self._name(part))
                case Token(type="STRING"):
                    arguments.append(self._text(part))
                case tuple():
                    arguments += part
        condition, message = self._only(ast.ConditionClause, parts), self._only(ast.Text, parts)
        return ast.ObligationEffect(kind, tuple(arguments), condition, message, span=span)  # type: ignore[arg-type]

    def audit(self, span: Span, *parts: Phrase) -> ast.ObligationEffect:
        return self._obligation("audit", span, parts)

    def redact(self, span: Span, *parts: Phrase) -> ast.ObligationEffect:
        return self._obligation("redact", span, parts)

    def notify(self, span: Span, *parts: Phrase) -> ast.ObligationEffect:
        return self._obligation("notify", span, parts)

    def warn(self, span: Span, *parts: Phrase) -> ast.ObligationEffect:
        return self._obligation("warn", span, parts)

    def step_up(self, span: Span, *parts: Phrase) -> ast.ObligationEffect:
        return self._obligation("step_up", span, parts)

    def header(self, span: Span, *parts: Phrase) -> ast.ObligationEffect:
        return self._obligation("header", span, parts)

    # ── Rates, budgets, profiles, invariants ──────────────────────────────────────────────────
    def _limits(self, name: Token, parts: tuple[Phrase, ...], items: tuple[type, ...]) -> tuple[Any, ...]:
        """Return the parts that rates and budgets share: name, per, place, when, items."""
        place = self._only(ast.Place, parts)
        found = tuple(part for part in parts[1:] if isinstance(part, items))
        when = self._only(ast.Node, tuple(p for p in parts[1:] if p is not place and not isinstance(p, items)))
        return self._text(name), parts[0], place, when, found

    def rate(self, span: Span, name: Token, *parts: Phrase) -> ast.RateDecl:
        return ast.RateDecl(*self._limits(name, parts, get_args(ast.RateItem)), span=span)

    def rate_limit(self, span: Span, rate: Token, burst: Token | None = None) -> ast.RateLimit:
        return ast.RateLimit(rate.text, self._literal("number", burst) if burst else None, span=span)

    def at_once(self, span: Span, count: Token, lease: Token | None = None) -> ast.ConcurrencyLimit:
        lasts = self._literal("duration", lease) if lease else None
        return ast.ConcurrencyLimit(self._literal("number", count), lasts, span=span)

    def cost(self, span: Span, fact: Token) -> ast.Cost:
        return ast.Cost(self._name(fact), span=span)

    def store_failure(self, span: Span, word: Any) -> ast.StoreFailure:
        return ast.StoreFailure(word.text, span=span)

    def rate_floor(self, span: Span, rate: Token) -> ast.RateFloor:
        return ast.RateFloor(rate.text, span=span)

    def counting_denials(self, span: Span) -> ast.CountingDenials:
        return ast.CountingDenials(span=span)

    def raise_(self, span: Span, factor: Token, at_most: Token, when: ast.Expr) -> ast.Raise:
        return ast.Raise(factor.text, at_most.text, when, span=span)

    def clamp(self, span: Span, rate: Token, *rest: Phrase) -> ast.Clamp:
        duration, when = self._duration_and_rest(rest)
        return ast.Clamp(rate.text, duration, when, span=span)

    def budget(self, span: Span, name: Token, *parts: Phrase) -> ast.BudgetDecl:
        return ast.BudgetDecl(*self._limits(name, parts, (ast.BudgetLimit, ast.StoreFailure)), span=span)

    def budget_sum(self, span: Span, fact: Token, bound: Phrase, within: Token) -> ast.BudgetLimit:
        return ast.BudgetLimit("sum", self._name(fact), bound, self._literal("duration", within), span=span)

    def budget_count(self, span: Span, bound: Phrase, within: Token) -> ast.BudgetLimit:
        return ast.BudgetLimit("count", None, bound, self._literal("duration", within), span=span)

    def budget_distinct(self, span: Span, fact: Token, bound: Phrase, within: Token) -> ast.BudgetLimit:
        return ast.BudgetLimit("distinct", self._name(fact), bound, self._literal("duration", within), span=span)

    def per(self, span: Span, *keys: Phrase) -> tuple[ast.Reference | ast.Call, ...]:
        """Return the keys without the parentheses around them."""
        return tuple(key for key in keys if isinstance(key, ast.Reference | ast.Call))

    def key(self, span: Span, name: Token) -> ast.Reference:
        return ast.Reference(name.text, span=span)

    def key_of(self, span: Span, function: Token, *parts: Token) -> ast.Call:
        (name,) = (self._name(part) for part in parts if part.type == "NAME")
        return ast.Call(self._name(function), (ast.Reference(name.text, span=name.span),), span=span)

    def profile(self, span: Span, name: Token, agent: ast.AgentRef, *items: ast.ProfileItem) -> ast.ProfileDecl:
        return ast.ProfileDecl(self._text(name), agent, items, span=span)

    def expect(self, span: Span, sequence: ast.StepSequence) -> ast.ProfileSteps:
        return ast.ProfileSteps(sequence, span=span)

    def run_by(self, span: Span, key: ast.Reference, idle: Token | None = None) -> ast.ProfileRun:
        return ast.ProfileRun(key, self._literal("duration", idle) if idle else None, span=span)

    def run_within(self, span: Span, idle: Token) -> ast.ProfileRun:
        return ast.ProfileRun(None, self._literal("duration", idle), span=span)

    def learn(self, span: Span, period: Token) -> ast.ProfileLearn:
        return ast.ProfileLearn(self._literal("duration", period), span=span)

    def ready(self, span: Span, runs: Token, *rest: Token) -> ast.ProfileReady:
        return ast.ProfileReady(self._literal("number", runs), self._literal("duration", rest[-1]), span=span)

    def burst_once(self, span: Span, days: Token) -> ast.ProfileBurst:
        return ast.ProfileBurst(self._literal("duration", days), span=span)

    def version_by(self, span: Span, key: ast.Reference) -> ast.ProfileVersion:
        return ast.ProfileVersion(key, span=span)

    def steps(self, span: Span, *steps: ast.ProfileStep | ast.ProfileStepGroup) -> ast.StepSequence:
        return ast.StepSequence(steps, span=span)

    def call_step(self, span: Span, target: ast.Target, *repeats: ast.StepRepeat) -> ast.ProfileStep:
        return ast.ProfileStep(target, repeats, span=span)

    def step_group(self, span: Span, *parts: Phrase) -> ast.ProfileStepGroup:
        alternatives = tuple(part for part in parts if isinstance(part, ast.StepSequence))
        repeats = tuple(part for part in parts if isinstance(part, ast.StepRepeat))
        return ast.ProfileStepGroup(alternatives, repeats, span=span)

    def repeat(self, span: Span, word: Any) -> ast.StepRepeat:
        return ast.StepRepeat(word.text, span=span)

    def invariant(self, span: Span, name: Token, *claims: ast.InvariantClaim) -> ast.InvariantDecl:
        return ast.InvariantDecl(self._text(name), claims, span=span)

    def claim(
        self, span: Span, modality: Any, effect: Any, targets: Any, when: ast.Expr | None = None
    ) -> ast.InvariantClaim:
        return ast.InvariantClaim(modality.text, effect.text, targets, when, span=span)
