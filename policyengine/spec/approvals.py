"""Approvals that lift a confirm. Part of the executable specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from functools import cache, partial
from typing import assert_never

from policyengine import kernel as k
from policyengine.runtime.decision import ApproverSet
from policyengine.runtime.request import Approval
from policyengine.runtime.snapshot import Snapshot
from policyengine.runtime.values import ABSENT, Unknown, coerce
from policyengine.spec import trace as w
from policyengine.spec.approval_digest import digest_approval
from policyengine.spec.evaluate import evaluate, is_element, is_in_any
from policyengine.spec.facts import STRINGS, Facts, Path, has_agent, hops_of, presenter_of
from policyengine.spec.issuer_users import speaks_for
from policyengine.spec.kleene import elements, lift
from policyengine.typesystem import EntityRef


def trace_approval(guard: k.Guard, index: int, confirm: k.Confirm, facts: Facts, snapshot: Snapshot) -> w.ApprovalTrace:
    """Trace the approval of a confirm: the valid approvals are bound to exactly this request, fresh, unspent and by a
    permitted approver of a permitted issuer. It is granted if there are enough of them.
    """
    bound = cache(partial(digest_approval, guard, index, confirm, facts))
    if not facts.request.approvals or bound().unseen:
        return w.ApprovalTrace(bound, (), False)
    given = sorted(dict.fromkeys(facts.request.approvals), key=lambda approval: approval.id)
    ids = Counter(approval.id for approval in given)
    fitting = [
        approval
        for approval in given
        if approval.binding == bound().digest and approval.id not in snapshot.spent
        if ids[approval.id] == 1  # an id identifies one grant by one approver
        if _fresh(approval, confirm, facts.now) and _is_vouched(approval, confirm, facts)
        if _may_approve(approval, confirm, facts)
    ]
    by_person = {approval.by: approval for approval in reversed(fitting)}
    counted = tuple(by_person[name] for name in sorted(by_person))[: confirm.approvers.count]
    return w.ApprovalTrace(bound, counted, len(counted) == confirm.approvers.count)


def approver_set(approvers: k.Approvers, facts: Facts) -> ApproverSet:
    """Return the people who may approve this request. The set is empty if it is unknown."""
    issuers = approvers.issuers
    match approvers.of:
        case k.ServedUser():
            user = facts.read(("user", "id"))
            return ApproverSet(user=user if isinstance(user, str) else None, issuers=issuers)
        case k.RoleHolder(role):
            return ApproverSet(role=role, issuers=issuers)
        case k.MemberOf(expression):
            among = evaluate(expression, facts)
            known = () if isinstance(among, Unknown) else elements(among)
            members = tuple(sorted({one for one in known if isinstance(one, EntityRef)}, key=str))
            return ApproverSet(members=members, issuers=issuers)
        case _:
            assert_never(approvers.of)


def approval_facts(approvals: Iterable[w.ApprovalTrace], now: datetime) -> dict[Path, object]:
    """Return the facts `approval.*`; they describe the valid approval that was granted last."""
    granted = [approval for seen in approvals if seen.granted for approval in seen.counted]
    if not granted:
        return {("approval", "granted"): False, ("approval", "by"): ABSENT, ("approval", "age"): ABSENT}
    last = max(granted, key=lambda approval: (approval.granted_at, approval.id))
    return {("approval", "granted"): True, ("approval", "by"): last.by, ("approval", "age"): now - last.granted_at}  # type: ignore[operator]


def _fresh(approval: Approval, confirm: k.Confirm, now: datetime) -> bool:
    """Return whether an approval was granted in the past and still counts."""
    if approval.granted_at is None or approval.granted_at > now:
        return False
    return now - approval.granted_at <= confirm.lasts


def _is_vouched(approval: Approval, confirm: k.Confirm, facts: Facts) -> bool:
    """Return whether one of the issuers after `from` vouches for the approver; True without `from`."""
    named, issuer = confirm.approvers.issuers, facts.kernel.issuers.get(approval.issuer or "")
    return not named or (issuer is not None and issuer.name in named and speaks_for(issuer, approval.by))


def _may_approve(approval: Approval, confirm: k.Confirm, facts: Facts) -> bool:
    """Return whether the confirm names the approver: as the user, a holder of the role, or a member. The user (unless
    `by user`) and the agents of the chain may not approve.
    """
    person, user, hops = EntityRef("user", approval.by), facts.read(("user", "id")), hops_of(facts)
    chain = [presenter_of(facts), *(() if isinstance(hops, Unknown) else hops)] if has_agent(facts.request) else []
    involved = {agent.id for agent in chain}
    match confirm.approvers.of:
        case k.ServedUser():
            return approval.by == user and approval.by not in involved
        case k.RoleHolder(role):
            roles = coerce(facts.entities.attribute(person, "roles"), STRINGS, "approver.roles")
            fits = lift(lambda known: is_element(known, role, facts), roles)
        case k.MemberOf(expression):
            among = evaluate(expression, facts)
            fits = lift(lambda known: is_in_any(elements(known), person, facts, "membership"), among)
        case _:
            assert_never(confirm.approvers.of)
    return fits is True and approval.by not in {user, *involved}
