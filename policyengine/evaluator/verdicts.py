"""The verdict on a question that has passed the gates: reasons, remedies, obligations and effects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from policyengine import kernel as k
from policyengine.evaluator.approvals import ConfirmApproval, approval_facts, approver_set
from policyengine.evaluator.blocks import LACKS_PROOF, LACKS_SCOPE
from policyengine.evaluator.charges import LimitInputs, limit_charges, read_limits
from policyengine.evaluator.fact_reader import own_cluster
from policyengine.evaluator.principals import PrincipalRules
from policyengine.evaluator.reasons import (
    NO_CAUSES,
    STRENGTH,
    ApprovalRemedy,
    StopReason,
    causes_of,
    chain_reason,
    fact_and_why,
    lacking_scopes,
    render_message,
    strength,
)
from policyengine.evaluator.records import make_records
from policyengine.evaluator.rules import CONFIRM, OBLIGATION, Effect
from policyengine.evaluator.rules import DENY as DENY_EFFECT
from policyengine.evaluator.state import NO, YES, State
from policyengine.evaluator.walker import ActingEffect, Passage
from policyengine.runtime.decision import (
    OPERATOR_OBLIGATIONS,
    Answer,
    Decision,
    Effects,
    Gate,
    Obligation,
    OpenedApproval,
    Outcome,
    Principal,
    PrincipalTuple,
    Reason,
    Remedy,
    UnknownFact,
)
from policyengine.runtime.ids import Stamp
from policyengine.runtime.limits import LimitCharge, RateCharge
from policyengine.runtime.values import Cause, Unknown
from policyengine.spec.facts import group_size
from policyengine.spec.reason_texts import (
    FOR_THE_GATEWAY,
    NO_BLOCK,
    NO_SCOPE,
    NO_USER_BLOCK,
    NOT_COUNTABLE,
    NOTHING_OPENS,
    NOTHING_TO_APPROVE,
    approvable_facts,
    refused_credential,
    unsupported_obligation,
)

NO_EFFECTS: Final = Effects()
# Compiled code searches the members of a class at each use, but no constants.
ALLOWED: Final = Outcome.ALLOW
DENIED: Final = Outcome.DENY
MAX_VERDICTS: Final = 4_096  # maximum cached answers, because reasons for unknown facts may contain texts of callers


class Verdict:
    """Derives the verdict from a passage. `approvals` are the approvals of confirms, by the number of their effect.
    `st` has the facts `approval.*`, `unapproved` does not; `exact` has the bindings that grants read.
    """

    __slots__ = ("approvals", "exact", "limits", "passage", "st", "unapproved")

    def __init__(
        self, st: State, exact: State, unapproved: State, passage: Passage, approvals: dict[int, ConfirmApproval]
    ) -> None:
        self.st = st
        self.exact = exact
        self.unapproved = unapproved
        self.passage = passage
        self.approvals = approvals
        self.limits: list[LimitInputs] | None = None

    def conclude(self, stamp: Stamp) -> tuple[Decision, Effects]:
        st, verdicts = self.st, self.st.program.verdicts
        key = self._key()
        answer: Answer | None = None if key is None else verdicts.get(key)
        if answer is None or (answer.outcome is not DENIED and self._lacks_inputs()):
            answer = self._answer()
            if key is not None and not self._lacks_inputs():
                if len(verdicts) >= MAX_VERDICTS:
                    verdicts.clear()
                verdicts[key] = answer
        effects = NO_EFFECTS if st.rules.is_stateless and not self.approvals else self._effects(answer.outcome)
        return Decision(answer, principal_of(st, self.passage.refused), stamp), effects

    def _key(self) -> Any:
        """Return the inputs on which the answer depends; None if it depends on other facts of the request."""
        passage = self.passage
        if passage.chain or passage.task or passage.lacking:
            return None
        effects: tuple[Any, ...] = ()
        for acting in passage.acting:
            effect = acting.effect
            if not effect.fixed or effect.proofs or effect.kind == CONFIRM:
                return None
            effects += (effect.key, acting.doubts)
        supported = self.st.request.options.obligations_supported if effects else None
        if supported is not None:  # only these kinds affect the answer, and callers may send any text
            supported = supported.intersection(FOR_THE_GATEWAY)
        if passage.open_to_anyone:
            return effects, supported
        return effects, passage.identified, passage.closed, passage.user_closed, passage.refused, supported

    def _lacks_inputs(self) -> bool:
        """Return whether a limit cannot count because an input is unknown."""
        if self.st.rules.limits:
            for inputs in self._limited():
                if inputs.unknown:
                    return True
        return False

    def _answer(self) -> Answer:
        passage = self.passage
        acting: list[ActingEffect] = list(passage.acting)
        if self.approvals:
            acting = [one for one in acting if not self._is_granted(one)]
        duties = [one for one in acting if one.effect.kind == OBLIGATION]
        stops = self._stop_reasons(acting)
        outcome = ALLOWED
        for stop in stops:
            if STRENGTH[stop.reason.outcome] < STRENGTH[outcome]:
                outcome = stop.reason.outcome
        if outcome is ALLOWED and duties and (unmet := self._unsupported(duties)):
            stops, outcome = unmet, DENIED
        if outcome is not DENIED and self.st.rules.limits and (uncounted := self._uncountable()):
            stops, outcome = [*uncounted, *stops], DENIED
        if len(stops) > 1:
            stops.sort(key=strength)
        duties = [one for one in duties if outcome is ALLOWED or one.effect.effect.kind in OPERATOR_OBLIGATIONS]
        causes = self._causes(stops, duties) if passage.identified else NO_CAUSES
        remedies: dict[Remedy, None] = {}
        for stop in stops:
            if stop.reason.outcome is outcome:
                for remedy in stop.remedies:
                    remedies[remedy] = None
        kernel = self.st.program.kernel
        return Answer(
            outcome,
            stops[0].reason.gate if stops else None,
            tuple([stop.named for stop in stops]),
            tuple(remedies),
            tuple([self._obligation(one) for one in duties]),
            tuple([UnknownFact(one.fact, one.why) for one in sorted(causes, key=fact_and_why)]) if causes else (),
            kernel.package,
            kernel.revision,
        )

    def _causes(self, stops: list[StopReason], duties: list[ActingEffect]) -> frozenset[Cause]:
        """Return the unknown facts of these reasons and obligations."""
        found = NO_CAUSES
        for stop in stops:
            if stop.causes:
                found |= stop.causes
        for duty in duties:
            if duty.doubts:
                found |= causes_of(duty.doubts)
        return found

    # ── Reasons ───────────────────────────────────────────────────────────────────────────────

    def _stop_reasons(self, acting: list[ActingEffect]) -> list[StopReason]:
        """Return every reason against the request, gate by gate."""
        passage = self.passage
        if not passage.identified:
            code = passage.refused
            words = NO_BLOCK if code is None else refused_credential(code)
            return [StopReason(Reason(Gate.IDENTITY, words, code=code), NO_CAUSES)]
        found: list[StopReason] = []
        if passage.closed is not None:
            words = NO_SCOPE if passage.lacking & LACKS_SCOPE else NOTHING_OPENS
            remedies = tuple(self._grant_remedies()) if passage.lacking else ()
            found.append(StopReason(Reason(Gate.DEFAULT, words), causes_of(passage.closed), remedies))
        if passage.user_closed is not None:
            found.append(StopReason(Reason(Gate.USER, NO_USER_BLOCK), causes_of(passage.user_closed)))
        for stop in passage.chain:
            found.append(chain_reason(stop))
        for rule, doubts in passage.task:
            bound = rule.constraint
            remedy = Remedy("task", need=bound.need)
            found.append(StopReason(Reason(Gate.TASK, bound.message), causes_of(doubts), (remedy,)))
        for effect in acting:
            if effect.effect.kind == DENY_EFFECT:
                found.append(self._deny_reason(effect))
            elif effect.effect.kind == CONFIRM:
                found.append(self._confirm_reason(effect))
        return found

    def _grant_remedies(self) -> Iterator[Remedy]:
        """Yield the scopes, then the proofs, that would open the endpoint."""
        st = self.exact
        side: PrincipalRules = st.rules.agents if st.by_agent else st.rules.users
        blocks = side.applying(st, st.name)
        scopes = dict.fromkeys(scope for block in blocks for scope in lacking_scopes(st, block))
        if scopes:
            yield Remedy("scope", scopes=tuple(scopes))
        for block in blocks:
            if block.enter(st, False) & LACKS_PROOF:
                for requirement in block.requirements:
                    if requirement.condition.test(st) != YES and requirement.kind is not None:
                        yield Remedy(requirement.kind, need=requirement.need)
        st.doubts.clear()

    def _deny_reason(self, one: ActingEffect) -> StopReason:
        effect = one.effect
        reason = Reason(Gate.GUARD, self._message(effect), effect.guard.name, effect.at)
        return StopReason(reason, causes_of(one.doubts), self._proof_remedies(effect) if effect.proofs else ())

    def _proof_remedies(self, effect: Effect) -> tuple[Remedy, ...]:
        """Return the first proof that would remove the deny as a remedy; an empty tuple if none would."""
        assert effect.condition is not None
        st = self.unapproved
        for proof in effect.proofs:
            better = st.branch()
            for slot in proof.slots:
                better.values[slot] = proof.value
            if effect.condition.test(better) == NO:
                return (Remedy(proof.kind, effect.guard.name, need=proof.need),)
        return ()

    def _confirm_reason(self, one: ActingEffect) -> StopReason:
        """Return the reason of a confirm. A request with unknown bound facts cannot be approved, so its reason is a
        deny.
        """
        effect, approval = one.effect, self.approvals[one.effect.bit]
        guard = effect.guard.name
        if approval.unseen:
            names = ", ".join(sorted(f"`{cause.fact}`" for cause in approval.unseen))
            need = approvable_facts(names)
            reason = Reason(Gate.GUARD, NOTHING_TO_APPROVE, guard, effect.at)
            return StopReason(reason, approval.unseen, (Remedy("facts", guard, need=need),))
        reason = Reason(Gate.GUARD, self._message(effect), guard, effect.at, Outcome.CONFIRM)
        return StopReason(reason, causes_of(one.doubts), ApprovalRemedy(effect, approval))

    def _message(self, effect: Effect) -> str:
        """Return the rule's message for the caller; the rule itself if it has no message."""
        if effect.message is None:
            return f"`{effect.effect.words}`"
        return render_message(self.unapproved, effect.message, to_caller=True)

    # ── Obligations and limits ────────────────────────────────────────────────────────────────

    def _obligation(self, one: ActingEffect) -> Obligation:
        effect = one.effect
        words = None if effect.message is None else render_message(self.unapproved, effect.message, to_caller=True)
        duty = effect.effect
        return Obligation(duty.kind, duty.arguments, effect.guard.name, effect.at, words)

    def _unsupported(self, duties: list[ActingEffect]) -> list[StopReason]:
        """Return a reason for each obligation that the gateway cannot meet, if it states which obligations it can
        meet.
        """
        supported = self.st.request.options.obligations_supported
        found: list[StopReason] = []
        for acting in duties if supported is not None else ():
            effect = acting.effect
            kind = effect.effect.kind
            if kind in FOR_THE_GATEWAY and kind not in (supported or ()):
                words = unsupported_obligation(kind)
                found.append(StopReason(Reason(Gate.GUARD, words, effect.guard.name, effect.at), NO_CAUSES))
        return found

    def _limited(self) -> list[LimitInputs]:
        if self.limits is None:
            self.limits = read_limits(self.unapproved)
        return self.limits

    def _uncountable(self) -> list[StopReason]:
        """Return a reason for each limit whose key or cost is unknown; such a limit lets no request pass."""
        found: list[StopReason] = []
        for inputs in self._limited():
            if inputs.unknown:
                limit, words = inputs.rule.limit, NOT_COUNTABLE
                gate = Gate.BUDGET if isinstance(limit, k.Budget) else Gate.RATE
                found.append(StopReason(Reason(gate, words, limit.name, limit.span.at), causes_of(inputs.unknown)))
        return found

    # ── Effects ───────────────────────────────────────────────────────────────────────────────

    def _is_granted(self, one: ActingEffect) -> bool:
        approval = self.approvals.get(one.effect.bit) if one.effect.kind == CONFIRM else None
        return approval is not None and approval.granted

    def _effects(self, outcome: Outcome) -> Effects:
        """Return the effects that the store commits: an allow spends its approvals and charges the limits; a confirm
        opens the missing approvals and charges the rates.
        """
        rules, identified = self.st.rules, self.passage.identified
        spends, opens = self._approval_effects(outcome) if self.approvals else ((), ())
        limits = self._charges(outcome) if rules.limits and identified else ()
        records = self._records(outcome) if rules.records and identified else ()
        denied = outcome is DENIED
        confirms: tuple[str, ...] = ()
        if not denied and self.approvals and any(isinstance(one.charge, RateCharge) for one in limits):
            confirms = tuple(sorted({self.approvals[one.effect.bit].digest for one in self._confirms()}))
        if not (spends or opens or limits or records or confirms):
            return NO_EFFECTS
        return Effects(spends, opens, limits, denied and bool(limits or records), records, confirms=confirms)

    def _confirms(self) -> list[ActingEffect]:
        return [one for one in self.passage.acting if one.effect.kind == CONFIRM]

    def _approval_effects(self, outcome: Outcome) -> tuple[tuple[str, ...], tuple[OpenedApproval, ...]]:
        """Return the approvals that an allow spends or that a confirm opens."""
        triggered = {one.effect.bit for one in self._confirms()}
        confirms = [
            approval for bit, approval in sorted(self.approvals.items()) if bit in triggered or approval.granted
        ]
        if outcome is ALLOWED:
            return tuple(dict.fromkeys(one.id for approval in confirms for one in approval.counted)), ()
        if outcome is not Outcome.CONFIRM:
            return (), ()
        return (), tuple([self._open_approval(approval) for approval in confirms if not approval.granted])

    def _open_approval(self, approval: ConfirmApproval) -> OpenedApproval:
        confirm: k.Confirm = approval.effect.effect
        within = confirm.lasts.total_seconds()
        message = approval.effect.message
        summary = confirm.words if not message else render_message(self.unapproved, message, to_caller=False)
        by, approvers = confirm.approvers, approver_set(approval.effect, self.unapproved)
        guard = approval.effect.guard.name
        return OpenedApproval(guard, approval.digest, by.words, by.count, within, summary, approvers)

    def _charges(self, outcome: Outcome) -> tuple[LimitCharge, ...]:
        """Return the charges of an allow or a confirm; a deny is charged only to rates that count denials."""
        denied = outcome is DENIED
        if denied and not any(rule.counts_denials for rule in self.st.rules.limits):
            return ()
        found: list[LimitCharge] = []
        for inputs in self._limited():
            if not inputs.unknown and (not denied or inputs.rule.counts_denials):
                found += limit_charges(inputs)
        return tuple([one for one in found if not denied or isinstance(one.charge, RateCharge)])

    def _records(self, outcome: Outcome) -> tuple[Any, ...]:
        if outcome not in (ALLOWED, DENIED):
            return ()
        st = self.unapproved
        if self.approvals:
            granted = approval_facts(list(self.approvals.values()), st)
            if granted.granted:
                st = st.branch()
                st.approval = granted
        return make_records(st, denied=outcome is DENIED)


