"""The executable specification: `(kernel, request, snapshot, now) → (decision, effects)`, plain and obviously right.

`gates.py` says what is seen at each gate, `conclude.py` what follows from that. Beside them, `evaluate.py` says what an
expression means, `facts.py` where facts come from, `trace.py` what acts when.
"""

from __future__ import annotations

from datetime import datetime

from policyengine import kernel as k
from policyengine.runtime.decision import Decision, Effects
from policyengine.runtime.request import Request
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.conclude import conclude
from policyengine.spec.evaluate import build_facts
from policyengine.spec.gates import trace_request

__all__ = ["conclude", "decide", "trace_request"]


def decide(kernel: k.Kernel, request: Request, snapshot: Snapshot, now: datetime) -> tuple[Decision, Effects]:
    """What a policy says to a request, and what spending that decision does: what its limits then say is for the store
    to tell, which answers all of them in one step (`runtime/apply_limits.py`)."""
    facts = build_facts(kernel, request, snapshot, now)
    return conclude(facts, trace_request(facts, snapshot))
