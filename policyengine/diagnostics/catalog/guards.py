"""E5xx: guards, messages, approvals."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_BASE = (
    "entity team\nentity user { roles: set<string> } in team\n"
    "facts on POST /pay { body.amount: number   body.card: string }\n"
    'user where user.roles has "clerk" { may POST /pay when body.card like "4*" }\n'
)


def _guard(items: str, more: str = "") -> str:
    return f'{_BASE}guard "pay" on POST /pay {{ {items} }}\n{more}'


_LARGE = "when body.amount > 100"
_TEAM = 'guard "team" on POST /pay { require user in team "a" }\n'
_FINE = _guard(f"deny {_LARGE}", _TEAM)


CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E501",
        "two rules with one name",
        'Decisions and tests name a rule: `deny by "pay"`. One name means one rule of the package.',
        _guard(f"deny {_LARGE}", 'guard "pay" on POST /pay { deny when body.amount < 1 }\n'),
        _guard(f"deny {_LARGE}", 'guard "small" on POST /pay { deny when user in team "a" }\n'),
    ),
    DiagnosticDoc(
        "E502",
        "a message that cannot be read",
        "In a message a fact stands in braces. A brace itself is written twice.",
        _guard(f'deny {_LARGE} message "too much: {{body.amount"', _TEAM),
        _guard(f'deny {_LARGE} message "too much: {{body.amount}}"', _TEAM),
    ),
    DiagnosticDoc(
        "E503",
        "a secret in a message",
        "Messages are read by people and kept in logs; what a credential says could be used again by whoever reads it.",
        _guard(f'deny {_LARGE} message "not with {{credential.scopes}}"', _TEAM),
        _guard(f'deny {_LARGE} message "not for {{user.id}}"', _TEAM),
    ),
    DiagnosticDoc(
        "E504",
        "a role that nobody can have",
        "`by role` asks the directory for `roles` of the approver, so `entity user` declares them.",
        'anyone { may POST /pay }\nguard "ask" on POST /pay { confirm by role finance }\n',
        'entity user { roles: set<string> }\nuser where user.roles has "clerk" { may POST /pay }\n'
        'guard "ask" on POST /pay { confirm by role finance }\n',
    ),
    DiagnosticDoc(
        "E505",
        "not somebody who can approve",
        "Approvers are persons: a user, what users are in, or a set of these.",
        _guard(f"confirm by body.card {_LARGE}", _TEAM),
        _guard(f'confirm by team "a" {_LARGE}', _TEAM),
    ),
    DiagnosticDoc(
        "E506",
        "not a number of persons",
        "A quorum is two persons or more.",
        _guard(f'confirm by 1 of team "a" {_LARGE}', _TEAM),
        _guard(f'confirm by 2 of team "a" {_LARGE}', _TEAM),
    ),
    DiagnosticDoc(
        "E507",
        "an approval that lasts no time",
        "`within` is how long an approval lasts from the moment it is granted.",
        _guard(f"confirm by role boss within 0s {_LARGE}", _TEAM),
        _guard(f"confirm by role boss within 15m {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E508",
        "not a level of audit",
        "The levels are `none`, `brief` and `full`.",
        _guard("audit ful", _TEAM),
        _guard("audit full", _TEAM),
    ),
    DiagnosticDoc(
        "E509",
        "what cannot be redacted",
        "`redact` hides declared facts that begin with `body.` or `args.`.",
        _guard("redact user.roles", _TEAM),
        _guard("redact body.card", _TEAM),
    ),
    DiagnosticDoc(
        "E510",
        "not a header",
        "The name of a header is one word, its value one line.",
        _guard('header "X Reviewed" "yes"', _TEAM),
        _guard('header "X-Reviewed" "yes"', _TEAM),
    ),
    DiagnosticDoc(
        "E511",
        "nobody is notified",
        "`notify` names who is told.",
        _guard('notify " "', _TEAM),
        _guard('notify "security"', _TEAM),
    ),
    DiagnosticDoc(
        "E512",
        "a confirm that depends on an approval",
        "The approval lifts the confirm that asked for it; the confirm does not ask whether there is one.",
        _guard("confirm by role boss when not approval.granted", _TEAM),
        _guard(f"confirm by role boss {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E514",
        "a rule without a name",
        "The name is what a decision says when the rule acts.",
        f'{_BASE}guard " " on POST /pay {{ deny {_LARGE} }}\n{_TEAM}',
        _FINE,
    ),
    DiagnosticDoc(
        "E515",
        "a cluster in a guard",
        "Keys that move in lock-step share the count of a rate. What one of them does must not deny or confirm "
        "anything for the others, so `cluster` is known in rates and budgets alone.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E518",
        "a rule reads `resource` at doors that bind none",
        "At an endpoint where nothing binds `resource` what the rule reads of it is unknown: a guard denies there, a "
        "rate or budget has no key. A rule applies to endpoints that bind it, or says what holds without one.",
        "entity invoice { owner: user }\nuser any { may GET /invoices/{id: invoice}, GET /health }\n"
        'guard "owners" { require resource.owner == user }\n',
        "entity invoice { owner: user }\nuser any { may GET /invoices/{id: invoice}, GET /health }\n"
        'guard "owners" on GET /invoices/{id: invoice} { require resource.owner == user }\n',
    ),
    DiagnosticDoc(
        "E516",
        "what no approval is bound to",
        "In the parentheses of `bound to` stand `body`, `args`, `context`, `request.query` and `request.headers`, each "
        "as a whole and but for what `except` names, facts of the request or of the directory, and `resource`, which "
        "an approval is always bound to. Nothing stands there twice, and nothing that changes by itself.",
        _guard(f"confirm by role boss bound to (body, body.amount) {_LARGE}", _TEAM),
        _guard(f"confirm by role boss bound to (body) {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E517",
        "what cannot be left out",
        "`except` names what may change after an approval was granted: members of the object before it. What the rule "
        "and its message read never may.",
        _guard(f"confirm by role boss bound to (body except body.amount) {_LARGE}", _TEAM),
        _guard(f"confirm by role boss bound to (body except body.request_id) {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "W521",
        "a guard or limit where no door opens",
        "Nothing is opened at this place, so the rule never matters. More often than not the place is misspelled.",
        _guard(f"deny {_LARGE}", _TEAM.replace("/pay", "/play")),
        _FINE,
        name="guard-without-door",
    ),
)
