"""Observe mode: selects the decisions that are reported instead of enforced, until its end. `runtime/observe.py`
changes these decisions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

from policyengine import kernel as k
from policyengine.check import compile_sources
from policyengine.checker.patterns.endpoint_reader import HTTP_METHODS, STANDARD_METHODS
from policyengine.diagnostics.suggest import did_you_mean
from policyengine.runtime.decision import Decision, Reason
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.observe import apply_observe_mode, may_pass
from policyengine.runtime.request import Request, RequestError
from policyengine.source import Source
from policyengine.spec.match_endpoint import match_pattern, place_covers
from policyengine.time_formats import format_duration, format_rfc3339

if TYPE_CHECKING:
    from policyengine.engine.condition_watch import ConditionWatch

Block: TypeAlias = k.AgentBlock | k.UserBlock | k.AnyoneBlock

MAX_OBSERVE_TIME = timedelta(days=90)
ENDPOINT_HINT = "write it as after `on`: `/v1/reports/**`, `GET /v1/invoices/*`, `TOOL mail/*`"

_LOG = logging.getLogger("policyengine")


class ObserveError(ValueError):
    """The error for an observe mode that cannot start; the message says why, and the hint says how to correct that."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message, self.hint = message, hint


@dataclass(frozen=True, slots=True)
class Observe:
    """The scope of observe mode: its end (timezone-aware), and optionally packages and endpoints, both of which must
    match.

    A decision belongs to `packages` if only their rules stop it: their guards and limits, or the lack of a grant for an
    endpoint that no block of another package opens. `endpoints` are written as after `on` in a guard.
    """

    until: datetime
    packages: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        found: dict[str, object] = {"until": format_rfc3339(self.until.astimezone(UTC))}
        found |= {"packages": list(self.packages)} if self.packages else {}
        return found | ({"endpoints": list(self.endpoints)} if self.endpoints else {})


class Observer:
    """Applies observe mode to the decisions of one engine. `counts` holds the numbers of answers that passed, by their
    original outcome. `conditions` counts the requests for which conditions that read learned facts were true; None if
    no rule reads a learned fact."""

    def __init__(self, wanted: Observe, kernel: k.Kernel, clock: Callable[[], datetime]) -> None:
        """Raise ObserveError if the end, a package or an endpoint is invalid."""
        check_time(wanted.until, clock())
        check_packages(wanted.packages, kernel.packages)
        self.wanted = wanted
        self.counts: Counter[str] = Counter()
        self._kernel, self._clock = kernel, clock
        self._places = tuple(parse_observed_endpoint(text, kernel) for text in wanted.endpoints)
        self._rules = dict(packages_by_rule(kernel)) if wanted.packages else {}
        self.conditions = watch_conditions(kernel, None)
        self._guard, self._told = Lock(), False
        self.ended: Callable[[str], None] = lambda until: None  # called once with the end, when it has passed

    def successor(self, kernel: k.Kernel) -> Observer:
        """Return an observer for other policies with the same scope and counts. Raises ObserveError."""
        found = Observer(self.wanted, kernel, self._clock)
        found.counts, found._guard = self.counts, self._guard
        found.conditions = watch_conditions(kernel, self.conditions)
        return found

    @property
    def observing(self) -> bool:
        """Whether observe mode has not ended. A failing clock ends it."""
        try:
            return self._clock() < self.wanted.until
        except Exception:
            return False

    @property
    def watch(self) -> ConditionWatch | None:
        """The counter of the conditions that read learned facts; None if no rule reads one, or if observe mode has
        ended."""
        return self.conditions if self.conditions is not None and self.observing else None

    def given(self, decision: Decision, question: dict[str, object] | Request) -> Decision:
        """Return the answer for a decision: the decision itself, or in observe mode the allow that replaces it."""
        if not self.observing:
            self._over()
            return decision
        passes = self._passes(decision, question)
        if passes:
            with self._guard:
                self.counts[decision.outcome.value] += 1
        return apply_observe_mode(decision, passes)

    def lets_pass(self, decision: Decision, question: dict[str, object] | Request) -> bool:
        """Return whether `given` returns an allow for a decision; counts nothing."""
        return self.observing and self._passes(decision, question)

    def _passes(self, decision: Decision, question: dict[str, object] | Request) -> bool:
        return decision.allowed or (may_pass(decision) and self._covers(decision, question))

    def _covers(self, decision: Decision, question: dict[str, object] | Request) -> bool:
        if not self._places and not self.wanted.packages:
            return True
        try:
            endpoint = (question if isinstance(question, Request) else Request.from_mapping(question)).endpoint
        except RequestError:
            return False
        inside = not self._places or any(place_covers(place, endpoint) for place in self._places)
        return inside and (not self.wanted.packages or all(self._is_theirs(one, endpoint) for one in decision.reasons))

    def _is_theirs(self, reason: Reason, endpoint: Endpoint) -> bool:
        if reason.at is not None:
            return self._rules.get((reason.rule, reason.at)) in self.wanted.packages
        opening = packages_that_open(self._kernel, endpoint)
        return bool(opening) and opening <= set(self.wanted.packages)

    def _over(self) -> None:
        with self._guard:
            told, self._told = self._told, True
        if not told:
            until = str(self.wanted.to_dict()["until"])
            _LOG.warning("observe mode ended at %s: every decision is enforced now", until)
            self.ended(until)


