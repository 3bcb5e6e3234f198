"""`policyengine approvals list`: list the approvals that wait for a person."""

from __future__ import annotations

from policyengine.cli.options.approvals import DEFAULT_URL, ApprovalServer, PersonToken, ServerUrl
from policyengine.cli.options.common import TextOrJson
from policyengine.cli.output.terminal import OutputFormat, Screen, print_json


def list_approvals(
    token_file: PersonToken, url: ServerUrl = DEFAULT_URL, format: TextOrJson = OutputFormat.TEXT
) -> int:
    """List the approvals that wait for your answer, newest first.

    The server verifies your token and lists only approvals that you may answer.

    \b
    Example:
      policyengine approvals list --token-file my-token --url https://pdp.example.com
    """
    found = ApprovalServer(url, token_file).get("")
    if format is OutputFormat.JSON:
        print_json(found)
        return 0
    screen, waiting = Screen(), found.get("approvals", [])
    if not waiting:
        screen.line("no approval waits for you")
    for approval in waiting:
        who = approval.get("requester", {})
        asker = who.get("agent") or who.get("user") or "anonymous"
        words = f"{asker}: {approval.get('message')}  (until {approval.get('expires')})"
        screen.line((str(approval.get("id")), "bold"), f"  {words}")
    return 0
