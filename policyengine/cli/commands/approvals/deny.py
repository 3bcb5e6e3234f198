"""`policyengine approvals deny`: deny a request."""

from __future__ import annotations

from typing import Annotated

import typer

from policyengine.cli.options.approvals import (
    DEFAULT_URL,
    ApprovalId,
    ApprovalServer,
    PersonToken,
    ServerUrl,
    approval_path,
)
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json


def deny(
    id: ApprovalId,
    token_file: PersonToken,
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="The reason, which the requester sees.", show_default=False),
    ] = None,
    url: ServerUrl = DEFAULT_URL,
    format: TextOrJson = OutputFormat.TEXT,
) -> int:
    """Deny a request.

    If the same request is made again, it stays denied until the approval would have expired.

    \b
    Example:
      policyengine approvals deny f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc --token-file my-token --reason "paid"
    """
    content = {} if reason is None else {"reason": reason}
    found = ApprovalServer(url, token_file).post(approval_path(id, "deny"), content)
    if format is OutputFormat.JSON:
        print_json(found)
        return 0
    Screen().line(("denied", "bold red"), f" {found.get('rule')}")
    return 0
