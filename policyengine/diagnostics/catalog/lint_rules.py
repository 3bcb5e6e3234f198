"""W26x to W65x: additional warnings of `policyengine lint`, about valid policies that could be safer or clearer."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_DOOR = "anyone { may GET /a }\n"
_BOSS = "issuer acme {}\nentity user { roles: set<string> }\n"
_FACTS = "facts { body.amount: number? }\n"
_BOT = 'users unrestricted\nissuer acme { url "https://login.acme.example"  scopes none }\n'
_ASKED = "credential { kind in [jwt, mtls]  lifetime <= 15m }"


def _agent(credential: str = _ASKED, door: str = "GET /a", rest: str = "") -> str:
    return f'agent "bot" {{ issued by acme  acts alone  {credential}  may {door}{rest} }}\n'


_CHAINED = """\
users unrestricted
issuer acme { url "https://login.acme.example"  records chains }
scope a.read { GET /a }
"""
_HELPER = f'agent "helper" {{ issued by acme  acts for any user  {_ASKED}  may a.read }}\n'


def _planner(rest: str) -> str:
    return (
        f'agent "planner" {{ issued by acme  acts for any user  {_ASKED}  may a.read\n'
        f'  may delegate a.read to agent "helper"{rest} }}\n{_HELPER}'
    )


_SERVED = """\
issuer acme { url "https://login.acme.example" }
scope a.read { GET /a }
scope b.read { GET /b }
"""
_HOUSES = """\
issuer login { url "https://login.acme.example" }
issuer partner { url "https://id.partner.example" }
scope a.read { GET /a }
user any { may a.read }
"""
_ASSISTANT = f'agent "assistant" {{ issued by login  acts for any user  {_ASKED}  may a.read }}\n'
_ASSISTANT += f'agent "courier" {{ issued by partner  acts alone  {_ASKED}  may a.read }}\n'
_COMMON = f'agent "assistant" {{ issued by login, partner  acts for any user  {_ASKED}  may a.read }}\n'
_WHOEVER = f'agent "NAME" {{ issued by acme  acts for any user  {_ASKED}  may GET /a }}\n'
_BOB = 'user "bob" { may a.read, b.read }\n'
_ALLOWED = "  # lint: allow wide-grant because the guard stands before it\n"
_SERVANT = f'agent "bot" {{ issued by acme  acts for any user  {_ASKED}  may a.read }}\n'

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "W262",
        "a fact that no rule reads",
        "A declared fact looks as if a rule relied on it, and the gateway continues to send it. The rule that should "
        "read it may be missing.",
        _FACTS + _DOOR,
        _FACTS + 'guard "small" { deny when body.amount > 10 message "at most 10" }\n' + _DOOR,
        name="unread-fact",
        opinion=True,
    ),
    DiagnosticDoc(
        "W263",
        "an unused issuer or attester",
        "Every declared issuer and attester is trusted. If no agent needs that trust, the keys are a risk without a "
        "benefit.",
        'issuer old { url "https://old.acme.example" }\n' + _DOOR,
        _DOOR,
        name="unused-anchor",
        opinion=True,
    ),
    DiagnosticDoc(
        "W264",
        "two names that look alike",
        "The names differ only in case, in `0` and `O`, in `1`, `l` and `I`, or in separators. Names are compared "
        "exactly, so a reader who confuses them misreads the policy.",
        _BOT + _agent() + _agent(door="GET /b").replace('"bot"', '"Bot"'),
        _BOT + _agent() + _agent(door="GET /b").replace('"bot"', '"archivist"'),
        name="look-alike",
        opinion=True,
    ),
    DiagnosticDoc(
        "W265",
        "a secret in a policy",
        "Policies are read by many people, copied and archived, so a secret in a policy leaks. This rule finds private "
        "keys, tokens and keys in well-known formats, and strings that look random. Digests (`sha256:…`) are not "
        "secrets.",
        _DOOR.replace("{", '{ # uses ghp_' + "x4Kq" * 9 + "\n "),
        _DOOR.replace("{", "{ # uses the token in `env:GITHUB_TOKEN`\n "),
        name="pasted-secret",
        opinion=True,
    ),
    DiagnosticDoc(
        "W352",
        "a scope that no OAuth token can carry",
        "OAuth separates scopes with spaces and allows only printable ASCII without quotes and backslashes. An issuer "
        "cannot issue this scope, so its grant never applies.",
        _SERVED.replace("a.read {", 'a.read as "läs:a" {').replace("scope b.read { GET /b }\n", "")
        + _SERVANT + "user any { may a.read }\n",
        _SERVED.replace("a.read {", 'a.read as "read:a" {').replace("scope b.read { GET /b }\n", "")
        + _SERVANT + "user any { may a.read }\n",
        name="uncarried-scope",
        opinion=True,
    ),
    DiagnosticDoc(
        "W456",
        "an agent whose credential may never expire",
        "A stolen credential can be used until it expires. Require a `lifetime` or an `age` in the block, or in a "
        "guard that covers all its grants.",
        _BOT + _agent("credential { kind in [jwt, mtls] }"),
        _BOT + _agent(),
        name="no-lifetime",
        opinion=True,
    ),
    DiagnosticDoc(
        "W457",
        "static keys are accepted",
        "An API key or a password works for anyone who has seen it, and does not say to whom it was issued. Without "
        "`credential { kind in … }`, an agent may use any kind of credential. A `bound` credential is not a static "
        "key.",
        _BOT + _agent("credential { lifetime <= 15m }"),
        _BOT + _agent(),
        name="static-key",
        opinion=True,
    ),
    DiagnosticDoc(
        "W458",
        "`**` in a grant",
        "The block may use every endpoint below this path, including those added later without a review of the policy. "
        "Name the endpoints that are meant. In a guard, `**` is fine: it also protects new endpoints.",
        _BOT + _agent(door="GET /a/**"),
        _BOT + _agent(door="GET /a/{id}"),
        name="wide-grant",
        opinion=True,
    ),
    DiagnosticDoc(
        "W459",
        "chains of unlimited depth",
        "Each agent may delegate to the next, so a user's request can reach an agent that the user does not expect. A "
        "single `delegation` block limits all chains.",
        _CHAINED + _planner(" for 30m"),
        _CHAINED + "delegation { depth <= 3 }\n" + _planner(" for 30m"),
        name="no-depth",
        opinion=True,
    ),
    DiagnosticDoc(
        "W460",
        "delegation without a time limit",
        "Without a limit, delegated authority outlives its task. `for 30m` limits it to 30 minutes after the hop was "
        "issued; `delegation { lifetime <= 1h }` limits all chains.",
        _CHAINED + "delegation { depth <= 3 }\n" + _planner(""),
        _CHAINED + "delegation { depth <= 3 }\n" + _planner(" for 30m"),
        name="open-delegation",
        opinion=True,
    ),
    DiagnosticDoc(
        "W461",
        "a `may` without a matching user grant",
        "An agent that acts for a user needs a grant to that user, too. No user block grants any of these endpoints, "
        "so this line has no effect.",
        _SERVED + _SERVANT.replace("may a.read", "may a.read  may b.read") + "user any { may b.read }\n",
        _SERVED + _SERVANT.replace("may a.read", "may b.read") + "user any { may a.read, b.read }\n",
        name="no-user-door",
        opinion=True,
    ),
    DiagnosticDoc(
        "W463",
        "a user grant that accepts a token of any issuer",
        "For a request without an agent, the user block alone grants access, and a token of any declared issuer is "
        "enough, whichever user it names: a partner's token that says `alice` is treated as your `alice`. `users like` "
        "restricts the users that an issuer may name; its statements about other users are ignored. `user where "
        "credential.issuer == …` restricts the issuers that the grant accepts. If two issuers name the same people, "
        "allow this warning next to the issuer.",
        _HOUSES + _ASSISTANT,
        _HOUSES.replace('partner.example" }', 'partner.example"   users like "*@partner.example" }') + _ASSISTANT,
        name="any-issuers-token",
        opinion=True,
    ),
    DiagnosticDoc(
        "W464",
        "any agent may do anything for any user",
        '`agent "*"`, like `agent where agent.id like "*"`, does not require a name, `scopes none` does not require a '
        "scope, and `users unrestricted` does not require a grant to the user. Together they check only that the "
        "issuer issued the token.",
        _BOT + _WHOEVER.replace("NAME", "*"),
        _BOT + _WHOEVER.replace("NAME", "mail-bot"),
        name="any-agent",
        opinion=True,
    ),
    DiagnosticDoc(
        "W465",
        "an agent that acts for users without grants",
        "An agent that acts for a user needs a grant to that user, too. None of the users that this agent acts for has "
        "a grant for the agent's endpoints: either no user block grants these endpoints, or user blocks grant them "
        "only to other users. So the grants of this agent never apply.",
        _SERVED + _SERVANT.replace("any user", 'users where user.id == "alice"') + _BOB,
        _SERVED + _SERVANT.replace("any user", 'users where user.id == "bob"') + _BOB,
        name="no-user-served",
        opinion=True,
    ),
    DiagnosticDoc(
        "W466",
        "an agent of two issuers that name the same users",
        "A block that names two issuers trusts both for the same users: with a partner's token that says `alice`, the "
        "agent acts for your `alice`. `users like` restricts the users that an issuer may name; its statements about "
        "other users are ignored. If both issuers name the same people, allow this warning next to the agent.",
        _HOUSES + _COMMON,
        _HOUSES.replace('partner.example" }', 'partner.example"   users like "*@partner.example" }') + _COMMON,
        name="shared-agent",
        opinion=True,
    ),
    DiagnosticDoc(
        "W552",
        "a denial without a message",
        "Without a message, the caller sees the text of the rule. A sentence that says what is wrong and what to do "
        "saves callers from asking the author of the policy.",
        'guard "small" { deny when request.size > 1000 }\n' + _DOOR,
        'guard "small" { deny when request.size > 1000 message "send at most 1000 bytes" }\n' + _DOOR,
        name="no-message",
        opinion=True,
    ),
    DiagnosticDoc(
        "W553",
        "an approval that counts for the default time",
        "The approver agreed to one request at one time. `within` limits how long the approval counts after it is "
        "granted; without it, the approval counts for a day.",
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss message "pay {body.amount}" }\n' + _DOOR,
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss within 15m message "pay {body.amount}" }\n' + _DOOR,
        name="open-confirm",
        opinion=True,
    ),
    DiagnosticDoc(
        "W557",
        "approvers who see nothing of the request",
        "An approval is bound to the contents of the request, so the approver should see these contents. Let the "
        "message show members of `body`, `args` or `context`, the path or its captures, the resource, query parameters "
        "or headers. If none of these matters, say why in the comment that allows this warning.",
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss within 15m when body.amount > 9 }\n' + _DOOR,
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss within 15m message "pay {body.amount}" }\n' + _DOOR,
        name="blind-confirm",
        opinion=True,
    ),
    DiagnosticDoc(
        "W554",
        "a default that the caller can choose",
        "Facts of `body`, `args`, `context` and `request` come with the request, and a caller who omits one gets the "
        "value after `else`. If that value grants access, raises a rate, or keeps a guard or limit from acting, "
        "omitting the fact bypasses the rule. The same applies where `x is absent or x <= 10` is true, or where `x is "
        "present and x > 10` is false. Without the presence test, the condition is unknown if the fact is missing, and "
        "an unknown condition neither grants access nor keeps a guard from acting.",
        _FACTS + 'guard "small" { deny when (body.amount else 0) > 10 message "at most 10" }\n' + _DOOR,
        _FACTS + 'guard "small" { deny when body.amount > 10 message "at most 10" }\n' + _DOOR,
        name="callers-default",
        opinion=True,
    ),
    DiagnosticDoc(
        "W555",
        "a limit keyed by a value that the caller chooses",
        "Each value of a key has its own count. Facts of `body`, `args`, `context` and `request` come with the "
        "request, so a caller who sends another value starts a new count, and the limit does not hold. `request.ip` "
        "is exempt, because a sender cannot choose its network. `address(request.ip)` is not exempt, because the "
        "owner of an IPv6 network can send from any address in it.",
        'rate "calls" per request.host { 100/1m }\n' + _DOOR,
        'rate "calls" per (request.ip, request.host) { 100/1m }\n' + _DOOR,
        name="callers-key",
        opinion=True,
    ),
    DiagnosticDoc(
        "W556",
        "a limit that is off while the store is down",
        "`on store failure allow` lets every request through while the store is unreachable, so an attacker who can "
        "bring the store down is not limited. `local` continues to count in each process. Without `on store failure`, "
        "requests are denied while the store is unreachable.",
        'rate "calls" per request.ip { 100/1m  on store failure allow }\n' + _DOOR,
        'rate "calls" per request.ip { 100/1m  on store failure local }\n' + _DOOR,
        name="open-on-failure",
        opinion=True,
    ),
    DiagnosticDoc(
        "W559",
        "a presence test that a gateway may not support",
        "`is present` and `is absent` test facts that the gateway sent or reported as missing. nginx, Caddy and "
        "Traefik forward no body, and nginx and Envoy forward only the headers that their configuration lists: behind "
        "these gateways, facts that are not forwarded are neither present nor absent, so the rule acts, or grants "
        "nothing, for every request. A comparison by itself requires the fact to be present. If the fact may be "
        "missing, configure the gateway to forward the fact, and declare that in `policyengine.toml`: "
        "`hands_on_nginx`, `bodies` and similar settings under `[gateway]`.",
        'facts on POST /a { body.note: string? }\nanyone { may POST /a }\n'
        'guard "notes" on POST /a { deny when body.note is present message "send no note" }\n',
        'facts on POST /a { body.note: string? }\nanyone { may POST /a }\n'
        'guard "notes" on POST /a { deny when body.note != "none" message "send no note" }\n',
        name="unseen-absence",
        opinion=True,
    ),
    DiagnosticDoc(
        "W558",
        "a guard that a path in another case bypasses",
        "A server may treat `/Admin` as `/admin`, but string comparisons are case-sensitive: a request in another "
        "spelling bypasses the rule. A path after `on` matches without regard to case. Compare the value of a capture "
        "in lower case.",
        'guard "admin" { deny when request.path like "/admin/*" message "no" }\n' + _DOOR,
        'guard "admin" { deny when lower(request.path) like "/admin/*" message "no" }\n' + _DOOR,
        name="looks-at-case",
        opinion=True,
    ),
    DiagnosticDoc(
        "W560",
        "a folder restriction that `..` bypasses",
        "A string from a caller is compared as it is, but a program that opens the file reads `drafts/../secret` as "
        "`secret`. The path of a request is canonical and has no `..`; a string from `body`, `args`, the query or a "
        "header may contain `..`. Deny strings that contain `..`, or compare a value that does not name a file.",
        'facts on TOOL files/read { args.path: string }\nanyone { may TOOL files/read }\n'
        'guard "drafts" on TOOL files/read { require args.path like "drafts/*" message "only drafts" }\n',
        'facts on TOOL files/read { args.path: string }\nanyone { may TOOL files/read }\n'
        'guard "drafts" on TOOL files/read {\n'
        '  require args.path like "drafts/*" and not contains(args.path, "..") message "only drafts"\n}\n',
        name="parent-folder",
        opinion=True,
    ),
    DiagnosticDoc(
        "W561",
        "a host comparison that ignores the scheme of the URL",
        "`host(url)` returns the host for every scheme: `file://api.example/etc/passwd` has the same host as "
        "`https://api.example/`, and `http:` sends data unencrypted. Compare the scheme, too.",
        'facts on TOOL web/get { args.url: string }\nanyone { may TOOL web/get }\n'
        'guard "ours" on TOOL web/get { require host(args.url) == "api.example" message "only api.example" }\n',
        'facts on TOOL web/get { args.url: string }\nanyone { may TOOL web/get }\n'
        'guard "ours" on TOOL web/get {\n'
        '  require host(args.url) == "api.example" and args.url like "https://*" message "only api.example"\n}\n',
        name="any-scheme",
        opinion=True,
    ),
    DiagnosticDoc(
        "W562",
        "a guard for one server's tools, but a grant for all servers",
        "The grant allows the tools of every server that the gateway names, but the guard covers only the tools of one "
        "server name. The same tools behind another server name, or without a server name, bypass the guard.",
        'anyone { may TOOL *' + _ALLOWED + '}\nguard "files" on TOOL fs/* { deny message "no files" }\n',
        'anyone { may TOOL fs/*, TOOL mail/* }\n'
        'guard "files" on TOOL fs/* { deny when tool.name == "delete" message "no files" }\n',
        name="other-servers",
        opinion=True,
    ),
    DiagnosticDoc(
        "W563",
        "a guard for one path, but a grant for everything below it",
        "The guard covers only that path, while the grant with `**` also covers everything below it. In a guard, "
        "`/admin/**` covers `/admin` and everything below it. If only the path itself is meant, say why in the comment "
        "that allows this warning.",
        'anyone { may GET /a/**' + _ALLOWED + '}\nguard "admin" on /a/admin { deny message "no" }\n',
        'anyone { may GET /a/**' + _ALLOWED + '}\nguard "admin" on /a/admin/** { deny message "no" }\n',
        name="paths-below",
        opinion=True,
    ),
    DiagnosticDoc(
        "W564",
        "a sum that one lost report makes unknown",
        "An outcome is absent until the gateway reports it, and some reports are lost. Without a default, the sum is "
        "then unknown until that request leaves the window. With the default, such a request counts as the default.",
        'anyone { may POST /chat }\nguard "tokens" on POST /chat {\n'
        '  require sum past.output.tokens of POST /chat within 1h < 9_000 message "wait an hour"\n}\n',
        'anyone { may POST /chat }\nguard "tokens" on POST /chat {\n'
        '  require sum (past.output.tokens else 500) of POST /chat within 1h < 9_000 message "wait an hour"\n}\n',
        name="lost-report",
        opinion=True,
    ),
    DiagnosticDoc(
        "W565",
        "a limit that denies requests without an agent",
        "A limit denies a request if a fact that it needs, such as its key, is unknown. Requests that `anyone` or a "
        "user block allows may have no agent, so a rate `per agent.id` denies them; in the same way, a limit "
        "`per user.id` denies requests of agents that act alone. With `when agent.id is present`, the limit does not "
        "apply to requests without an agent. If they are meant to be denied, a guard says so: `require agent.id is "
        "present`.",
        _DOOR + 'rate "calls" per agent.id { 100/1m }\n',
        _DOOR + 'rate "calls" per agent.id when agent.id is present { 100/1m }\n',
        name="denied-uncounted",
        opinion=True,
    ),
    DiagnosticDoc(
        "W652",
        "a duplicate test",
        "This line sends the same request in the same setting as an earlier line, and expects the same outcome. Often "
        "such a line was copied and not changed.",
        _DOOR + 'test "a" { GET /a => allow   GET /b => deny   GET /a => allow }\n',
        _DOOR + 'test "a" { GET /a => allow   GET /b => deny }\n',
        name="repeated-test",
        opinion=True,
    ),
    DiagnosticDoc(
        "W653",
        "an endpoint without a test",
        "A block grants the endpoint, but no test sends a request to it. This rule is off by default; enable it with "
        "`policyengine lint --extend untested-endpoint`.",
        "anyone { may GET /a, GET /b }\n" + 'test "a" { GET /a => allow }\n',
        "anyone { may GET /a, GET /b }\n" + 'test "a" { GET /a => allow   GET /b => allow }\n',
        name="untested-endpoint",
        opinion=True,
        optional=True,
    ),
)  # fmt: skip
