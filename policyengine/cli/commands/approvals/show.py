"""`policyengine approvals show`: show what an approval is about."""

from __future__ import annotations

from policyengine.cli.options.approvals import (
    DEFAULT_URL,
    ApprovalId,
    ApprovalServer,
    PersonToken,
    ServerUrl,
    approval_path,
    show_approval,
)
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, print_json


def show(
    id: ApprovalId, token_file: PersonToken, url: ServerUrl = DEFAULT_URL, format: TextOrJson = OutputFormat.TEXT
) -> int:
    """Show the rule, the requester and the whole request.

    The command also shows the entity rows of the people and things in the request, and what the requester did in the
    last seven days, according to the decision log. Secrets are not shown.

    \b
    Example:
      policyengine approvals show f12dc44c05b92d20c7a10e960b4b8421ccd9277ec0e023dc --token-file my-token
    """
    found = ApprovalServer(url, token_file).get(approval_path(id, "details"))
    if format is OutputFormat.JSON:
        print_json(found)
    else:
        show_approval(found)
    return 0
