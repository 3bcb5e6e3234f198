"""The walk of one decision for people and machines: every rule considered, each condition's value and parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policyengine import kernel as k
from policyengine.control_characters import one_line
from policyengine.explain.approval_digest import bound_line
from policyengine.explain.effect_words import is_demand
from policyengine.explain.limits import limits_line
from policyengine.explain.lines import Line, Mark, expression_line, fact_line, mark_of, note_of, text_of
from policyengine.runtime.credential_errors import words_of
from policyengine.runtime.decision import Decision, Remedy
from policyengine.runtime.endpoints import ActionEndpoint, Endpoint, HttpEndpoint, MalformedEndpoint, ToolEndpoint
from policyengine.runtime.format_values import shown
from policyengine.spec import trace as w
from policyengine.spec.evaluate import value
from policyengine.spec.facts import Facts, facts_of_hop, has_agent, presenter_of
from policyengine.spec.match import match_pattern

OTHER_CASE = (
    "not about this endpoint: letters of its path are in another case (`paths ignore case` takes them for the same)"
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision and the walk that came to it, gate by gate: `gates` in the order they are passed."""

    decision: Decision
    endpoint: str
    gates: tuple[Line, ...]

    def to_dict(self) -> dict[str, Any]:
        """`{"decision": …, "walk": {"endpoint": …, "gates": […]}}`, as `POST /explain` answers."""
        walk = {"endpoint": self.endpoint, "gates": [gate.to_dict() for gate in self.gates]}
        return {"decision": self.decision.to_dict(), "walk": walk}

    def render(self) -> str:
        """The whole walk in plain text."""
        lines = [headline(self.decision), f"  {self.endpoint}", *_reasons(self.decision), ""]
        for gate in self.gates:
            lines += gate.render()
        remedies = [f"  - {words}" for remedy in self.decision.remedies if (words := remedy_words(remedy))]
        return "\n".join([*lines, *(["", "what would change the answer", *remedies] if remedies else [])])


def explain(decision: Decision, facts: Facts, seen: w.Walk) -> Explanation:
    facts, endpoint = facts.looked_at_anew, facts.request.endpoint
    if seen.malformed is not None:
        return Explanation(decision, endpoint_words(endpoint), (Line(Mark.NO, "malformed_path", seen.malformed),))
    task = (_task(facts, seen),) if seen.task else ()
    before = (_identity(facts, seen), _door(facts, seen), _user(facts, seen), _chain(facts, seen))
    gates = (*before, *task, _guards(facts, seen))
    limits = (limits_line(decision, facts, seen),) if seen.limited else ()
    return Explanation(decision, endpoint_words(endpoint), (*gates, *limits))


def headline(decision: Decision) -> str:
    """`deny by guard "tenants are islands"`."""
    first = decision.reasons[0] if decision.reasons else None
    if first is None:
        return str(decision.outcome)
    rule = f"{first.gate} {shown(first.rule)}" if first.rule else str(first.gate)
    return f"{decision.outcome} by {rule}"


def endpoint_words(endpoint: Endpoint) -> str:
    match endpoint:
        case HttpEndpoint(method, path):
            return f"{method} {path}"
        case MalformedEndpoint(_, method, path):
            return f"{method} {shown(path)}"
        case ToolEndpoint():
            return f"TOOL {endpoint.qualified}"
        case ActionEndpoint(verb, type_):
            return f"ACTION {verb} {type_}"


def remedy_words(remedy: Remedy) -> str:
    match remedy.kind:
        case "approval":
            within = "" if remedy.within is None else f", good for {remedy.within}"
            return f"an approval by {remedy.by}{within}"
        case "scope":
            return "a credential with the scope " + " or ".join(shown(scope) for scope in remedy.scopes or ())
        case "wait":
            return f"waiting for {remedy.within}, until {shown(remedy.rule)} has room again"
        case _:
            return f"{remedy.kind}: {remedy.need}"


def _reasons(decision: Decision) -> Iterator[str]:
    for reason in decision.reasons:
        at = f"  ({reason.at})" if reason.at else ""
        rule = f" {shown(reason.rule)}" if reason.rule else ""
        yield one_line(f"  {reason.outcome} by {reason.gate}{rule}: {reason.message}{at}")


