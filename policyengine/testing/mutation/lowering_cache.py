"""Lowers faults to kernels without parsing again: parts that a fault cannot change are lowered once.

A fault inside a rule lowers that rule again; a fault in another declaration, or in an endpoint that binds facts, lowers
the policy again except the rules that the fault cannot reach. In both cases the checker's own lowering determines the
meaning of the changed tree, and whether it is valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.check import CheckResult, has_error
from policyengine.checker.lower import guards, limits, principals
from policyengine.checker.lower.context import LoweringContext
from policyengine.checker.lower.expressions import check_definitions
from policyengine.checker.lower.policy import lower_policy
from policyengine.checker.names.declarations import declarations as declared_in
from policyengine.checker.names.program import Program
from policyengine.checker.patterns import binders
from policyengine.checker.patterns.places import PlaceResolver
from policyengine.checker.reporter import Reporter
from policyengine.checker.types.schema import Schema
from policyengine.diagnostics.model import Diagnostic
from policyengine.gc_pause import gc_paused
from policyengine.lint import dead_rules, unbound_resource
from policyengine.source import is_test_file
from policyengine.spec.required_history import history_conditions, with_retention
from policyengine.syntax import nodes as ast
from policyengine.testing.mutation.faults import Fault

KernelRule: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock | k.Guard | k.Limit

# The kernel list of each kind of declaration: one rule for each, in the same order. Budgets come after rates.
KERNEL_LISTS: dict[type[ast.Node], str] = {
    ast.AgentDecl: "agents", ast.UserDecl: "users", ast.AnyoneDecl: "anyones", ast.GuardDecl: "guards",
    ast.RateDecl: "limits", ast.BudgetDecl: "limits",
}  # fmt: skip
RULE_LISTS = tuple(dict.fromkeys(KERNEL_LISTS.values()))
PLACED_LISTS = frozenset({"guards", "limits"})
PLACED_DECLARATIONS = (ast.GuardDecl, ast.RateDecl, ast.BudgetDecl)  # independent of the caller, at an endpoint
# Declarations that rules refer to by name.
NAMED_DECLARATIONS = (ast.AttesterDecl, ast.DefineDecl, ast.IssuerDecl, ast.LetDecl, ast.ScopeDecl)
NAME = re.compile(r"[^\W\d]\w*(?:\.\w+)*")
# Members other than rules that faults can change.
OTHER_KERNEL_MEMBERS = (
    "entities",
    "issuers",
    "attesters",
    "binders",
    "unrestricted",
    "advisory",
    "delegation",
    "watches",
    "profiles",
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A policy with one fault. `rules` are the changed rules, by list and index (None: removed), `whole` the other
    changed members of the kernel.
    """

    fault: Fault
    base: k.Kernel
    rules: dict[tuple[str, int], KernelRule | None]
    whole: dict[str, object]
    moved: frozenset[tuple[str, int]] = field(init=False, compare=False)  # changed rules that may cover other requests

    def __post_init__(self) -> None:
        old = ((key, getattr(self.base, key[0])[key[1]], new) for key, new in self.rules.items())
        moved = frozenset(key for key, before, after in old if not same_reach(before, after))
        object.__setattr__(self, "moved", moved)

    @property
    def kernel(self) -> k.Kernel:
        changed: dict[str, object] = dict(self.whole)
        for name in {name for name, _ in self.rules}:
            rules = [self.rules.get((name, i), one) for i, one in enumerate(getattr(self.base, name))]
            changed[name] = tuple(one for one in rules if one is not None)
        return replace(self.base, **changed)  # type: ignore[arg-type]  # by the names of its members


def kernel_of_new_rules(mutant: Mutant) -> k.Kernel:
    """Return the kernel with only the changed guards and limits, or the whole kernel if other rules changed."""
    if mutant.whole or any(name not in PLACED_LISTS for name, _ in mutant.rules):
        return mutant.kernel
    new = [one for one in mutant.rules.values() if one is not None]
    guards_ = tuple(one for one in new if isinstance(one, k.Guard))
    return replace(mutant.base, guards=guards_, limits=tuple(one for one in new if isinstance(one, k.Limit)))


def same_reach(old: KernelRule, new: KernelRule | None) -> bool:
    """Return whether the new rule covers only requests that the old one covers."""
    match old, new:
        case (k.AgentBlock(), k.AgentBlock()) | (k.UserBlock(), k.UserBlock()):
            return old.who == new.who  # type: ignore[union-attr]  # blocks, both
        case ((k.Guard() | k.Rate() | k.Budget()), None):
            return True
        case ((k.Guard() | k.Rate() | k.Budget()), (k.Guard() | k.Rate() | k.Budget())):
            return old.place == new.place
        case _:
            return False


