"""E93x: `map authzen { … }`, which says how questions of another protocol become ours."""

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
        "a protocol that is not known",
        "A map says how the questions of another protocol become questions of this policy. There is one: AuthZEN.",
        _RECORD + 'map authzed { subject "user" => user from pep }\n',
        _GOOD,
    ),
    DiagnosticDoc(
        "E931",
        "something is mapped twice",
        "A type of subject or resource, an action or a fact would become two things, and which of them would depend on "
        "the order. All maps of a policy count as one.",
        _map('subject "user" => user from pep   subject "user" => agent'),
        _map('subject "user" => user from pep   subject "bot" => agent'),
    ),
    DiagnosticDoc(
        "E932",
        "a subject that is neither user nor agent",
        "Who asks is a user or an agent: no other entity passes a door.",
        _map('subject "record" => record'),
        _map('subject "person" => user from pep'),
    ),
    DiagnosticDoc(
        "E933",
        "a fact that no question can give",
        "What is mapped is a fact that who asks `/decide` may claim, too: one of `args`, `body` or `context` that is "
        "declared, or one of the request, the agent, the credential and the like. Or it is an attribute of the subject "
        "or of the resource, which counts where the directory does not know that entity. Which endpoint is asked for "
        "is said by `action` alone.",
        _map("fact record.stats = resource.properties.status"),
        _map("fact record.status = resource.properties.status"),
    ),
    DiagnosticDoc(
        "E934",
        "no member of a question",
        "A question of AuthZEN has a `subject` (`type`, `id`, `properties`), an `action` (`name`, `properties`), a "
        "`resource` (`type`, `id`, `properties`) and a `context`; a map speaks of these, without operators.",
        _map("fact args.soft = action.soft"),
        _map("fact args.soft = action.properties.soft"),
    ),
    DiagnosticDoc(
        "E935",
        "an action that becomes more than one endpoint",
        "A question asks for one endpoint: one method, and a path in which braces hold members of the question.",
        _RECORD + 'anyone { may GET /notes/* }\nmap authzen { action "read" => GET /notes/* }\n',
        _RECORD + 'anyone { may GET /notes/* }\nmap authzen { action "read" => GET /notes/{resource.id} }\n',
    ),
    DiagnosticDoc(
        "W936",
        "an action that becomes what no door opens",
        "Whoever asks is denied. More often than not the endpoint is misspelled.",
        _map('action "view" => ACTION raed record'),
        _map('action "view" => ACTION read record'),
        name="map-without-door",
    ),
)
