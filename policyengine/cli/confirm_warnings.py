"""A warning of `mcp-gateway` about confirms that cannot be answered, because only this process reads a store in
memory."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import globs_meet
from policyengine.plurals import pluralize

SHARE = "share a store with `serve` (`--store sqlite:///state.db`)"
ASK = "let the client ask its user (`--elicit form`), or "


def unanswered_confirms_warning(kernel: k.Kernel, server: str, *, asks_users: bool) -> str | None:
    """Return a warning for a gateway whose store is in memory, if a rule for the server needs an approval. Its clients
    answer a `confirm by user` if the gateway asks them (`asks_users`); no other confirm can be answered."""
    waiting = [(guard, confirm) for guard, confirm in confirms(kernel, server) if not (asks_users and by_user(confirm))]
    if not waiting:
        return None
    guard, confirm = waiting[0]
    more = f" and {pluralize(len(waiting) - 1, 'other confirm')}" if len(waiting) > 1 else ""
    remedy = (ASK if any(by_user(each) for _, each in waiting) else "") + SHARE
    return (
        f"the approval by {confirm.approvers.words} that guard `{guard.name}` requires{more} cannot be given, because "
        f"approvals are in the memory of this gateway: {remedy}"
    )


def confirms(kernel: k.Kernel, server: str) -> Iterator[tuple[k.Guard, k.Confirm]]:
    """Yield the confirms that may apply to what an MCP server offers."""
    for guard in kernel.guards:
        patterns = guard.place.patterns
        if patterns is None or any(may_apply(pattern, server) for pattern in patterns):
            for effect in guard.effects:
                if isinstance(effect, k.Confirm):
                    yield guard, effect


def may_apply(pattern: k.Pattern, server: str) -> bool:
    match pattern:
        case k.ToolPattern(glob=glob):
            return globs_meet(glob, f"{server}/*")
        case k.ActionPattern():
            return True
        case _:
            return False


def by_user(confirm: k.Confirm) -> bool:
    """Return whether the approval of the user for whom the agent acts is enough."""
    return isinstance(confirm.approvers.of, k.ServedUser) and confirm.approvers.count == 1
