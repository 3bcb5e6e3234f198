"""E4xx: grants, identity, delegation."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_ISSUER = 'issuer acme { url "https://login.acme.example" }\n'
_SCOPE = "scope read { GET /a }\n"
_BASE = _ISSUER + _SCOPE
_OPEN = _BASE + "users unrestricted\n"
_USER = "entity user { tenant: string? }\n"
_ATTESTER = 'attester lab { url "https://attest.example" }\n'
_TWO_ISSUERS = f"""{_BASE}issuer partner {{ url "https://id.partner.example" }}
entity user {{ org: string }}
user any {{ may read }}
agent "assistant" {{ issued by acme   acts for any user   may read }}
"""
_COURIER = 'agent "courier" {{ issued by partner   acts for {}   may read }}\n'


def _agent(items: str, base: str = _OPEN, head: str = '"bot"') -> str:
    return f"{base}agent {head} {{ issued by acme   acts for any user   {items} }}\n"


CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E401",
        "an agent block without `issued by`",
        "An agent's name is only as trustworthy as the issuer that asserts it, so each block must name the issuers "
        "that it trusts.",
        f'{_OPEN}agent "bot" {{ acts for any user   may read }}\n',
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E402",
        "an agent block without `acts`",
        "An agent acts alone or for users. Which rules apply depends on this, so each block must say how its agents "
        "act.",
        f'{_OPEN}agent "bot" {{ issued by acme   may read }}\n',
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E403",
        "an agent block with two `acts`",
        "The agents of a block act either alone or for users. To allow both, write two blocks.",
        _agent("acts alone   may read"),
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E404",
        "an agent that acts for users without grants",
        "An agent borrows the authority of a user, so a `user` block must grant something to users. `users "
        "unrestricted` states explicitly that only the agent's own grants decide.",
        _agent("may read", _BASE),
        _agent("may read", _BASE + "user any { may read }\n"),
    ),
    DiagnosticDoc(
        "E405",
        "a repeated line",
        "If two lines set the same thing, it is unclear which line applies.",
        _agent("issued by acme   may read"),
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E406",
        "an unknown kind of credential",
        "`kind in` lists the accepted kinds of credentials. The kinds are the values of `credential.kind`.",
        _agent("credential { kind in [jtw] }   may read"),
        _agent("credential { kind in [jwt] }   may read"),
    ),
    DiagnosticDoc(
        "E407",
        "an empty validity period",
        "`from` is the first moment of the period; `until` is the first moment after the period. So `from` must be "
        "earlier than `until`.",
        _agent("valid from 2027-01-01 until 2026-01-01   may read"),
        _agent("valid from 2026-01-01 until 2027-01-01   may read"),
    ),
    DiagnosticDoc(
        "E408",
        "a grant that no credential allows",
        "Credentials of agents carry scopes, so a `may` of an agent block must name a scope, unless an issuer of the "
        "block declares `scopes none`: then a `may` that names an endpoint applies to the credentials of that issuer.",
        _agent("may read, GET /b"),
        _agent("may read, GET /b", _OPEN.replace("{ url", "{ scopes none   url")),
    ),
    DiagnosticDoc(
        "E409",
        "a time limit of zero",
        "A limit of zero would allow nothing.",
        _agent("credential { lifetime <= 0s }   may read"),
        _agent("credential { lifetime <= 15m }   may read"),
    ),
    DiagnosticDoc(
        "E410",
        "an invalid chain depth",
        "`depth` limits how many times a task may be delegated from one agent to the next. The limit must be a whole "
        "number, at least one.",
        "delegation { depth <= 0.5 }\nanyone { may GET /health }\n",
        "delegation { depth <= 1 }\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E412",
        "an attribute that a credential cannot give",
        "`claims` maps claims of a credential to declared attributes of the user or the agent. The ID of the user or "
        "agent never comes from a claim.",
        _USER + 'issuer acme { url "https://x"   claims { org -> user.tenat } }\nanyone { may GET /health }\n',
        _USER
        + _agent(
            'may read when user.tenant == "a"',
            _OPEN.replace('example" }', 'example"   claims { org -> user.tenant } }'),
        ),
    ),
    DiagnosticDoc(
        "E413",
        "an issuer or attester that two packages declare",
        "Requests refer to an issuer or attester by name, so a name must have one meaning in all packages that are "
        "loaded together.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E414",
        "a condition about the caller that reads other facts",
        "The head of a block and `acts for users where` select the callers to which the block applies. Neither the "
        "endpoint nor the credentials of earlier agents in a chain are known there.",
        _agent("may read", head="where credential.age < 5m"),
        _agent("may read when credential.age < 5m", head='where agent.publisher == "acme"'),
    ),
    DiagnosticDoc(
        "E415",
        "behavior in a `may`",
        "Behavior can tighten what a policy allows, but never grants access, because an attacker could imitate good "
        "behavior to gain it.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E416",
        "an approval in a `may`",
        "An approval lifts the confirm that requested it; it does not grant access.",
        _agent("may read when approval.granted"),
        _agent("may read") + 'guard "ask" on read { confirm by user }\n',
    ),
    DiagnosticDoc(
        "E417",
        "an empty name or string",
        "An empty value has no meaning here. An empty ID is treated as absent, so no user or agent can have it.",
        f'{_OPEN}agent "" {{ issued by acme   acts alone   may read }}\n',
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E418",
        "a user name with `*`",
        "In the name of an agent, `*` matches any run of characters. A `user` block must give the full name of one "
        "user; use a condition to match several users.",
        _agent("may read", _BASE) + 'user "*@acme.example" { may read }\n',
        _agent("may read", _BASE) + 'user where user.id like "*@acme.example" { may read }\n',
    ),
    DiagnosticDoc(
        "E419",
        "not the name of an environment",
        "Write the names of environments as strings.",
        "attester lab { environment in [tdx] }\nanyone { may GET /health }\n",
        _agent("attested by lab   may read", _OPEN + 'attester lab { environment in ["tdx"] }\n'),
    ),
    DiagnosticDoc(
        "W421",
        "delegating a grant that the agent does not have",
        "Authority only narrows along a chain: an agent can delegate only what it is allowed to do, so this line has "
        "no effect.",
        "scope write { POST /a }\n"
        + _agent('may read   may delegate write to agent "helper"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may write }\n',
        _agent('may read   may delegate read to agent "helper"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may read }\n',
        name="delegate-beyond",
    ),
    DiagnosticDoc(
        "W422",
        "delegating to an agent without a grant",
        "An agent to which a task is delegated needs a grant of its own. Without a block for that agent, this line has "
        "no effect.",
        _agent('may read   may delegate read to agent "helpre"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may read }\n',
        _agent('may read   may delegate read to agent "helper"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may read }\n',
        name="delegate-to-nobody",
    ),
    DiagnosticDoc(
        "W462",
        "two issuers that name the same users",
        "A user is identified by name alone, whichever issuer asserts the name. If agents of two issuers borrow the "
        "authority of the same users, a token of either issuer can name a user of the other: a partner's `alice` is "
        "treated as your `alice`. This policy does not separate the users of the two issuers: it has no condition "
        "about users that holds for only one of the issuers, and no guard on the issuer. Let the partner's agents act "
        "alone, restrict their users by an attribute from your own entity store (the partner controls what its "
        "`claims` assert), or deny them everything that does not belong to the partner. Issuers of one agent are "
        "treated as one organization, and so are issuers whose agents delegate to each other. If both issuers name the "
        "same people, allow this warning next to the issuer.",
        _TWO_ISSUERS + _COURIER.format("any user"),
        _TWO_ISSUERS + _COURIER.format('users where user.org == "partner"'),
        name="shared-users",
    ),
)
