"""`policyengine approvals webhooks`: show the webhooks and the messages in their spool, and send a test message."""

from __future__ import annotations

from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.cli.settings.file import ProjectSettings, load_settings
from policyengine.time_formats import format_epoch_seconds

if TYPE_CHECKING:
    from policyengine.webhooks.spool import SpoolState
    from policyengine.webhooks.target import WebhookTarget

NO_STATE = "no messages wait"


def webhooks(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The policies whose settings to read.")] = Path("."),
    test: Annotated[
        str | None,
        typer.Option("--test", metavar="NAME", help="Send a test message to this webhook.", show_default=False),
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(
            "--spool",
            metavar="FILE",
            help="The spool; required if only an option of `serve`, and no setting, names the store or log next to it.",
            show_default=False,
        ),
    ] = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Show the webhooks, and how many messages wait.

    The webhooks are those of `policyengine.toml`. With `--test`, send a test message to one webhook and report the
    answer of its receiver; the message is signed like any other, and does not use the spool.

    Exit code 0: success; 1: a mistake in the settings, or the receiver did not accept the test message.

    \b
    Example:
      policyengine approvals webhooks payments/
      policyengine approvals webhooks payments/ --test finance
    """
    settings = load_settings([path])
    if not settings.webhooks:
        hint = "`[webhooks.NAME]` in `policyengine.toml` adds one (docs/approval-webhooks.md)"
        raise CommandError("webhook", "there are no webhooks", hint)
    if test is not None:
        return send_test(settings, test, format)
    now = time()
    rows = [describe_webhook(target, state) for target, state in read_states(settings, spool)]
    if format is OutputFormat.JSON:
        print_json({"webhooks": rows})
        return 0
    screen = Screen()
    for row in rows:
        screen.line((str(row["name"]), "bold"), f"  {row['format']}  {describe_state(row, now)}")
    return 0


def read_states(settings: ProjectSettings, named: Path | None) -> list[tuple[WebhookTarget, SpoolState | None]]:
    """Return each webhook with the state of its messages; None if the spool does not exist. Raises CommandError."""
    from policyengine.cli.webhook_setup import spool_path
    from policyengine.webhooks.spool import SpoolError, WebhookSpool

    log = settings.values.get(("log", "file"))
    store = settings.values.get(("store", "url"), "memory:")
    path = named or spool_path(settings, store, None if log is None else Path(log))
    if path is None or not path.exists():
        return [(target, None) for target in settings.webhooks]
    try:
        spool = WebhookSpool(path)
        states = spool.states()
        spool.close()
    except SpoolError as error:
        raise CommandError("webhook", str(error), "name the spool with `--spool FILE`") from None
    return [(target, states.get(target.name)) for target in settings.webhooks]


def describe_webhook(target: WebhookTarget, state: SpoolState | None) -> dict[str, Any]:
    """Return a webhook without its URL, which may be a secret."""
    found: dict[str, Any] = {"name": target.name, "format": str(target.format), "waiting": 0}
    if state is not None:
        found |= {"waiting": state.waiting, "next": format_epoch_seconds(state.due), "failure": state.why or None}
    return found


def describe_state(row: dict[str, Any], now: float) -> str:
    """Describe the waiting messages. They may be overdue: a webhook pauses after failures, and only servers send
    messages."""
    if not row["waiting"]:
        return NO_STATE
    failure = f"; {row['failure']}" if row["failure"] else ""
    next = f"next attempt at {row['next']}" if row["next"] > format_epoch_seconds(now) else f"due since {row['next']}"
    return f"{row['waiting']:,} waiting, {next}{failure}"


def send_test(settings: ProjectSettings, name: str, format: OutputFormat) -> int:
    """Send a test message to a webhook. Raises CommandError."""
    from policyengine.audit.sinks.secret_values import SecretValueError
    from policyengine.cli.webhook_setup import SECRET_HINT, find_problem, url_hint, webhook_links
    from policyengine.diagnostics.suggest import did_you_mean
    from policyengine.http.fetch import CertificatesError, FetchError
    from policyengine.webhooks.sample_message import create_sample_message
    from policyengine.webhooks.sender import describe_status
    from policyengine.webhooks.webhook_client import WebhookClient

    target = next((one for one in settings.webhooks if one.name == name), None)
    if target is None:
        names = [one.name for one in settings.webhooks]
        hint = did_you_mean(name, names) or f"the webhooks are {', '.join(f'`{one}`' for one in names)}"
        raise CommandError("webhook", f"there is no webhook `{name}`", hint)
    problem = find_problem(target)
    if problem is not None:
        raise CommandError("webhook", f"`{name}`: {problem[0]}", problem[1])
    message = create_sample_message(target, webhook_links(settings), time())
    client = WebhookClient(target)
    try:
        response = client.post(message.id, message.body)
    except (FetchError, CertificatesError) as error:
        raise CommandError("webhook", f"`{name}`: {error}", url_hint(target)) from None
    except SecretValueError as error:
        raise CommandError("webhook", f"`{name}`: {error}", SECRET_HINT) from None
    finally:
        client.close()
    if not 200 <= response.status < 300:
        raise CommandError("webhook", f"`{name}`: {describe_status(response)}", None, (("status", response.status),))
    if format is OutputFormat.JSON:
        print_json({"name": name, "status": response.status, "id": message.id})
    else:
        Screen().line((name, "bold"), f"  the receiver answers {response.status}")
    return 0
