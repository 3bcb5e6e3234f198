"""`policyengine why`: explain a decision of a log by its id."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from policyengine.cli.errors import CommandError, log_error
from policyengine.cli.load_engine import load_engine
from policyengine.cli.log_input import check_log
from policyengine.cli.options.audit import KeptCheckpoints, PublicKeys, SealFolder
from policyengine.cli.options.common import DecisionsFile, TextOrJson, TrustedKeys
from policyengine.cli.output.record_seal import CheckedSeal, check_record_seal, print_broken_seal, print_record_seal
from policyengine.cli.output.terminal import OUTCOME_STYLES, OutputFormat, Screen, print_json, show_progress
from policyengine.time_formats import format_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from policyengine.audit import DecisionRecord, LogEntry, OutcomeRecord, ReplayResult
    from policyengine.audit.reader import LineFilter
    from policyengine.behavior.deviation_rise import DeviationRise
    from policyengine.kernel import Kernel

EXIT_DIFFERS, EXIT_TAMPERED = 3, 1
INDENT = "  "
MAX_OUTCOME_DELAY = timedelta(days=1)  # how long after a decision its outcome is looked for
ISSUED_MARK = b'"issued"'
BEHAVIOR_MARK = b'"behavior"'
LINES_BETWEEN_TIMES = 1_000
MAX_TOKENS = 100_000  # most recently issued tokens to remember while searching for the decision


class TokenIssuance(NamedTuple):
    """The log entry of an issued token: its client, its time and its location."""

    client: str
    time: datetime
    line: int
    file: Path

    def to_dict(self) -> dict[str, Any]:
        return {"client": self.client, "issued": format_rfc3339(self.time), "line": self.line, "file": str(self.file)}


class FoundDecision(NamedTuple):
    """A decision in a log, with the issuance of its token and the outcome of its request, if the log contains them, and
    the rise of the deviation of its run."""

    record: DecisionRecord
    issued: TokenIssuance | None = None
    outcome: OutcomeRecord | None = None
    rise: DeviationRise | None = None


def why(
    id: Annotated[str, typer.Argument(metavar="ID", help="The ID of the decision.", show_default=False)],
    log: DecisionsFile,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Policies, or a bundle, to explain the decision with.", show_default=False),
    ] = None,
    trust: TrustedKeys = None,
    key: PublicKeys = None,
    checkpoint: KeptCheckpoints = None,
    seal: SealFolder = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Explain a decision from a log.

    The policies decide the request again with the recorded facts, entities, time and approvals. If other policies made
    the recorded decision, both decisions are shown. Without policies, only the record is shown.

    If the decision read `behavior.deviation`, the output names the request of the run at which the deviation rose most.

    The output also shows whether the seal of the log proves the record. Without `--key`, the key is read from the
    folder of the seal, which an attacker who can replace the log can also replace.

    \b
    Exit codes:
      0  explained: the policies make the same decision
      3  the policies decide differently, or depend on facts that were redacted from the log
      1  the seal does not contain this record: the log was tampered with or is damaged; with `--key` or `--checkpoint`,
         also if the record is not sealed; there is no such decision; or an error

    \b
    Example:
      policyengine why 01K4QJ6V1N3W8Y5T2R9ZXBCDEF payments/ --log decisions.jsonl
      policyengine why 01K4QJ6V1N3W8Y5T2R9ZXBCDEF payments/ --log decisions.jsonl --key log.vkey
    """
    from policyengine.audit import ReplayError, confirm_replay, replay_decision

    found = find_decision(id, log)
    record = found.record
    sealed = check_record_seal(log, record, key, checkpoint, seal)
    if not paths:
        _show_record(found, sealed, format)
        return EXIT_TAMPERED if sealed.fails else 0
    engine = load_engine(paths, None, trust)
    try:
        again = confirm_replay(replay_decision(record, engine.kernel), engine.kernel)
    except ReplayError as problem:
        facts = (("file", str(record.file)), ("line", record.line))
        raise CommandError("log", f"`{record.file}`: line {record.line} of the log: {problem}", None, facts) from None
    found = found._replace(rise=find_rise(record, log, engine.kernel))
    if format is OutputFormat.JSON:
        print_json({**_to_dict(found, again), "seal": sealed.to_dict()})
    else:
        print_broken_seal(Screen(), sealed)
        _show(found, again)
        print_record_seal(Screen(), sealed)
    if sealed.fails:
        return EXIT_TAMPERED
    return 0 if again.same and not is_unsure(again) else EXIT_DIFFERS


