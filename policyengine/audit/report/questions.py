"""The questions of a report, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from policyengine.audit.query.fields import FIELDS
from policyengine.audit.query.query import WILDCARD, AuditQuery, QueryAnswer
from policyengine.audit.query.source import Reader

SERIES_AGENTS = 6
ROWS = 10
BUCKET_SPANS = (
    ("minute", timedelta(hours=2)),
    ("hour", timedelta(days=5)),
    ("day", timedelta(days=150)),
)
COARSEST_BUCKET = "month"


@dataclass(frozen=True, slots=True)
class ReportAnswers:
    """The answers by name, and the name of the field that divides time into buckets."""

    answers: Mapping[str, QueryAnswer]
    bucket: str

    def __getitem__(self, name: str) -> QueryAnswer:
        return self.answers[name]


def ask_questions(reader: Reader, since: str | None, until: str | None) -> ReportAnswers:
    """Ask all questions of a report. Raises OSError, QueryError."""
    period = AuditQuery(since=since, until=until)
    decisions = period.where("kind", "decision")
    first = {
        "all": _count(period),
        "decisions": _count(decisions),
        "agents": _by(decisions.where("agent", WILDCARD), "agent"),
    }
    found = _ask(reader, first, also=frozenset(FIELDS))
    bucket = choose_bucket(found["decisions"])
    names = [str(row[0]) for row in found["agents"].rows if row[0] and WILDCARD not in str(row[0])][:SERIES_AGENTS]
    later = {**_decisions(decisions, until), **_others(period), **_series(decisions, bucket, names)}
    return ReportAnswers({**found, **_ask(reader, later)}, bucket)


def _ask(
    reader: Reader, queries: Mapping[str, AuditQuery], also: frozenset[str] = frozenset()
) -> dict[str, QueryAnswer]:
    return dict(zip(queries, reader.answer(list(queries.values()), also), strict=True))


def choose_bucket(decisions: QueryAnswer) -> str:
    """Return the smallest unit that divides the time of the decisions into at most 150 columns, or months if there is
    none."""
    [(_, first, last)] = decisions.rows
    if first is None or last is None:
        return "day"
    span = datetime.fromisoformat(str(last)) - datetime.fromisoformat(str(first))
    return next((name for name, longest in BUCKET_SPANS if span <= longest), COARSEST_BUCKET)


def _count(query: AuditQuery) -> AuditQuery:
    return _with(query, count=True)


def _by(query: AuditQuery, *fields: str, limit: int = ROWS, newest_first: bool = False) -> AuditQuery:
    return _with(query, count_by=fields, limit=limit, newest_first=newest_first)


def _measure(query: AuditQuery, field: str, *fields: str) -> AuditQuery:
    return _with(query, measure=field, count_by=fields, limit=ROWS)


def _with(query: AuditQuery, **changes: object) -> AuditQuery:
    from dataclasses import replace

    return replace(query, **changes)  # type: ignore[arg-type]  # the names above


def _series(decisions: AuditQuery, bucket: str, agents: Sequence[str]) -> dict[str, AuditQuery]:
    found = {"over_time": _by(decisions, bucket, "outcome", limit=1_000)}
    if agents:
        found["agents_over_time"] = _by(decisions.where("agent", *agents), bucket, "agent", limit=2_000)
    return found


def _decisions(decisions: AuditQuery, until: str | None) -> dict[str, AuditQuery]:
    ever = AuditQuery(until=until).where("kind", "decision")
    confirms = decisions.where("outcome", "confirm")
    return {
        "outcomes": _by(decisions, "outcome"),
        "denied_rules": _by(decisions.where("outcome", "deny"), "gate", "rule"),
        "denied_agents": _by(decisions.where("outcome", "deny"), "agent"),
        "new_agents": _by(ever.where("agent", WILDCARD), "agent", newest_first=True),
        "new_endpoints": _by(ever.where("endpoint", WILDCARD), "endpoint", newest_first=True),
        "depths": _by(decisions.where("depth", WILDCARD), "depth"),
        "chains": _by(decisions.where("agents", "* > *"), "agents"),
        "confirms": _by(confirms, "ended"),
        "confirm_rules": _by(confirms, "rule", "ended"),
        "approvers": _by(decisions.where("approver", WILDCARD), "approver"),
        "observed": _count(decisions.where("observed", "true")),
    }


def _others(period: AuditQuery) -> dict[str, AuditQuery]:
    outcomes, issued = period.where("kind", "outcome"), period.where("kind", "issued")
    return {
        "latency": _measure(outcomes, "latency_ms", "endpoint"),
        "sizes": _measure(outcomes, "size", "endpoint"),
        "statuses": _by(outcomes.where("status", WILDCARD), "status"),
        "usage": _measure(outcomes, "usage"),
        "usage_agents": _measure(outcomes, "usage", "agent"),
        "issued": _count(issued),
        "refused": _count(period.where("kind", "not_issued")),
        "ended": _count(period.where("kind", "ended")),
        "clients": _by(issued, "client"),
        "refusals": _by(period.where("kind", "not_issued"), "client", "event"),
        "endings": _by(period.where("kind", "ended"), "event"),
        "system": _by(period.where("kind", "system"), "event"),
    }
