"""The other files of a first import: next steps, a sample request, and linter settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from policyengine.importers.model import Api, ApiOperationKind, ServerTool
from policyengine.importers.offers_writer import count_offers, offer_request
from policyengine.importers.policy_writer import AGENT, ISSUER, USER, sample_endpoint
from policyengine.importers.scope_plan import ImportPlan
from policyengine.plurals import pluralize

LINT_SETTINGS = """\
[lint]
ignore = ["unread-fact"]  # facts say what the gateway can send; whether a rule reads them is yours to decide
"""


def readme_text(api: Api, plan: ImportPlan, folder: str, command: str) -> str:
    what = "tool" if api.kind == "mcp" else "endpoint"
    counts = [pluralize(len(api.operations), what), pluralize(len(plan.groups), "scope")]
    counted = ", ".join((*counts, *count_offers(api.offers.listed)))
    return f"""\
# Who may use what

{counted}, and nothing is allowed yet. Every file here is yours.

1. `policyengine test .` passes: each line of a test is one of the {what}s.
2. In `doors.policy`, set the URL of your issuer. Then copy its two blocks into a new file, for example
   `agents.policy`: name your agents, keep the `may` lines that they and their users need, and remove `valid until`.
   That opens the endpoints. Keep the expired blocks in `doors.policy`: the tests use `{AGENT}`.
3. Next to your agents, write a `test` of what they may do and what they may not, like `doors_test.policy`.
4. In `{folder}/`, complete the guards of destructive {what}s: until then the user approves each request.
   {kinds_advice(api)}If the outcome of a test line then changes, the test fails: update the line.
5. Put the name of one of your agents into `request.json`, and try it: `policyengine decide . --request request.json`,
   then `policyengine explain . --request request.json`.
6. {serving_instructions(api)}

`policyengine graph . -o graph.svg` draws who reaches what; `policyengine lint .` reports rules that could be safer.

## When the API changes

```sh
{command}
{command} --check   # in CI: exit code 1 if the API and the policies differ
```

New endpoints are added in new files, in scopes that no block grants, behind a guard that denies. Removed and changed
endpoints are listed with their places. Existing lines are never changed. `imported.json` records what was imported:
keep it with the policies.
{pins_paragraph(api)}"""


def kinds_advice(api: Api) -> str:
    if api.kind != "mcp":
        return ""
    return """\
A tool without hints counts as destructive: delete the guard of one that only reads, and write `allow` in its
   test line. """


def pins_paragraph(api: Api) -> str:
    if not api.listings:
        return ""
    return f"""\

`mcp-pins.json` holds the definitions of the tools as they were imported. The gateway hides and denies a tool that is
new or that the server defines differently, until you have reviewed it:

```sh
policyengine mcp review . --server {shlex.quote(api.server)} --upstream "COMMAND or URL"
```
"""


def serving_instructions(api: Api) -> str:
    """Return the text that says how to start the enforcement point and its server."""
    servers = [one.endpoint.server for one in api.operations if isinstance(one.endpoint, ServerTool)]
    servers = servers or [one.server for one in api.offers.listed]
    if not servers:
        return "`policyengine serve .`, and let your gateway call it: docs/gateways.md has a configuration for each."
    return f"""\
Put it in front of the server. A client starts this command instead, for one agent and one user:

   ```sh
   policyengine mcp-gateway . --server {shlex.quote(servers[0])} --upstream "COMMAND or URL" \\
     --as agent=AGENT --as issuer={ISSUER} --as user=USER
   ```

   Where a guard says `confirm by user`, calls wait for an answer: add `--elicit`, or `--store` and a `serve` with the
   same store. docs/mcp-approvals.md says whom each of them trusts."""


def sample_request(api: Api, plan: ImportPlan) -> str:
    """Return a sample request, read-only if possible."""
    if not plan.groups:
        return request_text(offer_request(api.offers.listed[0]), [])
    group = next((one for one in plan.groups if one.kind is ApiOperationKind.READ), plan.groups[0])
    endpoint = group.operations[0].endpoint
    scopes = sorted({scope for ask in group.asks[:1] for scope in ask} or {group.carried_by})
    if isinstance(endpoint, ServerTool):
        what: dict[str, object] = {"tool": {"server": endpoint.server, "name": endpoint.name}}
    else:
        method, _, path = sample_endpoint(group.operations[0]).partition(" ")
        what = {"request": {"method": method, "path": path}}
    return request_text(what, scopes)


def request_text(what: Mapping[str, object], scopes: Sequence[str]) -> str:
    asked = {"agent": {"id": AGENT, "issuer": ISSUER}, "user": {"id": USER}}
    credential = {"kind": "jwt", "issuer": ISSUER, "scopes": scopes, "lifetime": "10m"}
    return json.dumps({**what, **asked, "credential": credential}, indent=2, ensure_ascii=False) + "\n"
