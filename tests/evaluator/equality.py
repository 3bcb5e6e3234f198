"""Holds the walker to the specification: decisions, effects and digests, question by question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

from policyengine.clock import epoch_nanoseconds
from policyengine.compiler.build_program import ProgramBuilder
from policyengine.compiler.tree import tree_of
from policyengine.evaluator.decide import KeptAttributes, decide
from policyengine.runtime.request import RequestError
from policyengine.spec import reference
from tests.generate.asking import Asking, Setting, askings, setting
from tests.generate.specified import Specified, asked_here, said


@dataclass(slots=True)
class Walked:
    """A generated policy with its program, beside the specification that remembers what was spent."""

    asked: Setting
    specified: Specified
    builder: ProgramBuilder
    kept: KeptAttributes = field(default_factory=dict)

    @classmethod
    def of(cls, asked: Setting) -> Walked:
        return cls(asked, Specified(asked.kernel, asked.directory), ProgramBuilder(asked.kernel, tree_of(asked.kernel)))

    def compare(self, asking: Asking, *, peeks: bool = False) -> str:
        """Ask both. Raise AssertionError if they differ; return the outcome, or "refused"."""
        try:
            request = asked_here(asking.question)
        except RequestError:
            return "refused"
        moment = request.options.at or asking.now
        before = self.specified.snapshot
        past = self.specified.remembered(request, moment, asking.now)
        snapshot = replace(before, history=past)
        expected, effects = reference.decide(self.asked.kernel, request, snapshot, moment)
        found, done = decide(self.builder.program, request, snapshot, epoch_nanoseconds(moment), self.kept)
        assert (said(found), done) == (said(expected), effects), (
            f"\nspecified: {said(expected)}\n{effects}\n    found: {said(found)}\n{done}\n{asking}\n\n{self.asked}"
        )
        if not peeks and request.options.at is None:
            with suppress(RequestError):  # a question that spends and is about another time
                self.specified.decide(request, asking.now)
        return str(expected.outcome)


def hold_walker(seeds: Iterable[int], questions: int) -> Counter[str]:
    """Ask so many questions of the policy of each seed; return how often each outcome came."""
    found: Counter[str] = Counter()
    for seed in seeds:
        walked, random = Walked.of(setting(seed)), Random(seed)
        for asking in islice(askings(seed, questions), questions):
            found[walked.compare(asking, peeks=random.random() < 0.3)] += 1
    return found
