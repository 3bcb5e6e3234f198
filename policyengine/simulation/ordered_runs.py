"""Arranges the requests of a workflow so that each run of a caller follows the declared order of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from policyengine import kernel as k
from policyengine.behavior.reader import letter_at
from policyengine.checker.patterns.step_letters import order_automaton
from policyengine.clock import MICROSECOND
from policyengine.kernel.sequence_automaton import LEFT, START, SequenceAutomaton, distinct_steps
from policyengine.runtime.request import Request
from policyengine.simulation.renamed_callers import RunPlace, vary_fact

Question = Mapping[str, Any]
PassesCheck = Callable[[Question], bool]


class RunRequests(NamedTuple):
    """The requests that a caller sends in turn, and the place of each in its run. `ordered` says whether requests were
    arranged by a declared order."""

    questions: tuple[Question, ...]
    places: tuple[RunPlace, ...]
    ordered: bool = False


def arrange_runs(questions: Sequence[Question], kernel: k.Kernel, passes: PassesCheck) -> RunRequests:
    """Return the requests of each agent in the order that its profile declares. Requests that the run cannot contain
    are left out; agents without an order, or without a request that begins it, send all of their requests as they
    are."""
    agents: dict[object, list[Question]] = {}
    for question in questions:
        agents.setdefault(agent_of(question), []).append(question)
    found: list[Question] = []
    places: list[RunPlace] = []
    ordered = False
    for own in agents.values():
        profile = profile_of(own[0], kernel)
        run = [] if profile is None else OrderedRun(own, profile).questions()
        if profile is None or not run:
            found += own
            places += [run_place(one, profile, passes) for one in own]
            continue
        ordered, start, fact = True, len(found), run_fact(run, profile, passes)
        found += run if fact is None else [with_member(one, fact, member_at(run[0], fact)) for one in run]
        places += [RunPlace(fact, start, profile.run_idle // MICROSECOND)] * len(run)
    return RunRequests(tuple(found), tuple(places), ordered)


def keep_order(questions: Sequence[Question], kernel: k.Kernel, passes: PassesCheck) -> RunRequests:
    """Return the requests as they are, with the facts that name their runs."""
    places = (run_place(one, profile_of(one, kernel), passes) for one in questions)
    return RunRequests(tuple(questions), tuple(places))


def run_place(question: Question, profile: k.Profile | None, passes: PassesCheck) -> RunPlace:
    """Return the place of a request that is not arranged."""
    return RunPlace(None if profile is None else run_fact([question], profile, passes))


def run_fact(questions: Sequence[Question], profile: k.Profile, passes: PassesCheck) -> str | None:
    """Return the fact that names the run of the questions; None without one, or if the policies allow no other run."""
    fact = ".".join(profile.run_key.path) if isinstance(profile.run_key, k.Fact) else None
    return fact if fact and all(passes(vary_fact(one, fact, 1)) for one in questions) else None


def agent_of(question: Question) -> object:
    return member_at(question, "agent.issuer"), member_at(question, "agent.id")


def profile_of(question: Question, kernel: k.Kernel) -> k.Profile | None:
    """Return the profile of the agent of a question, if it declares an order."""
    name, groups = agent_of(question), member_at(question, "agent.groups")
    named = [one for one in groups if isinstance(one, str)] if isinstance(groups, list | tuple) else []
    profile = k.applicable_profile(kernel.profiles, str(name[1]), named) if isinstance(name, tuple) else None
    return profile if profile is not None and profile.order else None


def member_at(question: object, fact: str) -> object:
    for name in fact.split("."):
        question = question.get(name) if isinstance(question, Mapping) else None
    return question


def with_member(question: Question, fact: str, value: object) -> Question:
    """Return the question with another value of a fact."""
    root, _, rest = fact.partition(".")
    members = question.get(root)
    known = members if isinstance(members, Mapping) else {}
    return {**question, root: with_member(known, rest, value) if rest else value}


class OrderedRun:
    """A run through a declared order with as many of the questions as possible."""

    def __init__(self, questions: Sequence[Question], profile: k.Profile) -> None:
        steps = distinct_steps(profile.order)
        self._questions = questions
        self._letters = [letter_at(Request.from_mapping(one).endpoint, steps) for one in questions]
        self._automaton: SequenceAutomaton = order_automaton(profile.order)
        self._following: dict[int, frozenset[int]] = {}

    def questions(self) -> list[Question]:
        """Return the questions of the run; none if no question may begin it."""
        run: list[int] = []
        state, left = START, set(range(len(self._questions)))
        while left:
            paths = [path for path in self._paths(state) if path[-1] in left]
            if not paths:
                break
            best = min(paths, key=lambda path: (-self._useful(self._after(state, path), left), len(path), path))
            run, state, left = [*run, *best], self._after(state, best), left - set(best)
        if state not in self._automaton.ends:
            ends = [path for path in self._paths(state) if self._after(state, path) in self._automaton.ends]
            nothing: list[int] = []
            run = [*run, *min(ends, key=len, default=nothing)]
        return [self._questions[number] for number in run]

    def _paths(self, state: int) -> list[list[int]]:
        """Return a shortest path to each question that can follow in each state, directly or after others."""
        found: list[list[int]] = []
        known, pending = {state}, [(state, list[int]())]
        for at, path in pending:
            for number, letter in enumerate(self._letters):
                after = self._automaton.next(at, letter)
                if after != LEFT:
                    found.append([*path, number])
                    if after not in known:
                        known.add(after)
                        pending.append((after, found[-1]))
        return found

    def _after(self, state: int, path: Sequence[int]) -> int:
        for number in path:
            state = self._automaton.next(state, self._letters[number])
        return state

    def _useful(self, state: int, left: set[int]) -> int:
        """Return how many of the remaining questions can still follow."""
        if state not in self._following:
            self._following[state] = frozenset(path[-1] for path in self._paths(state))
        return len(left & self._following[state])
