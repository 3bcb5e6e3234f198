"""`policyengine keys`: manage the keys that sign the tokens of this server."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.install_hints import install_command

if TYPE_CHECKING:
    from policyengine.identity.keys.signing_keys import KeyRing

INSTALL = install_command("identity")


class KeysAction(StrEnum):
    NEW = "new"
    ROTATE = "rotate"
    LIST = "list"


class SigningAlgorithm(StrEnum):
    ES256 = "ES256"
    EDDSA = "EdDSA"


def keys(
    action: Annotated[KeysAction, typer.Argument(metavar="new|rotate|list", show_default=False, help="What to do.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The key file.")],
    algorithm: Annotated[
        SigningAlgorithm | None,
        typer.Option(
            "--algorithm",
            help="Algorithm of the new key. [default: ES256, or the algorithm of the last key]",
            show_default=False,
        ),
    ] = None,
    ahead: Annotated[
        str, typer.Option("--ahead", metavar="TIME", help="How long a new key is published before it signs.")
    ] = "10m",
    keep: Annotated[
        str, typer.Option("--keep", metavar="TIME", help="How long a key stays published after it stops signing.")
    ] = "1d",
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Create, rotate or list the keys that sign tokens.

    `new` creates a file with one key, which signs immediately. `rotate` adds a key, which is published now and signs
    after `--ahead`, when every verifier should have fetched the key. The previous key then stops signing and stays
    published for `--keep`, which should be at least the longest lifetime of a token. A server that uses the file reads
    the file again when it changes. Only the owner of the file can read it, and private keys are never shown.

    If a key has leaked, run `rotate --ahead 0s --keep 0s`: the tokens that it signed are no longer accepted.

    \b
    Example:
      policyengine keys new signing.json
      policyengine keys rotate signing.json
      policyengine keys list signing.json
    """
    now = int(time.time())
    ring = _run_action(action, file, algorithm, _seconds(ahead, "--ahead"), _seconds(keep, "--keep"), now)
    if format is OutputFormat.JSON:
        from policyengine.identity.keys.signing_keys import describe_ring

        print_json({"file": str(file), "keys": list(describe_ring(ring, now))})
    else:
        _show(ring, now)
    return 0


def _run_action(
    action: KeysAction, file: Path, algorithm: SigningAlgorithm | None, ahead: int, keep: int, now: int
) -> KeyRing:
    try:
        from policyengine.identity.config.model import IdentityConfigError
        from policyengine.identity.keys.signing_keys import new_ring, read_ring, rotate_ring, write_ring
    except ImportError:
        raise CommandError("install", "signing keys need more packages", INSTALL) from None
    try:
        match action:
            case KeysAction.NEW:
                ring = new_ring((algorithm or SigningAlgorithm.ES256).value, now)
                write_ring(file, ring, new=True)
                return ring
            case KeysAction.ROTATE:
                return rotate_ring(file, None if algorithm is None else algorithm.value, now, ahead, keep)
            case KeysAction.LIST:
                return read_ring(file)
    except FileExistsError:
        hint = f"`policyengine keys rotate {file}` adds a new key to it"
        raise CommandError(
            "file", f"`{file}` already exists and is not replaced", hint, (("file", str(file)),)
        ) from None
    except OSError as error:
        raise file_error(file, error) from None
    except IdentityConfigError as error:
        raise CommandError("key", error.message, error.hint, (("file", str(file)),)) from None


def _seconds(text: str, option: str) -> int:
    from policyengine.identity.config.model import check_duration

    try:
        lasts = check_duration(text)
    except ValueError as error:
        raise CommandError("usage", f"`{option} {text}`: {error}", None, code=2) from None
    return int(lasts.total_seconds())


def _show(ring: KeyRing, now: int) -> None:
    rows = [("key", "", "state", "created", "signs from", "withdrawn from")]
    for key in ring.keys:
        times = (_moment(key.created), _moment(key.signs_from), _moment(key.gone_from))
        rows.append((key.kid, key.algorithm, ring.state(key, now).value, *times))
    Screen().table(rows)


def _moment(seconds: int | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"
