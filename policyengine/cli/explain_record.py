"""Explains the request of a logged decision with the facts of its time, and compares the logged decision with the
decision that the policies make now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyengine.cli.commands.why import EXIT_TAMPERED, find_decision
from policyengine.cli.errors import CommandError
from policyengine.cli.load_engine import load_engine
from policyengine.cli.output.record_seal import CheckedSeal, check_record_seal, print_broken_seal, print_record_seal
from policyengine.cli.output.terminal import OUTCOME_STYLES, OutputFormat, Screen, print_json
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from policyengine.audit import DecisionRecord, ReplayResult
    from policyengine.audit.decision_changes import DecisionChange
    from policyengine.entities.store import EntityStore
    from policyengine.kernel import Kernel


@dataclass(frozen=True, slots=True)
class RecordExplanation:
    """A logged decision, and how the policies decide its request now: `recorded` with the entities of the log, and
    `given` with other entities, if the command line names some.
    """

    record: DecisionRecord
    recorded: ReplayResult | None
    given: ReplayResult | None
    sealed: CheckedSeal

    @property
    def now(self) -> ReplayResult:
        found = self.given or self.recorded
        assert found is not None
        return found

    @property
    def same_revision(self) -> bool:
        return self.now.decision.revision == self.record.revision

    def changes(self) -> tuple[DecisionChange, ...]:
        from policyengine.audit.decision_changes import compare_decisions

        return compare_decisions(self.record.decision, self.now.decision.to_dict())

    def notes(self) -> Iterator[str]:
        """Yield the reasons why the comparison may be inaccurate."""
        if self.now.unsure and not (self.same_revision and self.given is None):
            yield f"the decision may depend on redacted facts: {', '.join(self.now.unsure)}"
        if self.record.request.get("approvals") and not self.same_revision:
            yield "the approvals of the request were bound to other policies, so they do not count"

    def to_dict(self) -> dict[str, Any]:
        from policyengine.audit.encoder import to_json_value

        record, recorded = self.record, self.recorded
        beyond: list[dict[str, object]] = []
        request = to_json_value(record.request, (), beyond)
        return {
            "record": {
                "id": record.id,
                "time": format_rfc3339(record.time),
                "file": str(record.file),
                "line": record.line,
                "call": record.call,
                "observed": record.observed,
                "endpoint": record.endpoint,
                "decision": dict(record.decision),
                "request": request,
                "beyond_json": beyond,
            },
            "entities": "recorded" if self.given is None else "given",
            "with_recorded_entities": recorded.decision.to_dict() if self.given and recorded is not None else None,
            "same_revision": self.same_revision,
            "changes": [change.to_dict() for change in self.changes()],
            "notes": list(self.notes()),
            **self.now.explanation.to_dict(),
            "seal": self.sealed.to_dict(),
        }


def explain_record(
    paths: Sequence[Path],
    log: Path,
    id: str,
    entities: Sequence[str] | None,
    trust: Sequence[Path] | None,
    format: OutputFormat,
) -> RecordExplanation:
    """Explain a logged decision, and print the explanation. Raises CommandError."""
    record = find_decision(id, log).record
    sealed = check_record_seal(log, record, None, None, None)
    engine = load_engine(paths, entities, trust)
    given = decide_again(record, engine.kernel, engine.directory) if entities else None
    recorded = None if record.directory is None and given is not None else decide_again(record, engine.kernel)
    found = RecordExplanation(record, recorded, given, sealed)
    if format is OutputFormat.JSON:
        print_json(found.to_dict())
    else:
        print_explanation(Screen(), found)
    return found


def exit_code(found: RecordExplanation, codes: dict[str, int]) -> int:
    """Return the exit code of `decide` for the current decision, or the exit code for a record that the seal
    contradicts or does not contain.
    """
    return EXIT_TAMPERED if found.sealed.fails else codes[found.now.decision.outcome]


def decide_again(record: DecisionRecord, kernel: Kernel, entities: EntityStore | None = None) -> ReplayResult:
    """Decide the request of a record with its own entities, or with other entities. Raises CommandError."""
    from policyengine.audit import ReplayError, confirm_replay, replay_decision

    looking = None if entities is None else entities.looking()
    given = looking if looking is not None else entities  # an empty store is false
    asked = record if given is None else replace(record, directory=given)
    try:
        again = replay_decision(asked, kernel)
        while looking is not None and looking.lacking:
            looking.fetch()
            again = replay_decision(asked, kernel)
        return confirm_replay(again, kernel)
    except ReplayError as problem:
        facts = (("file", str(record.file)), ("line", record.line))
        hint = "pass the entities: `--entities SOURCE`" if asked.directory is None else None
        raise CommandError("log", f"`{record.file}`: line {record.line} of the log: {problem}", hint, facts) from None


# ── Output ────────────────────────────────────────────────────────────────────────────────────


def print_explanation(screen: Screen, found: RecordExplanation) -> None:
    record, now = found.record, found.now
    print_broken_seal(screen, found.sealed)
    first, _, walk = now.explanation.render().partition("\n")
    outcome = str(now.decision.outcome)
    screen.line((outcome, OUTCOME_STYLES[outcome]), first.removeprefix(outcome))
    screen.findings(walk)
    screen.line()
    when = format_rfc3339(record.time)
    screen.line(f"decision {record.id} on line {record.line:,} of {record.file.name}, with the facts of {when}")
    rows = [("then", record.outcome, record.revision)]
    if found.given is None or found.recorded is not None:
        name = "now" if found.given is None else "now, with the logged entities"
        recorded = found.recorded or now
        rows.append((name, recorded.decision.outcome, recorded.decision.revision))
    if found.given is not None:
        rows.append(("now, with `--entities`", now.decision.outcome, now.decision.revision))
    width = max(len(name) for name, _, _ in rows)
    for name, decided, revision in rows:
        space = " " * (max(map(len, OUTCOME_STYLES)) - len(decided))
        screen.line(f"  {name:{width}}  ", (str(decided), OUTCOME_STYLES[decided]), f"{space}  by {revision}")
    if record.endpoint is not None:
        screen.line(f"  endpoint: {record.endpoint}")
    if record.observed:
        screen.line("  the request was only observed, and passed")
    print_changes(screen, found)
    print_record_seal(
        screen, found.sealed, "with `policyengine why --key`, pass a copy of the key that was kept elsewhere"
    )


def print_changes(screen: Screen, found: RecordExplanation) -> None:
    from policyengine.audit.decision_changes import OUTCOME, describe_item

    changes = found.changes()
    policies = "the same policies decide" if found.same_revision else "other policies decide"
    screen.line(f"{policies} {'differently' if changes else 'the same'}{':' if changes else ''}")
    for change in changes:
        if change.member == OUTCOME:
            continue
        for sign, style, item in (("-", "red", change.then), ("+", "green", change.now)):
            if item is not None:
                screen.line((f"  {sign} {describe_item(change.member, item)}", style))
    for note in found.notes():
        screen.line(("note: ", "bold yellow"), note)
