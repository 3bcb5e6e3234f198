"""Approvals of a confirm: the digest that binds an approval to a request, and the search for valid approvals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import islice
from types import NoneType
from typing import TYPE_CHECKING, Any, assert_never

from policyengine import kernel as k
from policyengine.evaluator.entity_nodes import in_any
from policyengine.evaluator.reads import ReadRecorder
from policyengine.evaluator.relation_nodes import element_of
from policyengine.evaluator.rules import Effect
from policyengine.evaluator.state import ApprovalFacts, State
from policyengine.runtime.canonical_form import binding_digest, binding_form, canonical_bytes
from policyengine.runtime.decision import ApproverSet
from policyengine.runtime.fact_access import fact_at, get_member
from policyengine.runtime.pending_facts import HEADERS_PATH
from policyengine.runtime.request import Approval
from policyengine.runtime.values import ABSENT, Cause, Unknown, coerce
from policyengine.spec.approval_digest import (
    CALLER_FACTS,
    MAX_UNSEEN,
    UNSEEN_REASONS,
    VOLATILE,
    digest_form,
    endpoint_parts,
    identity_form,
    resource_ref,
    unknown_elements,
    unseen_below,
)
from policyengine.spec.facts import STRINGS, ReadFact
from policyengine.spec.issuer_users import speaks_for
from policyengine.spec.kleene import elements
from policyengine.typesystem import EntityRef
from policyengine.vocabulary import NEUTRAL_VALUES

if TYPE_CHECKING:
    from policyengine.evaluator.nodes import Path

RESOURCE = ("resource",)
ABSENT_FORM = canonical_bytes(ABSENT)
NOTHING_UNSEEN: frozenset[Cause] = frozenset()
SEEN_TYPES = frozenset({str, bool, int, Decimal, NoneType})  # raw values of these types are complete and known
# Facts that the engine binds for every request; they do not come from the request.
ALWAYS_BOUND = frozenset(
    {
        ("time",), ("credential", "age"), ("attestation", "age"), ("task", "age"), ("credential", "lifetime"),
        ("approval", "granted"), ("cluster", "id"), *(("chain", name) for name in ("depth", "agents", "hops", "root")),
        *NEUTRAL_VALUES,
    }
)  # fmt: skip


class ConfirmApproval:
    """The approval of one confirm: the required binding, the valid approvals of the request, and whether they suffice.
    `unseen` and `digest` are computed on first access.
    """

    __slots__ = ("_digest", "_read", "_unseen", "counted", "effect", "granted", "st")

    def __init__(self, st: State, effect: Effect) -> None:
        self.st = st
        self.effect = effect
        self.counted: tuple[Approval, ...] = ()
        self.granted = False
        self._read: dict[Path, ReadFact] | None = None
        self._unseen: frozenset[Cause] | None = None
        self._digest: str | None = None

    @property
    def read(self) -> dict[Path, ReadFact]:
        if self._read is None:
            self._read = facts_read(self.st, self.effect)
        return self._read

    @property
    def unseen(self) -> frozenset[Cause]:
        """The bound facts that are unknown. A request with such a fact cannot be approved."""
        if self._unseen is None:
            self._unseen = NOTHING_UNSEEN
            if not all_seen(self.st, self.effect, self.read):
                self._unseen = frozenset(islice(all_unseen(self.st, self.effect, self.read), MAX_UNSEEN))
        return self._unseen

    @property
    def digest(self) -> str:
        if self._digest is None:
            self._digest = digest_approval(self.st, self.effect, self.read)
        return self._digest


def find_approval(st: State, effect: Effect, spent: frozenset[str]) -> ConfirmApproval:
    """Return the approval of a confirm with the valid approvals of the request: those that are bound to exactly this
    request, fresh, unspent and by a permitted approver of a permitted issuer. It is granted if there are enough of
    them.
    """
    found = ConfirmApproval(st, effect)
    if not st.request.approvals or found.unseen:
        return found
    confirm: k.Confirm = effect.effect
    given = sorted(dict.fromkeys(st.request.approvals), key=lambda approval: approval.id)
    ids = Counter(approval.id for approval in given)
    fitting = [
        approval
        for approval in given
        if approval.binding == found.digest and approval.id not in spent
        if ids[approval.id] == 1  # an id identifies one grant by one approver
        if is_fresh(approval, confirm, st) and is_vouched(approval, confirm, st) and may_approve(approval, effect, st)
    ]
    by_person = {approval.by: approval for approval in reversed(fitting)}
    found.counted = tuple(by_person[name] for name in sorted(by_person))[: confirm.approvers.count]
    found.granted = len(found.counted) == confirm.approvers.count
    return found


def is_fresh(approval: Approval, confirm: k.Confirm, st: State) -> bool:
    if approval.granted_at is None or approval.granted_at > st.now:
        return False
    return st.now - approval.granted_at <= confirm.lasts


def is_vouched(approval: Approval, confirm: k.Confirm, st: State) -> bool:
    """Return whether one of the issuers after `from` vouches for the approver; True without `from`."""
    named = confirm.approvers.issuers
    if not named:
        return True
    if approval.issuer is None or approval.issuer not in named:
        return False
    issuer = st.program.kernel.issuers.get(approval.issuer)
    return issuer is not None and speaks_for(issuer, approval.by)


def may_approve(approval: Approval, effect: Effect, st: State) -> bool:
    """Return whether the confirm names the approver: as the user, a holder of the role, or a member. The user (unless
    `by user`) and the agents of the chain may not approve.
    """
    person, hops = EntityRef("user", approval.by), st.hops
    involved: list[Any] = []
    if st.by_agent:
        involved = [st.name, *(() if type(hops) is Unknown else (hop.id for hop in hops))]
    of = effect.effect.approvers.of
    match of:
        case k.ServedUser():
            return approval.by == st.user and approval.by not in involved
        case k.RoleHolder(role):
            roles: Any = coerce(st.entities.attribute(person, "roles"), STRINGS, "approver.roles")
            fits = type(roles) is not Unknown and element_of(st, roles, role) is True
        case k.MemberOf():
            assert effect.binding is not None
            assert effect.binding.approvers is not None
            among = effect.binding.approvers.get(st)
            fits = type(among) is not Unknown and in_any(st, elements(among), person, "membership") is True
        case _:
            assert_never(of)
    return fits and approval.by != st.user and approval.by not in involved


def approver_set(effect: Effect, st: State) -> ApproverSet:
    """Return the people who may approve this request. The set is empty if it is unknown."""
    of, issuers = effect.effect.approvers.of, effect.effect.approvers.issuers
    match of:
        case k.ServedUser():
            return ApproverSet(user=st.user if type(st.user) is str else None, issuers=issuers)
        case k.RoleHolder(role):
            return ApproverSet(role=role, issuers=issuers)
        case k.MemberOf():
            assert effect.binding is not None
            assert effect.binding.approvers is not None
            mark = len(st.doubts)
            among = effect.binding.approvers.get(st)
            del st.doubts[mark:]
            known = () if type(among) is Unknown else elements(among)
            members = tuple(sorted({one for one in known if isinstance(one, EntityRef)}, key=str))
            return ApproverSet(members=members, issuers=issuers)
        case _:
            assert_never(of)


def approval_facts(approvals: list[ConfirmApproval], st: State) -> ApprovalFacts:
    """Return the facts `approval.*`; they describe the valid approval that was granted last."""
    granted = [approval for one in approvals if one.granted for approval in one.counted]
    if not granted:
        return ApprovalFacts(False, ABSENT, ABSENT)
    last = max(granted, key=lambda approval: (approval.granted_at, approval.id))
    assert last.granted_at is not None
    return ApprovalFacts(True, last.by, st.now - last.granted_at)


# ── Binding of an approval ──────────────────────────────────────────────────────────────


def digest_approval(st: State, effect: Effect, read: Mapping[Path, ReadFact]) -> str:
    """Return the digest to which an approval of this request must be bound."""
    binding = effect.binding
    assert binding is not None
    facts, objects, seen = st.facts, [], []
    for one, left_out in binding.objects:
        raw = fact_at(facts, one.path)
        objects.append((one.path, ABSENT_FORM if raw is ABSENT else canonical_bytes(raw, left_out)))
    for key in sorted(read):
        fact = read[key]
        if type(fact.value) is Unknown or type(fact.value) is tuple:
            seen.append((key, *digest_form(fact)))
        else:
            seen.append((key, "known", binding_form(fact.value)))
    raw, rows = raw_resource(st), claimed_resource_row(st)
    resource = ABSENT_FORM if raw is ABSENT else canonical_bytes(raw)
    target = endpoint_parts(st.request.endpoint), resource, None if rows == () else canonical_bytes(rows)
    guard = effect.guard
    return binding_digest(
        (
            "approval", st.program.kernel.revision, guard.package, guard.name, effect.index,
            caller_identity(st), target, tuple(objects), tuple(seen),
        )
    )  # fmt: skip


def facts_read(st: State, effect: Effect) -> dict[Path, ReadFact]:
    """Return every fact that the rule, its message and `bound to (…)` read, except facts that change on their own, such
    as the time.
    """
    assert effect.binding is not None
    recorder = st.recorder = ReadRecorder()
    mark = len(st.doubts)
    for node in effect.binding.reads:
        node.get(st)
    read = frozenset(recorder.seen)
    for path, node in effect.binding.sources:
        if path == RESOURCE or any(key[: len(path)] == path for key in read):
            node.get(st)
    del st.doubts[mark:]
    st.recorder = None
    return {key: one for key, one in recorder.seen.items() if key not in VOLATILE}


def caller_identity(st: State) -> object:
    """Return the presenter, the user and the chain; if one of them is unknown, also the facts as given."""
    hops = st.hops
    chain = hops if type(hops) is Unknown else tuple([(hop.issuer, hop.id) for hop in hops])
    parts = (
        st.issuer,
        st.name,
        st.user,
        *(one for pair in (chain if isinstance(chain, tuple) else ((chain,),)) for one in pair),
    )
    given = None
    if any_hidden(parts):
        given = canonical_bytes(tuple([fact_at(st.facts, path) for path in CALLER_FACTS]))
    form = None if chain == () else canonical_bytes(chain)
    return st.by_agent, identity_form(st.issuer), identity_form(st.name), identity_form(st.user), form, given


def raw_resource(st: State) -> object:
    binding = None if st.bindings is None else st.bindings.get(RESOURCE)
    if binding is not None:
        return binding.raw(st)
    return fact_at(st.facts, RESOURCE) if st.rules.is_action else ABSENT


def claimed_resource_row(st: State) -> object:
    """Return the rows of the resource that the request contains."""
    if not st.request.entities:
        return ()
    ref = resource_ref(raw_resource(st))
    return tuple((dict(row.attributes), row.parents) for row in st.request.entities if row.ref == ref)


def all_unseen(st: State, effect: Effect, read: Mapping[Path, ReadFact]) -> Iterator[Cause]:
    assert effect.binding is not None
    for bound_object, left_out in effect.binding.objects:
        raw = fact_at(st.facts, bound_object.path)
        if not is_seen(raw):
            yield from unseen_below(raw, bound_object.path, left_out)
    for path in CALLER_FACTS:
        raw = fact_at(st.facts, path)
        if raw is not ABSENT and not is_seen(raw):
            yield from unseen_below(raw, path)
    if st.bindings is None or RESOURCE not in st.bindings:
        yield from unseen_below(raw_resource(st), RESOURCE)
    yield from unseen_below(claimed_resource_row(st), RESOURCE)
    for key, one in sorted(read.items()):
        yield from unseen_in_fact(st, key, one)


def all_seen(st: State, effect: Effect, read: Mapping[Path, ReadFact]) -> bool:
    """Return whether all bound facts are certainly complete and known, so that `all_unseen` yields nothing."""
    assert effect.binding is not None
    if st.request.entities:
        return False
    facts = st.facts
    for one, _ in effect.binding.objects:
        if not is_seen(fact_at(facts, one.path)):
            return False
    for root, name in CALLER_FACTS:
        holder = facts.get(root)
        if holder is not None and (type(holder) is not dict or not is_seen(holder.get(name))):
            return False
    if (st.bindings is None or RESOURCE not in st.bindings) and not is_seen(raw_resource(st)):
        return False
    for fact in read.values():
        value = fact.value
        if type(value) is Unknown or (type(value) is tuple and has_unknown(value)) or not is_seen(fact.given):
            return False
    return True


def any_hidden(values: tuple[Any, ...]) -> bool:
    """Return whether a value is unknown but not absent."""
    for value in values:  # noqa: SIM110  # a generator takes longer
        if type(value) is Unknown and not value.absent:
            return True
    return False


def has_unknown(values: tuple[Any, ...]) -> bool:
    for value in values:  # noqa: SIM110  # a generator takes longer
        if type(value) is Unknown:
            return True
    return False


def is_seen(raw: object) -> bool:
    """Return whether a raw value is certainly complete and known, so that `unseen_below` finds nothing in it."""
    kind = type(raw)
    if kind is dict:
        for value in raw.values():  # type: ignore[attr-defined]  # noqa: SIM110  # a dict
            if type(value) is not str and not is_seen(value):
                return False
        return True
    if kind is tuple:
        for value in raw:  # type: ignore[attr-defined]  # noqa: SIM110  # a tuple
            if type(value) is not str and not is_seen(value):
                return False
        return True
    return kind in SEEN_TYPES or raw is ABSENT


def unseen_in_fact(st: State, key: Path, one: ReadFact) -> Iterator[Cause]:
    """Yield the causes for which a fact is unknown, if the request contains a value of the fact that the decision could
    not read.
    """
    unknown = unknown_elements(one)
    if not unknown:
        if not is_seen(one.given):
            yield from unseen_below(one.given, key)
    elif is_from_request(st, key) and any(unseen_below(raw_in_request(st, key, one), key)):
        yield from Unknown.merge(*unknown).causes
    else:
        yield from (cause for item in unknown for cause in item.causes if cause.why in UNSEEN_REASONS)


def is_from_request(st: State, key: Path) -> bool:
    """Return whether the fact comes from the request itself, not from the time, path, chain or entity store."""
    if " " in key[0]:  # an attribute: `("user \"alice\"", "roles")`
        claimed = {(str(ref), name) for ref, name in st.claims or ()}
        return key in claimed | {(str(row.ref), name) for row in st.request.entities for name in row.attributes}
    return not any(is_bound(st, key[:length]) for length in range(1, len(key) + 1))


def is_bound(st: State, path: Path) -> bool:
    if path in ALWAYS_BOUND or (st.masked is not None and path == ("user", "id")):
        return True
    return st.bindings is not None and path in st.bindings


def raw_in_request(st: State, key: Path, one: ReadFact) -> object:
    """Return the raw input at the place of the fact, even if a parent is not an object."""
    if " " in key[0]:
        return one.given
    if key[:2] == HEADERS_PATH:
        return fact_at(st.facts, key)  # another spelling may denote the same header
    found: object = st.facts
    for name in key:
        if not isinstance(found, Mapping):
            break
        found = get_member(found, name)
    return found
