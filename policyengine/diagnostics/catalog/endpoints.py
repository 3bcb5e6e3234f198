"""E3xx: places, scopes, endpoints."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_FACTS = "facts on TOOL pay/* { args.id: string   args.amount: number   body.amount: number }\n"
_TOOL = _FACTS + "entity invoice\n"
_LONG = "/" + "a/" * 128 + "a"

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E301",
        "an empty segment in a path",
        "A request whose path has an empty segment is refused before any rule applies, so a pattern with an empty "
        "segment never matches. One trailing slash of a request path is dropped, so patterns need no trailing slash.",
        "anyone { may GET /a//b }\n",
        "anyone { may GET /a/b }\n",
    ),
    DiagnosticDoc(
        "E302",
        "a segment that no request can have",
        "Decisions use canonical paths, without dot segments and without anything that another server could read "
        "differently. So no request path contains this segment.",
        "anyone { may GET /public/../secret }\n",
        "anyone { may GET /public/help }\n",
    ),
    DiagnosticDoc(
        "E303",
        "`**` before the end of a path",
        "`**` matches zero or more segments and must be the last part of a path. `*` matches exactly one segment.",
        "anyone { may GET /files/**/open }\n",
        "anyone { may GET /files/*/open }\n",
    ),
    DiagnosticDoc(
        "E304",
        "a percent escape in a pattern",
        "Request paths are decoded once before they are compared with patterns, so write the decoded characters in "
        "patterns.",
        "anyone { may GET /%68ealth }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E305",
        "two captures in one segment",
        "With two captures in one segment, it would be ambiguous where the first ends and the second begins.",
        "anyone { may GET /{name}.{version} }\n",
        "anyone { may GET /{name} }\n",
    ),
    DiagnosticDoc(
        "E306",
        "a name that is captured twice",
        "Each capture of a path needs its own name, because `params.id` can hold only one value.",
        "anyone { may GET /{id}/copies/{id} }\n",
        "anyone { may GET /{id}/copies/{copy} }\n",
    ),
    DiagnosticDoc(
        "E307",
        "an invalid capture name",
        "A capture becomes `params.NAME`, so its name must be one word without dots.",
        "anyone { may GET /{doc.id} }\n",
        "anyone { may GET /{id} }\n",
    ),
    DiagnosticDoc(
        "E308",
        "a capture in the syntax of another language",
        "`:id` would match only these three literal characters, so a grant would never apply or, worse, a guard would "
        "never act. Write a variable segment as `*`, or as `{id}` if rules use its value.",
        "anyone { may GET /users/:id }\n",
        "anyone { may GET /users/{id} }\n",
    ),
    DiagnosticDoc(
        "E309",
        "not a valid method",
        "A method must be a word of at most 16 upper-case letters. Requests with any other method are refused before "
        "any rule applies.",
        "anyone { may GETGETGETGETGETGET /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E310",
        "a path longer than any request",
        "A path may have at most 128 segments and 8,192 characters. Requests with a longer path are refused before "
        "any rule applies.",
        f"anyone {{ may GET {_LONG} }}\n",
        "anyone { may GET /a/** }\n",
    ),
    DiagnosticDoc(
        "E311",
        "an empty scope",
        "A scope must list endpoints, tools or actions. An empty scope grants nothing and guards nothing.",
        "scope reports { }\n",
        "scope reports { GET /reports }\nuser any { may reports }\n",
    ),
    DiagnosticDoc(
        "E312",
        "a scope that includes itself",
        "If scopes include each other in a cycle, none of them has defined contents.",
        "scope read { include write   GET /a }\nscope write { include read   POST /a }\n",
        "scope read { GET /a }\nscope write { include read   POST /a }\nuser any { may write }\n",
    ),
    DiagnosticDoc(
        "E313",
        "two scopes with the same name in credentials",
        "A credential with this scope name would carry both scopes. Without `as`, credentials carry the name of the "
        "scope itself.",
        'scope a as "files" { GET /a }\nscope b as "files" { GET /b }\n',
        'scope a as "files:a" { GET /a }\nscope b as "files:b" { GET /b }\nuser any { may a, b }\n',
    ),
    DiagnosticDoc(
        "E314",
        "a scope name that no credential can carry",
        "Credentials separate scopes with spaces, so a scope name must not be empty or contain whitespace.",
        'scope a as "read files" { GET /a }\n',
        'scope a as "read:files" { GET /a }\nuser any { may a }\n',
    ),
    DiagnosticDoc(
        "E315",
        "a fact bound twice in one `with`",
        "A fact can have only one value.",
        f"{_FACTS}scope pay {{ TOOL pay/refund with body.amount = args.amount, body.amount = 1 }}\n",
        f"{_FACTS}scope pay {{ TOOL pay/refund with body.amount = args.amount }}\n"
        "user any { may pay when body.amount < 9 }"
        '\nguard "mine" on pay { deny when args.id == "x" }\n',
    ),
    DiagnosticDoc(
        "E316",
        "a name that `with` cannot bind",
        "`with` can bind only `resource`, to an entity, and declared facts of the request, to values of their type.",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = args.id }}\n",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = invoice(args.id) }}\nuser any {{ may pay }}\n",
    ),
    DiagnosticDoc(
        "E317",
        "a fact that `with` cannot read",
        "A bound value must come from the request itself; otherwise a message could show the caller a value that only "
        "the entity store contains. A binding cannot read another bound fact, so that the order of bindings does not "
        "matter.",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = invoice(user.id) }}\n",
        f"{_TOOL}scope pay {{ TOOL pay/refund with resource = invoice(args.id) }}\nuser any {{ may pay }}\n",
    ),
    DiagnosticDoc(
        "E318",
        "`except` excludes everything",
        "`except` excludes every place before it, so the rule would never apply.",
        'anyone { may GET /a/b }\nguard "g" on GET /a/b except /a/** { deny }\n',
        'anyone { may GET /a/b, GET /a/c }\nguard "g" on GET /a/** except GET /a/b { deny }\n',
    ),
    DiagnosticDoc(
        "E319",
        "not a valid tool name",
        "A tool name must have the form `server/name`, or `name` alone. `*` matches any run of characters.",
        'anyone { may TOOL "" }\n',
        "anyone { may TOOL calendar/* }\n",
    ),
    DiagnosticDoc(
        "E320",
        "two bindings for one endpoint",
        "The value of `resource` or of a bound fact must not depend on which of two patterns matches. A typed capture "
        "at the same position in both patterns is a single binding.",
        "entity org\nentity invoice\n"
        'anyone { may GET /{org: org}/** when resource in [org "a"]   may GET /{o}/{id: invoice} }\n',
        "entity org\nentity invoice\n"
        'anyone { may GET /{org}/** when params.org == "a"   may GET /{org}/{id: invoice} when resource.id == "1" }\n',
    ),
    DiagnosticDoc(
        "E321",
        "one name for different segments",
        "Two patterns that match the same endpoint use one capture name for different segments, or for IDs of "
        "different entities, so the value of the capture would be unknown.",
        "anyone { may GET /{id}/details   may GET /users/{id} }\n",
        "anyone { may GET /{id}/details   may GET /users/{user} }\n",
    ),
    DiagnosticDoc(
        "E322",
        "too many overlapping patterns",
        "The checker searches for overlapping patterns segment by segment, with a limit of a million steps plus 500 "
        "for each pattern. Thousands of paths that begin with a capture, along with thousands that begin with literal "
        "text, exceed this limit.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E323",
        "too many included scopes",
        "The checker lists everything that each scope includes, directly or through others. All scopes together may "
        "include at most 500,000 others, plus 20 for each scope. A chain of about a thousand scopes, each including "
        "the one before, reaches this limit.",
        "",
        "",
    ),
    DiagnosticDoc(
        "W321",
        "an unknown HTTP method",
        "Methods match exactly as written, so a guard with a misspelled method guards nothing.",
        "anyone { may DELTE /a }\n",
        "anyone { may DELETE /a }\n",
        name="unknown-method",
    ),
    DiagnosticDoc(
        "W322",
        "`except` excludes nothing",
        "The places after `except` overlap none of the places before it, so `except` has no effect.",
        'anyone { may GET /a }\nguard "g" on GET /a except GET /b { require time > 2026-01-01 }\n',
        'anyone { may GET /a }\nguard "g" on GET /a { require time > 2026-01-01 }\n',
        name="empty-except",
    ),
    DiagnosticDoc(
        "W323",
        "two paths that differ only in case",
        "Guards and limits match paths without regard to case, so a guard on either path covers both. A grant allows "
        "only the path as written. If the server treats both as the same, declare `paths ignore case` once, for grants "
        "and `except`.",
        "anyone { may GET /files/{id}, POST /Files }\n",
        "anyone { may GET /files/{id}, POST /files }\n",
        name="two-spellings",
    ),
)
