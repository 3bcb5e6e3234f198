"""`policyengine` as its users start it, with a switch between deciding and answering a constant.

python -m bench.serving.constant serve …

After SIGUSR1, every question gets the next decision; after SIGUSR2, every question is decided again. Both modes run in
one process, with one listener and the same connections; only the call of the engine differs.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import Any

from policyengine.cli import main
from policyengine.engine import Engine
from policyengine.engine.question import QuestionLike
from policyengine.runtime.decision import Decision

DECIDE, EVALUATE = Engine.decide, Engine.evaluate
# A full garbage collection of the gateway takes as long as fifty of its calls: each of its turns begins right after
# one, so that no turn contains one. The decision API has hundreds of turns, for which this would take too long.
COLLECTS = "mcp-gateway" in sys.argv


def decide_constantly(*_: object) -> None:
    _collect()
    _replace(_keep_next, _keep_next)


def decide_each(*_: object) -> None:
    _collect()
    _replace(DECIDE, EVALUATE)


def _keep_next(engine: Engine, question: QuestionLike, **how: Any) -> Decision:
    decision = DECIDE(engine, question, **how)

    def answer(engine: Engine, question: QuestionLike, **how: Any) -> Decision:
        return decision

    _replace(answer, answer)
    return decision


def _replace(decide: Any, evaluate: Any) -> None:
    Engine.decide, Engine.evaluate = decide, evaluate  # type: ignore[method-assign]


def _collect() -> None:
    if COLLECTS:
        gc.collect()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, decide_constantly)
    signal.signal(signal.SIGUSR2, decide_each)
    sys.exit(main())
