"""`policyengine why`: a decision of a log by its id, explained as it was."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.load_engine import load_engine
from policyengine.cli.options.common import DecisionsFile, TextOrJson, TrustedKeys
from policyengine.cli.output.terminal import OUTCOME_STYLES, Format, Screen, busy, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from policyengine.audit import Again, Entry, Record

OTHERWISE = 3
INDENT = "  "
MOST_TOKENS = 100_000  # that were issued before a decision, and may be the one that it was made by


class Issued(NamedTuple):
    """Where the log says that a token of our own was issued: to which client, and when."""

    client: str
    time: datetime
    line: int
    file: Path

    def to_dict(self) -> dict[str, Any]:
        return {"client": self.client, "issued": moment(self.time), "line": self.line, "file": str(self.file)}


def why(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the decision.", show_default=False)],
    log: DecisionsFile,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="The policies, or a bundle, to explain it by.", show_default=False),
    ] = None,
    trust: TrustedKeys = None,
    format: TextOrJson = Format.TEXT,
) -> int:
    """Explain a decision of a log as it was.

    It is made again by the policies: with the facts, the directory, the clock and the approvals of then. If they are
    not the ones that decided then, what they say today is shown beside what was said. Without policies only the record
    is shown.

    \b
    Exit codes:
      0  explained: the policies come to the same
      3  the policies come to something else, or what was left out of the log matters to them
      1  there is no such decision, or an error

    \b
    Example:
      policyengine why 01K4QJ6V1N3W8Y5T2R9ZXBCDEF payments/ --log decisions.jsonl
    """
    from policyengine.audit import CannotRepeat, decided_again

    record, issued = _found(id, log)
    if not paths:
        return _show_record(record, issued, format)
    engine = load_engine(paths, None, trust)
    try:
        again = decided_again(record, engine.kernel)
    except CannotRepeat as problem:
        facts = (("file", str(record.file)), ("line", record.line))
        raise CommandError("log", f"`{record.file}`: line {record.line} of the log: {problem}", None, facts) from None
    if format is Format.JSON:
        print_json(_document(record, issued, again))
    else:
        _show(record, issued, again)
    return 0 if again.same and not unsure(again) else OTHERWISE


def unsure(again: Again) -> bool:
    """What decided then knew what it said. Others may say something else of what was left out."""
    return bool(again.unsure) and again.decision.revision != again.record.revision


def entries_in(log: Path) -> Iterator[Entry]:
    """All that a log tells; what cannot be read of it is told on stderr."""
    from policyengine.audit import read_log

    screen = Screen(sys.stderr)
    try:
        yield from read_log(log, lambda message: screen.line(("warning: ", "bold yellow"), message))
    except OSError as error:
        raise file_error(log, error) from None


def records_in(log: Path) -> Iterator[Record]:
    """The decisions of a log, as `entries_in` reads them."""
    from policyengine.audit import Record

    return (one for one in entries_in(log) if isinstance(one, Record))


def _looked_for(id: str, log: Path) -> tuple[Record, Issued | None] | None:
    """The decision, and what was issued before it that it was made by: a token is on record before anybody has it."""
    from policyengine.audit import Record, What

    issued: dict[str | None, Issued] = {}
    for one in entries_in(log):
        if not isinstance(one, Record):
            if one.what is What.ISSUED and one.fingerprint is not None:
                issued[one.fingerprint] = Issued(str(one.told.get("client")), one.time, one.line, one.file)
                if len(issued) > MOST_TOKENS:
                    del issued[next(iter(issued))]
        elif one.id == id:
            return one, issued.get(one.fingerprint)
    return None


def _found(id: str, log: Path) -> tuple[Record, Issued | None]:
    with busy("looking for the decision"):
        found = _looked_for(id.strip().upper(), log)
    if found is None:
        hint = "an id is told with each decision; older ones may be in a log that was moved away"
        raise CommandError("log", f"no decision `{id}` in `{log}`", hint, (("file", str(log)),))
    return found


def moment(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def _document(record: Record, issued: Issued | None, again: Again | None) -> dict[str, Any]:
    redacted = [{"fact": one.fact, "fingerprint": one.fingerprint} for one in record.redacted]
    found: dict[str, Any] = {"time": moment(record.time), "call": record.call}
    found |= {"token": None if issued is None else issued.to_dict()}
    found |= {"recorded": dict(record.decision), "observed": record.observed, "redacted": redacted}
    if again is not None:
        revision = again.decision.revision
        found |= {"unsure": list(again.unsure)}
        found |= {"same": again.same, "same_revision": revision == record.revision, **again.explanation.to_dict()}
    return found


def _show_record(record: Record, issued: Issued | None, format: Format) -> int:
    if format is Format.JSON:
        print_json(_document(record, issued, None))
        return 0
    screen = Screen()
    _head(screen, record, issued)
    _reasons(screen, record)
    screen.line(f"{INDENT}revision: {record.revision}")
    _missing(screen, record)
    screen.line("name the policies to see the walk")
    return 0


def _show(record: Record, issued: Issued | None, again: Again) -> None:
    screen = Screen()
    _head(screen, record, issued)
    _missing(screen, record)
    if again.decision.revision != record.revision:
        _reasons(screen, record)
        screen.line(f"{INDENT}decided by {record.revision}")
        screen.line(f"{INDENT}these are   {again.decision.revision}: other policies")
        screen.line()
        same = "they come to the same" if again.same else "they come to something else"
        screen.line(
            f"{same}:"
            if not again.unsure
            else f"what they come to cannot be told; with its fingerprint in its place {same}:"
        )
    elif not again.same:
        _reasons(screen, record)
        screen.line()
        screen.line("decided again it comes to something else, for what was left out:" if record.redacted else
                    "decided again by the same policies it comes to something else:")  # fmt: skip
    if again.unsure:
        screen.line(f"{INDENT}it may rest on what was left out: {', '.join(again.unsure)}")
    first, _, walk = again.explanation.render().partition("\n")
    outcome = str(again.decision.outcome)
    screen.line((outcome, OUTCOME_STYLES[outcome]), first.removeprefix(outcome))
    screen.findings(walk)


def _head(screen: Screen, record: Record, issued: Issued | None) -> None:
    outcome = str(record.outcome)
    observed = ", but it was only observed, and let through" if record.observed else ""
    screen.line(f"{record.id} of {moment(record.time)}: ", (outcome, OUTCOME_STYLES[outcome]), observed)
    if issued is not None:
        client, when = issued.client, moment(issued.time)
        screen.line(f"{INDENT}by a token that was issued to client `{client}` at {when} (line {issued.line})")


def _reasons(screen: Screen, record: Record) -> None:
    for one in record.decision.get("reasons", ()):
        rule = f' "{one["rule"]}"' if one.get("rule") else ""
        at = f"  ({one['at']})" if one.get("at") else ""
        screen.line(f"{INDENT}{one['outcome']} by {one['gate']}{rule}: {one['message']}{at}")


def _missing(screen: Screen, record: Record) -> None:
    for one in record.redacted:
        screen.line(f"{INDENT}left out of the log: {one.fact} (fingerprint {one.fingerprint})")
