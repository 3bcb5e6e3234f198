"""E3xx: places, scopes, endpoints."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_FACTS = "facts on TOOL pay/* { args.id: string   args.amount: number   body.amount: number }\n"
_TOOL = _FACTS + "entity invoice\n"
_LONG = "/" + "a/" * 128 + "a"

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E301",
        "an empty segment in a path",
        "A request whose path has an empty segment is refused before any rule is asked. So a pattern with one matches "
        "nothing. One trailing slash of a request is dropped, and needs no pattern.",
        "anyone { may GET /a//b }\n",
        "anyone { may GET /a/b }\n",
    ),
    DiagnosticDoc(
        "E302",
        "a segment that no request can have",
        "Requests are decided by canonical paths: no dot segments, nothing that another server could read differently.",
        "anyone { may GET /public/../secret }\n",
        "anyone { may GET /public/help }\n",
    ),
    DiagnosticDoc(
        "E303",
        "`**` before the end of a path",
        "`**` means zero or more segments and is the last part of a path. `*` is exactly one segment.",
        "anyone { may GET /files/**/open }\n",
        "anyone { may GET /files/*/open }\n",
    ),
    DiagnosticDoc(
        "E304",
        "a percent escape in a pattern",
        "Paths are decoded once and compared decoded. A pattern shows the text that is compared.",
        "anyone { may GET /%68ealth }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E305",
        "two captures in one segment",
        "Where one capture would end and the next begin could be read in several ways.",
        "anyone { may GET /{name}.{version} }\n",
        "anyone { may GET /{name} }\n",
    ),
    DiagnosticDoc(
        "E306",
        "one name captured twice",
        "`params.id` can hold one text only.",
        "anyone { may GET /{id}/copies/{id} }\n",
        "anyone { may GET /{id}/copies/{copy} }\n",
    ),
    DiagnosticDoc(
        "E307",
        "a capture whose name is no plain word",
        "A capture becomes `params.NAME`, so its name is one word without dots.",
        "anyone { may GET /{doc.id} }\n",
        "anyone { may GET /{id} }\n",
    ),
    DiagnosticDoc(
        "E308",
        "a capture in the form of another language",
        "`:id` would be a segment that is just these three characters: a door that never opens, or worse, a guard that "
        "never shuts. A segment that varies is `*`, or `{id}` if rules speak of it.",
        "anyone { may GET /users/:id }\n",
        "anyone { may GET /users/{id} }\n",
    ),
    DiagnosticDoc(
        "E309",
        "not a method",
        "A method is a word of at most 16 upper-case letters. Requests with another one are refused before any rule.",
        "anyone { may GETGETGETGETGETGET /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E310",
        "a path longer than any request",
        "Requests with more segments or characters are refused before any rule is asked.",
        f"anyone {{ may GET {_LONG} }}\n",
        "anyone { may GET /a/** }\n",
    ),
    DiagnosticDoc(
        "E311",
        "a scope that holds nothing",
        "A scope names endpoints, tools or actions. One without any opens nothing and guards nothing.",
        "scope reports { }\n",
        "scope reports { GET /reports }\nuser any { may reports }\n",
    ),
    DiagnosticDoc(
        "E312",
        "a scope that includes itself",
        "Including in a circle says nothing about which scope holds what.",
        "scope read { include write   GET /a }\nscope write { include read   POST /a }\n",
        "scope read { GET /a }\nscope write { include read   POST /a }\nuser any { may write }\n",
    ),
    DiagnosticDoc(
        "E313",
        "two scopes with one name in credentials",
        "A credential that carries the name would carry both. Without `as` the name of the scope itself is carried.",
        'scope a as "files" { GET /a }\nscope b as "files" { GET /b }\n',
        'scope a as "files:a" { GET /a }\nscope b as "files:b" { GET /b }\nuser any { may a, b }\n',
    ),
    DiagnosticDoc(
        "E314",
        "a name that no credential carries",
        "Scopes in credentials are separated by spaces, so none is empty or holds white space.",
        'scope a as "read files" { GET /a }\n',
        'scope a as "read:files" { GET /a }\nuser any { may a }\n',
    ),
    DiagnosticDoc(
        "E315",
        "bound twice in one `with`",
        "A fact has one value.",
        f"{_FACTS}scope pay {{ TOOL pay/refund with body.amount = args.amount, body.amount = 1 }}\n",
        f"{_FACTS}scope pay {{ TOOL pay/refund with body.amount = args.amount }}\n"
        "user any { may pay when body.amount < 9 }"
        '\nguard "mine" on pay { deny when args.id == "x" }\n',
    ),
    DiagnosticDoc(
        "E316",
        "what `with` cannot bind",
        "`with` binds `resource` to an entity, or a declared fact of the request to a value of its type.",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = args.id }}\n",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = invoice(args.id) }}\nuser any {{ may pay }}\n",
    ),
    DiagnosticDoc(
        "E317",
        "what `with` cannot read",
        "A bound value is the request's own, or a message could show the caller what only the directory knows. It "
        "reads no other bound fact, so that order never matters.",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = invoice(user.id) }}\n",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = invoice(args.id) }}\nuser any {{ may pay }}\n",
    ),
    DiagnosticDoc(
        "E318",
        "`except` leaves nothing",
        "All places before `except` are left out again, so the rule would never apply.",
        'anyone { may GET /a/b }\nguard "g" on GET /a/b except /a/** { deny }\n',
        'anyone { may GET /a/b, GET /a/c }\nguard "g" on GET /a/** except GET /a/b { deny }\n',
    ),
    DiagnosticDoc(
        "E319",
        "a name that no tool has",
        "Tools are called `server/name`, or `name` alone. `*` stands for any run of characters.",
        'anyone { may TOOL "" }\n',
        "anyone { may TOOL calendar/* }\n",
    ),
    DiagnosticDoc(
        "E320",
        "two bindings for one endpoint",
        "What `resource` or a bound fact is must not depend on which pattern is looked at. A typed capture at the "
        "same place in both patterns is one binding.",
        "entity org\nentity invoice\n"
        'anyone { may GET /{org: org}/** when resource in [org "a"]   may GET /{o}/{id: invoice} }\n',
        "entity org\nentity invoice\n"
        'anyone { may GET /{org}/** when params.org == "a"   may GET /{org}/{id: invoice} when resource.id == "1" }\n',
    ),
    DiagnosticDoc(
        "E321",
        "one name captured in two ways",
        "Two patterns that match the same endpoint capture different segments by one name, so `params.id` would be "
        "unknown.",
        "anyone { may GET /{id}/details   may GET /users/{id} }\n",
        "anyone { may GET /{id}/details   may GET /users/{user} }\n",
    ),
    DiagnosticDoc(
        "E322",
        "patterns that meet too often",
        "Which patterns match the same requests is looked up segment by segment, in a million steps, and 500 more for "
        "each pattern. More is not looked at: thousands of paths that each begin with a capture, beside "
        "thousands that begin with a text, take that many.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E323",
        "scopes that include too many others",
        "What each scope includes, directly or through others, is listed. All scopes together include 500,000 others "
        "at most, and 20 more for each scope: a thousand scopes that each include the one before are about as many.",
        "",
        "",
    ),
    DiagnosticDoc(
        "W321",
        "a method that HTTP does not know",
        "Methods are matched as they are written. A misspelled one in a guard guards nothing.",
        "anyone { may DELTE /a }\n",
        "anyone { may DELETE /a }\n",
        name="unknown-method",
    ),
    DiagnosticDoc(
        "W322",
        "`except` leaves nothing out",
        "What is left out meets none of the places before `except`, so it changes nothing.",
        'anyone { may GET /a }\nguard "g" on GET /a except GET /b { require time > 2026-01-01 }\n',
        'anyone { may GET /a }\nguard "g" on GET /a { require time > 2026-01-01 }\n',
        name="empty-except",
    ),
    DiagnosticDoc(
        "W323",
        "two paths that differ in case alone",
        "Guards and limits match paths without regard to case, so one on either covers both; a door opens the one that "
        "is written. Where the server takes both for the same, `paths ignore case` says so, once, for doors and "
        "`except`.",
        "anyone { may GET /files/{id}, POST /Files }\n",
        "anyone { may GET /files/{id}, POST /files }\n",
        name="two-spellings",
    ),
)
