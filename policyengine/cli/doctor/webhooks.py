"""Checks of the webhooks that `policyengine.toml` names; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine.cli.doctor.model import DoctorResult, DoctorStatus, ServePlan
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import ProjectSettings, load_settings
from policyengine.plurals import pluralize


def check_webhooks(plan: ServePlan) -> Iterator[DoctorResult]:
    """Check URLs, secrets and certificates, and where messages and links lead."""
    try:
        settings = load_settings(plan.paths)
    except CommandError:  # the check of the settings reports it
        return
    if settings.webhooks:
        problems = list(find_failures(settings))
        yield from problems or [
            DoctorResult("webhooks", DoctorStatus.OK, f"{pluralize(len(settings.webhooks), 'webhook')} can be used")
        ]
        yield from check_places(settings, plan)


def find_failures(settings: ProjectSettings) -> Iterator[DoctorResult]:
    from policyengine.cli.webhook_setup import find_webhook_problems

    for problem in find_webhook_problems(settings):
        yield DoctorResult("webhooks", DoctorStatus.FAILED, problem.message, problem.hint)


def check_places(settings: ProjectSettings, plan: ServePlan) -> Iterator[DoctorResult]:
    from policyengine.cli.webhook_setup import spool_path, webhook_links
    from policyengine.webhooks.target import WebhookFormat

    if spool_path(settings, plan.store, plan.log) is None:
        hint = "set `webhook_spool` in `[approvals]`"
        yield DoctorResult("webhooks", DoctorStatus.WARNING, "messages wait in memory: a restart loses them", hint)
    for target in settings.webhooks:
        if target.url is not None and target.format is not WebhookFormat.JSON:
            message = f"the URL of `{target.name}` is a secret in the settings: those who know it can post there"
            yield DoctorResult("webhooks", DoctorStatus.NOTE, message, "set `url_file`")
    links = webhook_links(settings, settings.values.get(("serve", "public_url")))
    if links.console is None and links.api is None:
        hint = "set `public_url` in `[console]`, or `url` in `[approvals]`"
        yield DoctorResult("webhooks", DoctorStatus.NOTE, "messages have no link to the approval", hint)
