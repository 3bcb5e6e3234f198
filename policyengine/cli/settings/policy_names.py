"""Checks that the policies name the issuers and approvers that settings name."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import ERROR_KIND, ProjectSettings, display_path
from policyengine.kernel import Confirm, Kernel

MAX_SHOWN = 5


def named_issuers(settings: ProjectSettings) -> Iterator[tuple[str, str, str]]:
    """Yield each issuer that a setting names, with the setting's section and key."""
    values = settings.values
    for name in values.get(("approvals", "issuers"), ()):
        yield "approvals", "issuers", name
    for key in ("issuer", "link_issuer"):
        if (name := values.get(("console", key))) is not None:
            yield "console", key, name


def check_issuer_names(settings: ProjectSettings, known: Collection[str]) -> None:
    """Check that each named issuer is `known`; otherwise none of its users could sign in or answer. Raises
    CommandError."""
    from policyengine.diagnostics.suggest import did_you_mean

    for section, key, name in named_issuers(settings):
        if name not in known:
            issuers = sorted(known)
            hint = did_you_mean(name, issuers) or "the issuers of the policies: " + (
                ", ".join(f"`{issuer}`" for issuer in issuers) or "none"
            )
            line = settings.lines.get((section, key))
            facts = () if settings.file is None else (("file", display_path(settings.file)), ("line", line))
            raise CommandError(ERROR_KIND, f"`[{section}] {key}`: no policy names the issuer `{name}`", hint, facts)


def unknown_approvers(settings: ProjectSettings, kernel: Kernel) -> Iterator[tuple[str, str | None]]:
    """Yield a message and a hint for each approver that a webhook lists and no rule names: the webhook sends no
    approval for that approver."""
    from policyengine.diagnostics.suggest import did_you_mean

    if not settings.webhooks:
        return
    known = sorted({
        effect.approvers.words
        for guard in kernel.guards for effect in guard.effects if isinstance(effect, Confirm)
    })  # fmt: skip
    for webhook in settings.webhooks:
        for name in webhook.approvers:
            if name not in known:
                rules = "the rules name " + (", ".join(f"`{one}`" for one in known[:MAX_SHOWN]) or "no approvers")
                message = f"`[webhooks.{webhook.name}] approvers`: no rule asks for an approval by `{name}`"
                yield message, did_you_mean(name, known) or rules
