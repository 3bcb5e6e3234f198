"""Reasons against a request, with the unknown facts that caused them and the remedies that would remove them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from policyengine import kernel as k
from policyengine.evaluator.approvals import ConfirmApproval
from policyengine.evaluator.blocks import STANDS, Block, carries
from policyengine.evaluator.rules import Effect, MessagePart
from policyengine.evaluator.state import YES, State
from policyengine.evaluator.walker import ChainStop, Doubts
from policyengine.runtime.decision import (
    Gate,
    Outcome,
    Reason,
    Remedy,
)
from policyengine.runtime.values import Cause
from policyengine.spec.reason_texts import (
    NOT_SHOWN,
    UNKNOWN_CHAIN,
    broken_delegation_limit,
    undelegated_hop,
    ungranted_hop,
)
from policyengine.time_formats import format_duration

STRENGTH: Final = {outcome: place for place, outcome in enumerate(Outcome)}  # deny beats throttle beats confirm
NO_CAUSES: Final[frozenset[Cause]] = frozenset()


class StopReason:
    """One reason against the request, the unknown facts that caused it, and its remedies."""

    __slots__ = ("causes", "reason", "remedies")

    def __init__(self, reason: Reason, causes: frozenset[Cause], remedies: Iterable[Remedy] = ()) -> None:
        self.reason = reason
        self.causes = causes
        self.remedies = remedies

    @property
    def named(self) -> Reason:
        """The reason, with the unknown facts in its message."""
        if not self.causes:
            return self.reason
        unknown = "; ".join(sorted(f"`{cause.fact}` is unknown: {cause.why}" for cause in self.causes))
        one = self.reason
        return Reason(one.gate, f"{one.message} ({unknown})", one.rule, one.at, one.outcome, one.code)


def causes_of(doubts: Doubts) -> frozenset[Cause]:
    if not doubts:
        return NO_CAUSES
    return doubts[0].causes if len(doubts) == 1 else frozenset().union(*(one.causes for one in doubts))


class ApprovalRemedy:
    """The approval that would lift a confirm, created when the remedies are read."""

    __slots__ = ("approval", "effect")

    def __init__(self, effect: Effect, approval: ConfirmApproval) -> None:
        self.effect = effect
        self.approval = approval

    def __iter__(self) -> Iterator[Remedy]:
        confirm: k.Confirm = self.effect.effect
        assert self.effect.binding is not None
        yield Remedy(
            "approval",
            self.effect.guard.name,
            by=confirm.approvers.words,
            within=format_duration(confirm.lasts),
            binding=self.approval.digest,
            bound=self.effect.binding.bound,
            issuers=confirm.approvers.issuers or None,
        )


def strength(stop: StopReason) -> int:
    return STRENGTH[stop.reason.outcome]


def fact_and_why(cause: Cause) -> tuple[str, str]:
    return cause.fact, cause.why


def lacking_scopes(st: State, block: Block) -> list[str]:
    """Return the scopes that would open a grant; the credential needs one of them."""
    mark = len(st.doubts)
    found: list[str] = []
    if block.enter(st, True) & STANDS:
        for grant in block.grants:
            if (grant.when is None or grant.when.test(st) == YES) and not carries(st, grant.carriers):
                found.extend(grant.carriers)
    del st.doubts[mark:]
    return found


def chain_reason(stop: ChainStop) -> StopReason:
    causes = causes_of(stop.doubts)
    at = None
    if stop.kind == "unknown":
        words = UNKNOWN_CHAIN
    elif stop.kind == "limit":
        assert stop.limits is not None
        words, at = broken_delegation_limit(stop.words), stop.limits.span.at
    else:
        assert stop.hop is not None
        words = ungranted_hop(stop.hop.id)
        if stop.then is not None:
            words = undelegated_hop(stop.hop.id, stop.then.id)
    return StopReason(Reason(Gate.CHAIN, words, at=at), causes)


def render_message(st: State, parts: tuple[str | MessagePart, ...], *, to_caller: bool) -> str:
    """Return a message with its facts. The caller sees only facts of the request; the approver sees all facts."""
    found: list[str] = []
    for part in parts:
        if isinstance(part, str):
            found.append(part)
        elif to_caller and not part.to_caller:
            found.append(NOT_SHOWN)
        else:
            found.append(part.show(part.node.get(st)))
    return "".join(found)