def principal_of(st: State, refused: str | None) -> Principal | PrincipalTuple:
    """Return the principal; an empty one if the credential was refused."""
    if refused is not None:
        return Principal()
    name, user, issuer, hops = st.name, st.user, st.issuer, st.hops
    agent = name if st.by_agent and type(name) is str else None
    if type(user) is not str:
        user = None
    if type(issuer) is not str:
        issuer = None
    learned = st.behavior
    is_grouped = learned is not None and "cluster.id" in learned
    if (type(hops) is Unknown or not hops) and not is_grouped:
        return agent, issuer, user
    before = () if type(hops) is Unknown else hops
    names = [user, *(known_name(hop.id) for hop in before), agent]
    cluster, size = cluster_of(st, agent) if is_grouped else (agent, 1)
    return Principal(agent, issuer, user, tuple([name for name in names if name is not None]), cluster, size)


def cluster_of(st: State, agent: str | None) -> tuple[str | None, int]:
    """Return the group of the caller, and its size; the agent itself if it is in no group."""
    learned = st.behavior
    assert learned is not None
    group = learned["cluster.id"]
    if group == own_cluster(st):
        return agent, 1
    return known_name(group), group_size(learned.get("cluster.size", 1))


def known_name(value: Any) -> str | None:
    return value if type(value) is str else None
