"""`policyengine audit rotate-key`: replace the key that seals a log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyengine.cli.errors import CommandError, file_error
from policyengine.cli.options.audit import LogArgument, SealFolder
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json


def rotate_key(
    log: LogArgument,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--log-key", metavar="FILE", help="The private key of the log. [default: LOG.key]", show_default=False
        ),
    ] = None,
    seal: SealFolder = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Replace the key that seals a log.

    The old key signs a statement that names the new key. The statement becomes a line of the log, so that a verifier
    that trusts the old key also trusts the new key. A server that writes the log uses the new key within a second. The
    old private key is overwritten.

    \b
    Example:
      policyengine audit rotate-key decisions.jsonl
    """
    from policyengine.audit import DecisionLogError
    from policyengine.audit.seal.keys import SealKeyError, default_key_path
    from policyengine.audit.seal.rotate_key import rotate_log_key

    path = key_file or default_key_path(log)
    try:
        new = rotate_log_key(log, path, seal)
    except FileNotFoundError:
        raise CommandError("key", f"`{path}`: there is no such key", "name it with `--log-key FILE`") from None
    except SealKeyError as error:
        raise CommandError("key", error.message, error.hint, (("file", str(path)),)) from None
    except DecisionLogError as error:
        raise CommandError("log", error.message, error.hint, (("file", str(log)),)) from None
    except OSError as error:
        raise file_error(error.filename or path, error) from None
    if format is OutputFormat.JSON:
        print_json({"log": str(log), "key": str(new)})
    else:
        Screen().line(f"{log} is now sealed with the key {new}")
    return 0
