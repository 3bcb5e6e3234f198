"""Rates, budgets and profiles; invariants, which are parsed and checked but not enforced yet."""

from __future__ import annotations

from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text, node
from policyengine.syntax.nodes.endpoints import Place, Target
from policyengine.syntax.nodes.expressions import Call, Expr, Reference
from policyengine.syntax.nodes.grants import AgentRef
from policyengine.syntax.nodes.tests import OutcomeWord


@node()
class RateLimit(Node):
    """`100/1m burst 20`, or `user.quota/1d` with the number from a fact."""

    rate: str
    burst: Literal | None = None


@node()
class ConcurrencyLimit(Node):
    """`at most 5 at once for 10m`: a limit of concurrent requests. A request counts until its outcome is reported or
    its lease ends.
    """

    count: Literal
    lease: Literal | None = None


@node()
class Cost(Node):
    """`cost body.tokens`: how much of the rate one request uses, instead of 1."""

    fact: Name


@node()
class StoreFailure(Node):
    """`on store failure local`: what the limit does while the store is unreachable."""

    word: Word["deny", "local", "allow"]


@node()
class RateFloor(Node):
    rate: str


@node()
class CountingDenials(Node):
    pass


@node()
class Raise(Node):
    factor: str
    at_most: str
    when: Expr


@node()
class Clamp(Node):
    rate: str
    duration: Literal | None
    when: Expr


RateItem: TypeAlias = RateLimit | ConcurrencyLimit | Cost | RateFloor | CountingDenials | Raise | Clamp | StoreFailure


@node()
class RateDecl(Node):
    name: Text
    per: tuple[Reference | Call, ...]
    place: Place | None
    when: Expr | None
    items: tuple[RateItem, ...]


@node()
class BudgetLimit(Node):
    """`sum body.amount <= 5_000 within 24h`, `count <= 5 within 1h` (without a fact)."""

    function: Word["sum", "count", "distinct"]
    fact: Name | None
    bound: Literal | Name
    within: Literal


@node()
class BudgetDecl(Node):
    name: Text
    per: tuple[Reference | Call, ...]
    place: Place | None
    when: Expr | None
    items: tuple[BudgetLimit | StoreFailure, ...]


@node()
class StepRepeat(Node):
    """`optional` or `repeated` after a step."""

    word: Word["optional", "repeated"]


@node()
class ProfileStep(Node):
    """`GET /data/** repeated`: a call to one of the endpoints of the target."""

    target: Target
    repeats: tuple[StepRepeat, ...] = ()


@node()
class ProfileStepGroup(Node):
    """`(GET /a -> GET /b | GET /c) repeated`: one of several sequences of steps."""

    alternatives: tuple[StepSequence, ...]
    repeats: tuple[StepRepeat, ...] = ()


@node()
class StepSequence(Node):
    """`POST /auth -> GET /data/**`: steps, one after another."""

    steps: tuple[ProfileStep | ProfileStepGroup, ...]


@node()
class ProfileSteps(Node):
    """`expect POST /auth -> GET /data/** repeated`: the order of the calls of a run."""

    sequence: StepSequence


@node()
class ProfileRun(Node):
    """`run by task.id within 5m`, `run within 5m`: which requests belong to one run, and the pause that ends it."""

    key: Reference | None
    idle: Literal | None


@node()
class ProfileLearn(Node):
    """`learn 14d`: how far back the learned behavior reaches."""

    period: Literal


@node()
class ProfileReady(Node):
    """`ready 20 runs, 7d`: how much a caller must do before facts about it count."""

    runs: Literal
    days: Literal


@node()
class ProfileBurst(Node):
    """`burst once in 100d`: how rarely a burst is a false alarm."""

    days: Literal


@node()
class ProfileVersion(Node):
    """`version by attestation.model_hash`: a new value starts a new version of the caller."""

    key: Reference


ProfileItem: TypeAlias = ProfileSteps | ProfileRun | ProfileLearn | ProfileReady | ProfileBurst | ProfileVersion


@node()
class ProfileDecl(Node):
    name: Text
    agent: AgentRef
    items: tuple[ProfileItem, ...]


@node()
class InvariantClaim(Node):
    """`never allow refunds.create when …`."""

    modality: Word["never", "always"]
    outcome: OutcomeWord
    targets: tuple[Target, ...]
    when: Expr | None = None


@node()
class InvariantDecl(Node):
    name: Text
    claims: tuple[InvariantClaim, ...]
