"""`policyengine halt lift`: lift a halt before its end."""

from __future__ import annotations

from typing import Annotated

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.options.halt import (
    HaltedFile,
    HaltStoreUrl,
    OperatorName,
    OperatorToken,
    ReasonText,
    ServerUrl,
    open_place,
    own_name,
)
from policyengine.cli.output.terminal import OutputFormat, print_json
from policyengine.control_characters import one_line


def lift(
    id: Annotated[str, typer.Argument(metavar="ID", help="The id of the halt.", show_default=False)],
    reason: ReasonText = "",
    store: HaltStoreUrl = None,
    file: HaltedFile = None,
    server: ServerUrl = None,
    token_file: OperatorToken = None,
    by: OperatorName = None,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Lift a halt before its end. The halt ends in every process within a second.

    \b
    Exit codes:
      0  lifted
      1  there is no such halt, or the store, the file or the server cannot be used
      2  wrong usage, such as a missing reason

    \b
    Example:
      policyengine halt lift 3f9a1c20b7de --reason "it was fixed" --store redis://127.0.0.1:6379
    """
    from policyengine.halts.errors import HaltError
    from policyengine.halts.requests import check_lift_reason

    try:
        check_lift_reason(reason)
    except HaltError as error:
        raise CommandError("usage", error.message, "write `--reason TEXT`", code=2) from None
    with open_place(store, file, server, token_file) as kept:
        lifted = kept.lift(id, reason.strip(), by or own_name())
    if format is OutputFormat.JSON:
        print_json({"lifted": dict(lifted)})
    else:
        print(one_line(f"lifted {lifted['id']}: {lifted['reason']}"))
    return 0
