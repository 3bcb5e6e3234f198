"""The rules of an endpoint other than its blocks: guards, limits, records of past requests, and bounds of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from policyengine import kernel as k
from policyengine.evaluator.conditions import Condition
from policyengine.evaluator.nodes import Node, Path
from policyengine.runtime.limits import LimitCharge
from policyengine.spec.tasks import TaskConstraint

if TYPE_CHECKING:
    from policyengine.evaluator.history_nodes import EventRules

DENY: Final = 0
CONFIRM: Final = 1
OBLIGATION: Final = 2


class Effect:
    """A line of a guard at an endpoint. `index` is its position in the guard, `bit` its position at the endpoint. `at`
    is its place in the source. `proofs` are the proofs that may lift a deny. `binding` describes the binding of an
    approval of a confirm; `fixed` means that its message shows no fact.
    """

    __slots__ = (
        "at", "binding", "bit", "condition", "effect", "fixed", "guard", "index", "key", "kind", "message", "proofs",
    )  # fmt: skip

    def __init__(
        self,
        kind: int,
        bit: int,
        guard: k.Guard,
        index: int,
        effect: Any,
        condition: Condition | None,
        message: tuple[Any, ...] | None,
        proofs: tuple[ProofRemedy, ...],
        binding: ApprovalScope | None,
    ) -> None:
        self.kind = kind
        self.bit = bit
        self.guard = guard
        self.index = index
        self.key = (guard.package, guard.name, index)
        self.effect = effect
        self.at: str = effect.span.at
        self.condition = condition
        self.message = message
        self.fixed = message is None or all(isinstance(part, str) for part in message)
        self.proofs = proofs
        self.binding = binding


class MessagePart:
    """A fact in a message. The caller sees it only if it came with the request."""

    __slots__ = ("node", "show", "to_caller")

    def __init__(self, node: Node, show: Callable[[Any], str], to_caller: bool) -> None:
        self.node = node
        self.show = show
        self.to_caller = to_caller


class ProofRemedy:
    """A proof that may lift a deny: its kind, its text, and the value that the slots of its fact would have."""

    __slots__ = ("kind", "need", "slots", "value")

    def __init__(self, kind: str, need: str, slots: tuple[int, ...], value: object) -> None:
        self.kind = kind
        self.need = need
        self.slots = slots
        self.value = value


class ApprovalScope:
    """The parts of a request to which the approval of a confirm is bound: objects, and the facts that `reads` read.
    `sources` are pairs of a path and the expression that a pattern binds to it; `approvers` is the expression of `by
    …`, if any.
    """

    __slots__ = ("approvers", "bound", "objects", "reads", "sources")

    def __init__(
        self,
        objects: tuple[tuple[k.BoundObject, Any], ...],
        bound: tuple[str, ...],
        reads: tuple[Node, ...],
        sources: tuple[tuple[Path, Node], ...],
        approvers: Node | None,
    ) -> None:
        self.objects = objects
        self.bound = bound
        self.reads = reads
        self.sources = sources
        self.approvers = approvers


class LimitRule:
    """A rate or budget at an endpoint: its condition, key and inputs as nodes. If everything else in its charge follows
    from which raises and clamps act (`moves`), `prepared` has the charges without their keys, by the values of the
    moves, as they occur; otherwise it is None. `size` is the size of the caller's group, if the limit has a floor.
    """

    __slots__ = ("condition", "cost", "count", "counts_denials", "keys", "limit", "moves", "prepared", "quotas", "size")

    def __init__(
        self,
        limit: k.Limit,
        condition: Node | None,
        keys: tuple[Node, ...],
        cost: Node | None,
        count: Node | None,
        moves: tuple[Node, ...],
        quotas: tuple[tuple[Node, Node | None], ...],
        prepared: dict[tuple[object, ...], LimitCharge] | None,
        size: Node | None = None,
    ) -> None:
        self.limit = limit
        self.size = size
        self.prepared = prepared
        self.condition = condition
        self.keys = keys
        self.cost = cost
        self.count = count
        self.moves = moves
        self.quotas = quotas
        self.counts_denials = isinstance(limit, k.Rate) and limit.counting_denials


class RecordRule:
    """The record of a request in the history: its key, its facts with their names, and the retention period."""

    __slots__ = ("awaits", "event", "facts", "retention", "within")

    def __init__(
        self, retention: k.EventRetention, event: EventRules, facts: tuple[tuple[Node, str], ...], within: int,
        awaits: bool,
    ) -> None:  # fmt: skip
        self.retention = retention
        self.event = event
        self.facts = facts
        self.within = within
        self.awaits = awaits


class TaskRule:
    """One bound of a task at an endpoint."""

    __slots__ = ("constraint", "outside")

    def __init__(self, constraint: TaskConstraint, outside: Condition) -> None:
        self.constraint = constraint
        self.outside = outside
