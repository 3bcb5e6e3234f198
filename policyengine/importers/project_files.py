"""What stands beside the policies of a first import: what to do next, one request, settings for the linter."""

from __future__ import annotations

import json
import shlex

from policyengine.importers.model import Api, ApiOperationKind, ServerTool
from policyengine.importers.policy_writer import AGENT, ISSUER, USER, sample_endpoint
from policyengine.importers.scope_plan import ImportPlan

LINT_SETTINGS = """\
[lint]
ignore = ["unread-fact"]  # facts say what the gateway can send; whether a rule reads them is yours to decide
"""


def readme_text(api: Api, plan: ImportPlan, folder: str, command: str) -> str:
    what = "tools" if api.kind == "mcp" else "endpoints"
    return f"""\
# Who may use what

{len(api.operations)} {what}, {len(plan.groups)} scopes, and nothing is open yet. Every file here is yours.

1. `policyengine test .` passes: each line of a test is one of the {what}.
2. In `doors.policy`, put the address of your issuer. Then copy its two blocks into a file of your own, `agents.policy`
   say: name your agents, keep the `may` lines that they and their users need, and leave out `valid until`. That opens
   the door. What stands in `doors.policy` ended long ago and stays: the tests ask as `{AGENT}`.
3. Beside your agents say in a `test` what they get and what they do not, as `doors_test.policy` does.
4. In `{folder}/`, fill in the guards of what may destroy something: until then the person who is served is asked.
   A test that comes out otherwise then says so: its line is yours to bring up to date.
5. Put the name of an agent of yours into `request.json`, and try it: `policyengine decide . --request request.json`,
   then `policyengine explain . --request request.json`.
6. {serving_instructions(api)}

`policyengine graph . -o graph.svg` draws who reaches what; `policyengine lint .` says what could be safer.

## When the API changes

```sh
{command}
{command} --check   # in CI: exit code 1 where both differ
```

What is new comes in files of its own, in scopes that nobody has, behind a guard that denies. What is gone or has
changed is told with its place. No line that stands here is ever changed. `imported.json` remembers what was imported:
keep it with the policies.
"""


def serving_instructions(api: Api) -> str:
    """What asks the policy for each call, and how to start it."""
    servers = [one.endpoint.server for one in api.operations if isinstance(one.endpoint, ServerTool)]
    if not servers:
        return "`policyengine serve .`, and let your gateway ask it: docs/gateways.md has a configuration for each."
    return f"""\
Put it in front of the server. A client starts this in its place, for one agent and one person:

   ```sh
   policyengine mcp-gateway . --server {shlex.quote(servers[0])} --upstream "COMMAND or URL" \\
     --as agent=AGENT --as issuer={ISSUER} --as user=USER
   ```"""


def sample_request(api: Api, plan: ImportPlan) -> str:
    """Something that only reads, where there is such."""
    group = next((one for one in plan.groups if one.kind is ApiOperationKind.READ), plan.groups[0])
    endpoint = group.operations[0].endpoint
    asked = {"agent": {"id": AGENT, "issuer": ISSUER}, "user": {"id": USER}}
    scopes = sorted({scope for ask in group.asks[:1] for scope in ask} or {group.carried_by})
    credential = {"kind": "jwt", "issuer": ISSUER, "scopes": scopes, "lifetime": "10m"}
    if isinstance(endpoint, ServerTool):
        what: dict[str, object] = {"tool": {"server": endpoint.server, "name": endpoint.name}}
    else:
        method, _, path = sample_endpoint(group.operations[0]).partition(" ")
        what = {"request": {"method": method, "path": path}}
    return json.dumps({**what, **asked, "credential": credential}, indent=2, ensure_ascii=False) + "\n"