# ── Gates ─────────────────────────────────────────────────────────────────────────────────────


def _identity(facts: Facts, seen: w.Walk) -> Line:
    presenter, by_agent = presenter_of(facts), has_agent(facts.request)
    kind = "agent" if by_agent else "user"
    who = f"{kind} {shown(presenter.id)} of issuer {shown(presenter.issuer)}"
    lines = tuple(_block(block, facts) for block in seen.presenter)
    if seen.refused is not None:
        return Line(mark_of(seen.identified), "identity", f"the credential was refused: {words_of(seen.refused)}")
    note = who if seen.presenter else f"{who}; no block is about {kind}s"
    return Line(mark_of(seen.identified), "identity", note, parts=lines)


def _task(facts: Facts, seen: w.Walk) -> Line:
    if not seen.task_bounds:
        return Line(Mark.YES, "task", "open to anyone" if seen.open_to_anyone else "`tasks advisory`")
    parts = tuple(fact_line(".".join(one.bound.path), value(one.bound.given, facts)) for one in seen.task)
    notes = "; ".join(one.bound.message for one in seen.outside_task)
    return Line(mark_of(not seen.outside_task), "task", notes or None, parts=parts)


def _door(facts: Facts, seen: w.Walk) -> Line:
    blocks = [block for block in (*seen.anyone, *seen.presenter) if block.stands]
    parts = tuple(_grant(grant, block, facts) for block in blocks for grant in block.grants)
    note = None if seen.door_open else "nothing opened it (gate `default`)"
    return Line(mark_of(seen.door_open), "door", note, parts=parts)


def _user(facts: Facts, seen: w.Walk) -> Line:
    if seen.user is None:
        return Line(Mark.SKIPPED, "user", "no agent acts for a user")
    if seen.user_waived or seen.open_to_anyone:
        note = "open to anyone" if seen.open_to_anyone else "`users unrestricted`"
        return Line(Mark.YES, "user", note)
    parts = []
    for block in seen.user:
        grants = tuple(_grant(grant, block, facts) for grant in block.grants) if block.stands else ()
        line = _block(block, facts)
        parts.append(Line(line.mark, line.text, line.note, line.at, (*line.parts, *grants)))
    return Line(mark_of(seen.user_allowed), "user", parts=tuple(parts))


def _chain(facts: Facts, seen: w.Walk) -> Line:
    if not seen.hops and not seen.limits and seen.chain_known is True:
        return Line(Mark.SKIPPED, "chain", "no agent handed the work on")
    known = () if seen.chain_known is True else (fact_line("chain.hops", seen.chain_known),)
    hops = tuple(_hop(hop, facts) for hop in seen.hops)
    limits = tuple(
        Line(mark_of(limit.holds), limit.words, note_of(limit.holds), limit.limits.span.at) for limit in seen.limits
    )
    return Line(mark_of(seen.chain_sound), "chain", parts=(*known, *hops, *limits))


def _hop(hop: w.HopSeen, facts: Facts) -> Line:
    parts, facts = [], facts_of_hop(facts, hop.agent)
    for block in hop.blocks:
        if block.applies is False:
            continue
        grants = [_grant(grant, block, facts) for grant in block.grants if grant.covers]
        handed = [_delegate(one) for one in block.delegates]
        line = _block(block, facts)
        parts.append(Line(line.mark, line.text, line.note, line.at, (*line.parts, *grants, *handed)))
    ok = hop.opens and hop.hands_on
    note = (
        None if ok else "may not do this itself" if not hop.opens else f"does not hand this on to {shown(hop.next.id)}"
    )
    return Line(mark_of(ok), f"agent {shown(hop.agent.id)} → agent {shown(hop.next.id)}", note, parts=tuple(parts))


def _delegate(seen: w.DelegateSeen) -> Line:
    tests = {"covers this endpoint": seen.covers, "names the next agent": seen.names_next, "still lasts": seen.lasts}
    tests |= {} if seen.delegate.when is None else {"its condition": seen.condition}
    parts = tuple(Line(mark_of(result), words, note_of(result)) for words, result in tests.items())
    return Line(mark_of(seen.hands_on), text_of(seen.delegate), at=seen.delegate.span.at, parts=parts)


