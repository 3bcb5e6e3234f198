"""E4xx: doors, identity, delegation."""

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
        "A name alone says nothing: who an agent is, is an issuer's word. So each block says whose word it takes.",
        f'{_OPEN}agent "bot" {{ acts for any user   may read }}\n',
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E402",
        "an agent block without `acts`",
        "An agent acts alone or for users, and which of the two changes what may be asked of it.",
        f'{_OPEN}agent "bot" {{ issued by acme   may read }}\n',
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E403",
        "an agent block with two `acts`",
        "A block speaks of agents that act in one way. For another way write another block.",
        _agent("acts alone   may read"),
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E404",
        "an agent acts for users without doors",
        "An agent borrows the authority of a user, so a `user` block must say what users may do. `users unrestricted` "
        "says, once and visibly, that the agent's own doors decide alone.",
        _agent("may read", _BASE),
        _agent("may read", _BASE + "user any { may read }\n"),
    ),
    DiagnosticDoc(
        "E405",
        "said twice",
        "Two lines that say the same thing leave open which one holds.",
        _agent("issued by acme   may read"),
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E406",
        "no kind of credential",
        "`kind in` lists what a credential may be; the words are those of `credential.kind`.",
        _agent("credential { kind in [jtw] }   may read"),
        _agent("credential { kind in [jwt] }   may read"),
    ),
    DiagnosticDoc(
        "E407",
        "valid for no time",
        "`from` is the first moment, `until` the first one after the end.",
        _agent("valid from 2027-01-01 until 2026-01-01   may read"),
        _agent("valid from 2026-01-01 until 2027-01-01   may read"),
    ),
    DiagnosticDoc(
        "E408",
        "a door that no credential can open",
        "An agent's credential carries scopes. What is in no scope it can only reach where every issuer of the block "
        "says `scopes none`, or through an `anyone` block.",
        _agent("may read, GET /b"),
        _agent("may read, GET /b", _OPEN.replace("{ url", "{ scopes none   url")),
    ),
    DiagnosticDoc(
        "E409",
        "a limit of no time",
        "Nothing happens in no time at all, so such a limit would let nothing through.",
        _agent("credential { lifetime <= 0s }   may read"),
        _agent("credential { lifetime <= 15m }   may read"),
    ),
    DiagnosticDoc(
        "E410",
        "not a depth of a chain",
        "Depth counts how often an agent hands on work to another agent: once or more.",
        "delegation { depth <= 0.5 }\nanyone { may GET /health }\n",
        "delegation { depth <= 1 }\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E412",
        "not an attribute that a credential can give",
        "`claims` say which claim of a credential is which declared attribute of the user or the agent. Who they are "
        "is never a claim.",
        _USER + 'issuer acme { url "https://x"   claims { org -> user.tenat } }\nanyone { may GET /health }\n',
        _USER
        + _agent(
            'may read when user.tenant == "a"',
            _OPEN.replace('example" }', 'example"   claims { org -> user.tenant } }'),
        ),
    ),
    DiagnosticDoc(
        "E413",
        "one issuer or attester, declared by two packages",
        "Requests name an issuer in one word, so that word has one meaning for all packages that are loaded together.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E414",
        "a condition about who asks reads something else",
        "The head of a block and `acts for users where` say whom the block is about. No endpoint is known there, and "
        "what an earlier agent of a chain presented is not known either.",
        _agent("may read", head="where credential.age < 5m"),
        _agent("may read when credential.age < 5m", head='where agent.publisher == "acme"'),
    ),
    DiagnosticDoc(
        "E415",
        "behaviour in a `may`",
        "Behaviour can tighten what is allowed and never open a door: whoever imitates good behaviour would get in.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E416",
        "an approval in a `may`",
        "An approval lifts the confirm that asked for it, and opens no door.",
        _agent("may read when approval.granted"),
        _agent("may read") + 'guard "ask" on read { confirm by user }\n',
    ),
    DiagnosticDoc(
        "E417",
        "an empty name or text",
        "An empty id counts as absent, so nobody has it.",
        f'{_OPEN}agent "" {{ issued by acme   acts alone   may read }}\n',
        _agent("may read"),
    ),
    DiagnosticDoc(
        "E418",
        "a user's name with a `*`",
        "In an agent's name `*` is any run of characters. A user is one person, called by the whole name; several are "
        "told by a condition.",
        _agent("may read", _BASE) + 'user "*@acme.example" { may read }\n',
        _agent("may read", _BASE) + 'user where user.id like "*@acme.example" { may read }\n',
    ),
    DiagnosticDoc(
        "E419",
        "no name of an environment",
        "An attester names environments by strings.",
        "attester lab { environment in [tdx] }\nanyone { may GET /health }\n",
        _agent("attested by lab   may read", _OPEN + 'attester lab { environment in ["tdx"] }\n'),
    ),
    DiagnosticDoc(
        "W421",
        "handing on what one may not do",
        "Authority only narrows along a chain: an agent hands on what it may do itself, so this line has no effect.",
        "scope write { POST /a }\n"
        + _agent('may read   may delegate write to agent "helper"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may write }\n',
        _agent('may read   may delegate read to agent "helper"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may read }\n',
        name="delegate-beyond",
    ),
    DiagnosticDoc(
        "W422",
        "handing on to nobody",
        "An agent that is handed work needs a door of its own, so without a block about it the line has no effect.",
        _agent('may read   may delegate read to agent "helpre"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may read }\n',
        _agent('may read   may delegate read to agent "helper"', _OPEN.replace("{ url", "{ records chains   url"))
        + 'agent "helper" { issued by acme   acts for any user   may read }\n',
        name="delegate-to-nobody",
    ),
    DiagnosticDoc(
        "W462",
        "two issuers speak for the same users",
        "A user is a name, whichever issuer says it. Where agents of two issuers borrow the authority of the same "
        "users, a token of either can name a user of the other: a partner's `alice` is yours. Nothing tells them "
        "apart: no condition about users that only one of the two has, no guard that asks for the issuer. Let the "
        "partner's agents act alone, say whose users they mean by what your own directory knows (what the partner's "
        "`claims` say is its own word), or shut what is not the partner's. Issuers of one agent are taken for one "
        "house, and so are those whose agents hand work on to the other's. Where two more name the same people, allow "
        "it beside the issuer.",
        _TWO_ISSUERS + _COURIER.format("any user"),
        _TWO_ISSUERS + _COURIER.format('users where user.org == "partner"'),
        name="shared-users",
    ),
)
