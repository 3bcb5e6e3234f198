"""Rates and budgets that limit less than they seem to, because the caller chooses the counter or the store
may be down.
"""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.diagnostics.model import Diagnostic
from policyengine.lint.rules.caller_chosen_defaults import FROM_THE_CALLER

# A sender cannot choose the network of its connection, but it can choose the rest of an IPv6 address.
ADD = "add the caller to the key: `per (agent.id, …)`"
NOT_CHOSEN = ("request", "ip")


def caller_chosen_keys(kernel: k.Kernel) -> Iterator[Diagnostic]:
    """Yield a W555 for each limit whose keys the caller chooses: every new value gets a new counter."""
    for limit in kernel.limits:
        if all(map(is_caller_chosen, limit.keys)):
            names = ", ".join(f"`{' '.join(key.span.text.split())}`" for key in limit.keys)
            message = f"the caller chooses the counter of `{limit.name}`: it is keyed only by {names}"
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
            hint = "use `on store failure local`, which keeps counting in each process, or remove `on store failure`"
            yield Diagnostic("W556", message, limit.span, hint)
