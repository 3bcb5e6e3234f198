"""Confirms that no user can approve, because no issuer may vouch for their approvers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from policyengine import kernel as k
from policyengine.checker.type_names import join_words
from policyengine.diagnostics.model import Diagnostic
from policyengine.spec.issuer_users import speaks_for
from policyengine.typesystem import EntityRef

DECLARE_HINT = 'declare the issuer of these people: `issuer acme { url "https://login.acme.example" }`'
CHOOSE_HINT = (
    "write `from ISSUER` after the approvers, or declare `users like` in the issuers; the setting `issuers` in "
    "`[approvals]` names them for the whole server"
)
OTHER_HINT = "name another issuer or another approver, or change `users like` of the issuer"


def confirms_without_approvers(kernel: k.Kernel) -> Iterator[Diagnostic]:
    vouching = vouching_issuers(list(kernel.issuers.values()))
    for guard in kernel.guards:
        for effect in guard.effects:
            if isinstance(effect, k.Confirm):
                yield from approver_findings(guard, effect, kernel, vouching)


def vouching_issuers(issuers: Sequence[k.Issuer]) -> list[k.Issuer]:
    """Return the issuers that may vouch for approvers where a rule names no issuers."""
    unbounded = [one for one in issuers if not one.users_like]
    return [one for one in issuers if one.users_like or unbounded == [one]]


def approver_findings(
    guard: k.Guard, confirm: k.Confirm, kernel: k.Kernel, vouching: Sequence[k.Issuer]
) -> Iterator[Diagnostic]:
    """Yield a W522 if no user can approve, and for each issuer after `from` that may not name the approver."""
    beginning, named = f"no user can approve `{guard.name}`", confirm.approvers.issuers
    issuers = [kernel.issuers[name] for name in named] if named else vouching
    users = named_approvers(confirm.approvers)
    fitting = [one for one in issuers if not users or any(speaks_for(one, user) for user in users)]
    if not kernel.issuers:
        message = f"{beginning}: no issuer is declared that could vouch for a person"
        yield Diagnostic("W522", message, confirm.span, DECLARE_HINT)
    elif not issuers:
        message = (
            f"{beginning}: {len(kernel.issuers)} issuers may name any user, so none of them may vouch for an approver"
        )
        yield Diagnostic("W522", message, confirm.span, CHOOSE_HINT)
    elif not fitting:
        message = f"{beginning}: no issuer may name {join_words(users, 'or')}"
        yield Diagnostic("W522", message, confirm.span, OTHER_HINT)
    elif named:
        for issuer in issuers:
            if issuer not in fitting:
                message = f"no approver of `{guard.name}` comes from `{issuer.name}`, which may not name any of them"
                yield Diagnostic("W522", message, confirm.span, OTHER_HINT)


def named_approvers(approvers: k.Approvers) -> tuple[str, ...]:
    """Return the ids of the approvers if the rule names only users, one or several, otherwise nothing."""
    of = approvers.of.expression if isinstance(approvers.of, k.MemberOf) else None
    value = of.value if isinstance(of, k.Constant) else None
    every = value if isinstance(value, tuple) else (value,)
    users = tuple(one.id for one in every if isinstance(one, EntityRef) and one.type == "user")
    return users if len(users) == len(every) else ()
