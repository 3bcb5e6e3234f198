"""The options of the console from `[console]`, and what `serve` prints about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import time
from typing import TextIO

from policyengine.cli.errors import CommandError
from policyengine.cli.output.terminal import OutputFormat
from policyengine.cli.settings.file import ERROR_KIND
from policyengine.cli.settings.sections import ConsoleSettings
from policyengine.identity.config.model import IdentityConfig, IdentityConfigError, read_identity_config
from policyengine.identity.secret_reader import SecretReader
from policyengine.server.console.options import IDLE, LONGEST, ConsoleOptions, LoginSettings

ERROR_HINT = "docs/console.md describes the settings"


@dataclass(frozen=True, slots=True)
class ConsolePrinter:
    """Prints the URL of the console, and each link that signs in, on the terminal. No link is logged."""

    stream: TextIO
    format: OutputFormat

    def __call__(self, url: str, link: str | None) -> None:
        if self.format is OutputFormat.JSON:
            line = json.dumps({"console": url} if link is None else {"sign_in": link})
        else:
            line = f"console:  {url}" if link is None else f"sign in:  {link} (once, within five minutes)"
        print(line, file=self.stream, flush=True)


def build_console_options(
    given: ConsoleSettings, port: int, identity: Path | None, announce: Callable[[str, str | None], None]
) -> ConsoleOptions:
    """Return the options of the console on this port. Raises CommandError."""
    return ConsoleOptions(
        port,
        given.host or "127.0.0.1",
        given.public_url,
        given.allowed_hosts or (),
        login_settings(given, identity),
        given.view or (),
        given.approve or (),
        given.halt or (),
        given.link_user or "operator",
        given.link_issuer,
        IDLE if given.idle_minutes is None else timedelta(minutes=given.idle_minutes),
        LONGEST if given.session_hours is None else timedelta(hours=given.session_hours),
        announce,
    )


def login_settings(given: ConsoleSettings, identity: Path | None) -> LoginSettings | None:
    """Return where people sign in; None if they sign in with links from the terminal. Raises CommandError."""
    if given.issuer is None:
        if given.client_id is not None:
            raise CommandError(ERROR_KIND, "`[console] client_id` has no effect without `[console] issuer`", ERROR_HINT)
        return None
    if given.client_id is None:
        raise CommandError(ERROR_KIND, "`[console] issuer` needs a `[console] client_id`", ERROR_HINT)
    try:
        configuration = IdentityConfig() if identity is None else read_identity_config(identity)
        secret = None if given.client_secret_file is None else read_secret(Path(given.client_secret_file))
    except IdentityConfigError as error:
        raise CommandError(ERROR_KIND, f"`[console]`: {error.message}", error.hint, detail=error.detail) from None
    method = given.client_auth or "client_secret_basic"
    return LoginSettings(given.issuer, given.client_id, secret, method, given.scopes or (), configuration)


def read_secret(path: Path) -> Callable[[], str]:
    """Return a function that reads the secret, which is also read now. Raises IdentityConfigError."""
    reader = SecretReader()

    def read() -> str:
        return reader.read(f"file:{path}", int(time())).reveal()

    read()
    return read
