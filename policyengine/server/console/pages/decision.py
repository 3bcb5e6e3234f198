"""One decision: its walk gate by gate, its facts, its outcome, and what the seal of the log proves about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.responses import PlainTextResponse, Response

from policyengine.audit import DecisionRecord, ReplayError, ReplayResult, confirm_replay, replay_decision
from policyengine.audit.encoder import to_json_value
from policyengine.audit.query.log_process import LoggedDecision, LogReadError
from policyengine.audit.seal.record_proof import RecordSeal
from policyengine.explain.agreement import EngineDisagreementError
from policyengine.explain.explanation import remedy_words
from policyengine.explain.lines import MARK_SIGNS, ExplanationLine
from policyengine.kernel import Kernel
from policyengine.runtime.ids import ULID
from policyengine.server.console.context import ConsoleVisit
from policyengine.server.console.html import render_visit
from policyengine.server.console.pages.log_search import find_decision
from policyengine.time_formats import format_rfc3339

SECONDS_FORMAT = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(frozen=True, slots=True)
class DecisionWalk:
    """How the current policies decide the request of a record, or why they cannot. `differs` says that they decide
    otherwise, `is_other` that other policies made the recorded decision."""

    endpoint: str = ""
    gates: tuple[ExplanationLine, ...] = ()
    remedies: tuple[str, ...] = ()
    problem: str | None = None
    differs: bool = False
    is_other: bool = False
    unsure: tuple[str, ...] = ()


async def answer_decision(visit: ConsoleVisit) -> Response:
    found = await _found(visit)
    if isinstance(found, Response):
        return found
    record = found.record
    async with visit.console.reading.turn():
        walk = await visit.console.run(walk_decision, record, visit.console.engine.kernel)
    return render_visit(
        visit, "decision.html.j2", f"Decision {record.id}", record=record, decision=record.decision, walk=walk,
        time=format_rfc3339(record.time), facts=request_text(record), seal=describe_seal(found.seal),
        seal_status=found.seal.status.value, has_proof=found.proof is not None, reported=found.outcome,
        chain=record.decision.get("principal", {}).get("chain") or (), signs=MARK_SIGNS,
    )  # fmt: skip


async def answer_proof(visit: ConsoleVisit) -> Response:
    """Answer with the proof that the log contains the decision, which `policyengine audit check` checks."""
    found = await _found(visit)
    if isinstance(found, Response):
        return found
    if found.proof is None:
        return render_visit(
            visit, "message.html.j2", "No proof", status=404, message="there is no proof of this decision yet",
            hint="the seal of the log does not cover it",
        )  # fmt: skip
    name = f'attachment; filename="{found.record.id}.tlog-proof"'
    return PlainTextResponse(found.proof, headers={"Content-Disposition": name})


async def _found(visit: ConsoleVisit) -> LoggedDecision | Response:
    id = visit.http.path_params["id"].strip().upper()
    problem = LogReadError("the log has no such decision", "older decisions may be in a log that was moved away")
    if ULID.fullmatch(id):
        try:
            found = await find_decision(visit.console, id)
            if found is not None:
                return found
        except LogReadError as error:
            problem = error
    return render_visit(
        visit, "message.html.j2", "No decision", status=404, message=problem.message, hint=problem.hint or ""
    )


def walk_decision(record: DecisionRecord, kernel: Kernel) -> DecisionWalk:
    """Decide the request of a record again, as `policyengine why` does."""
    is_other = record.revision != kernel.revision
    try:
        again: ReplayResult = confirm_replay(replay_decision(record, kernel), kernel)
    except (ReplayError, EngineDisagreementError) as error:
        return DecisionWalk(problem=str(error), is_other=is_other)
    explanation = again.explanation
    words = tuple(text for remedy in again.decision.remedies if (text := remedy_words(remedy)))
    gates = tuple(gate.brief() for gate in explanation.gates)
    return DecisionWalk(explanation.endpoint, gates, words, None, not again.same, is_other, tuple(again.unsure))


def request_text(record: DecisionRecord) -> str:
    """Return the facts of the request as JSON."""
    return json.dumps(to_json_value(record.request, (), []), indent=2, ensure_ascii=False, default=str)


def describe_seal(seal: RecordSeal) -> list[str]:
    """Return what the seal proves, in sentences."""
    signed = seal.checkpoint
    if seal.status.value == "sealed" and signed is not None:
        by = ", ".join(key.name for key in seal.keys)
        at = f", written {datetime.fromtimestamp(seal.written, UTC):{SECONDS_FORMAT}}" if seal.written else ""
        entry = f"line {(seal.entry or 0) + 1:,} of {signed.size:,}"
        found = [f"sealed as {entry} by the checkpoint of {by}{at}"]
        return [*found, *(f"cosigned by {key.name}" for key, _ in seal.witnesses)]
    if seal.status.value == "not_yet":
        return ["not sealed yet: the next checkpoint covers it"]
    return [seal.problem or "not sealed"]
