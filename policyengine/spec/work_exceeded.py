"""The deny for decisions that exceed the step limit, and the message to the operator, which names the rule."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.kernel.base import Node
from policyengine.runtime.decision import Answer, Decision, Gate, Outcome, Principal, Reason
from policyengine.spec.kleene import describe
from policyengine.spec.step_count import RuleSteps, StepCount
from policyengine.spec.work import MAX_STEPS

TOO_MUCH = f"the decision takes more than {MAX_STEPS:,} steps"
TOO_MUCH_SEE_LOG = f"{TOO_MUCH}; the operator's log names the rule"
MAX_COLLECTIONS_LISTED = 5  # bounds that other modules use


def excess_answer(kernel: k.Kernel) -> Answer:
    """Return the deny for a request that takes too many steps. It names no rule, because the caller is not identified
    before the steps are counted.
    """
    reason = Reason(Gate.FAILURE, TOO_MUCH_SEE_LOG)
    return Answer(Outcome.DENY, Gate.FAILURE, (reason,), package=kernel.package, revision=kernel.revision)


def deny_excess(kernel: k.Kernel, principal: Principal | None) -> Decision:
    return Decision(excess_answer(kernel), principal or Principal())


def describe_excess(count: StepCount) -> str:
    """Return the message to the operator: the rule with the most steps, and the sizes of its collections."""
    rule, counted = count.most_expensive
    sizes = ", ".join(largest_collections(counted))
    return f"{TOO_MUCH}, most of them in {rule_name(rule)}" + (f": {sizes}" if sizes else "")


def largest_collections(counted: RuleSteps) -> Iterator[str]:
    """Yield the collections of the rule, largest first."""
    sizes: dict[str, int] = {}
    for node, size in counted.sizes.values():
        if not isinstance(node, k.Constant):
            sizes.setdefault(describe(node), size)
    for name, size in sorted(sizes.items(), key=lambda one: (-one[1], one[0]))[:MAX_COLLECTIONS_LISTED]:
        yield f"`{name}` has 1 element" if size == 1 else f"`{name}` has {size:,} elements"


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
