"""`policyengine approvals approve`: approve a request."""

from __future__ import annotations

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


def approve(
    id: ApprovalId, token_file: PersonToken, url: ServerUrl = DEFAULT_URL, format: TextOrJson = OutputFormat.TEXT
) -> int:
    """Approve a request.

    The requester can then repeat exactly the same request, once, within the time that the rule allows. If the rule
    requires several people, the approval waits for the others.

    \b
    Example:
      policyengine approvals approve f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc --token-file my-token
    """
    found = ApprovalServer(url, token_file).post(approval_path(id, "approve"), {})
    if format is OutputFormat.JSON:
        print_json(found)
        return 0
    given, count = len(found.get("approved", ())), found.get("count", 1)
    more = "" if found.get("state") == "approved" else f": {given} of {count} people have approved it"
    Screen().line(("approved", "bold green"), f" {found.get('rule')}{more}")
    return 0