def _guards(facts: Facts, seen: w.Walk) -> Line:
    stopped = [guard for guard in seen.guards if any(one.acts and not _is_duty(one) for one in guard.effects)]
    parts = tuple(_guard(guard, facts) for guard in seen.guards)
    return Line(mark_of(not stopped), "guards", None if parts else "none", parts=parts)


def _guard(seen: w.GuardSeen, facts: Facts) -> Line:
    if not seen.covers:
        return Line(Mark.SKIPPED, f"guard {shown(seen.guard.name)}", "not about this endpoint", seen.guard.span.at)
    stops = any(one.acts and not _is_duty(one) for one in seen.effects)
    parts = tuple(_effect(one, facts) for one in seen.effects)
    return Line(mark_of(not stops), f"guard {shown(seen.guard.name)}", None, seen.guard.span.at, parts)


def _is_duty(seen: w.EffectSeen) -> bool:
    return isinstance(seen.effect, k.Oblige)


def _effect(seen: w.EffectSeen, facts: Facts) -> Line:
    parts = tuple(expression_line(condition, facts) for condition in _written_condition(seen.effect))
    if isinstance(seen.effect, k.Confirm) and seen.triggered:
        parts = (*parts, bound_line(seen, seen.effect, facts))
    mark = Mark.SKIPPED if not seen.triggered else Mark.YES if _is_duty(seen) else mark_of(not seen.acts)
    if seen.acts:
        note = "applies" if _is_duty(seen) else "acts, for a fact is unknown" if seen.condition is not True else "acts"
    else:
        note = "has its approval" if seen.triggered else "does not act"
    return Line(mark, seen.effect.words, note, seen.effect.span.at, parts)


def _written_condition(effect: k.Effect) -> Iterator[k.Expr]:
    """`require c` and `deny unless c` have become `deny when not c`: c, as it is written."""
    condition = effect.condition
    if condition is not None:
        yield condition.operand if isinstance(condition, k.Not) and is_demand(effect, condition) else condition


# ── Blocks and grants ─────────────────────────────────────────────────────────────────────────


def _block(seen: w.BlockSeen, facts: Facts) -> Line:
    block = seen.block
    if seen.applies is False and not (isinstance(block, k.AgentBlock | k.UserBlock) and isinstance(block.who, k.Where)):
        return Line(Mark.SKIPPED, block.label, "about others", block.span.at)
    parts: tuple[Line, ...] = ()
    if isinstance(block, k.AgentBlock | k.UserBlock) and isinstance(block.who, k.Where):
        parts = (expression_line(block.who.condition, facts),)
    if seen.applies is True:
        parts += tuple(_requirement(one, facts) for one in seen.requirements)
    failed = [text_of(one.requirement) for one in seen.requirements if one.holds is not True]
    note = (
        "about others" if seen.applies is False else f"void: {'; '.join(failed)}" if failed else note_of(seen.applies)
    )
    return Line(
        mark_of(seen.stands) if seen.applies is True else mark_of(seen.applies), block.label, note, block.span.at, parts
    )


def _requirement(seen: w.RequirementSeen, facts: Facts) -> Line:
    asked = seen.requirement
    condition = asked.condition if isinstance(asked, k.ActsFor) else None
    parts = () if condition is None else (expression_line(condition, facts),)
    return Line(mark_of(seen.holds), text_of(asked), note_of(seen.holds), asked.span.at, parts)


def _grant(seen: w.GrantSeen, block: w.BlockSeen, facts: Facts) -> Line:
    text, at = text_of(seen.grant), seen.grant.span.at
    if not seen.covers:
        endpoint, openings = facts.request.endpoint, seen.grant.openings
        near = any(match_pattern(one.pattern, endpoint, "full") is not None for one in openings)
        return Line(Mark.SKIPPED, text, OTHER_CASE if near else "not about this endpoint", at)
    parts: list[Line] = []
    if not seen.carried:
        scopes = sorted({shown(scope) for opening in seen.grant.openings for scope in opening.carriers})
        needed = f"needs one of {', '.join(scopes)}" if scopes else "needs an issuer that says `scopes none`"
        parts.append(Line(Mark.NO, "the credential does not carry it", needed))
    if seen.grant.when is not None:
        parts.append(expression_line(seen.grant.when, facts))
    return Line(mark_of(seen.opens), text, block.block.label, at, tuple(parts))
