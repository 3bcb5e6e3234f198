"""The names of agents in agent blocks, delegations and profiles. The package `kernel` re-exports this module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExactName:
    name: str


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Agents whose name matches a glob: `agent "report-*"`."""

    glob: str


@dataclass(frozen=True, slots=True)
class InGroup:
    group: str
