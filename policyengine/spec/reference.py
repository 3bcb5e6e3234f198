"""The executable specification: `(kernel, request, snapshot, now) → (decision, effects)`, simple enough to check by
reading.

`gates.py` traces each gate, and `conclude.py` derives the decision. `evaluate.py` defines expressions, `facts.py`
defines the sources of facts, and `trace.py` defines when a rule acts.
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
    """Return the decision of a policy for a request, and the effects of committing it.

    The store applies the limits afterwards, all in one step (`runtime/apply_limits.py`).
    """
    facts = build_facts(kernel, request, snapshot, now)
    return conclude(facts, trace_request(facts, snapshot))
