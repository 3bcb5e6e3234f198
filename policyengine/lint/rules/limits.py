"""Rates and budgets that hold less than they seem to: by a count that the caller chooses, or while the store is up."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.rules.caller_chosen_defaults import FROM_THE_CALLER

# The network that a connection comes from is not for its sender to choose; the rest of an IPv6 address is.
ADD = "add who asks: `per (agent.id, …)`"
NOT_CHOSEN = ("request", "ip")


def caller_chosen_keys(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Whoever gives another value has a fresh count."""
    for limit in kernel.limits:
        if all(map(is_caller_chosen, limit.keys)):
            names = ", ".join(f"`{' '.join(key.span.text.split())}`" for key in limit.keys)
            message = f"the caller chooses by whose count `{limit.name}` goes: it is keyed by {names} alone"
            exact = [key for key in limit.keys if isinstance(key, k.Call) and key.function == "address"]
            hint = "write `per request.ip`, which counts an IPv6 address by its /64" if exact else ADD
            yield Diagnostic("W555", message, limit.keys[0].span, hint)


def is_caller_chosen(key: k.Expr) -> bool:
    match key:
        case k.Attribute(base) | k.Member(base):
            return is_caller_chosen(base)
        case k.Call("address", (k.Fact(path),)) if path == NOT_CHOSEN:
            return True
        case k.Call(_, arguments):
            return all(map(is_caller_chosen, arguments))
        case k.Fact(path):
            return path[0] in FROM_THE_CALLER and path != NOT_CHOSEN
        case _:
            return False


def open_failures(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for limit in kernel.limits:
        if limit.failing == "allow":
            message = f"`{limit.name}` limits nothing while the store is down"
            hint = "take `on store failure local`, which goes on counting in each process, or leave it out"
            yield Diagnostic("W556", message, limit.span, hint)
