"""Limits that deny requests which a grant allows, because these requests lack the agent or the user by which the limit
counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import PatternIndex, place_covers
from policyengine.checker.type_names import join_words
from policyengine.diagnostics.model import BoundExceededError, Diagnostic, RelatedLocation
from policyengine.lint.absent_facts import is_unknown, limit_inputs, possible_outcomes
from policyengine.lint.dead_rules import Block
from policyengine.lint.unbound_resource import (
    MAX_ENDPOINTS_LISTED,
    CoveredEndpoint,
    GrantedEndpoint,
    endpoint_texts,
    endpoints_in,
)

AGENT, USER = "agent", "user"
USER_KEY = "user.id"
MAX_ENDPOINTS_COMPARED = 100  # the first endpoints of a limit, of which the message lists a few
ARTICLES = {AGENT: "an agent", USER: "a user"}


def uncounted_requests(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W565 for each limit that denies requests without an agent, or without a user, where a grant allows such
    requests.
    """
    if not kernel.limits:
        return
    subjects = [
        SubjectGrants.of(kernel, frozenset({AGENT, USER}), kernel.anyones, "request.ip"),
        SubjectGrants.of(kernel, frozenset({AGENT}), kernel.users, USER_KEY),
        SubjectGrants.of(kernel, frozenset({USER}), [one for one in kernel.agents if acts_alone(one)], "agent.id"),
    ]
    with suppress(BoundExceededError):  # too many rules for an optional finding
        for limit in kernel.limits:
            for root in (AGENT, USER):
                found = (subject.finding(limit, root) for subject in subjects if root in subject.absent)
                yield from (one for one in [next(filter(None, found), None)] if one is not None)


def acts_alone(block: k.AgentBlock) -> bool:
    return any(isinstance(one, k.ActsAlone) for one in block.requirements)


@dataclass(frozen=True, slots=True)
class SubjectGrants:
    """The grants for one kind of request, in which the facts of the roots `absent` are absent. `barred` are the places
    where a guard denies all of these requests. The fact `key` can count them.
    """

    absent: frozenset[str]
    doors: PatternIndex[GrantedEndpoint]
    barred: BarredPlaces
    key: str

    @staticmethod
    def of(kernel: k.Kernel, absent: frozenset[str], blocks: Sequence[Block], key: str) -> SubjectGrants:
        doors = PatternIndex[GrantedEndpoint]()
        found = SubjectGrants(absent, doors, BarredPlaces(), key)
        for block in blocks:
            conditions = () if isinstance(block, k.AnyoneBlock) else (getattr(block.who, "condition", None),)
            for grant in block.grants:
                if all(found.may_hold(condition) for condition in (*conditions, grant.when)):
                    for pattern in dict.fromkeys(opening.pattern for opening in grant.openings):
                        doors.add(pattern, GrantedEndpoint(pattern, block.label))
        for guard in kernel.guards:
            if any(map(found.is_denied_by, guard.effects)):
                found.barred.add(guard.place)
        return found

    def is_absent(self, path: tuple[str, ...]) -> bool:
        return path[0] in self.absent

    def may_hold(self, condition: k.Expr | None) -> bool:
        return condition is None or True in possible_outcomes(condition, self.is_absent)

    def is_denied_by(self, effect: k.Effect) -> bool:
        """Return whether an effect denies all of these requests."""
        if not isinstance(effect, k.Deny):
            return False
        return effect.condition is None or False not in possible_outcomes(effect.condition, self.is_absent)

    def finding(self, limit: k.Limit, root: str) -> Diagnostic | None:
        """Return the finding for a limit that needs a fact of the root; None if it denies none of these requests."""
        if limit.when is not None and possible_outcomes(limit.when, self.is_absent) == {False}:
            return None
        missing = next((one for one in limit_inputs(limit) if is_unknown(one, lambda path: path[0] == root)), None)
        if missing is None:
            return None
        open_ones = (one for one in endpoints_in(limit.place, self.doors) if not self.barred.covers(one.piece))
        denied = list(islice(open_ones, MAX_ENDPOINTS_COMPARED))
        return uncounted_finding(limit, missing, root, denied, self.key) if denied else None


@dataclass(slots=True)
class BarredPlaces:
    """The places where guards deny every request of one kind. `known` has the answers about endpoints."""

    everywhere: list[k.Place] = field(default_factory=list)
    index: PatternIndex[k.Place] = field(default_factory=PatternIndex)
    known: dict[k.Pattern, bool] = field(default_factory=dict)

    def add(self, place: k.Place) -> None:
        if place.patterns is None:
            self.everywhere.append(place)
        for pattern in dict.fromkeys(place.patterns or ()):
            self.index.add(pattern, place)

    def covers(self, piece: k.Pattern) -> bool:
        """Return whether one of the places covers all endpoints of the pattern."""
        if piece not in self.known:
            place = k.Place((piece,), span=piece.span)
            near = (*self.everywhere, *self.index.overlapping(piece))
            self.known[piece] = any(place_covers(barred, place) for barred in near)
        return self.known[piece]


def uncounted_finding(
    limit: k.Limit, missing: k.Expr, root: str, denied: Sequence[CoveredEndpoint], key: str
) -> Diagnostic:
    word, without = "budget" if isinstance(limit, k.Budget) else "rate", ARTICLES[root]
    endpoints = endpoint_texts(denied)
    door = next(one.door for one in denied if one.text == endpoints[0])
    listed = join_words(endpoints) if len(endpoints) <= MAX_ENDPOINTS_LISTED else f"{quoted(endpoints)} and others"
    message = (
        f"requests without {without} are denied here: the {word} `{limit.name}` needs "
        f"`{' '.join(missing.span.text.split())}`, and `{door.label}` allows such requests at {listed}"
    )
    present = f"{root}.id is present" if limit.when is None else f"{root}.id is present and …"
    hint = (
        f"write `when {present}` to let requests without {without} pass uncounted, and count them in another {word} "
        f"`per {key}`; or narrow the {word} to other endpoints with `on …`"
    )
    if root == AGENT and key == USER_KEY:
        narrow = "if users act only by agents, write `agent.id is present` in the condition of their block"
        hint = f"{narrow}; otherwise, {hint}"
    where = RelatedLocation(f"{door.label} allows requests without {without}", door.pattern.span)
    return Diagnostic("W565", message, missing.span, hint, (where,))


def quoted(endpoints: Sequence[str]) -> str:
    return ", ".join(f"`{one}`" for one in endpoints[:MAX_ENDPOINTS_LISTED])
