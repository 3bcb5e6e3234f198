"""The figures of an evaluation: how well the scores of facts separate abusive runs from normal runs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from policyengine.behavior.evaluation.facts import FACTS
from policyengine.behavior.evaluation.runs import RunName, ScoredRun, ScoredTraffic, abusive_days
from policyengine.behavior.evaluation.traffic import NORMAL
from policyengine.behavior.model import BehaviorModel
from policyengine.behavior.state import SettingsOf

RATES: Final = {"tpr_at_1": 100, "tpr_at_0_1": 1_000}  # one false alarm per this number of normal runs
Figure = float | int | None


@dataclass(slots=True)
class FigureSet:
    """Figures by name. A figure that cannot be computed is None, and `reasons` says why."""

    values: dict[str, Figure] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, FigureSet] = field(default_factory=dict)
    runs: int = 0

    def put(self, name: str, value: Figure, reason: str = "") -> None:
        self.values[name] = value
        if value is None:
            self.reasons[name] = reason

    def to_dict(self) -> dict[str, Any]:
        kinds = {"kinds": {name: {"runs": one.runs, **one.to_dict()} for name, one in self.kinds.items()}}
        return {**self.values, "reasons": self.reasons, **(kinds if self.kinds else {})}


@dataclass(slots=True)
class Separation:
    """The sorted scores of normal runs and, for each abusive run, its score and a function that returns the number of
    the first event with a score above a threshold."""

    normal: list[int]
    abusive: list[tuple[int, Callable[[int], int | None]]]

    def figures(self) -> FigureSet:
        """Return the area under the ROC curve, the share of ties, the share of abusive runs that are detected at two
        rates of false alarms, and the median number of events until detection."""
        found = FigureSet(runs=len(self.abusive))
        missing = "there are no normal runs" if not self.normal else "there are no abusive runs"
        if not self.normal or not self.abusive:
            for name in ("auc", "ties", *RATES, "events_until_detection"):
                found.put(name, None, missing)
            return found
        pairs = len(self.normal) * len(self.abusive)
        below = sum(bisect_left(self.normal, score) for score, _ in self.abusive)
        tied = sum(bisect_right(self.normal, score) for score, _ in self.abusive) - below
        found.put("auc", (below + tied / 2) / pairs)
        found.put("ties", tied / pairs)
        for name, each in RATES.items():
            threshold = self.threshold(each)
            if threshold is None:
                found.put(name, None, f"needs {each:,} normal runs, and there are {len(self.normal):,}")
            else:
                found.put(name, sum(score > threshold for score, _ in self.abusive) / len(self.abusive))
        self._put_events(found)
        return found

    def _put_events(self, found: FigureSet) -> None:
        name, threshold = "events_until_detection", self.threshold(RATES["tpr_at_1"])
        if threshold is None:
            found.put(name, None, found.reasons["tpr_at_1"])
            return
        numbers = [number for _, first_above in self.abusive if (number := first_above(threshold)) is not None]
        found.put(name, median(numbers) if numbers else None, "no abusive run is detected")

    def threshold(self, each: int) -> int | None:
        """Return the lowest score of a normal run that at most one in `each` normal runs exceeds; None if there are too
        few runs."""
        count = len(self.normal)
        return self.normal[count - 1 - count // each] if count >= each else None


@dataclass(slots=True)
class Evaluation:
    """The figures of each fact and of all facts together, and the numbers of normal, abusive and unlabelled runs."""

    facts: dict[str, FigureSet]
    together: FigureSet
    normal: int
    kinds: dict[str, int]
    unlabelled: int


def evaluate_runs(
    traffic: ScoredTraffic, labels: Mapping[RunName, str], model: BehaviorModel, settings_of: SettingsOf
) -> Evaluation:
    """Return the figures of scored runs."""
    kinds: defaultdict[str, list[ScoredRun]] = defaultdict(list)
    for name, label in labels.items():
        kinds[label].append(traffic.runs[name])
    normal = kinds.pop(NORMAL, [])
    scores = [sorted(run.best[place] for run in normal) for place in range(len(FACTS))]
    facts = {}
    for place, fact in enumerate(FACTS):
        facts[fact.name] = compare(scores[place], kinds, judge_of(place))
        put_false_alarms(facts[fact.name], place, normal)
    put_burst_days(facts["burst"], traffic, labels, model, settings_of)
    ranks = CombinedRanks(scores)
    together = compare(sorted(map(ranks.score, normal)), kinds, ranks.judge)
    put_rates(together, None, "the facts together declare no rate")
    put_observed(together, [any(run.alarms) for run in normal], "runs")
    return Evaluation(
        facts, together, len(normal), {name: len(runs) for name, runs in sorted(kinds.items())},
        len(traffic.runs) - len(labels),
    )  # fmt: skip


Judge = Callable[[ScoredRun], tuple[int, Callable[[int], int | None]]]


def judge_of(place: int) -> Judge:
    """Return the judge of one fact: a function that returns the score of a run, and a function for its first event
    above a threshold."""
    return lambda run: (run.best[place], lambda threshold: run.first_above(place, threshold))


def compare(normal: list[int], kinds: Mapping[str, Sequence[ScoredRun]], judge: Judge) -> FigureSet:
    """Return the figures of all abusive runs together, and of each kind of abuse."""
    judged = {kind: [judge(run) for run in runs] for kind, runs in sorted(kinds.items())}
    found = Separation(normal, [one for each in judged.values() for one in each]).figures()
    found.kinds = {kind: Separation(normal, each).figures() for kind, each in judged.items()}
    return found


class CombinedRanks:
    """Scores runs by all facts together: the score of a run is its highest rank among the normal runs in any fact."""

    def __init__(self, normal: Sequence[list[int]]) -> None:
        self._normal = normal

    def rank(self, place: int, score: int) -> int:
        """Return how many normal runs have a lower score."""
        return bisect_left(self._normal[place], score)

    def score(self, run: ScoredRun) -> int:
        return max(self.rank(place, score) for place, score in enumerate(run.best))

    def judge(self, run: ScoredRun) -> tuple[int, Callable[[int], int | None]]:
        return self.score(run), lambda threshold: self.first_above(run, threshold)

    def first_above(self, run: ScoredRun, threshold: int) -> int | None:
        """Return the number of the first event after which the rank in any fact exceeds the threshold."""
        numbers = []
        for place, normal in enumerate(self._normal):
            if self.rank(place, run.best[place]) > threshold:
                numbers.append(run.first_above(place, normal[threshold]))
        return min((number for number in numbers if number is not None), default=None)


# ── False alarms ──────────────────────────────────────────────────────────────────────────────


def put_rates(found: FigureSet, declared: float | None, reason: str) -> None:
    found.put("declared", declared, reason)


def put_observed(found: FigureSet, alarms: Sequence[bool], unit: str) -> None:
    found.put("observed", sum(alarms) / len(alarms) if alarms else None, f"there are no normal {unit}")


def put_false_alarms(found: FigureSet, place: int, normal: Sequence[ScoredRun]) -> None:
    """Add the share of normal runs in which a fact raised an alarm."""
    put_rates(found, FACTS[place].declared, "only bursts and deviations have a declared rate")
    if FACTS[place].alarm is None:
        found.put("observed", None, "it raises no alarm by itself")
    else:
        put_observed(found, [run.alarms[place] for run in normal], "runs")


def put_burst_days(
    found: FigureSet,
    traffic: ScoredTraffic,
    labels: Mapping[RunName, str],
    model: BehaviorModel,
    settings_of: SettingsOf,
) -> None:
    """Add the share of days with a burst among the days of ready callers without abusive or unlabelled runs, and the
    declared rate of their classes."""
    abuse = abusive_days(traffic.runs, [name for name in traffic.runs if labels.get(name) != NORMAL])
    days = {
        key: burst for key, burst in traffic.days.burst.items() if (key[0].issuer, key[0].agent, key[1]) not in abuse
    }
    put_observed(found, list(days.values()), "days of ready callers")
    groups = [(caller.issuer, traffic.days.groups[caller]) for caller, _ in days]
    if not groups:
        put_rates(found, None, "there are no normal days of ready callers")
    elif not all(model.class_of(group).declared for group in set(groups)):
        put_rates(found, None, "the training has too few days of callers to calibrate it")
    else:
        rates = [1 / settings_of(group).burst_days for _, group in groups]
        put_rates(found, sum(rates) / len(rates), "")
