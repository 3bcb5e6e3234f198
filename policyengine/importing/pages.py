"""What stands beside the policies of a first import: what to do next, one request, settings for the linter."""

from __future__ import annotations

import json

from policyengine.importing.grouping import Plan
from policyengine.importing.model import Api, Tool
from policyengine.importing.writing import AGENT, ISSUER, USER, example

SETTINGS = """\
[lint]
ignore = ["unread-fact"]  # facts say what the gateway can send; whether a rule reads them is yours to decide
"""


def readme(api: Api, plan: Plan, folder: str, command: str) -> str:
    what = "tools" if api.kind == "mcp" else "endpoints"
    return f"""\
# Who may use what

{len(api.operations)} {what}, {len(plan.groups)} scopes, and nothing is open yet. Every file here is yours.

1. `policyengine test .` passes: each line of a test is one of the {what}.
2. In `doors.policy`, put your issuer and your agents. Keep the `may` lines that they need, delete the others, and
   delete `valid until` last: that opens the door. Users need theirs, too. The test `nothing is open today` has then
   done its work: delete it.
3. In `{folder}/`, fill in the guards of what may destroy something: until then the person who is served is asked.
4. Try it: `policyengine decide . --request request.json`, then `policyengine explain . --request request.json`.
5. `policyengine serve .`, and let your gateway ask it.

`policyengine graph . --html graph.html` draws who reaches what; `policyengine lint .` says what could be safer.

## When the API changes

```sh
{command}
{command} --check   # in CI: exit code 1 where both differ
```

What is new comes in files of its own, in scopes that nobody has, behind a guard that denies. What is gone or has
changed is told with its place. No line that stands here is ever changed. `imported.json` remembers what was imported:
keep it with the policies.
"""


def request(api: Api, plan: Plan) -> str:
    group = plan.groups[0]
    endpoint = group.operations[0].endpoint
    asked = {"agent": {"id": AGENT, "issuer": ISSUER}, "user": {"id": USER}}
    scopes = sorted({scope for ask in group.asks[:1] for scope in ask} or {group.carried_by})
    credential = {"kind": "jwt", "issuer": ISSUER, "scopes": scopes, "lifetime": "10m"}
    if isinstance(endpoint, Tool):
        what: dict[str, object] = {"tool": {"server": endpoint.server, "name": endpoint.name}}
    else:
        method, _, path = example(group.operations[0]).partition(" ")
        what = {"request": {"method": method, "path": path}}
    return json.dumps({**what, **asked, "credential": credential}, indent=2, ensure_ascii=False) + "\n"
