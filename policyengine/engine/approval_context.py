"""The part of an approval that people see beside the request itself: the entity rows of the people and things in it,
and the history of the requester. The console, the API and the command line show the
same data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from policyengine import kernel as k
from policyengine.approvals.model import ApprovalRequest, to_datetime
from policyengine.audit.encoder import to_json_value
from policyengine.audit.redaction import Redaction
from policyengine.engine.approval_views import describe_approval
from policyengine.entities.store import EntityStore, UnknownRow
from policyengine.runtime.entities import EntityData
from policyengine.runtime.request import Request, RequestError
from policyengine.runtime.snapshot import Snapshot
from policyengine.spec.evaluate import build_facts, evaluate
from policyengine.typesystem import EntityRef, RefType

if TYPE_CHECKING:
    from policyengine.audit.query.log_process import LogReader
    from policyengine.audit.query.requester_history import RequesterActivity, RequesterSearch
    from policyengine.engine.approval_desk import TrackedApproval
    from policyengine.engine.engine import Engine

HISTORY_TIME: Final = timedelta(days=7)
MAX_ROWS: Final = 10
MAX_ATTRIBUTES: Final = 40
MAX_ITEMS: Final = 50  # maximum items of a list or an object in an attribute, and maximum groups of an entity
MAX_TEXT: Final = 500
NO_LOG: Final = "this server writes no decision log"


def describe_details(engine: Engine, tracked: TrackedApproval, reader: LogReader | None) -> dict[str, object]:
    """Return everything about an approval that a person needs to answer it. `reader` is None if the log is busy."""
    return {
        **describe_approval(tracked),
        "directory": describe_directory(engine, tracked.approval),
        "history": read_history(engine, tracked.approval, reader),
    }


# ── The entity store ──────────────────────────────────────────────────────────────────────────


def describe_directory(engine: Engine, approval: ApprovalRequest) -> list[dict[str, object]]:
    """Return the current entity rows of the requester, the user, the resource, and the entities that the rule reads,
    at most MAX_ROWS. May wait for the source of looked-up entities."""
    redaction = Redaction() if engine.log is None else engine.log.redaction

    def read(entities: EntityStore) -> list[dict[str, object]]:
        refs = dict.fromkeys(entities_of(engine.kernel, entities, approval, engine.decider.now()))
        shown = [describe_row(entities, ref, redaction) for ref in list(refs)[:MAX_ROWS]]
        return [row for row in shown if row["known"] or row["type"] != "agent"]

    return engine.directory.read_all(read)


def entities_of(kernel: k.Kernel, entities: EntityStore, approval: ApprovalRequest, now: int) -> Iterator[EntityRef]:
    """Yield the entities of a request: its user and agent and, unless the policies have changed since, its resource and
    the entities that the rule reads."""
    who = approval.requester
    if who.user is not None:
        yield EntityRef("user", who.user)
    if who.agent is not None and "agent" in kernel.entities:
        yield EntityRef("agent", who.agent)
    if approval.revision != kernel.revision or (request := restore_request(approval)) is None:
        return
    facts = build_facts(kernel, request, Snapshot(entities), to_datetime(now))
    if isinstance(resource := facts.read(("resource",), RefType(frozenset(kernel.entities))), EntityRef):
        yield resource
    for node in read_references(kernel, approval.rule):
        if isinstance(found := evaluate(node, facts), EntityRef):
            yield found


def restore_request(approval: ApprovalRequest) -> Request | None:
    """Return the request of an approval without its secrets; None if it cannot be restored."""
    who = approval.requester
    agent = {} if who.agent is None else {"agent": {"id": who.agent, **({"issuer": who.issuer} if who.issuer else {})}}
    user = {} if who.user is None else {"user": {"id": who.user}}
    try:
        return Request.from_mapping({**approval.question, **agent, **user})
    except RequestError:
        return None


def read_references(kernel: k.Kernel, rule: str) -> Iterator[k.Fact | k.Attribute]:
    """Yield the facts and attributes that the confirms of a rule read and that are references to entities."""
    effects = (effect for guard in kernel.guards if guard.name == rule for effect in guard.effects)
    for confirm in effects:
        if isinstance(confirm, k.Confirm):
            for expression in confirm_expressions(confirm):
                for node in k.walk(expression):
                    if isinstance(node.type, RefType) and (reference := known_reference(node)) is not None:
                        yield reference


def confirm_expressions(confirm: k.Confirm) -> Iterator[k.Expr]:
    if confirm.condition is not None:
        yield confirm.condition
    if isinstance(confirm.approvers.of, k.MemberOf):
        yield confirm.approvers.of.expression
    yield from (part.expression for part in confirm.message or () if not isinstance(part, str))


def known_reference(node: k.Expr) -> k.Fact | k.Attribute | None:
    """Return a node that is a fact, or an attribute of one; None for others, such as the variables of quantifiers."""
    base = node
    while isinstance(base, k.Attribute):
        base = base.base
    return node if isinstance(base, k.Fact) and isinstance(node, k.Fact | k.Attribute) else None


def describe_row(entities: EntityStore, ref: EntityRef, redaction: Redaction) -> dict[str, Any]:
    """Return an entity row as plain data of bounded size, without secrets. `known` is false for an entity without a
    row, and None if the source of the row did not answer."""
    row, above = entities.found_of(ref), entities.ancestors(ref)
    shown: dict[str, Any] = {
        "type": ref.type,
        "id": ref.id,
        "known": None if isinstance(row, UnknownRow) else bool(row),
    }
    if isinstance(row, EntityData):
        named = list(row.attributes.items())[:MAX_ATTRIBUTES]
        clean = {name: redaction.value(value, (ref.type, name)) for name, value in named}
        shown["attributes"] = {
            name: bound_value(to_json_value(value, (), [], show_value)) for name, value in clean.items()
        }
        if len(row.attributes) > MAX_ATTRIBUTES:
            shown["more_attributes"] = len(row.attributes) - MAX_ATTRIBUTES
    if above.refs:
        shown["in"] = [str(one) for one in above.refs[:MAX_ITEMS]]
    return shown


def show_value(value: object, at: object) -> str:
    """Return the text of a value that JSON cannot hold."""
    return str(value)


def bound_value(value: object) -> object:
    """Return a value of JSON with long texts and long lists cut."""
    match value:
        case str() if len(value) > MAX_TEXT:
            return f"{value[:MAX_TEXT]}…"
        case {"type": str(type_), "id": str(id), **others} if not others:
            return str(EntityRef(type_, id))
        case dict() if len(value) > MAX_ITEMS:
            named = {name: bound_value(one) for name, one in list(value.items())[:MAX_ITEMS]}
            return {**named, "…": f"{len(value) - MAX_ITEMS:,} more"}
        case dict():
            return {name: bound_value(one) for name, one in value.items()}
        case list() if len(value) > MAX_ITEMS:
            return [*map(bound_value, value[:MAX_ITEMS]), f"… {len(value) - MAX_ITEMS:,} more"]
        case list():
            return list(map(bound_value, value))
        case _:
            return value


# ── The decision log ──────────────────────────────────────────────────────────────────────────


def search_requester(engine: Engine, approval: ApprovalRequest) -> RequesterSearch | None:
    """Return the search for what the requester did before; None without a log."""
    if engine.log is None:
        return None
    from policyengine.audit.query.query import format_time
    from policyengine.audit.query.requester_history import RequesterSearch

    who, since = approval.requester, format_time(to_datetime(engine.decider.now()) - HISTORY_TIME)
    return RequesterSearch(engine.log.path, who.agent, who.issuer, who.user, since, approval.id)


def read_history(engine: Engine, approval: ApprovalRequest, reader: LogReader | None) -> dict[str, object]:
    """Return what the requester did before, as plain data, or why it is `unread`."""
    from policyengine.audit.query.log_process import LogReadError
    from policyengine.audit.query.requester_history import RequesterActivity

    search = search_requester(engine, approval)
    if search is None:
        return {"unread": NO_LOG}
    if reader is None:
        return {"unread": "the log is busy with other requests"}
    try:
        found = reader.ask(search)
    except LogReadError as error:
        return {"unread": error.message}
    assert isinstance(found, RequesterActivity)
    return describe_history(found)


def describe_history(history: RequesterActivity) -> dict[str, object]:
    return {
        "since": history.since,
        "decisions": history.decisions,
        "latest": [without_empty(asdict(one)) for one in history.latest],
        "approvals": history.approvals,
        "latest_approvals": [without_empty(asdict(one)) for one in history.latest_approvals],
    }


def without_empty(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if text}
