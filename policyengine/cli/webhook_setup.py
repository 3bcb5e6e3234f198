"""The webhooks of `policyengine.toml`: checked before the server listens, with the place of their spool."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import ERROR_KIND, ProjectSettings
from policyengine.install_hints import install_command

if TYPE_CHECKING:
    from policyengine.webhooks.dispatcher import WebhookDispatcher
    from policyengine.webhooks.target import WebhookLinks, WebhookTarget

SPOOL_SUFFIX = ".webhooks"
SECRET_HINT = "`openssl rand -base64 32 > FILE && chmod 600 FILE` creates a secret"
URL_FILE_HINT = "write the URL of the webhook into the file that `url_file` names, as its only line"
URL_HINT = "`allow_private = true` permits addresses of this machine and of private networks"


def open_webhooks(settings: ProjectSettings, store: str, log: Path | None, url: str | None) -> WebhookDispatcher | None:
    """Return the webhooks of the settings; None if the settings name no webhook. `url` is the URL of the decision API.
    Raises CommandError."""
    if not settings.webhooks:
        return None
    check_webhooks(settings)
    from policyengine.webhooks.dispatcher import WebhookDispatcher
    from policyengine.webhooks.spool import SpoolError, open_spool

    try:
        spool, aside = open_spool(spool_path(settings, store, log))
    except SpoolError as error:
        hint = "name a file that only this user can write: `webhook_spool` in `[approvals]`"
        raise CommandError("webhook", str(error), hint) from None
    if aside is not None:
        text = "the spool of webhooks was damaged; it is now `%s`, and a new one was begun"
        logging.getLogger("policyengine").error(text, aside, extra={"event": "webhook_spool_damaged"})
    spool.close()  # each process opens it itself
    return WebhookDispatcher(settings.webhooks, spool, webhook_links(settings, url))


def check_webhooks(settings: ProjectSettings) -> None:
    """Check that each webhook has a URL, readable secrets and certificates. Raises CommandError."""
    for problem in find_webhook_problems(settings):
        raise problem


def find_webhook_problems(settings: ProjectSettings) -> Iterator[CommandError]:
    """Yield the problem of each webhook that cannot be used."""
    for target in settings.webhooks:
        problem = find_problem(target)
        if problem is not None:
            message, hint = problem
            yield CommandError(ERROR_KIND, f"`[webhooks.{target.name}]`: {message}", hint)


def find_problem(target: WebhookTarget) -> tuple[str, str | None] | None:
    """Return why a webhook cannot be used, and a hint; None if it can be used."""
    try:
        from policyengine.audit.sinks.secret_values import SecretValueError
        from policyengine.http.fetch import CertificatesError, FetchError
        from policyengine.webhooks.webhook_client import create_poster
    except ImportError:
        return "webhooks need more packages", install_command("httpx")
    try:
        url = target.read_url()
    except SecretValueError as error:
        return str(error), URL_FILE_HINT
    try:
        target.read_keys()
        create_poster(target, url)
    except SecretValueError as error:
        return str(error), SECRET_HINT
    except CertificatesError as error:
        return str(error), "`ca` must name a PEM file"
    except FetchError as error:
        return error.why, url_hint(target)
    return None


def url_hint(target: WebhookTarget) -> str | None:
    """Return the setting that permits more addresses, or None if it is set."""
    return None if target.allow_private else URL_HINT


def webhook_links(settings: ProjectSettings, url: str | None = None) -> WebhookLinks:
    """Return the base URLs of links to approvals. `url` is the URL of the decision API, for settings without a URL."""
    from policyengine.webhooks.target import WebhookLinks

    return WebhookLinks(settings.console.public_url, settings.approvals(url).url)


def spool_path(settings: ProjectSettings, store: str, log: Path | None) -> Path | None:
    """Return the file of the spool: the one that the settings name, otherwise the one next to the SQLite store or the
    log; None for a spool in memory."""
    from policyengine.stores.url import StoreUrlError, parse_store_url, sqlite_path

    named = settings.values.get(("approvals", "webhook_spool"))
    if named is not None:
        return Path(named)
    if store.startswith("sqlite:"):
        with suppress(StoreUrlError):  # reported when the store is opened
            file = Path(sqlite_path(parse_store_url(store)))
            return file.with_name(file.name + SPOOL_SUFFIX)
    return None if log is None else log.with_name(log.name + SPOOL_SUFFIX)
