"""The pin file of `policyengine mcp-gateway`: where it is, whether it is valid, and what startup says about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from policyengine.cli.errors import CommandError, file_error
from policyengine.runtime.format_values import format_value
from policyengine.tool_pins.pin_file import PIN_FILE, PinFile, PinFileError, PinSet

if TYPE_CHECKING:
    from policyengine import kernel as k
    from policyengine.integrations.mcp.pinned_tools import ToolPins
    from policyengine.integrations.mcp.unreviewed_tools import UnreviewedTools

PIN_FACTS = frozenset({("tool", name) for name in ("pinned", "changed", "hash")})
_LOG = logging.getLogger("policyengine")


def open_pins(paths: Sequence[Path], file: Path | None, unreviewed: UnreviewedTools) -> ToolPins | None:
    """Return the pins in the file, or in the file next to the policies; None without a file. Raises CommandError."""
    from policyengine.integrations.mcp.pinned_tools import ToolPins

    found = file or next((place for place in pin_places(paths) if place.exists() or place.is_symlink()), None)
    return None if found is None else ToolPins(found, unreviewed)


def pin_places(paths: Sequence[Path]) -> list[Path]:
    """Return where the pin file of these policies may be: in each folder, and next to each file."""
    return list(dict.fromkeys((path if path.is_dir() else path.parent) / PIN_FILE for path in paths))


def check_pins(pins: ToolPins | None) -> None:
    """Check that the pin file can be used. Raises CommandError."""
    if pins is not None:
        read_pin_file(pins.file)


def read_pin_file(file: PinFile) -> PinSet:
    """Return the pins in a pin file. Raises CommandError."""
    try:
        return file.read()
    except PinFileError as error:
        facts = (("file", file.name),)
        raise CommandError("pins", error.message, error.hint, facts, detail=error.detail) from None


def note_pins(server: str, pins: ToolPins | None, kernel: k.Kernel) -> None:
    """Log if no tool of the server is pinned, and if the policies then read facts that are unknown."""
    from policyengine.testing.recording.case_writer import facts_read

    hint = "`policyengine mcp review` shows and pins their definitions"
    if pins is None:
        level, extra = logging.INFO, {"event": "tools_not_pinned"}
        read = sorted({".".join(fact.path) for fact in facts_read(kernel) if fact.path in PIN_FACTS})
        if read:
            level, hint = logging.WARNING, f"{hint}; until then, `{read[0]}`, which the policies read, is unknown"
        _LOG.log(level, "the tools of server %s are not pinned: %s", format_value(server), hint, extra=extra)
    elif not pins.file.read().servers.get(server):
        _LOG.warning("no tool of server %s is reviewed in `%s`: %s", format_value(server), pins.file.name, hint)


def existing_paths(paths: Sequence[Path]) -> Sequence[Path]:
    """Check that the paths of policies exist. Raises CommandError."""
    for path in paths:
        try:
            path.stat()
        except OSError as error:
            raise file_error(path, error) from None
    return paths
