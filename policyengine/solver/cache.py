"""A cache of satisfiability results, because rules of a large policy often share conditions that differ only in
constants.
"""

from __future__ import annotations

from functools import lru_cache, reduce

from policyengine import kernel as k
from policyengine.solver.formulas import Subject, Truth
from policyengine.solver.satisfiability import combine_truths, group_by_subject, possible_truths, subjects_of

Truths = frozenset[Truth]
join_truths = lru_cache(maxsize=64)(combine_truths)  # cached, because only a few pairs of sets of truth values exist


class SatisfiabilityCache:
    """`possible_truths` with a cache, for single parts of conditions and for parts that share facts."""

    def __init__(self) -> None:
        self._alone: dict[k.Expr, tuple[Truths, frozenset[Subject]]] = {}
        self._together: dict[tuple[k.Expr, ...], Truths] = {}

    def possible(self, condition: k.Expr) -> Truths:
        """Return the same as `possible_truths`; parts that share no fact are also evaluated separately."""
        if not isinstance(condition, k.And):
            return self._alone_or_new(condition)[0]
        found = [self._alone_or_new(part) for part in condition.items]
        subjects = [about for _, about in found]
        if sum(map(len, subjects)) == len(frozenset[Subject]().union(*subjects)):
            return reduce(join_truths, [truths for truths, _ in found])
        sharing = group_by_subject(condition.items, lambda part: self._alone_or_new(part)[1])
        return reduce(join_truths, [self._of_group(group, condition) for group in sharing])

    def _of_group(self, group: tuple[k.Expr, ...], condition: k.And) -> Truths:
        if len(group) == 1:
            return self._alone_or_new(group[0])[0]
        if group not in self._together:
            self._together[group] = possible_truths(k.And(group, span=condition.span))
        return self._together[group]

    def _alone_or_new(self, part: k.Expr) -> tuple[Truths, frozenset[Subject]]:
        found = self._alone.get(part)
        if found is None:
            found = self._alone[part] = possible_truths(part), subjects_of(part)
        return found
