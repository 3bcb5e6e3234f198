"""The base class of kernel nodes, which holds their span in the source."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyengine.source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    span: Span = field(compare=False, repr=False)