@dataclass(frozen=True, slots=True)
class LoweringCache:
    """A policy lowered in source order, with the data that are needed to lower one of its rules again."""

    modules: tuple[ast.Module, ...]
    package: str
    draft: LoweringContext
    kernel: k.Kernel

    @classmethod
    def of(cls, checked: CheckResult) -> LoweringCache:
        """Build the cache for a policy without errors."""
        assert checked.kernel is not None
        modules = tuple(without_tests(m) for p in checked.program.packages.values() for m in p.modules)
        modules = tuple(m for m in modules if not is_test_file(m.span.source.name))
        draft, bound = draft_modules(modules)
        kernel = lower_policy(draft, bound, checked.kernel.package, advice=False)
        return cls(modules, checked.kernel.package, draft, kernel)

    def mutant(self, fault: Fault) -> Mutant | None:
        """Return the policy with the fault; None if it has errors."""
        mutated = fault.mutated
        kind = type(fault.declaration)
        one = kind in KERNEL_LISTS and binding_endpoints(fault.declaration) == binding_endpoints(mutated)
        found = self._one_rule(fault, mutated) if one else self._all(fault, mutated)
        return (
            None
            if found is None or has_error(unbound_resource.unbound_resource_errors(kernel_of_new_rules(found)))
            else found
        )

    # ── One rule ──────────────────────────────────────────────────────────────────────────────

    def _one_rule(self, fault: Fault, mutated: ast.Declaration | None) -> Mutant | None:
        kind = type(fault.declaration)
        declared = list(self.draft.by_kind[kind])
        number = next(i for i, (_, one) in enumerate(declared) if one is fault.declaration)
        rule: KernelRule | None = None
        if mutated is not None:
            declared[number] = fault.package, mutated
            draft = replace(self.draft, by_kind={**self.draft.by_kind, kind: declared})
            rule = self._lower_rule(mutated, fault.package, draft)
            if rule is None:
                return None
        found = Mutant(fault, self.kernel, {self._key(kind, number): rule}, {})
        return self._add_event_records(found) if self.kernel.watches else found

    def _add_event_records(self, mutant: Mutant) -> Mutant:
        """Return the mutant with the event records that its rules need."""
        asked = (
            (history_conditions(getattr(self.kernel, name)[i]), history_conditions(new))
            for (name, i), new in mutant.rules.items()
        )
        if all(list(old) == list(new) for old, new in asked):
            return mutant
        watches = with_retention(mutant.kernel).watches
        return mutant if watches == self.kernel.watches else replace(mutant, whole={"watches": watches})

    def _key(self, kind: type[ast.Node], number: int) -> tuple[str, int]:
        before = len(self.draft.by_kind.get(ast.RateDecl, ())) if kind is ast.BudgetDecl else 0
        return KERNEL_LISTS[kind], before + number

    def _rules(self, kind: type[ast.Node]) -> tuple[KernelRule, ...]:
        """Return the kernel rules of one kind of declaration."""
        _, first = self._key(kind, 0)
        rules: tuple[KernelRule, ...] = getattr(self.kernel, KERNEL_LISTS[kind])
        return rules[first : first + len(self.draft.by_kind.get(kind, ()))]

    def _lower_rule(self, declared: ast.Declaration, package: str, draft: LoweringContext) -> KernelRule | None:
        draft.report.found.clear()
        rule: KernelRule | None
        match declared:
            case ast.AgentDecl():
                rule = principals.lower_agent_block(declared, package, draft, self.kernel.issuers)
            case ast.UserDecl():
                rule = principals.lower_user_block(declared, package, draft)
            case ast.AnyoneDecl():
                rule = principals.lower_anyone_block(declared, package, draft)
            case ast.GuardDecl():
                rule = guards.lower_guard(declared, package, draft)
            case ast.RateDecl():
                rule = limits.lower_rate(declared, package, draft)
            case ast.BudgetDecl():
                rule = limits.lower_budget(declared, package, draft)
            case _:
                raise AssertionError("only rules are lowered one by one")
        if rule is None or has_error(draft.report.diagnostics) or has_error(self.mistakes([rule])):
            return None
        return rule

    def mistakes(self, rules: Iterable[KernelRule]) -> Iterator[Diagnostic]:
        """Yield the errors about conditions with which a rule never has its effect."""
        some = tuple(rules)
        yield from dead_rules.dead_rule_errors(
            replace(
                self.kernel,
                agents=tuple(rule for rule in some if isinstance(rule, k.AgentBlock)),
                users=tuple(rule for rule in some if isinstance(rule, k.UserBlock)),
                anyones=tuple(rule for rule in some if isinstance(rule, k.AnyoneBlock)),
                guards=tuple(rule for rule in some if isinstance(rule, k.Guard)),
                limits=tuple(rule for rule in some if isinstance(rule, k.Limit)),
            )
        )

    # ── The whole policy ──────────────────────────────────────────────────────────────────────

    def _all(self, fault: Fault, mutated: ast.Declaration | None) -> Mutant | None:
        modules = tuple(
            replace_declaration(m, fault.declaration, mutated) if m.span.source is fault.source else m
            for m in self.modules
        )
        kernel = self._kernel(fault, draft_modules(modules))
        if kernel is None:
            return None
        gone = self._number(fault) if mutated is None and type(fault.declaration) in KERNEL_LISTS else None
        rules = dict(changed_rules(self.kernel, kernel, gone))
        if has_error(self.mistakes(rule for rule in rules.values() if rule is not None)):
            return None
        whole = {
            name: getattr(kernel, name)
            for name in OTHER_KERNEL_MEMBERS
            if getattr(kernel, name) != getattr(self.kernel, name)
        }
        return Mutant(fault, self.kernel, rules, whole)

    def _kernel(self, fault: Fault, made: DraftAndBinders) -> k.Kernel | None:
        """Return the kernel of a faulty draft; rules that the fault cannot reach are reused. Return None if the faulty
        policy has errors.
        """
        draft, bound = made
        known = {} if bound != self.kernel.binders else self._beyond(fault, draft)
        kernel = lower_policy(replace(draft, known=known), bound, self.package, advice=False)
        kernel = with_retention(kernel) if self.kernel.watches else kernel  # also for reused rules
        return None if has_error(draft.report.diagnostics) else kernel

    def _beyond(self, fault: Fault, draft: LoweringContext) -> dict[int, KernelRule]:
        """Return, by the id of their declarations, rules that certainly do not depend on the faulty declaration."""
        if not isinstance(fault.declaration, (*NAMED_DECLARATIONS, ast.DelegationDecl)):
            return {}
        others = [one for _, one in draft.program.declarations() if type(one) not in KERNEL_LISTS]
        before, reached = set[str](), declared_names(fault.declaration)
        while before != reached:
            before = reached
            reached = before.union(
                *(declared_names(one) for one in others if not before.isdisjoint(names_mentioned(one)))
            )
        if any(isinstance(one, ast.FactsDecl) and not reached.isdisjoint(names_mentioned(one)) for one in others):
            return {}  # rules read the facts of their place
        return {
            id(declared): rule
            for kind in KERNEL_LISTS
            if kind in PLACED_DECLARATIONS
            or not isinstance(fault.declaration, ast.ScopeDecl)  # any scope may carry a grant
            for (_, declared), rule in zip(self.draft.by_kind.get(kind, ()), self._rules(kind), strict=True)
            if reached.isdisjoint(names_mentioned(declared))
        }

    def _number(self, fault: Fault) -> tuple[str, int]:
        kind = type(fault.declaration)
        declared = self.draft.by_kind[kind]
        return self._key(kind, next(i for i, (_, one) in enumerate(declared) if one is fault.declaration))


