"""Prepares commands that connect to an MCP server: its command, its token, its environment, and the SDK."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from policyengine.bounded_files import MAX_SETTINGS_BYTES, read_bounded
from policyengine.cli.errors import CommandError, file_error
from policyengine.install_hints import install_command

URL_PREFIXES = ("http://", "https://")


def check_upstream(upstream: str) -> None:
    """Check that the command exists, so that a missing command is reported at startup. Raises CommandError."""
    words = split_command(upstream)
    if not words:
        raise CommandError("usage", f"`{upstream}` is neither a URL nor a command", code=2)
    if upstream.startswith(URL_PREFIXES) or shutil.which(words[0]):
        return
    if Path(words[0]).name == words[0]:
        hint = "install it, or add its folder to `PATH`; name a server over HTTP by its URL, `http://…`"
        raise CommandError("upstream", f"there is no command `{words[0]}`", hint)
    if Path(words[0]).is_file():
        raise CommandError("upstream", f"`{words[0]}` is not executable", f"`chmod +x {shlex.quote(words[0])}`")
    raise CommandError("upstream", f"there is no file `{words[0]}`", f"relative paths start at `{Path.cwd()}`")


def split_command(upstream: str) -> list[str]:
    """Split the command into words; return no words if a quote is not closed."""
    try:
        return shlex.split(upstream)
    except ValueError:
        return []


def require_sdk() -> None:
    """Check that the MCP SDK is installed, before policies are read. Raises CommandError."""
    try:
        import policyengine.integrations.mcp.gateway  # noqa: F401
    except ImportError as error:
        hint = install_command("mcp")
        raise CommandError("install", str(error).partition(":")[0], hint) from None


def read_token_header(path: Path | None) -> dict[str, str]:
    """Return the header with the token in the file; nothing without a file. Raises CommandError."""
    if path is None:
        return {}
    try:
        return {"authorization": f"Bearer {read_bounded(path, MAX_SETTINGS_BYTES).decode().strip()}"}
    except OSError as error:
        raise file_error(path, error) from None
    except UnicodeDecodeError:
        raise CommandError(
            "file", f"`{path}` is not UTF-8 text", "the file must contain the token and nothing else"
        ) from None


def select_environment(names: Sequence[str]) -> dict[str, str]:
    """Return these environment variables. Raises CommandError if one is not set."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise CommandError("usage", f"the environment variable `{missing[0]}` is not set", code=2)
    return {name: os.environ[name] for name in names}
