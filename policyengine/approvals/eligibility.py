"""Decides who may answer an approval, by a pure rule about a person whom a credential proved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from policyengine import kernel as k
from policyengine.approvals.model import ApprovalRequest
from policyengine.runtime.halts import fold_name
from policyengine.runtime.snapshot import Entities
from policyengine.runtime.values import Unknown, coerce
from policyengine.spec.facts import STRINGS
from policyengine.spec.issuer_users import speaks_for
from policyengine.typesystem import EntityRef


class ProvedPerson(NamedTuple):
    """The user and the issuer that a credential proves. `by_agent` means that the credential names an agent or a chain,
    so that an agent presents it, not the user. `aliases` are other names that the issuer gives to the user, such as
    `sub` if another claim names users: a revocation or a halt may use any of the names.
    """

    user: str | None
    issuer: str | None
    by_agent: bool = False
    aliases: tuple[str, ...] = ()


def find_aliases(user: str | None, issuer: str | None, names: Iterable[str]) -> tuple[str, ...]:
    """Return the aliases of a user among the revocation names of a credential. A revoked token or key does not void an
    answer, because people sign out and renew keys after they answer."""
    mark = f"user:{issuer}/"
    return tuple(sorted({name.removeprefix(mark) for name in names if name.startswith(mark)} - {user}))


class ApproverRefusal(StrEnum):
    """The reason why a person may not answer an approval, in words for that person; REFUSAL_HINTS says what helps."""

    NO_USER = "the credential names no user"
    HALTED = "an operator's halt covers this user"
    REVOKED = "the issuer of the credential has revoked this user"
    AGENT = "the credential is presented by an agent, not by the user"
    ISSUER = "the issuer of the credential may not name approvers"
    OTHER_ISSUER = "the rule does not accept approvers of the issuer of the credential"
    REQUESTER = "the request is made for this user"
    CHAIN = "this name takes part in the request"
    NOT_APPROVER = "the rule does not name this user as an approver"


OTHER_PERSON_HINT: Final = "another person must answer"
REFUSAL_HINTS: Final[Mapping[ApproverRefusal, str]] = {
    ApproverRefusal.NO_USER: "use a token that names you",
    ApproverRefusal.HALTED: OTHER_PERSON_HINT,
    ApproverRefusal.REVOKED: OTHER_PERSON_HINT,
    ApproverRefusal.AGENT: "use your own token; if your application got this one for you, the operator lists it in "
    "`people` of the issuer (docs/identity.md)",
    ApproverRefusal.ISSUER: "the operator names the issuers of approvers: `issuers` in `[approvals]`",
    ApproverRefusal.OTHER_ISSUER: "use a token of an issuer that the rule names after `from`",
    ApproverRefusal.REQUESTER: OTHER_PERSON_HINT,
    ApproverRefusal.CHAIN: OTHER_PERSON_HINT,
    ApproverRefusal.NOT_APPROVER: "`by` of the rule names the approvers; roles and members are in the entities",
}


def find_refusal(
    approval: ApprovalRequest,
    person: ProvedPerson,
    entities: Entities,
    issuers: Mapping[str, k.Issuer],
    named: Collection[str] = (),
) -> ApproverRefusal | None:
    """Return why the person may not answer the approval, or None. `named` are the issuers of approvers that the
    operator names; they do not matter to a rule that names issuers itself.

    The user of the request may answer only if the rule says `by user`. An agent of the request may not, under any
    issuer: names are compared without issuers, so that no issuer can vouch for another name of the same agent, and
    without letter case and variants of characters, so that no other spelling of a name is another person.
    """
    if (refusal := find_general_refusal(person)) is not None or person.user is None:
        return refusal
    own = approval.approvers.issuers
    if own and person.issuer not in own:
        return ApproverRefusal.OTHER_ISSUER
    if not may_name_approvers(person.issuer, person.user, issuers, own or named):
        return ApproverRefusal.ISSUER
    requester = approval.requester
    agents = {requester.agent, *(requester.chain if requester.user is None else requester.chain[1:])}
    name = fold_name(person.user)
    if any(name == fold_name(agent) for agent in agents if agent is not None):
        return ApproverRefusal.CHAIN
    if approval.approvers.user is not None:
        return None if person.user == approval.approvers.user else ApproverRefusal.NOT_APPROVER
    if requester.user is not None and name == fold_name(requester.user):
        return ApproverRefusal.REQUESTER
    return None if is_member(approval, person.user, entities) else ApproverRefusal.NOT_APPROVER


def find_general_refusal(person: ProvedPerson) -> ApproverRefusal | None:
    """Return why the person may answer no approval at all, or None."""
    if person.user is None:
        return ApproverRefusal.NO_USER
    return ApproverRefusal.AGENT if person.by_agent else None


def may_name_approvers(
    issuer: str | None, user: str, issuers: Mapping[str, k.Issuer], named: Collection[str] = ()
) -> bool:
    """Return whether an issuer may vouch for this user as an approver. Policies do not distinguish users of different
    issuers, so a partner's `alice` must not pass for the operator's own `alice`: without `named`, an issuer must either
    declare `users like` patterns that match the user, or be the only issuer without patterns.
    """
    found = None if issuer is None else issuers.get(issuer)
    if found is None or not speaks_for(found, user):
        return False
    if named:
        return found.name in named
    open_issuers = [one.name for one in issuers.values() if not one.users_like]
    return bool(found.users_like) or open_issuers == [found.name]


def is_member(approval: ApprovalRequest, user: str, entities: Entities) -> bool:
    """Return whether the user has the role, or is one of the members or in one of them."""
    person, of = EntityRef("user", user), approval.approvers
    if of.role is not None:
        roles: Any = coerce(entities.attribute(person, "roles"), STRINGS, "approver.roles")
        return not isinstance(roles, Unknown) and of.role in roles
    return not {person, *entities.ancestors(person).refs}.isdisjoint(of.members)
