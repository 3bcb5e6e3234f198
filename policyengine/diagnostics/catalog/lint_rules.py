"""What `policyengine lint` tells besides: policies that mean what they say, and could be safer or clearer."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_DOOR = "anyone { may GET /a }\n"
_BOSS = "entity user { roles: set<string> }\n"
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
        "Whoever declares a fact is taken to rely on it, and the gateway goes on sending it. "
        "It may also be that the rule that should read it was never written.",
        _FACTS + _DOOR,
        _FACTS + 'guard "small" { deny when body.amount > 10 message "at most 10" }\n' + _DOOR,
        name="unread-fact",
        opinion=True,
    ),
    DiagnosticDoc(
        "W263",
        "an issuer or attester that no agent asks for",
        "A trust anchor that nobody needs is one more key that can be stolen.",
        'issuer old { url "https://old.acme.example" }\n' + _DOOR,
        _DOOR,
        name="unused-anchor",
        opinion=True,
    ),
    DiagnosticDoc(
        "W264",
        "two names that look alike",
        "They differ only in case, in `0` and `O`, in `1`, `l` and `I`, or in separators. Names are compared exactly, "
        "so a reader who takes one for the other reads another policy.",
        _BOT + _agent() + _agent(door="GET /b").replace('"bot"', '"Bot"'),
        _BOT + _agent() + _agent(door="GET /b").replace('"bot"', '"archivist"'),
        name="look-alike",
        opinion=True,
    ),
    DiagnosticDoc(
        "W265",
        "a secret in a policy",
        "Policies are read by many, copied and kept: whoever has seen one has the secret. Private keys, tokens "
        "and keys of well-known shapes are found, and texts that look random. Digests (`sha256:…`) are no secrets.",
        _DOOR.replace("{", '{ # asks with ghp_' + "x4Kq" * 9 + "\n "),
        _DOOR.replace("{", "{ # asks with what `env:GITHUB_TOKEN` holds\n "),
        name="pasted-secret",
        opinion=True,
    ),
    DiagnosticDoc(
        "W352",
        "a scope that no OAuth token can carry",
        "OAuth separates scopes by spaces and writes them in printable ASCII without quotes and backslashes. "
        "An issuer cannot grant this one, so its door stays shut.",
        _SERVED.replace("a.read {", 'a.read as "läs:a" {').replace("scope b.read { GET /b }\n", "")
        + _SERVANT + "user any { may a.read }\n",
        _SERVED.replace("a.read {", 'a.read as "read:a" {').replace("scope b.read { GET /b }\n", "")
        + _SERVANT + "user any { may a.read }\n",
        name="uncarried-scope",
        opinion=True,
    ),
    DiagnosticDoc(
        "W456",
        "an agent whose credential may last for ever",
        "A credential that is stolen opens doors for as long as it lasts. Ask for a `lifetime` or an `age` in the "
        "block, or in a guard that stands before all its doors.",
        _BOT + _agent("credential { kind in [jwt, mtls] }"),
        _BOT + _agent(),
        name="no-lifetime",
        opinion=True,
    ),
    DiagnosticDoc(
        "W457",
        "static keys are taken",
        "Whoever has seen an API key or a password can use it, and nothing in it says for whom it was. Without "
        "`credential { kind in … }` an agent may come with any kind. A `bound` credential is not such a key.",
        _BOT + _agent("credential { lifetime <= 15m }"),
        _BOT + _agent(),
        name="static-key",
        opinion=True,
    ),
    DiagnosticDoc(
        "W458",
        "`**` is granted",
        "The block may use every endpoint below, those that are added next year too, and nobody will look at the "
        "policy then. Name what is meant. Guards are another matter: there `**` is what keeps new endpoints shut.",
        _BOT + _agent(door="GET /a/**"),
        _BOT + _agent(door="GET /a/{id}"),
        name="wide-grant",
        opinion=True,
    ),
    DiagnosticDoc(
        "W459",
        "chains of any depth",
        "Each agent may hand on to the next, and the request of a user ends where nobody expects it. One "
        "`delegation` block limits all chains.",
        _CHAINED + _planner(" for 30m"),
        _CHAINED + "delegation { depth <= 3 }\n" + _planner(" for 30m"),
        name="no-depth",
        opinion=True,
    ),
    DiagnosticDoc(
        "W460",
        "handed on for ever",
        "What is handed on outlives the task it was handed on for. `for 30m` counts from when the hop was issued; "
        "`delegation { lifetime <= 1h }` does so for all chains.",
        _CHAINED + "delegation { depth <= 3 }\n" + _planner(""),
        _CHAINED + "delegation { depth <= 3 }\n" + _planner(" for 30m"),
        name="open-delegation",
        opinion=True,
    ),
    DiagnosticDoc(
        "W461",
        "a `may` that no user block goes along with",
        "An agent that acts for a user needs the user's door too. No user block opens any of these endpoints, so this "
        "line never has an effect.",
        _SERVED + _SERVANT.replace("may a.read", "may a.read  may b.read") + "user any { may b.read }\n",
        _SERVED + _SERVANT.replace("may a.read", "may b.read") + "user any { may a.read, b.read }\n",
        name="no-user-door",
        opinion=True,
    ),
    DiagnosticDoc(
        "W463",
        "a user's door that a token of any issuer opens",
        "Where no agent asks, the user block is the door, and a token of any issuer that is declared opens it, for "
        "whichever user it names: a partner's token that says `alice` is yours. `users like` says for whom an issuer "
        "speaks; what it says of others does not count. `user where credential.issuer == …` says whose word counts at "
        "the door. Where two issuers name the same people, allow it beside the issuer.",
        _HOUSES + _ASSISTANT,
        _HOUSES.replace('partner.example" }', 'partner.example"   users like "*@partner.example" }') + _ASSISTANT,
        name="any-issuers-token",
        opinion=True,
    ),
    DiagnosticDoc(
        "W464",
        "any agent does anything for any user",
        "`agent \"*\"`, as `agent where agent.id like \"*\"`, asks for no name, `scopes none` for no scope, "
        "`users unrestricted` for no door of the user. "
        "Together they leave one question: whether the issuer made the token.",
        _BOT + _WHOEVER.replace("NAME", "*"),
        _BOT + _WHOEVER.replace("NAME", "mail-bot"),
        name="any-agent",
        opinion=True,
    ),
    DiagnosticDoc(
        "W465",
        "an agent that serves users where no user has a door",
        "An agent that acts for a user needs the user's door too. No user whom this agent acts for has one where the "
        "agent has one: no user block opens any of it, or only to others. So it never gets through.",
        _SERVED + _SERVANT.replace("any user", 'users where user.id == "alice"') + _BOB,
        _SERVED + _SERVANT.replace("any user", 'users where user.id == "bob"') + _BOB,
        name="no-user-served",
        opinion=True,
    ),
    DiagnosticDoc(
        "W466",
        "an agent of two issuers that speak for the same users",
        "One block that names two issuers takes the word of both for the same users: a token of a partner that says "
        "`alice` acts for yours. `users like` says for whom an issuer speaks; what it says of others does not count. "
        "Where both name the same people, allow it beside the agent.",
        _HOUSES + _COMMON,
        _HOUSES.replace('partner.example" }', 'partner.example"   users like "*@partner.example" }') + _COMMON,
        name="shared-agent",
        opinion=True,
    ),
    DiagnosticDoc(
        "W552",
        "a denial that tells the caller nothing",
        "Without a message the caller sees the words of the rule. A sentence that says what is wrong and what to do "
        "saves a question to whoever wrote the policy.",
        'guard "small" { deny when request.size > 1000 }\n' + _DOOR,
        'guard "small" { deny when request.size > 1000 message "send at most 1000 bytes" }\n' + _DOOR,
        name="no-message",
        opinion=True,
    ),
    DiagnosticDoc(
        "W553",
        "an approval that never expires",
        "A person agreed to what was asked then. `within` says for how long that holds, counted from the grant.",
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss message "pay {body.amount}" }\n' + _DOOR,
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss within 15m message "pay {body.amount}" }\n' + _DOOR,
        name="open-confirm",
        opinion=True,
    ),
    DiagnosticDoc(
        "W557",
        "approvers who see nothing of the request",
        "An approval is bound to what comes with the request, so whoever approves should see it. The message names "
        "members of `body`, `args` or `context`, the path or captures of it, the resource, parameters of the query or "
        "headers. Where nothing of that matters, the comment says why.",
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss within 15m when body.amount > 9 }\n' + _DOOR,
        _BOSS + _FACTS + 'guard "ask" { confirm by role boss within 15m message "pay {body.amount}" }\n' + _DOOR,
        name="blind-confirm",
        opinion=True,
    ),
    DiagnosticDoc(
        "W554",
        "a default that the caller can choose",
        "Facts of `body`, `args`, `context` and `request` come with the request, and whoever leaves one out gets "
        "what stands after `else`. Where that opens a door, raises a rate, or keeps a guard or a limit from acting, "
        "leaving it out is a way around the rule. So it is where `x is absent or x <= 10` holds, or `x is present and "
        "x > 10` does not. Without that part the fact is unknown, which does neither.",
        _FACTS + 'guard "small" { deny when (body.amount else 0) > 10 message "at most 10" }\n' + _DOOR,
        _FACTS + 'guard "small" { deny when body.amount > 10 message "at most 10" }\n' + _DOOR,
        name="callers-default",
        opinion=True,
    ),
    DiagnosticDoc(
        "W555",
        "a limit by what the caller chooses",
        "Each value of a key has a count of its own. Facts of `body`, `args`, `context` and `request` come with the "
        "request, so whoever sends another value begins anew, and the limit holds nobody back. `request.ip` is not "
        "meant: a network is not for the sender to choose. `address(request.ip)` is, as who has an IPv6 network has "
        "all addresses of it.",
        'rate "calls" per request.host { 100/1m }\n' + _DOOR,
        'rate "calls" per (agent.id, request.host) { 100/1m }\n' + _DOOR,
        name="callers-key",
        opinion=True,
    ),
    DiagnosticDoc(
        "W556",
        "a limit that is gone while the store is down",
        "`on store failure allow` lets everything through as long as the store cannot be asked, and whoever can bring "
        "it down has no limit. `local` goes on counting in each process; without the line such requests are denied.",
        'rate "calls" per agent.id { 100/1m  on store failure allow }\n' + _DOOR,
        'rate "calls" per agent.id { 100/1m  on store failure local }\n' + _DOOR,
        name="open-on-failure",
        opinion=True,
    ),
    DiagnosticDoc(
        "W559",
        "an absence that a gateway may not show",
        "`is present` and `is absent` speak of facts that somebody saw, or saw to be missing. nginx, Caddy and Traefik "
        "hand on no body, and nginx and Envoy only the headers that their files name: behind them the fact is neither "
        "present nor absent. Then the rule acts, or opens nothing, whatever came. A comparison alone says that it has "
        "to be there. Where it may be missing, let the gateway hand it on and say so in `policyengine.toml`: "
        "`hands_on_nginx`, `bodies` and their like under `[gateway]`.",
        'facts on POST /a { body.note: string? }\nanyone { may POST /a }\n'
        'guard "notes" on POST /a { deny when body.note is present message "send no note" }\n',
        'facts on POST /a { body.note: string? }\nanyone { may POST /a }\n'
        'guard "notes" on POST /a { deny when body.note != "none" message "send no note" }\n',
        name="unseen-absence",
        opinion=True,
    ),
    DiagnosticDoc(
        "W558",
        "a guard that a path in another case gets past",
        "A server may take `/Admin` for `/admin`, and a text is compared with case: what such a rule is to stop passes "
        "in another spelling. A place after `on` covers every case; what a capture holds is compared in lower case.",
        'guard "admin" { deny when request.path like "/admin/*" message "no" }\n' + _DOOR,
        'guard "admin" { deny when lower(request.path) like "/admin/*" message "no" }\n' + _DOOR,
        name="looks-at-case",
        opinion=True,
    ),
    DiagnosticDoc(
        "W560",
        "a folder that `..` leads out of",
        "A text that callers write is compared as it is, and whoever opens the file reads `drafts/../secret` as "
        "`secret`. A path of a request is canonical and holds no `..`; a text of `body`, `args`, the query or a header "
        "is not. Deny `..` in it, or compare what no file is opened by.",
        'facts on TOOL files/read { args.path: string }\nanyone { may TOOL files/read }\n'
        'guard "drafts" on TOOL files/read { require args.path like "drafts/*" message "drafts alone" }\n',
        'facts on TOOL files/read { args.path: string }\nanyone { may TOOL files/read }\n'
        'guard "drafts" on TOOL files/read {\n'
        '  require args.path like "drafts/*" and not contains(args.path, "..") message "drafts alone"\n}\n',
        name="parent-folder",
        opinion=True,
    ),
    DiagnosticDoc(
        "W561",
        "a host of a URL of any scheme",
        "`host(url)` is the host whatever the scheme is: `file://api.example/etc/passwd` has that of "
        "`https://api.example/`, and `http:` sends in the clear. Compare the scheme, too.",
        'facts on TOOL web/get { args.url: string }\nanyone { may TOOL web/get }\n'
        'guard "ours" on TOOL web/get { require host(args.url) == "api.example" message "ours alone" }\n',
        'facts on TOOL web/get { args.url: string }\nanyone { may TOOL web/get }\n'
        'guard "ours" on TOOL web/get {\n'
        '  require host(args.url) == "api.example" and args.url like "https://*" message "ours alone"\n}\n',
        name="any-scheme",
        opinion=True,
    ),
    DiagnosticDoc(
        "W562",
        "a guard of one server's tools, and a door of all",
        "The door opens the tools of whatever server the gateway names, and the guard stands before those of one name: "
        "the same tools behind another name, or without one, get past it.",
        'anyone { may TOOL *' + _ALLOWED + '}\nguard "files" on TOOL fs/* { deny message "no files" }\n',
        'anyone { may TOOL fs/*, TOOL mail/* }\n'
        'guard "files" on TOOL fs/* { deny when tool.name == "delete" message "no files" }\n',
        name="other-servers",
        opinion=True,
    ),
    DiagnosticDoc(
        "W563",
        "a guard of one path, and a door of all below",
        "The guard stands before that path and nothing below it, where the door's `**` leads. `/admin/**` covers "
        "`/admin` and all below. Where the path alone is meant, the comment says why.",
        'anyone { may GET /a/**' + _ALLOWED + '}\nguard "admin" on /a/admin { deny message "no" }\n',
        'anyone { may GET /a/**' + _ALLOWED + '}\nguard "admin" on /a/admin/** { deny message "no" }\n',
        name="paths-below",
        opinion=True,
    ),
    DiagnosticDoc(
        "W652",
        "the same test again",
        "It asks what was asked before, of the same world, and expects the same. Often the line was copied and the "
        "change that it was to show was forgotten.",
        _DOOR + 'test "a" { GET /a => allow   GET /b => deny   GET /a => allow }\n',
        _DOOR + 'test "a" { GET /a => allow   GET /b => deny }\n',
        name="repeated-test",
        opinion=True,
    ),
    DiagnosticDoc(
        "W653",
        "an endpoint that no test asks about",
        "Some block opens it, and no test shows for whom. Told only where it is asked for: "
        "`policyengine lint --extend untested-endpoint`.",
        "anyone { may GET /a, GET /b }\n" + 'test "a" { GET /a => allow }\n',
        "anyone { may GET /a, GET /b }\n" + 'test "a" { GET /a => allow   GET /b => allow }\n',
        name="untested-endpoint",
        opinion=True,
        optional=True,
    ),
)  # fmt: skip
