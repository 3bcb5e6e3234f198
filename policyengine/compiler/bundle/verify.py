"""Check that the checker could have produced a decoded part of a bundle, so that later stages can rely on it. Each
check examines one part, whose inner parts were checked before. The meaning of the policy is not checked: a bundle may
grant everything, but every later stage must be able to process it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from policyengine import kernel as k
from policyengine.checker.lower import maps, profiles
from policyengine.checker.lower.bound_objects import BINDABLE_OBJECTS, is_path_below
from policyengine.checker.lower.trust import CLAIM_HOLDERS
from policyengine.checker.patterns.endpoint_reader import tool_mistake
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.compiler.bundle.tables import DecodeContext
from policyengine.compiler.bundle.verify_expressions import (
    NAME,
    TERMS,
    check_condition,
    check_condition_of,
    is_entity,
    is_name,
    require,
)
from policyengine.compiler.bundle.verify_history import HISTORY_TERMS
from policyengine.kernel.sequence_automaton import OrderSizeError
from policyengine.runtime import paths
from policyengine.spec.rate_units import is_countable
from policyengine.typesystem import EnumType, FieldType, ListType, RefType, Scalar, SetType
from policyengine.vocabulary import CREDENTIAL_KIND, OPEN_ROOTS

DOTTED = re.compile(rf"{NAME.pattern}(?:\.{NAME.pattern})*")


# ── Endpoints ─────────────────────────────────────────────────────────────────────────────────


def check_http(pattern: k.HttpPattern, _: DecodeContext) -> None:
    methods = pattern.methods
    known = methods is None or (methods and all(paths.canonical_method(method) == method for method in methods))
    require(bool(known), "methods that no request can have")
    captures = [segment.capture for segment in pattern.segments if segment.capture is not None]
    require(len(set(captures)) == len(captures), "a name captured twice")


def check_segment(segment: k.Segment, reading: DecodeContext) -> None:
    """Check that a literal or wildcard segment can match some canonical path. Raises BundleDataError."""
    text = f"{segment.prefix}x{segment.suffix}" if segment.wild else segment.prefix
    require(text != "" and "/" not in text and not paths.find_segment_hazard(text), "a segment that no path can have")
    require(segment.wild or not (segment.suffix or segment.capture), "a literal segment with a capture")
    require(segment.capture is None or is_name(segment.capture), "a capture without a name")
    typed = segment.entity is None or (segment.capture is not None and is_entity(segment.entity, reading))
    require(typed, "a capture whose type is not an entity")


def check_tool(pattern: k.ToolPattern, _: DecodeContext) -> None:
    require(tool_mistake(pattern.glob) is None, "an invalid tool name")


def check_action(pattern: k.ActionPattern, reading: DecodeContext) -> None:
    require(bool(DOTTED.fullmatch(pattern.verb)) and is_entity(pattern.type, reading), "an invalid action")


def check_binder(binder: k.Binder, reading: DecodeContext) -> None:
    segments = binder.pattern.segments if isinstance(binder.pattern, k.HttpPattern) else ()
    captured = {segment.capture: segment.entity for segment in segments if segment.capture is not None}
    if binder.resource is not None:
        entity, capture = binder.resource
        require(captured.get(capture) == entity, "a resource that its pattern does not capture")
    for path, expression in binder.facts:
        require(path == ("resource",) or (len(path) > 1 and path[0] in OPEN_ROOTS), "a fact that cannot be bound")
        require(path != ("resource",) or isinstance(expression.type, RefType), "a resource that is not an entity")


def check_endpoint(pattern: k.Pattern, reading: DecodeContext) -> None:
    match pattern:
        case k.HttpPattern(_, segments):
            for segment in segments:
                check_segment(segment, reading)
            check_http(pattern, reading)
        case k.ToolPattern():
            check_tool(pattern, reading)
        case k.ActionPattern():
            check_action(pattern, reading)


# ── Grants and guards ─────────────────────────────────────────────────────────────────────────


def check_issued_by(part: k.IssuedBy, reading: DecodeContext) -> None:
    require(bool(part.issuers) and reading.issuers.issuperset(part.issuers), "an issuer that is not declared")


def check_attested_by(part: k.AttestedBy, reading: DecodeContext) -> None:
    require(bool(part.attesters) and reading.attesters.issuperset(part.attesters), "an attester that is not declared")


def check_credential(part: k.CredentialKinds, _: DecodeContext) -> None:
    require(set(part.kinds) <= set(CREDENTIAL_KIND.values), "a kind of credential that does not exist")


def check_confirm(part: k.Confirm, reading: DecodeContext) -> None:
    check_condition(part.condition)
    require(part.approvers.count > 0, "an approval without approvers")
    issuers = part.approvers.issuers
    declared = reading.issuers.issuperset(issuers) and len(set(issuers)) == len(issuers)
    require(declared, "approvers of an issuer that is not declared")


def check_bound_object(part: k.BoundObject, _: DecodeContext) -> None:
    require(part.path in BINDABLE_OBJECTS, "an approval bound to a part that is not in the request")
    require(all(is_path_below(one, part.path) for one in part.excepts), "an exclusion from another object")


def check_bound_to(part: k.BoundTo, _: DecodeContext) -> None:
    facts = all(isinstance(one, k.Fact | k.Attribute | k.Member) for one in part.facts)
    require(facts, "an approval bound to a path that is not a fact")


def check_approvers(part: k.MemberOf, _: DecodeContext) -> None:
    holder = part.expression.type
    holder = holder.element if isinstance(holder, SetType | ListType) else holder
    require(isinstance(holder, RefType), "an approver that is not an entity")


# ── Limits ────────────────────────────────────────────────────────────────────────────────────


def check_pace(part: k.Pace, _: DecodeContext) -> None:
    require(part.count > 0 and part.burst > 0 and part.within > timedelta(0), "a pace with a zero")


def check_pace_by_fact(part: k.PaceByFact, _: DecodeContext) -> None:
    require(part.burst is None or part.burst > 0, "a pace with a zero")
    require(part.within > timedelta(0) and is_number(part.count), "a pace with a zero")


def check_raise(part: k.Raise, _: DecodeContext) -> None:
    check_condition(part.when)
    times, by = part.factor
    require(by > 0 and times > by, "a raise without an effect")


def check_clamp(part: k.Clamp, _: DecodeContext) -> None:
    check_condition(part.when)
    require(part.lasts is None or part.lasts > timedelta(0), "a clamp with an empty duration")


def check_at_once(part: k.ConcurrencyLimit, _: DecodeContext) -> None:
    require(part.most > 0 and part.lease > timedelta(0), "a concurrency limit with a zero")


def check_rate(part: k.Rate, _: DecodeContext) -> None:
    check_condition(part.when)
    require(part.pace is not None or part.at_once is not None, "a rate without a limit")
    require(part.pace is not None or not (part.cost or part.raises or part.clamps), "a rate without a pace")
    require(part.cost is None or is_number(part.cost), "a cost that is not a number")
    require(part.pace is None or is_countable(part), "a rate that cannot be counted")


def check_quota(part: k.BudgetLimit, _: DecodeContext) -> None:
    require((part.fact is None) == (part.function == "count"), "a `count` of a fact, or a sum without a fact")
    require(
        part.function != "sum" or (part.fact is not None and is_number(part.fact)),
        "a sum of values that are not numbers",
    )
    require(part.within > timedelta(0) and is_number(part.bound), "a budget without a period or a bound")


def check_budget(part: k.Budget, _: DecodeContext) -> None:
    check_condition(part.when)
    require(bool(part.quotas), "a budget without a limit")


# ── Profiles ──────────────────────────────────────────────────────────────────────────────────


def check_profile(part: k.Profile, _: DecodeContext) -> None:
    for key in (part.run_key, part.version):
        require(key is None or profiles.is_key(key), "a profile by a fact that is not a string of the request")
    require(profiles.RUN_IDLE.allows(part.run_idle), "a run without an end")
    require(profiles.LEARN.allows(part.learn), "a profile of too many days")
    days = 1 <= part.ready_days <= part.learn.days
    require(days and 1 <= part.ready_runs <= profiles.MAX_READY_RUNS, "a caller that is never ready")
    require(1 <= part.burst_days <= profiles.BURST_DAYS.most.days, "a burst that is never expected")
    try:
        order_automaton(part.order)
    except OrderSizeError:
        require(False, "an order of calls that is too large")


def check_step(part: k.CallStep, _: DecodeContext) -> None:
    require(bool(part.patterns), "a step without an endpoint")


def check_group(part: k.StepGroup, _: DecodeContext) -> None:
    require(bool(part.alternatives) and all(part.alternatives), "a group without steps")


def is_number(expression: k.Expr) -> bool:
    return expression.type in (Scalar.INT, Scalar.NUMBER)


# ── Maps ──────────────────────────────────────────────────────────────────────────────────────


def check_subject(part: k.MapSubject, reading: DecodeContext) -> None:
    require(part.issuer is None or part.issuer in reading.issuers, "an issuer that is not declared")


def check_resource(part: k.MapResource, reading: DecodeContext) -> None:
    require(is_entity(part.entity, reading), "a resource that is not an entity")


def check_mapped_fact(part: k.MapFact, reading: DecodeContext) -> None:
    require(maps.is_source(part.source), "a source that no question can have")
    if part.entity:
        of_someone = len(part.path) == 2 and part.source[0] in maps.ENTITY_SOURCES
        require(of_someone and is_entity(part.path[0], reading), "an attribute without an entity")
    else:
        require(maps.is_claimable(part.path), "a fact that no question can supply")


def check_mapped_segment(part: k.MapSegment, _: DecodeContext) -> None:
    text = part.text if part.source is None else f"{part.text}x{part.after}"
    require(text != "" and "/" not in text and not paths.find_segment_hazard(text), "a segment that no path can have")
    require(part.source is not None or part.after == "", "a literal segment with a suffix")
    require(part.source is None or maps.is_source(part.source), "a source that no question can have")


def check_mapped_http(part: k.MapHttp, _: DecodeContext) -> None:
    require(paths.canonical_method(part.method) == part.method, "methods that no request can have")


def check_mapped_tool(part: k.MapTool, _: DecodeContext) -> None:
    require(tool_mistake(part.glob) is None, "an invalid tool name")


def check_mapped_verb(part: k.MapVerb, reading: DecodeContext) -> None:
    require(bool(DOTTED.fullmatch(part.verb)) and is_entity(part.type, reading), "an invalid action")


# ── Declarations ──────────────────────────────────────────────────────────────────────────


def check_declared(part: k.EntityType | k.Attester, _: DecodeContext) -> None:
    require(is_name(part.name), "a declaration without a name")


def check_issuer(part: k.Issuer, _: DecodeContext) -> None:
    require(is_name(part.name), "a declaration without a name")
    attributes = all(len(path) == 2 and path[0] in CLAIM_HOLDERS for _, path in part.claims)
    require(attributes, "a claim that is not an attribute of the caller")
    require(all(one.strip() for one in part.users_like), "a user without a name")


def check_member_type(part: FieldType, _: DecodeContext) -> None:
    sets = isinstance(part.type, SetType) if part.inherited else not part.else_empty
    require(is_name(part.name) and sets, "an attribute without a name")


# ── Types ─────────────────────────────────────────────────────────────────────────────────────


def check_enum(part: EnumType, _: DecodeContext) -> None:
    require(bool(part.values) and len(set(part.values)) == len(part.values), "an enum without distinct values")


def check_reference(part: RefType, _: DecodeContext) -> None:
    require(bool(part.entities), "a reference to an entity of no type")


CHECKS: Mapping[type, Callable[[Any, DecodeContext], None]] = {
    **TERMS,
    **HISTORY_TERMS,
    FieldType: check_member_type,
    EnumType: check_enum,
    RefType: check_reference,
    k.Pace: check_pace,
    k.PaceByFact: check_pace_by_fact,
    k.Raise: check_raise,
    k.Clamp: check_clamp,
    k.ConcurrencyLimit: check_at_once,
    k.Rate: check_rate,
    k.BudgetLimit: check_quota,
    k.Budget: check_budget,
    k.Profile: check_profile,
    k.CallStep: check_step,
    k.StepGroup: check_group,
    k.MapSubject: check_subject,
    k.MapResource: check_resource,
    k.MapFact: check_mapped_fact,
    k.MapSegment: check_mapped_segment,
    k.MapHttp: check_mapped_http,
    k.MapTool: check_mapped_tool,
    k.MapVerb: check_mapped_verb,
    k.EntityType: check_declared,
    k.Attester: check_declared,
    k.Issuer: check_issuer,
    k.Binder: check_binder,
    k.PrincipalCondition: check_condition_of("condition"),
    k.ActsFor: check_condition_of("condition"),
    k.Grant: check_condition_of("when"),
    k.DelegationGrant: check_condition_of("when"),
    k.Deny: check_condition_of("condition"),
    k.ObligationEffect: check_condition_of("condition"),
    k.Confirm: check_confirm,
    k.BoundObject: check_bound_object,
    k.BoundTo: check_bound_to,
    k.MemberOf: check_approvers,
    k.IssuedBy: check_issued_by,
    k.AttestedBy: check_attested_by,
    k.CredentialKinds: check_credential,
}
