"""E93x: `map authzen { … }`, which translates AuthZEN questions."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_RECORD = (
    "entity user { role: string? }\n"
    "entity record { status: string }\n"
    "facts { args.soft: bool }\n"
    "issuer pep { scopes none }\n"
    'user where user.role == "clerk" { may ACTION read record when resource.status == "open" and not args.soft }\n'
)


def _map(item: str) -> str:
    return f"{_RECORD}map authzen {{\n  {item}\n}}\n"


_GOOD = _map('subject "user" => user from pep')

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E930",
        "an unknown protocol",
        "A map translates the questions of another protocol into questions of this policy. The only such protocol is "
        "AuthZEN.",
        _RECORD + 'map authzed { subject "user" => user from pep }\n',
        _GOOD,
    ),
    DiagnosticDoc(
        "E931",
        "a duplicate mapping",
        "A type of subject or resource, an action or a fact is mapped to two targets, and the result would depend on "
        "the order of the mappings. All maps of a policy are treated as one.",
        _map('subject "user" => user from pep   subject "user" => agent'),
        _map('subject "user" => user from pep   subject "bot" => agent'),
    ),
    DiagnosticDoc(
        "E932",
        "a subject that is neither user nor agent",
        "Callers are users or agents, so no other entity can have a grant.",
        _map('subject "record" => record'),
        _map('subject "person" => user from pep'),
    ),
    DiagnosticDoc(
        "E933",
        "a fact that a question cannot supply",
        "A map can set facts that a caller of `/decide` may also claim: a declared fact of `args`, `body` or "
        "`context`, or a fact of the request, the agent, the credential or a similar group. A map can also set an "
        "attribute of the subject or the resource, which is used only if the entity store does not contain that "
        "entity. Only `action` sets the endpoint.",
        _map("fact record.stats = resource.properties.status"),
        _map("fact record.status = resource.properties.status"),
    ),
    DiagnosticDoc(
        "E934",
        "not a member of an AuthZEN question",
        "An AuthZEN question has a `subject` (`type`, `id`, `properties`), an `action` (`name`, `properties`), a "
        "`resource` (`type`, `id`, `properties`) and a `context`; a map may use only these members, without operators.",
        _map("fact args.soft = action.soft"),
        _map("fact args.soft = action.properties.soft"),
    ),
    DiagnosticDoc(
        "E935",
        "an action with more than one endpoint",
        "A question is about one endpoint, so an action must have one method, and a path whose braces contain members "
        "of the question.",
        _RECORD + 'anyone { may GET /notes/* }\nmap authzen { action "read" => GET /notes/* }\n',
        _RECORD + 'anyone { may GET /notes/* }\nmap authzen { action "read" => GET /notes/{resource.id} }\n',
    ),
    DiagnosticDoc(
        "W936",
        "an AuthZEN action that maps to an endpoint without a grant",
        "No rule grants the endpoint of this action, so every caller is denied. Usually the endpoint is misspelled.",
        _map('action "view" => ACTION raed record'),
        _map('action "view" => ACTION read record'),
        name="map-without-door",
    ),
)
