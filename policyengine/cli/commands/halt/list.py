"""`policyengine halt list`: list the halts in effect."""

from __future__ import annotations

from policyengine.cli.options.common import TextOrJson
from policyengine.cli.options.halt import (
    HaltedFile,
    HaltStoreUrl,
    OperatorToken,
    ServerUrl,
    describe_halt,
    open_place,
)
from policyengine.cli.output.terminal import OutputFormat, print_json
from policyengine.control_characters import one_line


def list_halts(
    store: HaltStoreUrl = None,
    file: HaltedFile = None,
    server: ServerUrl = None,
    token_file: OperatorToken = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """List the halts in effect, and the halts that were lifted last.

    A server lists the halts of its store and of its halt file. `--format json` prints `{"halts", "lifted"}`; for a
    server, `unreadable` names the places that it cannot read.

    \b
    Exit codes:
      0  listed, even if there is no halt
      1  the store, the file or the server cannot be used
      2  wrong usage

    \b
    Example:
      policyengine halt list --store sqlite:////var/lib/policyengine/state.db
    """
    with open_place(store, file, server, token_file) as kept:
        found = kept.list()
    if format is OutputFormat.JSON:
        print_json(dict(found))
        return 0
    for halt in found["halts"]:
        by = f", by {halt['by']}" if halt.get("by") else ""
        print(one_line(f"{halt['id']}  {describe_halt(halt)} until {halt['until']}: {halt['reason']}{by}"))
    for lifted in found["lifted"]:
        by = f" by {lifted['by']}" if lifted.get("by") else ""
        print(one_line(f"{lifted['id']}  lifted at {lifted['at']}{by}: {lifted['reason']}"))
    for name in found.get("unreadable", ()):
        print(one_line(f"cannot be read: {name}"))
    if not found["halts"]:
        print("nothing is halted")
    return 0
