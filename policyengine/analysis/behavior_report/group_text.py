"""Renders groups of callers that move as one: lines, and tables as rows of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine.analysis.behavior_report.group_report import MAX_CROWD_CALLERS, GroupReport, sum_evidence
from policyengine.analysis.behavior_report.words import Table, count_words, format_minute
from policyengine.behavior.events import Caller, caller_words
from policyengine.behavior.lockstep.bounds import SECOND
from policyengine.behavior.lockstep.group import LockstepCrowd, LockstepGroup

SHOWN_MEMBERS = 10
SHOWN_IN_TABLE = 3
MILLISECOND = 1_000  # microseconds


def group_parts(report: GroupReport) -> Iterator[str | Table]:
    """Yield lines and tables from top to bottom."""
    yield f"groups that move as one: {summary_words(report)}"
    if report.groups:
        yield group_table(report.groups)
        yield from (f"  {member_words(group)}" for group in report.groups)
    yield from (f"  {note}" for note in group_notes(report))
    if report.crowds:
        yield ""
        yield "crowds: many callers that start the same run in the same minute, again and again, at irregular times"
        yield crowd_table(report.crowds)


def summary_words(report: GroupReport) -> str:
    requests, groups = report.requests, report.findings.groups
    if not requests.compared:
        return "no requests to compare"
    members = sum(len(group.members) for group in groups)
    found = f"{count_words(len(groups), 'group')} of {count_words(members, 'caller')}" if groups else "none"
    compared = f"{count_words(requests.compared, 'request')} of {count_words(requests.callers, 'caller')}"
    return f"{found}, in {compared} from {format_time(report.begin)} to {format_time(report.end)} UTC"


def group_table(groups: Sequence[LockstepGroup]) -> Table:
    head = ("group", "newcomers", "residents", "common runs", "by chance", "q", "slot", "lag", "first", "last")
    return [head, *map(group_row, groups)]


def named_group_table(groups: Sequence[LockstepGroup]) -> Table:
    """Return the table with the names of some of the callers."""
    names = ("callers", *(shorten_list(group.members, SHOWN_IN_TABLE) for group in groups))
    return [(*row, cell) for row, cell in zip(group_table(groups), names, strict=True)]


def group_row(group: LockstepGroup) -> tuple[str, ...]:
    found, minutes = sum_evidence(group), group.minutes
    common = f"{found.least_common:,} – {found.most_common:,}"
    return (
        group.id, f"{len(group.pooled):,}", f"{len(group.reported):,}",
        common if found.least_common < found.most_common else f"{found.most_common:,}",
        f"{found.expected:.1f}", format_share(found.q_value), format_seconds(group.slot), format_seconds(found.lag),
        format_time(minutes.first) if minutes.total else "–", format_time(minutes.last) if minutes.total else "–",
    )  # fmt: skip


def member_words(group: LockstepGroup) -> str:
    """Return the names of the members of a group."""
    kinds = (("newcomers", group.pooled), ("residents", group.reported))
    shown = [f"{kind} {shorten_list(callers)}" for kind, callers in kinds if callers]
    return f"{group.id}: {'; '.join(shown)}"


def shorten_list(callers: Sequence[Caller], most: int = SHOWN_MEMBERS) -> str:
    more = [f"{len(callers) - most:,} more"] if len(callers) > most else []
    return ", ".join([*map(caller_words, sorted(callers)[:most]), *more])


def group_notes(report: GroupReport) -> Iterator[str]:
    """Yield notes on what was left out, and why."""
    requests, findings = report.requests, report.findings
    if len(findings.groups) > len(report.groups):
        yield f"{len(findings.groups) - len(report.groups):,} smaller groups not listed"
    if requests.denied:
        yield f"{count_words(requests.denied, 'denied request')} left out"
    if requests.crowded:
        many = count_words(requests.crowded, "request")
        yield f"{many} left out, because a caller, or all callers, sent too many: choose a later start with `--since`"
    if requests.earlier:
        yield f"{count_words(requests.earlier, 'request')} left out, because they are too long before the last request"
    if findings.left_out:
        many = count_words(findings.left_out, "pair")
        yield f"{many} of callers not compared, because there are too many: choose a later start with `--since`"
    if report.reduced_token_callers is not None:
        yield (
            f"requests that more than {report.reduced_token_callers:,} callers send at the same time not compared, "
            "because there are too many pairs of callers"
        )
    if len(findings.crowds) > len(report.crowds):
        yield f"{len(findings.crowds) - len(report.crowds):,} smaller crowds not listed"


def crowd_table(crowds: Sequence[LockstepCrowd]) -> Table:
    return [
        ("crowd of", "times", "first", "last", "some of the callers"),
        *(
            (count_words(crowd.size, "caller"), f"{len(crowd.times):,}", format_time(min(crowd.times)),
             format_time(max(crowd.times)), ", ".join(map(caller_words, crowd.callers[:MAX_CROWD_CALLERS])))
            for crowd in crowds
        ),
    ]  # fmt: skip


def format_time(at: int) -> str:
    return format_minute(at * MILLISECOND)


def format_share(share: float) -> str:
    return f"{share:.0e}" if share else "<1e-300"


def format_seconds(milliseconds: int) -> str:
    return f"{round(milliseconds / SECOND, 2):g} s"
