"""Profiles: how the behavior of agents is learned. The package `kernel` re-exports this module."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from policyengine.kernel.agent_names import ExactName, InGroup, NamePattern
from policyengine.kernel.base import Node
from policyengine.kernel.endpoints import Pattern
from policyengine.kernel.expressions import Expr
from policyengine.runtime.globs import Glob

DEFAULT_RUN_IDLE = timedelta(minutes=5)
DEFAULT_LEARN = timedelta(days=14)
DEFAULT_READY_RUNS = 20
DEFAULT_READY_DAYS = 7
DEFAULT_BURST_DAYS = 100


@dataclass(frozen=True, slots=True)
class CallStep(Node):
    """A step of an order of calls: a call to an endpoint of one of the patterns, or several calls if it is
    `repeated`."""

    patterns: tuple[Pattern, ...]
    optional: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class StepGroup(Node):
    """A group of an order of calls: one of several sequences of steps, or several of them, one after another, if it is
    `repeated`."""

    alternatives: tuple[tuple[CallStep | StepGroup, ...], ...]
    optional: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Profile(Node):
    """A declaration of how the behavior of some agents is learned.

    - a run is the requests with the same `run_key`; it ends after `run_idle` without a request. Without a key, only a
      pause separates runs
    - `learn` is how many past days count; after a longer pause, learning starts again
    - facts about a caller are neutral before it has `ready_runs` runs and `ready_days` active days of its own; these
      days are at most those of `learn`
    - for each caller, one false alarm of a burst is expected in `burst_days` days
    - a new value of `version` starts a new version of the caller, which is not ready; this version starts with
      the paces, peaks and endpoints of the earlier version
    - the calls of a run follow `order`, if it is not empty
    """

    name: str
    package: str
    agents: ExactName | NamePattern | InGroup
    run_key: Expr | None = None
    run_idle: timedelta = DEFAULT_RUN_IDLE
    learn: timedelta = DEFAULT_LEARN
    ready_runs: int = DEFAULT_READY_RUNS
    ready_days: int = DEFAULT_READY_DAYS
    burst_days: int = DEFAULT_BURST_DAYS
    version: Expr | None = None
    order: tuple[CallStep | StepGroup, ...] = ()


def applicable_profile(profiles: Iterable[Profile], agent: str, groups: Collection[str]) -> Profile | None:
    """Return the profile of an agent: a profile with its exact name, otherwise one whose pattern matches, otherwise one
    of its groups; None if no profile applies.
    """
    found: list[tuple[int, Profile]] = []
    for profile in profiles:
        match profile.agents:
            case ExactName(name) if name == agent:
                found.append((0, profile))
            case NamePattern(glob) if Glob(glob).matches(agent):
                found.append((1, profile))
            case InGroup(group) if group in groups:
                found.append((2, profile))
            case _:
                pass
    return min(found, key=lambda one: one[0])[1] if found else None