DraftAndBinders: TypeAlias = tuple[LoweringContext, tuple[k.Binder, ...]]


@gc_paused()
def draft_modules(modules: Sequence[ast.Module]) -> DraftAndBinders:
    """Check everything except rules, and return the draft with the bindings of places; its report has the errors."""
    program = Program.of(modules, Reporter())
    places = PlaceResolver(program)
    schema = Schema.of(program, places)
    places.check_scopes()
    bound = binders.collect_binders(program, places, schema)
    check_definitions(program, schema)
    return LoweringContext.of(program, schema, places), bound


def names_mentioned(declaration: ast.Declaration) -> frozenset[str]:
    """Return every name in a declaration, and every part of a dotted name."""
    return dotted_names_in(declaration.span.text)


@lru_cache(maxsize=4_096)
def dotted_names_in(text: str) -> frozenset[str]:
    found: set[str] = set()
    for name in NAME.findall(text):
        parts = name.split(".")
        found.update(".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
    return frozenset(found)


def declared_names(declaration: ast.Declaration) -> set[str]:
    """Return the names by which other declarations refer to a declaration; empty if it has none."""
    return {declaration.name.text} if isinstance(declaration, NAMED_DECLARATIONS) else set()


def without_tests(module: ast.Module) -> ast.Module:
    shown = (ast.TestDecl, ast.FixtureDecl)
    return replace(module, declarations=tuple(one for one in module.declarations if not isinstance(one, shown)))


def replace_declaration(module: ast.Module, old: ast.Declaration, new: ast.Declaration | None) -> ast.Module:
    found: list[ast.Declaration | ast.Export] = []
    for item, (declaration, _) in zip(module.declarations, declared_in(module), strict=True):
        if declaration is not old:
            found.append(item)
        elif new is not None:
            found.append(replace(item, declaration=new) if isinstance(item, ast.Export) else new)
    return replace(module, declarations=tuple(found))


def changed_rules(
    before: k.Kernel, after: k.Kernel, gone: tuple[str, int] | None
) -> Iterator[tuple[tuple[str, int], KernelRule | None]]:
    for name in RULE_LISTS:
        new = list(getattr(after, name))
        if gone is not None and gone[0] == name:
            new.insert(gone[1], None)
        for number, (old, rule) in enumerate(zip(getattr(before, name), new, strict=True)):
            if old != rule:
                yield (name, number), rule


def binding_endpoints(declaration: ast.Declaration | None) -> list[ast.Endpoint]:
    """Return the endpoints of a rule that bind facts; changing one may change all rules there."""
    found = binders.endpoints_of(declaration) if declaration is not None else ()
    return [endpoint for endpoint, _ in found if not isinstance(endpoint, ast.HttpPattern) or "{" in endpoint.path]
