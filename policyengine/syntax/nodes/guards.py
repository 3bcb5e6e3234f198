"""Guards and their items: denials, requirements, confirms and obligations."""

from __future__ import annotations

from typing import Literal as Word
from typing import TypeAlias

from policyengine.syntax.nodes.base import Literal, Name, Node, Text, node
from policyengine.syntax.nodes.endpoints import Place
from policyengine.syntax.nodes.expressions import EntityLiteral, Expr, Reference


@node()
class ConditionClause(Node):
    """`when c`, `unless c`."""

    word: Word["when", "unless"]
    condition: Expr


@node()
class Deny(Node):
    condition: ConditionClause | None = None
    message: Text | None = None


@node()
class Require(Node):
    condition: Expr
    message: Text | None = None


@node()
class ByUser(Node):
    """`confirm by user`: the user for whom the agent acts."""


@node()
class ByRole(Node):
    role: Name


@node()
class ByFact(Node):
    """`confirm by resource.approvers`."""

    fact: Name


@node()
class ByEntity(Node):
    """`confirm by team "x"`."""

    entity: EntityLiteral


@node()
class Quorum(Node):
    """`confirm by 2 of team "x"`."""

    count: Literal
    of: ByRole | ByFact | ByEntity


Approver: TypeAlias = ByUser | ByRole | ByFact | ByEntity | Quorum


@node()
class BoundItem(Node):
    """`body except body.request_id`: a part to which an approval is bound, with exclusions."""

    of: Reference
    excepts: tuple[Reference, ...] = ()


@node()
class BoundTo(Node):
    """`bound to (body except body.request_id, request.query)`."""

    items: tuple[BoundItem, ...]


@node()
class Confirm(Node):
    """`confirm by role finance from acme within 15m`; `issuers` are the names after `from`."""

    approver: Approver
    issuers: tuple[Name, ...] = ()
    within: Literal | None = None
    bound: BoundTo | None = None
    condition: ConditionClause | None = None
    message: Text | None = None


@node()
class ObligationEffect(Node):
    """`audit LEVEL`, `redact PATHS`, `notify "who"`, `warn`, `step_up LEVEL`, `header "N" "V"`."""

    kind: Word["audit", "redact", "notify", "warn", "step_up", "header"]
    arguments: tuple[Name | Text, ...] = ()
    condition: ConditionClause | None = None
    message: Text | None = None


GuardItem: TypeAlias = Deny | Require | Confirm | ObligationEffect


@node()
class GuardDecl(Node):
    name: Text
    place: Place | None
    items: tuple[GuardItem, ...]
