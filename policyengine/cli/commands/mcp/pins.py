"""`policyengine mcp pins`: list the reviewed definitions of tools."""

from __future__ import annotations

from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import PoliciesOrBundle, TextOrJson
from policyengine.cli.options.mcp import PinFileOption
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json
from policyengine.cli.output.tool_review import show_characters
from policyengine.cli.pin_setup import existing_paths, pin_places, read_pin_file
from policyengine.tool_pins.pin_file import PinFile

SHORT_HASH = 19  # characters of a hash in text: `sha256:` and twelve digits


def list_pins(paths: PoliciesOrBundle, pins: PinFileOption = None, format: TextOrJson = OutputFormat.TEXT) -> int:
    """List the reviewed definitions of tools, with reviewers.

    \b
    Exit codes:
      0  listed
      1  there is no pin file, or it cannot be used
      2  wrong usage

    \b
    Example:
      policyengine mcp pins policies/
    """
    existing_paths(paths)
    place = pins or next((one for one in pin_places(paths) if one.exists()), None)
    if place is None:
        hint = "`policyengine mcp review` writes it, and so does the first `init --mcp`"
        raise CommandError("pins", "there is no pin file next to the policies", hint)
    servers = read_pin_file(PinFile(place)).servers
    rows = [(server, tool, pin) for server, tools in servers.items() for tool, pin in tools.items()]
    if format is OutputFormat.JSON:
        print_json(
            {
                "file": str(place),
                "pins": [
                    {
                        "server": server,
                        "tool": tool,
                        "hashes": sorted(pin.hashes),
                        "reviewed": pin.reviewed,
                        "by": pin.by,
                    }
                    for server, tool, pin in rows
                ],
            }
        )
        return 0
    screen = Screen()
    if not rows:
        screen.line("no tool is pinned")
        return 0
    screen.table(
        [
            [
                show_characters(f"{server}/{tool}"),
                *(one[:SHORT_HASH] for one in sorted(pin.hashes)[:1]),
                pin.reviewed,
                pin.by,
            ]
            for server, tool, pin in rows
        ]
    )
    return 0