def is_unsure(again: ReplayResult) -> bool:
    """Return whether the replay used other policies than the record, and its decision may depend on redacted facts."""
    return bool(again.unsure) and again.decision.revision != again.record.revision


def read_entries(log: Path, wanted: LineFilter = lambda line: True) -> Iterator[LogEntry]:
    """Yield the entries of a log on the wanted lines; those that cannot be read are reported on stderr. Raises
    CommandError."""
    from policyengine.audit.reader import search_log

    check_log(log)
    screen = Screen(sys.stderr)
    try:
        yield from search_log(log, wanted, lambda message: screen.warn(message))
    except OSError as error:
        raise log_error(log, error) from None


def read_records(log: Path) -> Iterator[DecisionRecord]:
    """Yield the decisions of a log. Raises CommandError."""
    from policyengine.audit import DecisionRecord

    return (one for one in read_entries(log) if isinstance(one, DecisionRecord))


def _search_log(id: str, log: Path) -> FoundDecision | None:
    """Return the decision, the issuance of its token, and its outcome. One pass finds them, because a token is logged
    before the client receives it, and an outcome after the decision. Of all other lines, only some are parsed, for
    their times. Return None if the log does not contain the decision.
    """
    from policyengine.audit import DecisionRecord, OutcomeRecord, TokenEvent, TokenEventKind

    issued: dict[str | None, TokenIssuance] = {}
    found: FoundDecision | None = None
    numbers, mark = count(), id.encode(errors="replace")
    for entry in read_entries(
        log, lambda line: mark in line or ISSUED_MARK in line or next(numbers) % LINES_BETWEEN_TIMES == 0
    ):
        match entry:
            case DecisionRecord() if entry.id == id and found is None:
                found = FoundDecision(entry, issued.get(entry.fingerprint))
                if not may_have_outcome(entry):
                    return found
            case DecisionRecord() | OutcomeRecord() if found is not None and is_too_late(entry, found.record):
                return found
            case OutcomeRecord() if found is not None and entry.decision == id:
                return found._replace(outcome=entry)
            case TokenEvent(what=TokenEventKind.ISSUED) if found is None and entry.fingerprint is not None:
                client = str(entry.told.get("client"))
                issued[entry.fingerprint] = TokenIssuance(client, entry.time, entry.line, entry.file)
                if len(issued) > MAX_TOKENS:
                    del issued[next(iter(issued))]
    return found


def may_have_outcome(record: DecisionRecord) -> bool:
    """Return whether the request passed, so that its outcome may be in the log."""
    return str(record.outcome) == "allow" or record.observed


def is_too_late(entry: LogEntry, record: DecisionRecord) -> bool:
    """Return whether an entry is so much later than a decision that no outcome of the decision follows it."""
    return entry.time - record.time > MAX_OUTCOME_DELAY


def find_decision(id: str, log: Path) -> FoundDecision:
    """Return a decision of a log by its ID. Raises CommandError."""
    with show_progress("looking for the decision"):
        found = _search_log(id.strip().upper(), log)
    if found is None:
        hint = f"is `{id}` the `X-Decision-Id` of the response? Older decisions may be in a log that was moved away"
        raise CommandError("log", f"no decision `{id}` in `{log}`", hint, (("file", str(log)),))
    return found


def find_rise(record: DecisionRecord, log: Path, kernel: Kernel) -> DeviationRise | None:
    """Return the request of the run at which the deviation rose most; None if the decision read no deviation."""
    from policyengine.audit import DecisionRecord
    from policyengine.behavior.deviation_rise import deviation_of, find_deviation_rise
    from policyengine.behavior.reader import CallerClasses

    if record.behavior is None or deviation_of(record) <= 0:
        return None
    idle = CallerClasses(kernel).settings_of(record.behavior.group).run_idle
    with show_progress("reading the run of the decision"):
        entries = read_entries(log, lambda line: BEHAVIOR_MARK in line)
        records = (one for one in entries if isinstance(one, DecisionRecord))
        return find_deviation_rise(record, records, idle)


