"""What is decided where the rules take more steps than a decision has: a deny that says which rule, and how large what
it met was."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.kernel.base import Part
from policyengine.runtime.decision import Decision, Effects, Gate, Outcome, Principal, Reason
from policyengine.spec.facts import Facts
from policyengine.spec.kleene import describe
from policyengine.spec.work import MOST_STEPS, Tally

TOO_MUCH = f"the decision takes more than {MOST_STEPS:,} steps"
IN_THE_LOG = f"{TOO_MUCH}; the operator's log says in which rule"
OF_REQUESTS = frozenset({"args", "body", "context", "params", "request"})
MOST_COLLECTIONS = 5  # that are told of


def excess(facts: Facts, principal: Principal | None, *, identified: bool) -> tuple[Decision, Effects]:
    """Who is not known is not told which rules there are."""
    rule, tally = facts.work.dearest
    words, kernel = words_of(rule), facts.kernel
    reason = Reason(Gate.FAILURE, IN_THE_LOG)
    if identified:
        name = rule.name if isinstance(rule, k.Guard | k.Rate | k.Budget) else None
        at = None if rule is None else rule.span.at
        reason = Reason(Gate.FAILURE, told(words, tally, to_caller=True), name, at)
    decision = Decision.of(
        Outcome.DENY, Gate.FAILURE, (reason,), principal=principal, package=kernel.package, revision=kernel.revision
    )
    return decision, Effects(excess=told(words, tally, to_caller=False))


def told(rule: str, tally: Tally, *, to_caller: bool) -> str:
    sizes = ", ".join(collections(tally, to_caller))
    return f"{TOO_MUCH}, most of them in {rule}" + (f": {sizes}" if sizes else "")


def collections(tally: Tally, to_caller: bool) -> Iterator[str]:
    """The largest first. How large what the directory holds is, is for the operator."""
    sizes: dict[str, tuple[int, bool]] = {}
    for node, size in tally.sizes.values():
        if not isinstance(node, k.Constant):
            sizes.setdefault(describe(node), (size, is_of_request(node)))
    for name, (size, given) in sorted(sizes.items(), key=lambda one: (-one[1][0], one[0]))[:MOST_COLLECTIONS]:
        elements = "1 element" if size == 1 else f"{size:,} elements"
        yield f"`{name}` has {elements}" if given or not to_caller else f"`{name}`"


def is_of_request(node: k.Expr) -> bool:
    return isinstance(node, k.Fact) and node.path[0] in OF_REQUESTS


def words_of(rule: Part | None) -> str:
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
            return "what is asked of every request"