def watch_conditions(kernel: k.Kernel, previous: ConditionWatch | None) -> ConditionWatch | None:
    """Return a counter of the conditions that read learned facts, which continues the counts of `previous`; None if no
    rule reads one."""
    if not kernel.reads_behavior:
        return None
    from policyengine.engine.condition_watch import ConditionWatch

    return ConditionWatch(kernel, previous)


# ── Checks of the scope ──────────────────────────────────────────────────────────────────────


def check_time(until: datetime, now: datetime) -> None:
    """Check the end of observe mode. A past end is valid: after a restart everything is enforced. Raises
    ObserveError.
    """
    if until.tzinfo is None:
        raise ObserveError("the end of observe mode has no time zone", "write it as `2026-12-01T00:00Z`")
    if until - now > MAX_OBSERVE_TIME:
        raise ObserveError(
            f"observe mode until {until.isoformat()} would last longer than {format_duration(MAX_OBSERVE_TIME)}",
            "choose an earlier end",
        )


def check_packages(wanted: Iterable[str], known: tuple[str, ...]) -> None:
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known) or f"the packages are {', '.join(f'`{one}`' for one in known)}"
            raise ObserveError(f"there is no package `{name}`", hint)


def parse_observed_endpoint(text: str, kernel: k.Kernel) -> k.Place:
    """Parse an endpoint as written after `on` in a guard. Raises ObserveError."""
    entities = "".join(f"entity {name} {{}}\n" for name in kernel.entities if name.isidentifier() and name != "user")
    before = f'language 1\npackage observed\n{entities}guard "observed" on '
    found, problems = compile_sources([Source("endpoint", f"{before}{text} {{ deny }}\n")])
    if found is None:
        first = problems[0]
        raise ObserveError(f"`{text}` is not an endpoint: {first.message}", first.hint or ENDPOINT_HINT)
    if len(found.guards) != 1 or {"#", "\n"} & set(text) or found.agents or found.users or found.anyones:
        raise ObserveError(f"`{text}` is not an endpoint", ENDPOINT_HINT)
    place = match_literally(found.guards[0].place)
    check_methods(place, kernel)
    return place


def match_literally(place: k.Place) -> k.Place:
    """Return a place that matches strictly: without case folding for the endpoints that it includes, and with full case
    folding for its exceptions.
    """
    patterns = None if place.patterns is None else tuple(k.with_folding(one, "none") for one in place.patterns)
    return replace(place, patterns=patterns, excepts=tuple(k.with_folding(one, "full") for one in place.excepts))


def check_methods(place: k.Place, kernel: k.Kernel) -> None:
    """Check that at least one policy uses the methods, because an unknown method is probably a typing error. Raises
    ObserveError.
    """
    known = {*HTTP_METHODS, *http_methods(pattern for guard in kernel.guards for pattern in guard.place.patterns or ())}
    known.update(http_methods(opening.pattern for block in all_blocks(kernel) for opening in block_openings(block)))
    for method in http_methods(place.patterns or ()):
        if method not in known:
            hint = did_you_mean(method, sorted(known)) or f"common methods are {', '.join(STANDARD_METHODS)}"
            raise ObserveError(f"no policy names the method `{method}`", hint)


def http_methods(patterns: Iterable[k.Pattern]) -> Iterable[str]:
    return [one for pattern in patterns if isinstance(pattern, k.HttpPattern) for one in pattern.methods or ()]


def all_blocks(kernel: k.Kernel) -> tuple[Block, ...]:
    return (*kernel.agents, *kernel.users, *kernel.anyones)


def block_openings(block: Block) -> list[k.GrantTarget]:
    return [opening for grant in block.grants for opening in grant.openings]


def packages_by_rule(kernel: k.Kernel) -> Iterable[tuple[tuple[str | None, str], str]]:
    """Yield the name and location of each rule, as reasons cite them, with its package."""
    for guard in kernel.guards:
        yield from (((guard.name, effect.span.at), guard.package) for effect in guard.effects)
    yield from (((one.name, one.span.at), one.package) for one in kernel.limits)


def packages_that_open(kernel: k.Kernel, endpoint: Endpoint) -> set[str]:
    """Return the packages with a block that opens the endpoint for at least one caller."""
    return {
        block.package
        for block in all_blocks(kernel)
        if any(match_pattern(opening.pattern, endpoint) is not None for opening in block_openings(block))
    }
