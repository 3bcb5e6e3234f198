"""Guards of what may destroy something: a person is asked, and sees what for."""

from __future__ import annotations

import json

from policyengine.importers.model import Field, Http, Operation, Segment

MOST_SHOWN = 4
NOTHING_TO_SEE = " # lint: allow blind-confirm because its arguments are not declared"


def asks_name(operation: Operation) -> str:
    """What its guard is called."""
    return f"{operation.key} asks"


def confirm_line(operation: Operation) -> str:
    """A `confirm` whose message names what is asked for: `delete_file {args.path}`."""
    message, shows = message_of(operation)
    said = json.dumps(message, ensure_ascii=False)
    return f"  confirm by user within 15m message {said}{'' if shows else NOTHING_TO_SEE}"


def message_of(operation: Operation) -> tuple[str, bool]:
    """The message, and whether it shows any fact."""
    endpoint = operation.endpoint
    if isinstance(endpoint, Http):
        head = f"{endpoint.method} /{'/'.join(map(shown_segment, endpoint.segments))}"
        captures = any(segment.capture for segment in endpoint.segments)
    else:
        head, captures = as_text(endpoint.name), False
    facts = shown_facts(operation.facts)
    match facts:
        case ():
            return head, captures
        case (one,) if not captures:
            return f"{head} {{{one.name}}}", True
        case _:
            named = ", ".join(f"{as_text(one.name.partition('.')[2])} {{{one.name}}}" for one in facts)
            return f"{head}: {named}", True


def shown_segment(segment: Segment) -> str:
    if not segment.capture:
        return as_text(segment.text)
    return f"{as_text(segment.before)}{{params.{segment.capture}}}{as_text(segment.after)}"


def shown_facts(facts: tuple[Field, ...]) -> tuple[Field, ...]:
    """Those that have to be there first; of an object only its members could be shown."""
    some = [fact for fact in facts if not fact.type.startswith("{")]
    return tuple(sorted(some, key=lambda fact: fact.optional)[:MOST_SHOWN])


def as_text(text: str) -> str:
    """A brace in a message is written twice."""
    return text.replace("{", "{{").replace("}", "}}")
