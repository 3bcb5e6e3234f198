"""Messages of guards: denials without a message, approvals that count for the default time, and approval messages that
do not show the request.
"""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.time_formats import format_duration


def without_message(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Deny) and effect.message is None:
                message = f"guard `{guard.name}` denies without a message for the caller"
                yield Diagnostic(
                    "W552", message, effect.span, 'add `message "…"` that says what is wrong and what to do'
                )


def open_confirms(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm) and effect.within is None:
                message = f"an approval of `{guard.name}` counts for {format_duration(effect.lasts)}, the default"
                yield Diagnostic("W553", message, effect.span, "add `within 15m`: later, the facts may have changed")


OF_THE_REQUEST = frozenset({"args", "body", "context", "params", "resource"})
NAMED_IN_BRACKETS = frozenset({("request", "headers"), ("request", "query")})


def blind_confirms(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm) and not any(map(is_request_fact, facts_in_message(effect))):
                message = f"approvers of `{guard.name}` see nothing of the request that they approve"
                hint = 'show it in the message: `message "refund of {body.amount} to {body.recipient}"`'
                yield Diagnostic("W557", message, effect.span, hint)


def facts_in_message(effect: k.Confirm) -> Iterator[k.Fact]:
    shown = (part.expression for part in effect.message or () if isinstance(part, k.MessageFact))
    return (node for expression in shown for node in k.walk(expression) if isinstance(node, k.Fact))


def is_request_fact(fact: k.Fact) -> bool:
    """Return whether a fact describes the request beyond its endpoint."""
    of_the_path = fact.path == ("request", "path")  # the path includes the captured values
    return of_the_path or fact.path[0] in OF_THE_REQUEST or fact.path[:2] in NAMED_IN_BRACKETS
