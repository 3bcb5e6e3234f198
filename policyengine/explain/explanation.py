"""Explanation of one decision: every rule considered, with the value of each condition and its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from policyengine import kernel as k
from policyengine.control_characters import one_line
from policyengine.explain.effect_words import is_requirement
from policyengine.explain.endpoint_words import endpoint_words
from policyengine.explain.limits import limits_line
from policyengine.explain.lines import ExplanationLine, Mark, expression_line, fact_line, mark_of, note_of, source_text
from policyengine.runtime.decision import Decision, Remedy
from policyengine.runtime.format_values import format_fact_path, format_value
from policyengine.runtime.values import ABSENT, Invalid, MissingValue, Unknown
from policyengine.spec import trace as w
from policyengine.spec.approval_digest import bound_objects, describe_bound, exclusions_of, facts_read, raw_object
from policyengine.spec.evaluate import evaluate
from policyengine.spec.facts import Facts, Path, has_agent, hop_facts, presenter_of
from policyengine.spec.kleene import is_absent
from policyengine.spec.match_endpoint import match_pattern
from policyengine.spec.reason_texts import refused_credential
from policyengine.spec.work_exceeded import describe_excess
from policyengine.vocabulary import SECRET_HEADERS

OTHER_CASE = "not about this endpoint: its path differs in letter case (`paths ignore case` treats both as the same)"
MAX_MEMBERS = 20


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and its explanation: `gates` in the order of evaluation."""

    decision: Decision
    endpoint: str
    gates: tuple[ExplanationLine, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON response of `POST /explain`: `{"decision": …, "walk": {"endpoint": …, "gates": […]}}`."""
        walk = {"endpoint": self.endpoint, "gates": [gate.to_dict() for gate in self.gates]}
        return {"decision": self.decision.to_dict(), "walk": walk}

    def render(self) -> str:
        """Return the explanation as plain text."""
        lines = [headline(self.decision), f"  {self.endpoint}", *_reasons(self.decision), ""]
        for gate in self.gates:
            lines += gate.render()
        remedies = [f"  - {words}" for remedy in self.decision.remedies if (words := remedy_words(remedy))]
        return "\n".join([*lines, *(["", "what would change the decision", *remedies] if remedies else [])])


def explain(decision: Decision, facts: Facts, seen: w.DecisionTrace) -> Explanation:
    facts, endpoint = facts.looked_at_anew, facts.request.endpoint
    if seen.malformed is not None:
        return Explanation(
            decision, endpoint_words(endpoint), (ExplanationLine(Mark.NO, "malformed_path", seen.malformed),)
        )
    if seen.halted is not None:
        return Explanation(decision, endpoint_words(endpoint), (ExplanationLine(Mark.NO, "halted", seen.halted),))
    if seen.excess is not None:
        line = ExplanationLine(Mark.NO, "failure", describe_excess(seen.excess))
        return Explanation(decision, endpoint_words(endpoint), (line,))
    task = (_task(facts, seen),) if seen.task else ()
    before = (_identity(facts, seen), _grants_line(facts, seen), _user(facts, seen), _chain(facts, seen))
    gates = (*before, *task, _guards(facts, seen))
    limits = (limits_line(decision, facts, seen),) if seen.limited else ()
    return Explanation(decision, endpoint_words(endpoint), (*gates, *limits))


def headline(decision: Decision) -> str:
    """Return the outcome and its first reason: `deny by guard "tenants are islands"`."""
    first = decision.reasons[0] if decision.reasons else None
    if first is None:
        return str(decision.outcome)
    rule = f"{first.gate} {format_value(first.rule)}" if first.rule else str(first.gate)
    return f"{decision.outcome} by {rule}"


def remedy_words(remedy: Remedy) -> str:
    match remedy.kind:
        case "approval":
            within = "" if remedy.within is None else f", valid for {remedy.within}"
            return f"an approval by {remedy.by}{within}"
        case "scope":
            return "a credential with the scope " + " or ".join(format_value(scope) for scope in remedy.scopes or ())
        case "wait":
            return f"waiting for {remedy.within}, until {format_value(remedy.rule)} has room again"
        case _:
            return f"{remedy.kind}: {remedy.need}"


def _reasons(decision: Decision) -> Iterator[str]:
    for reason in decision.reasons:
        at = f"  ({reason.at})" if reason.at else ""
        rule = f" {format_value(reason.rule)}" if reason.rule else ""
        yield one_line(f"  {reason.outcome} by {reason.gate}{rule}: {reason.message}{at}")


# ── Gates ─────────────────────────────────────────────────────────────────────────────────────


def _identity(facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    presenter, by_agent = presenter_of(facts), has_agent(facts.request)
    kind = "agent" if by_agent else "user"
    who = _presenter_words(presenter, kind)
    lines = tuple(_block(block, facts) for block in seen.presenter)
    if seen.refused is not None:
        return ExplanationLine(mark_of(seen.identified), "identity", refused_credential(seen.refused))
    note = who if seen.presenter else f"{who}; there are no {kind} blocks"
    return ExplanationLine(mark_of(seen.identified), "identity", note, parts=lines)


def _presenter_words(presenter: w.ChainAgent, kind: str) -> str:
    """Describe the presenter by its id and issuer, each of which may be absent."""
    issuer = "no issuer" if is_absent(presenter.issuer) else f"issuer {format_value(presenter.issuer)}"
    if is_absent(presenter.id):
        return f"{'an agent without an id' if kind == 'agent' else 'no agent, no user'}, {issuer}"
    joined = "with" if is_absent(presenter.issuer) else "of"
    return f"{kind} {format_value(presenter.id)} {joined} {issuer}"


def _task(facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    if not seen.task_bounds:
        return ExplanationLine(Mark.YES, "task", "open to anyone" if seen.open_to_anyone else "`tasks advisory`")
    parts = tuple(fact_line(".".join(one.bound.path), evaluate(one.bound.given, facts)) for one in seen.task)
    notes = "; ".join(one.bound.message for one in seen.outside_task)
    return ExplanationLine(mark_of(not seen.outside_task), "task", notes or None, parts=parts)


def _grants_line(facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    blocks = [block for block in (*seen.anyone, *seen.presenter) if block.stands]
    parts = tuple(_grant(grant, block, facts) for block in blocks for grant in block.grants)
    note = None if seen.door_open else "no grant covers this endpoint (gate `default`)"
    return ExplanationLine(mark_of(seen.door_open), "door", note, parts=parts)


def _user(facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    if seen.user is None:
        return ExplanationLine(Mark.SKIPPED, "user", "no agent acts for a user")
    if seen.user_waived or seen.open_to_anyone:
        note = "open to anyone" if seen.open_to_anyone else "`users unrestricted`"
        return ExplanationLine(Mark.YES, "user", note)
    parts = []
    for block in seen.user:
        grants = tuple(_grant(grant, block, facts) for grant in block.grants) if block.stands else ()
        line = _block(block, facts)
        parts.append(ExplanationLine(line.mark, line.text, line.note, line.at, (*line.parts, *grants)))
    return ExplanationLine(mark_of(seen.user_allowed), "user", parts=tuple(parts))


def _chain(facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    if not seen.hops and not seen.limits and seen.chain_known is True:
        return ExplanationLine(Mark.SKIPPED, "chain", "no agent delegated this")
    known = () if seen.chain_known is True else (fact_line("chain.hops", seen.chain_known),)
    hops = tuple(_hop(hop, facts) for hop in seen.hops)
    limits = tuple(
        ExplanationLine(mark_of(limit.holds), limit.words, note_of(limit.holds), limit.limits.span.at)
        for limit in seen.limits
    )
    return ExplanationLine(mark_of(seen.chain_sound), "chain", parts=(*known, *hops, *limits))


def _hop(hop: w.HopTrace, facts: Facts) -> ExplanationLine:
    parts, facts = [], hop_facts(facts, hop.agent)
    for block in hop.blocks:
        if block.applies is False:
            continue
        grants = [_grant(grant, block, facts) for grant in block.grants if grant.covers]
        handed = [_delegate(one) for one in block.delegates]
        line = _block(block, facts)
        parts.append(ExplanationLine(line.mark, line.text, line.note, line.at, (*line.parts, *grants, *handed)))
    ok = hop.opens and hop.hands_on
    note = (
        None
        if ok
        else "may not do this itself"
        if not hop.opens
        else f"does not delegate this to {format_value(hop.next.id)}"
    )
    return ExplanationLine(
        mark_of(ok), f"agent {format_value(hop.agent.id)} → agent {format_value(hop.next.id)}", note, parts=tuple(parts)
    )


def _delegate(seen: w.DelegationTrace) -> ExplanationLine:
    tests = {"covers this endpoint": seen.covers, "names the next agent": seen.names_next, "still lasts": seen.lasts}
    tests |= {} if seen.delegate.when is None else {"its condition": seen.condition}
    parts = tuple(ExplanationLine(mark_of(result), words, note_of(result)) for words, result in tests.items())
    return ExplanationLine(mark_of(seen.hands_on), source_text(seen.delegate), at=seen.delegate.span.at, parts=parts)


def _guards(facts: Facts, seen: w.DecisionTrace) -> ExplanationLine:
    stopped = [guard for guard in seen.guards if any(one.acts and not _is_obligation(one) for one in guard.effects)]
    parts = tuple(_guard(guard, facts) for guard in seen.guards)
    return ExplanationLine(mark_of(not stopped), "guards", None if parts else "none", parts=parts)


def _guard(seen: w.GuardTrace, facts: Facts) -> ExplanationLine:
    if not seen.covers:
        return ExplanationLine(
            Mark.SKIPPED, f"guard {format_value(seen.guard.name)}", "not about this endpoint", seen.guard.span.at
        )
    stops = any(one.acts and not _is_obligation(one) for one in seen.effects)
    parts = tuple(_effect(one, facts) for one in seen.effects)
    return ExplanationLine(
        mark_of(not stops), f"guard {format_value(seen.guard.name)}", None, seen.guard.span.at, parts
    )


def _is_obligation(seen: w.EffectTrace) -> bool:
    return isinstance(seen.effect, k.ObligationEffect)


def _effect(seen: w.EffectTrace, facts: Facts) -> ExplanationLine:
    parts = tuple(expression_line(condition, facts) for condition in _written_condition(seen.effect))
    if isinstance(seen.effect, k.Confirm) and seen.triggered:
        parts = (*parts, approval_line(seen, seen.effect, facts))
    mark = Mark.SKIPPED if not seen.triggered else Mark.YES if _is_obligation(seen) else mark_of(not seen.acts)
    if seen.acts:
        note = (
            "applies"
            if _is_obligation(seen)
            else "acts, because a fact is unknown"
            if seen.condition is not True
            else "acts"
        )
    else:
        note = "has its approval" if seen.triggered else "does not act"
    return ExplanationLine(mark, seen.effect.words, note, seen.effect.span.at, parts)


def _written_condition(effect: k.Effect) -> Iterator[k.Expr]:
    """Yield the condition as written: `c` for `require c` and `deny unless c`, lowered to `deny when not c`."""
    condition = effect.condition
    if condition is not None:
        yield condition.operand if isinstance(condition, k.Not) and is_requirement(effect, condition) else condition


# ── Blocks and grants ─────────────────────────────────────────────────────────────────────────


def _block(seen: w.BlockTrace, facts: Facts) -> ExplanationLine:
    block = seen.block
    if seen.applies is False and not (
        isinstance(block, k.AgentBlock | k.UserBlock) and isinstance(block.who, k.PrincipalCondition)
    ):
        return ExplanationLine(Mark.SKIPPED, block.label, "for other callers", block.span.at)
    parts: tuple[ExplanationLine, ...] = ()
    if isinstance(block, k.AgentBlock | k.UserBlock) and isinstance(block.who, k.PrincipalCondition):
        parts = (expression_line(block.who.condition, facts),)
    if seen.applies is True:
        parts += tuple(_requirement(one, facts) for one in seen.requirements)
    failed = [source_text(one.requirement) for one in seen.requirements if one.holds is not True]
    note = (
        "for other callers"
        if seen.applies is False
        else f"requirements not met: {'; '.join(failed)}"
        if failed
        else note_of(seen.applies)
    )
    return ExplanationLine(
        mark_of(seen.stands) if seen.applies is True else mark_of(seen.applies), block.label, note, block.span.at, parts
    )


def _requirement(seen: w.RequirementTrace, facts: Facts) -> ExplanationLine:
    asked = seen.requirement
    condition = asked.condition if isinstance(asked, k.ActsFor) else None
    parts = () if condition is None else (expression_line(condition, facts),)
    return ExplanationLine(mark_of(seen.holds), source_text(asked), note_of(seen.holds), asked.span.at, parts)


def _grant(seen: w.GrantTrace, block: w.BlockTrace, facts: Facts) -> ExplanationLine:
    text, at = source_text(seen.grant), seen.grant.span.at
    if not seen.covers:
        endpoint, openings = facts.request.endpoint, seen.grant.openings
        near = any(match_pattern(one.pattern, endpoint, "full") is not None for one in openings)
        return ExplanationLine(Mark.SKIPPED, text, OTHER_CASE if near else "not about this endpoint", at)
    parts: list[ExplanationLine] = []
    if not seen.carried:
        scopes = sorted({format_value(scope) for opening in seen.grant.openings for scope in opening.carriers})
        needed = f"needs one of {', '.join(scopes)}" if scopes else "needs an issuer that says `scopes none`"
        parts.append(ExplanationLine(Mark.NO, "the credential does not carry it", needed))
    if seen.grant.when is not None:
        parts.append(expression_line(seen.grant.when, facts))
    return ExplanationLine(mark_of(seen.opens), text, block.block.label, at, tuple(parts))


# ── Approvals ──────────────────────────────────────────────────────────────────────────────────


def approval_line(seen: w.EffectTrace, confirm: k.Confirm, facts: Facts) -> ExplanationLine:
    """Return `an approval is bound to body except body.request_id`, with the bound values as parts."""
    unseen = seen.approval.unseen if seen.approval is not None else frozenset()
    words = f"an approval is bound to {', '.join(describe_bound(confirm, facts.request.endpoint))}"
    note = "unknown facts cannot be approved" if unseen else None
    return ExplanationLine(
        Mark.UNKNOWN if unseen else Mark.YES, words, note, parts=tuple(bound_object_lines(confirm, facts))
    )


def bound_object_lines(confirm: k.Confirm, facts: Facts) -> Iterator[ExplanationLine]:
    """Yield each bound member of the request and whether it may change, then the other facts that the rule reads."""
    told: set[Path] = set()
    for bound_object in bound_objects(confirm, facts.request.endpoint):
        told.add(bound_object.path)
        yield from member_lines(raw_object(bound_object, facts), bound_object.path, exclusions_of(bound_object))
    for key, read in sorted(facts_read(confirm, facts).items()):
        if not any(key[: len(path)] == path for path in told):
            yield fact_line(format_fact_path(key), read.value)


def member_lines(raw: object, path: Path, left: Mapping[str, object]) -> Iterator[ExplanationLine]:
    if raw is ABSENT:
        return
    if not isinstance(raw, Mapping):
        yield raw_line(path, raw)
        return
    for name in islice(sorted(raw), MAX_MEMBERS):
        if left.get(name) == {}:
            yield ExplanationLine(Mark.SKIPPED, format_fact_path((*path, name)), "may change after the approval")
        else:
            yield raw_line((*path, name), raw[name])
    if len(raw) > MAX_MEMBERS:
        yield ExplanationLine(Mark.YES, f"{len(raw) - MAX_MEMBERS:,} more members of {format_fact_path(path)}")


def raw_line(path: Path, raw: object) -> ExplanationLine:
    name = format_fact_path(path)
    match raw:
        case Invalid(why):
            return fact_line(name, Unknown.of(name, why))
        case MissingValue():
            return fact_line(name, Unknown.of(name, raw.value))
        case None:
            return ExplanationLine(Mark.YES, f"{name} = null")
        case _ if path[-1] in SECRET_HEADERS:
            return ExplanationLine(Mark.YES, f"{name} = (secret)")
        case _:
            return ExplanationLine(Mark.YES, f"{name} = {format_value(raw)}")
