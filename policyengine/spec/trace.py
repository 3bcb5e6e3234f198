"""The trace of one request through every gate, as data for decisions and explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from policyengine import kernel as k
from policyengine.runtime.request import Approval
from policyengine.runtime.values import Cause, Value
from policyengine.spec.step_count import StepCount
from policyengine.spec.tasks import TaskConstraint


@dataclass(frozen=True, slots=True)
class ChainAgent:
    """A principal of the chain: issuer and name, and the scopes, groups and age of its credential."""

    id: Value
    issuer: Value
    scopes: Value
    groups: Value
    age: Value


@dataclass(frozen=True, slots=True)
class RequirementTrace:
    requirement: k.Requirement
    holds: Value


@dataclass(frozen=True, slots=True)
class GrantTrace:
    """A `may`: whether it covers the endpoint, whether the credential carries it, and its condition."""

    grant: k.Grant
    covers: bool
    carried: bool
    condition: Value

    @property
    def opens(self) -> bool:
        return self.covers and self.carried and self.condition is True


@dataclass(frozen=True, slots=True)
class DelegationTrace:
    """A `may delegate`: whether it covers the endpoint, names the next agent and has not expired; and its condition."""

    delegate: k.DelegationGrant
    covers: bool
    names_next: Value
    lasts: Value
    condition: Value

    @property
    def hands_on(self) -> bool:
        return self.covers and self.names_next is True and self.lasts is True and self.condition is True


Block: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock


@dataclass(frozen=True, slots=True)
class BlockTrace:
    """A block: whether it matches this principal, and its requirements. It `stands` only if all requirements hold.
    `stands` and `opens` are computed once, because they are read repeatedly.
    """

    block: Block
    applies: Value
    requirements: tuple[RequirementTrace, ...]
    grants: tuple[GrantTrace, ...]
    delegates: tuple[DelegationTrace, ...] = ()
    stands: bool = field(init=False, compare=False)
    opens: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        stands = self.applies is True and all(seen.holds is True for seen in self.requirements)
        object.__setattr__(self, "stands", stands)
        object.__setattr__(self, "opens", stands and any(grant.opens for grant in self.grants))


def unknown_inputs(blocks: Iterable[BlockTrace], *, handing_on: bool = False) -> Iterator[Value]:
    """Yield the inputs of blocks that might have opened or delegated the endpoint. An unknown input may be the cause of
    a deny.
    """
    for block in blocks:
        grants = [grant for grant in block.grants if grant.covers]
        delegates = [one for one in block.delegates if one.covers]
        if block.applies is not False and (delegates if handing_on else grants):
            yield from (block.applies, *(one.holds for one in block.requirements))
            if handing_on:
                yield from (value for one in delegates for value in (one.names_next, one.lasts, one.condition))
            else:
                yield from (grant.condition for grant in grants)


@dataclass(frozen=True, slots=True)
class HopTrace:
    """An agent before the presenter: whether its blocks open the endpoint and delegate to the next agent."""

    agent: ChainAgent
    next: ChainAgent
    blocks: tuple[BlockTrace, ...]

    @property
    def opens(self) -> bool:
        return any(block.opens for block in self.blocks)

    @property
    def hands_on(self) -> bool:
        return any(block.stands and any(seen.hands_on for seen in block.delegates) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class DelegationLimitTrace:
    """One limit of a `delegation`; `words` is its text in the policy."""

    words: str
    limits: k.DelegationLimits
    holds: Value


@dataclass(frozen=True, slots=True)
class TaskTrace:
    """One bound of the task. It acts if the request lies outside the bound, or if that is unknown."""

    bound: TaskConstraint
    outside: Value

    @property
    def acts(self) -> bool:
        return self.outside is not False


@dataclass(frozen=True, slots=True)
class ApprovalDigest:
    """The binding of an approval. `digest` is equal for two requests exactly if one approval covers both. `unseen`
    holds bound facts that are unknown; a request with such facts cannot be approved.
    """

    digest: str
    unseen: frozenset[Cause]


@dataclass(frozen=True, slots=True)
class ApprovalTrace:
    """The binding of an approval (computed on demand), the valid approvals, and whether they suffice.

    A request with `unseen` facts cannot be approved.
    """

    bound: Callable[[], ApprovalDigest]
    counted: tuple[Approval, ...]
    granted: bool

    @property
    def binding(self) -> str:
        return self.bound().digest

    @property
    def unseen(self) -> frozenset[Cause]:
        return self.bound().unseen


@dataclass(frozen=True, slots=True)
class EffectTrace:
    """A line of a guard. It acts if its condition is true or unknown; a confirm acts only without its approval.
    `approval` is set for a triggered confirm, and for every confirm if the request has approvals.
    """

    effect: k.Effect
    condition: Value
    approval: ApprovalTrace | None = None

    @property
    def triggered(self) -> bool:
        return self.condition is not False

    @property
    def acts(self) -> bool:
        return self.triggered and not (self.approval and self.approval.granted)


@dataclass(frozen=True, slots=True)
class GuardTrace:
    """A guard; it has no effects if its place does not cover the endpoint."""

    guard: k.Guard
    covers: bool
    effects: tuple[EffectTrace, ...]


@dataclass(frozen=True, slots=True)
class LimitTrace:
    """A rate or budget: whether it covers the endpoint, its condition, its key, and its inputs: one for each cost,
    count, raise and clamp of a rate, or one for each quota of a budget. It acts if its condition is true or unknown.
    For a rate with a `floor` that counts by groups, `size` is the size of the caller's group, and `own` the caller.
    """

    limit: k.Limit
    covers: bool
    condition: Value = True
    keys: tuple[Value, ...] = ()
    cost: Value = 1
    count: Value = 1
    moves: tuple[Value, ...] = ()
    quotas: tuple[tuple[Value, Value], ...] = ()
    size: Value = 1
    own: Value = ""

    @property
    def acts(self) -> bool:
        return self.covers and self.condition is not False


@dataclass(frozen=True, slots=True)
class DecisionTrace:
    """Everything that a decision considered.

    `malformed` says why the path is malformed; then nothing else is traced. `halted` is the message of the halt that
    covers the request; then, too, nothing else is traced. `refused` is the code of a refused credential; then there is
    no principal, and only grants of `anyone` open. `presenter` holds the blocks that may open the endpoint: agent
    blocks, or user blocks if there is no agent. `user` is None if no agent acts for a user. `advisory` are the packages
    with `tasks advisory`, which leave the bounds of tasks to guards. `excess` is the step count of a decision with too
    many steps; then, too, nothing else is traced.
    """

    malformed: str | None
    anyone: tuple[BlockTrace, ...] = ()
    presenter: tuple[BlockTrace, ...] = ()
    user: tuple[BlockTrace, ...] | None = None
    user_waived: bool = False
    chain_known: Value = True
    hops: tuple[HopTrace, ...] = ()
    limits: tuple[DelegationLimitTrace, ...] = ()
    task: tuple[TaskTrace, ...] = ()
    advisory: tuple[str, ...] = ()
    guards: tuple[GuardTrace, ...] = ()
    refused: str | None = None
    limiting: Callable[[], tuple[LimitTrace, ...]] = tuple  # lazy: a deny is rarely charged
    excess: StepCount | None = None
    halted: str | None = None

    @property
    def limited(self) -> tuple[LimitTrace, ...]:
        return self.limiting()

    @property
    def open_to_anyone(self) -> bool:
        return any(block.opens for block in self.anyone)

    @property
    def identified(self) -> bool:
        return self.open_to_anyone or any(block.stands for block in self.presenter)

    @property
    def door_open(self) -> bool:
        return self.open_to_anyone or any(block.opens for block in self.presenter)

    @property
    def user_allowed(self) -> bool:
        if self.user is None or self.user_waived or self.open_to_anyone:
            return True
        return any(block.opens for block in self.user)

    @property
    def opening(self) -> list[BlockTrace]:
        """The blocks that open the endpoint to the presenter; if none does, the blocks that accept the presenter."""
        return [one for one in self.presenter if one.opens] or [one for one in self.presenter if one.stands]

    @property
    def task_bounds(self) -> bool:
        """Whether a task bounds the request. Endpoints open to `anyone` are not bounded, because they are open without
        the credential.
        """
        return not self.open_to_anyone and not any(seen.block.package in self.advisory for seen in self.opening)

    @property
    def outside_task(self) -> tuple[TaskTrace, ...]:
        acting = tuple(one for one in self.task if one.acts)
        return acting if acting and self.task_bounds else ()

    @property
    def chain_sound(self) -> bool:
        if self.open_to_anyone:
            return True
        unbroken = all(hop.opens and hop.hands_on for hop in self.hops)
        return unbroken and self.chain_known is True and all(limit.holds is True for limit in self.limits)
