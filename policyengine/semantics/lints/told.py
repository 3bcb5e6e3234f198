"""What people are told by guards, and for how long a person's word holds."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.diagnostics import Diagnostic
from policyengine.semantics import kernel as k


def without_message(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Deny) and effect.message is None:
                message = f"guard `{guard.name}` denies here and does not tell the caller why"
                yield Diagnostic("W552", message, effect.span, 'add `message "…"`: what is wrong, and what to do')


def open_confirms(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm) and effect.within is None:
                message = f"an approval of `{guard.name}` never expires"
                yield Diagnostic("W553", message, effect.span, "add `within 15m`: by then the world has moved on")
