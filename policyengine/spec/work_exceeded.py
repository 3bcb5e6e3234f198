"""The deny for decisions that exceed the step limit. It names the rule and the size of its input."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.kernel.base import Node
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome, Principal, Reason
from policyengine.spec.facts import Facts
from policyengine.spec.kleene import describe
from policyengine.spec.work import MAX_STEPS, RuleSteps

TOO_MUCH = f"the decision takes more than {MAX_STEPS:,} steps"
TOO_MUCH_SEE_LOG = f"{TOO_MUCH}; the operator's log names the rule"
REQUEST_ROOTS = frozenset({"args", "body", "context", "params", "request"})
MAX_COLLECTIONS_LISTED = 5  # bounds that are exported


def deny_excess(facts: Facts, principal: Principal | None, *, identified: bool) -> tuple[Decision, Effects]:
    """Return the deny and its effects. The message for an unidentified caller names no rule."""
    rule, tally = facts.work.dearest
    words, kernel = rule_name(rule), facts.kernel
    reason = Reason(Gate.FAILURE, TOO_MUCH_SEE_LOG)
    if identified:
        name = rule.name if isinstance(rule, k.Guard | k.Rate | k.Budget) else None
        at = None if rule is None else rule.span.at
        reason = Reason(Gate.FAILURE, describe_excess(words, tally, to_caller=True), name, at)
    decision = Decision.of(
        Outcome.DENY, Gate.FAILURE, (reason,), principal=principal, package=kernel.package, revision=kernel.revision
    )
    return decision, Effects(excess=describe_excess(words, tally, to_caller=False))


def describe_excess(rule: str, tally: RuleSteps, *, to_caller: bool) -> str:
    sizes = ", ".join(largest_collections(tally, to_caller))
    return f"{TOO_MUCH}, most of them in {rule}" + (f": {sizes}" if sizes else "")


def largest_collections(tally: RuleSteps, to_caller: bool) -> Iterator[str]:
    """Yield the collections of the rule, largest first. Only the operator sees sizes from the entity store."""
    sizes: dict[str, tuple[int, bool]] = {}
    for node, size in tally.sizes.values():
        if not isinstance(node, k.Constant):
            sizes.setdefault(describe(node), (size, is_of_request(node)))
    for name, (size, given) in sorted(sizes.items(), key=lambda one: (-one[1][0], one[0]))[:MAX_COLLECTIONS_LISTED]:
        elements = "1 element" if size == 1 else f"{size:,} elements"
        yield f"`{name}` has {elements}" if given or not to_caller else f"`{name}`"


def is_of_request(node: k.Expr) -> bool:
    return isinstance(node, k.Fact) and node.path[0] in REQUEST_ROOTS


def rule_name(rule: Node | None) -> str:
    match rule:
        case k.Guard(name=name):
            return f"guard `{name}`"
        case k.Rate(name=name):
            return f"rate `{name}`"
        case k.Budget(name=name):
            return f"budget `{name}`"
        case k.AgentBlock(label=label) | k.UserBlock(label=label) | k.AnyoneBlock(label=label):
            return f"`{label}`"
        case _:
            return "the checks of every request"