def _to_dict(logged: FoundDecision, again: ReplayResult | None) -> dict[str, Any]:
    record, issued, outcome, rise = logged
    redacted = [{"fact": one.fact, "fingerprint": one.fingerprint} for one in record.redacted]
    found: dict[str, Any] = {"time": format_rfc3339(record.time), "call": record.call, "endpoint": record.endpoint}
    found |= {"token": None if issued is None else issued.to_dict()}
    found |= {"recorded": dict(record.decision), "observed": record.observed, "redacted": redacted}
    found |= {"reported": None if outcome is None else {"time": format_rfc3339(outcome.time), **outcome.to_dict()}}
    if again is not None:
        revision = again.decision.revision
        found |= {"unsure": list(again.unsure), "deviation": None if rise is None else rise.to_dict()}
        found |= {"same": again.same, "same_revision": revision == record.revision, **again.explanation.to_dict()}
    return found


def _show_record(found: FoundDecision, sealed: CheckedSeal, format: OutputFormat) -> None:
    if format is OutputFormat.JSON:
        print_json({**_to_dict(found, None), "seal": sealed.to_dict()})
        return
    screen, record = Screen(), found.record
    print_broken_seal(screen, sealed)
    _print_head(screen, found)
    _print_reasons(screen, record)
    screen.line(f"{INDENT}revision: {record.revision}")
    _print_redactions(screen, record)
    print_record_seal(screen, sealed)
    screen.line("pass the policies as arguments to see the explanation")


def _show(found: FoundDecision, again: ReplayResult) -> None:
    screen, record = Screen(), found.record
    _print_head(screen, found)
    _print_redactions(screen, record)
    if again.decision.revision != record.revision:
        _print_reasons(screen, record)
        screen.line(f"{INDENT}decided by {record.revision}")
        screen.line(f"{INDENT}these are   {again.decision.revision}: other policies")
        screen.line()
        same = "the decision is the same" if again.same else "the decision differs"
        screen.line(
            f"{same}:"
            if not again.unsure
            else f"the decision is uncertain; with fingerprints in place of the redacted facts, {same}:"
        )
    elif not again.same:
        _print_reasons(screen, record)
        screen.line()
        screen.line("decided again, the outcome differs, because facts were redacted:" if record.redacted else
                    "decided again by the same policies, the outcome differs:")  # fmt: skip
    if again.unsure:
        screen.line(f"{INDENT}it may depend on redacted facts: {', '.join(again.unsure)}")
    first, _, walk = again.explanation.render().partition("\n")
    outcome = str(again.decision.outcome)
    screen.line((outcome, OUTCOME_STYLES[outcome]), first.removeprefix(outcome))
    screen.findings(walk)


def _print_head(screen: Screen, found: FoundDecision) -> None:
    record, issued, reported, rise = found
    outcome = str(record.outcome)
    observed = ", but the request was only observed, and passed" if record.observed else ""
    screen.line(f"{record.id} at {format_rfc3339(record.time)}: ", (outcome, OUTCOME_STYLES[outcome]), observed)
    if issued is not None:
        client, when = issued.client, format_rfc3339(issued.time)
        screen.line(f"{INDENT}by a token that was issued to client `{client}` at {when} (line {issued.line})")
    if reported is not None:
        when = format_rfc3339(reported.time)
        screen.line(f"{INDENT}outcome of the request: {describe_outcome(reported)}, reported at {when}")
    if rise is not None:
        screen.line(f"{INDENT}{rise.words()}")


def describe_outcome(reported: OutcomeRecord) -> str:
    """Return the outcome of a request in words."""
    took = None if reported.latency_ms is None else f"{reported.latency_ms} ms"
    size = None if reported.size is None else f"{reported.size:,} bytes"
    status = "no status" if reported.status is None else f"status {reported.status}"
    numbers = [f"{name} {value}" for name, value in reported.usage.items()]
    output = [f"output {json.dumps(reported.output, default=str)}"] if reported.output else []
    return ", ".join(part for part in (status, took, size, *numbers, *output) if part is not None)


def _print_reasons(screen: Screen, record: DecisionRecord) -> None:
    for reason in record.decision.get("reasons", ()):
        rule = f' "{reason["rule"]}"' if reason.get("rule") else ""
        at = f"  ({reason['at']})" if reason.get("at") else ""
        screen.line(f"{INDENT}{reason['outcome']} by {reason['gate']}{rule}: {reason['message']}{at}")


def _print_redactions(screen: Screen, record: DecisionRecord) -> None:
    for redaction in record.redacted:
        screen.line(f"{INDENT}redacted from the log: {redaction.fact} (fingerprint {redaction.fingerprint})")
