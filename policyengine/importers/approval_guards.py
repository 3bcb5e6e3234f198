"""Guards of destructive operations: the user approves each request and sees its facts."""

from __future__ import annotations

import json

from policyengine.importers.model import ApiOperation, HttpTemplate, OperationFact, PathSegment

MAX_FACTS_SHOWN = 4
BLIND_CONFIRM_COMMENT = " # lint: allow blind-confirm because the arguments are not declared"


def confirm_guard_name(operation: ApiOperation) -> str:
    """Return the name of an operation's guard."""
    return f"{operation.key} asks"


def confirm_line(operation: ApiOperation) -> str:
    """Return a `confirm` line whose message shows the request: `delete_file {args.path}`."""
    message, shows = confirm_message(operation)
    said = json.dumps(message, ensure_ascii=False)
    return f"  confirm by user within 15m message {said}{'' if shows else BLIND_CONFIRM_COMMENT}"


def confirm_message(operation: ApiOperation) -> tuple[str, bool]:
    """Return the message, and whether it shows any fact."""
    endpoint = operation.endpoint
    if isinstance(endpoint, HttpTemplate):
        head = f"{endpoint.method} /{'/'.join(map(segment_text, endpoint.segments))}"
        captures = any(segment.capture for segment in endpoint.segments)
    else:
        head, captures = escape_braces(endpoint.name), False
    facts = facts_to_show(operation.facts)
    match facts:
        case ():
            return head, captures
        case (one,) if not captures:
            return f"{head} {{{one.name}}}", True
        case _:
            named = ", ".join(f"{escape_braces(one.name.partition('.')[2])} {{{one.name}}}" for one in facts)
            return f"{head}: {named}", True


def segment_text(segment: PathSegment) -> str:
    if not segment.capture:
        return escape_braces(segment.text)
    return f"{escape_braces(segment.before)}{{params.{segment.capture}}}{escape_braces(segment.after)}"


def facts_to_show(facts: tuple[OperationFact, ...]) -> tuple[OperationFact, ...]:
    """Return the facts for the message, required facts first. Objects are left out, because a message can show only
    their members.
    """
    some = [fact for fact in facts if not fact.type.startswith("{")]
    return tuple(sorted(some, key=lambda fact: fact.optional)[:MAX_FACTS_SHOWN])


def escape_braces(text: str) -> str:
    """Return the text with doubled braces, which a message requires."""
    return text.replace("{", "{{").replace("}", "}}")
