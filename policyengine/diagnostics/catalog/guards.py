"""E5xx: guards, messages, approvals."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_BASE = (
    'issuer acme { url "https://a.example" }\n'
    "entity team\nentity user { roles: set<string> } in team\n"
    "facts on POST /pay { body.amount: number   body.card: string }\n"
    'user where user.roles has "clerk" { may POST /pay when body.card like "4*" }\n'
)


def _guard(items: str, more: str = "") -> str:
    return f'{_BASE}guard "pay" on POST /pay {{ {items} }}\n{more}'


_PARTNER = 'issuer partner { url "https://b.example" }\n'
_LARGE = "when body.amount > 100"
_TEAM = 'guard "team" on POST /pay { require user in team "a" }\n'
_FINE = _guard(f"deny {_LARGE}", _TEAM)


CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E501",
        "two rules with one name",
        'Decisions and tests refer to a rule by name: `deny by "pay"`. So each name must belong to only one rule of '
        "the package.",
        _guard(f"deny {_LARGE}", 'guard "pay" on POST /pay { deny when body.amount < 1 }\n'),
        _guard(f"deny {_LARGE}", 'guard "small" on POST /pay { deny when user in team "a" }\n'),
    ),
    DiagnosticDoc(
        "E502",
        "an invalid message template",
        "In a message, write facts in braces, and write a literal brace twice.",
        _guard(f'deny {_LARGE} message "too much: {{body.amount"', _TEAM),
        _guard(f'deny {_LARGE} message "too much: {{body.amount}}"', _TEAM),
    ),
    DiagnosticDoc(
        "E503",
        "a secret in a message",
        "A message must not contain a value from a credential: people read messages and logs keep them, so a reader "
        "could reuse the value.",
        _guard(f'deny {_LARGE} message "not with {{credential.scopes}}"', _TEAM),
        _guard(f'deny {_LARGE} message "not for {{user.id}}"', _TEAM),
    ),
    DiagnosticDoc(
        "E504",
        "a role that no user can have",
        "`by role` looks up the attribute `roles` of the approver in the entity store, so `entity user` must declare "
        "`roles`.",
        'anyone { may POST /pay }\nguard "ask" on POST /pay { confirm by role finance }\n',
        'issuer acme {}\nentity user { roles: set<string> }\nuser where user.roles has "clerk" { may POST /pay }\n'
        'guard "ask" on POST /pay { confirm by role finance }\n',
    ),
    DiagnosticDoc(
        "E505",
        "not a valid approver",
        "Approvers must be people: a user, an entity that users are in, or a set of these.",
        _guard(f"confirm by body.card {_LARGE}", _TEAM),
        _guard(f'confirm by team "a" {_LARGE}', _TEAM),
    ),
    DiagnosticDoc(
        "E506",
        "not a valid quorum",
        "A quorum must be at least two people.",
        _guard(f'confirm by 1 of team "a" {_LARGE}', _TEAM),
        _guard(f'confirm by 2 of team "a" {_LARGE}', _TEAM),
    ),
    DiagnosticDoc(
        "E507",
        "an approval with a duration of zero",
        "`within` sets how long an approval lasts after it is granted. The duration must be longer than zero.",
        _guard(f"confirm by role boss within 0s {_LARGE}", _TEAM),
        _guard(f"confirm by role boss within 15m {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E508",
        "not an audit level",
        "The levels are `none`, `brief` and `full`.",
        _guard("audit ful", _TEAM),
        _guard("audit full", _TEAM),
    ),
    DiagnosticDoc(
        "E509",
        "a fact that cannot be redacted",
        "`redact` hides declared facts that begin with `body.` or `args.`.",
        _guard("redact user.roles", _TEAM),
        _guard("redact body.card", _TEAM),
    ),
    DiagnosticDoc(
        "E510",
        "not a valid header",
        "The name of a header may contain only characters that HTTP allows, such as letters, digits and `-`, and its "
        "value must be one line.",
        _guard('header "X Reviewed" "yes"', _TEAM),
        _guard('header "X-Reviewed" "yes"', _TEAM),
    ),
    DiagnosticDoc(
        "E511",
        "`notify` without a recipient",
        "`notify` must name at least one recipient.",
        _guard('notify " "', _TEAM),
        _guard('notify "security"', _TEAM),
    ),
    DiagnosticDoc(
        "E512",
        "a confirm that depends on an approval",
        "An approval lifts the confirm that requested it, so the condition of the confirm cannot test for the "
        "approval.",
        _guard("confirm by role boss when not approval.granted", _TEAM),
        _guard(f"confirm by role boss {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E514",
        "a rule without a name",
        "Decisions report the name of the rule that acted, so every rule must have a name.",
        f'{_BASE}guard " " on POST /pay {{ deny {_LARGE} }}\n{_TEAM}',
        _FINE,
    ),
    DiagnosticDoc(
        "E515",
        "a cluster in a guard",
        "A cluster is a group of callers that send the same requests at the same times, and that share limits. A guard "
        "must not deny or confirm requests of one caller because of another, so only rates and budgets can read "
        "`cluster`.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E518",
        "a rule that reads `resource` at endpoints that do not bind it",
        "At an endpoint without a binding, every fact of `resource` is unknown, so a guard denies there, and a rate or "
        "budget cannot count the request. Restrict the rule to endpoints that bind `resource`, or write what applies "
        "without a resource.",
        "entity invoice { owner: user }\nuser any { may GET /invoices/{id: invoice}, GET /health }\n"
        'guard "owners" { require resource.owner == user }\n',
        "entity invoice { owner: user }\nuser any { may GET /invoices/{id: invoice}, GET /health }\n"
        'guard "owners" on GET /invoices/{id: invoice} { require resource.owner == user }\n',
    ),
    DiagnosticDoc(
        "E516",
        "not a valid binding of an approval",
        "`bound to (…)` may list `body`, `args`, `context`, `request.query` and `request.headers`, each as a whole or "
        "with `except`, facts of the request or of the entity store, and `resource`, which every approval is bound "
        "to. Nothing may be listed twice, and no fact that changes by itself, such as `time`, may be listed.",
        _guard(f"confirm by role boss bound to (body, body.amount) {_LARGE}", _TEAM),
        _guard(f"confirm by role boss bound to (body) {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E517",
        "a fact that `except` cannot exclude",
        "`except` names the members of the preceding object that may change after an approval was granted. Facts that "
        "the rule or its message reads cannot be excluded.",
        _guard(f"confirm by role boss bound to (body except body.amount) {_LARGE}", _TEAM),
        _guard(f"confirm by role boss bound to (body except body.request_id) {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "E519",
        "an issuer that `from` names twice",
        "`from` lists the issuers that may vouch for the approvers. If an issuer is named twice, another issuer "
        "was probably meant.",
        _PARTNER + _guard(f"confirm by role boss from acme, acme {_LARGE}", _TEAM),
        _PARTNER + _guard(f"confirm by role boss from acme, partner {_LARGE}", _TEAM),
    ),
    DiagnosticDoc(
        "W521",
        "a guard or limit at a place without grants",
        "No grant covers this place, so the rule has no effect. Usually the place is misspelled.",
        _guard(f"deny {_LARGE}", _TEAM.replace("/pay", "/play")),
        _FINE,
        name="guard-without-door",
    ),
    DiagnosticDoc(
        "W522",
        "a confirm that no user can approve",
        "People prove who they are with a token of an issuer. Without `from`, an issuer may vouch for approvers only "
        "if its `users like` patterns match them, or if it is the only issuer without patterns. With `from`, it must "
        "be one of these issuers, and its patterns must match the approver. If no issuer may vouch for an approver, a "
        "request that needs the approval never passes. If the setting `issuers` in `[approvals]` names the issuers, "
        "or `trust_callers` is on, say so in the comment that allows this warning.",
        _PARTNER + _guard(f"confirm by role boss {_LARGE}", _TEAM),
        _PARTNER + _guard(f"confirm by role boss from acme {_LARGE}", _TEAM),
        name="confirm-without-approver",
    ),
)
