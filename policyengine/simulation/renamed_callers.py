"""Variations of questions: each caller sends them under another name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from policyengine.vocabulary import ROOTS

PRINCIPAL_FACTS = ("agent.id", "user.id")  # facts that may name the caller; the first that the policy accepts is used

MAX_CACHED_QUESTIONS = 100_000  # maximum questions in the cache; further questions are created each time
# The roots of a question in which callers may differ.
VARIABLE_ROOTS = tuple(root for root in ROOTS if root not in ("action", "chain"))

PassesCheck = Callable[[Mapping[str, Any]], bool]


class NoOtherCallerError(Exception):
    """The error for a policy that accepts only the caller of the question."""


class RunPlace(NamedTuple):
    """The place of a request in a run: the fact that names the run, if callers have another run in each turn, and the
    index of the first request of the run, with which a caller begins again after a pause of more than `idle`
    microseconds; None if it never does."""

    fact: str | None
    start: int | None = None
    idle: int = 0


@dataclass(frozen=True, slots=True)
class Callers:
    """The questions of the callers, and the fact (`agent.id`) in which callers differ. The first caller sends the
    questions unchanged. `places` has the place of each question in its run, if callers have runs."""

    questions: tuple[Mapping[str, Any], ...]
    vary: str | None = None
    places: tuple[RunPlace, ...] = ()
    made: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, questions: Sequence[Mapping[str, Any]], many: int, vary: str | None, passes: PassesCheck) -> Callers:
        """Return callers that differ in `vary`, or in the first principal fact under which a second caller passes.

        Raises NoOtherCallerError.
        """
        known = tuple(questions)
        if many == 1 or vary is not None:
            return cls(known, vary if many > 1 else None)
        for fact in PRINCIPAL_FACTS:
            if all(has_text_fact(one, fact) and passes(vary_fact(one, fact, 1)) for one in known):
                return cls(known, fact)
        raise NoOtherCallerError

    def in_run(self, turn: int, caller: int, run: int) -> dict[str, Any]:
        """Return the question with index `turn` as the caller asks it, with the key of its run number `run`."""
        found, fact = self.question(turn, caller), self.places[turn].fact if self.places else None
        return found if fact is None else vary_fact(found, fact, run)

    def next_turn(self, turn: int, pause: int) -> int:
        """Return the index of the next question after a pause in microseconds: `turn`, or the first of its run if the
        run has ended."""
        place = self.places[turn] if self.places else None
        return turn if place is None or place.start is None or pause <= place.idle else place.start

    def question(self, turn: int, caller: int) -> dict[str, Any]:
        """Return the question with index `turn` as the caller asks it."""
        found = self.made.get((turn, caller))
        if found is None:
            asked = self.questions[turn]
            found = dict(asked) if self.vary is None else vary_fact(asked, self.vary, caller)
            if len(self.made) < MAX_CACHED_QUESTIONS:
                self.made[turn, caller] = found
        return found


def has_text_fact(question: Mapping[str, Any], fact: str) -> bool:
    root, _, name = fact.partition(".")
    members = question.get(root)
    return isinstance(members, Mapping) and isinstance(members.get(name), str)


def vary_fact(question: Mapping[str, Any], fact: str, caller: int) -> dict[str, Any]:
    """Return the question of a caller, numbered from 0: the fact `worker` becomes `worker`, `worker-2`, `worker-3` …, a
    number is increased by `caller`, and a missing fact or a boolean becomes `1`, `2`, `3` ….
    """
    root, *path = fact.split(".")
    return {**question, root: _vary_member(question.get(root), path, caller)}


def _vary_member(members: object, path: Sequence[str], caller: int) -> object:
    if path:
        known = members if isinstance(members, Mapping) else {}
        return {**known, path[0]: _vary_member(known.get(path[0]), path[1:], caller)}
    match members:
        case bool() | None:
            return f"{caller + 1}"
        case int():
            return members + caller
        case _:
            return members if caller == 0 else f"{members}-{caller + 1}"
