"""What all parts of the kernel have: the place in the text that they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyengine.source import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    span: Span = field(compare=False, repr=False)
