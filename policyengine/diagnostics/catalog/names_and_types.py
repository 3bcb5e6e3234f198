"""E2xx: names and types."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc
from policyengine.diagnostics.catalog.operands import LITERALS, OPERATORS, condition_doc

_INVOICE = "entity invoice { owner: user  tenant: string }\nuser any { may POST /invoices/{id: invoice} }\n"


def _on_invoice(condition: str) -> str:
    return f'{_INVOICE}guard "example" on POST /invoices/{{id: invoice}} {{ require {condition} }}\n'


_NAMES: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "E201",
        "an unknown fact",
        "A fact must be built in, or declared by `facts` or as an attribute of an `entity`. Any other name is an "
        "error, because a condition on it could never be true.",
        'user.rolle has "clerk"',
        'user.roles has "clerk"',
    ),
    condition_doc(
        "E202",
        "an unknown name",
        "A single word in a condition must be a `let`, a `define`, a value of an enum or a variable. Write strings in "
        "quotes.",
        "user.tenant == acme",
        'user.tenant == "acme"',
    ),
    DiagnosticDoc(
        "E203",
        "an unknown attribute or member",
        "The name after a dot must be an attribute that the entity declares, or a member of a record. If the value "
        "before the dot can be one of several entities, each of these entities must declare the attribute.",
        _on_invoice("resource.ownr == user"),
        _on_invoice("resource.owner == user"),
    ),
    condition_doc(
        "E204",
        "an unknown function",
        "Conditions may call only built-in functions, and declared entities, with an ID: `invoice(args.id)`.",
        'lowercase(user.tenant) == "acme"',
        'lower(user.tenant) == "acme"',
    ),
    DiagnosticDoc(
        "E205",
        "an unknown type",
        "A type must be built in, an `enum` or an `entity`. Qualify a type of another package with the name of its "
        "import.",
        'entity user { age: integer }\nguard "example" { require user.age > 17 }\n',
        'entity user { age: int }\nguard "example" { require user.age > 17 }\n',
    ),
    condition_doc(
        "E206",
        "not a value of the enum",
        "A word that is compared with an enum must be one of the values of that enum. If several enums declare a word, "
        "compare the word with a fact, whose type decides which enum is meant.",
        "user.plan == gold",
        "user.plan == team",
    ),
    DiagnosticDoc(
        "E207",
        "an unknown scope, issuer, attester or fixture",
        "The name is not declared in this package, or it refers to a package that does not export it.",
        "scope invoices.read { GET /invoices }\nuser any { may invoices.raed }\n",
        "scope invoices.read { GET /invoices }\nuser any { may invoices.read }\n",
    ),
    DiagnosticDoc(
        "E208",
        "a name that is private to another package",
        "Names are private to their package unless their declaration begins with `export`.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E209",
        "an unknown package",
        "The imported package is not among the loaded files. `import acme.common` refers to `acme/common.policy`, "
        "relative to the policy root. A package cannot import itself.",
        "package acme.payments\nimport acme.common\nanyone { may GET /health }\n",
        "package acme.payments\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E210",
        "a name that is declared twice",
        "A name may be declared only once in a package, across all its files.",
        "scope read { GET /a }\nscope read { GET /b }\nuser any { may read }\n",
        "scope read { GET /a  GET /b }\nuser any { may read }\n",
    ),
    DiagnosticDoc(
        "E211",
        "a name that hides another one",
        "A built-in fact, a value of an enum or a variable already has this name, and the new declaration would make "
        "it unreachable.",
        'let user = 5\nguard "example" { require request.size < 5 }\n',
        'let small = 5\nguard "example" { require request.size < small }\n',
    ),
    DiagnosticDoc(
        "E212",
        "a name that could never be used",
        "Some words have another meaning wherever the name could be used: `not`, `true`, `any` and the names of types.",
        'let not = "noon"\nguard "example" { require request.headers["x-when"] == "noon" }\n',
        'let noon = "noon"\nguard "example" { require request.headers["x-when"] == noon }\n',
    ),
    DiagnosticDoc(
        "E213",
        "a definition that uses itself",
        "A `let` or `define` is replaced by its expression. A definition that uses itself, directly or through "
        "others, has no value.",
        'define one = two\ndefine two = one\nguard "example" { require one }\n',
        'define one = two\ndefine two = request.size < 5\nguard "example" { require one }\n',
    ),
    DiagnosticDoc(
        "E214",
        "an entity that two packages declare",
        "All packages share one entity store, so an entity may be declared only once: export it from one package, and "
        "import that package in the others.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E215",
        "a name that must not contain dots",
        "Only scopes, packages and facts may have names with dots.",
        'let limits.age = 17\nguard "example" { require request.size < 5 }\n',
        'let limits_age = 17\nguard "example" { require request.size < limits_age }\n',
    ),
    DiagnosticDoc(
        "E216",
        "not a fact that can be declared",
        "`facts` declares members of the body, arguments of a tool and context from the gateway: names that begin with "
        "`body.`, `args.` or `context.`. Declare attributes of entities with `entity`. Built-in facts need no "
        "declaration.",
        'facts { amount: number }\nguard "example" { require request.size < 5 }\n',
        'facts { body.amount: number }\nguard "example" { require body.amount < 5 }\n',
    ),
    DiagnosticDoc(
        "E217",
        "conflicting declarations of a fact",
        "If the places of two declarations of a fact overlap, both declarations must give it the same type, and a "
        "fact with members must be a record. Split a rule that covers two places with different types. A set can be "
        "inherited only from sets of its own type.",
        'facts { body.amount: number }\nfacts { body.amount: string }\nguard "example" { require body.amount == 5 }\n',
        'facts { body.amount: number }\nguard "example" { require body.amount == 5 }\n',
    ),
    DiagnosticDoc(
        "E218",
        "an invalid `?` or `inherited`",
        "A fact, attribute or member may be absent (`?`), but an element of a set may not. `inherited` unites a set of "
        "an entity with the same set of everything that the entity is in; `inherited else []` treats a missing set as "
        "empty, so the set is never absent.",
        'entity user { roles: set<string?> }\nguard "example" { require user.roles has "clerk" }\n',
        'entity user { roles: set<string>? }\nguard "example" { require user.roles has "clerk" }\n',
    ),
    DiagnosticDoc(
        "E219",
        "an invalid combination of types",
        "`set<…>` and `list<…>` must name the type of their elements; no other type takes an element type. Elements of "
        "sets must be plain values or entities. `or` can join only entities.",
        'entity user { roles: set }\nguard "example" { require user.roles has "clerk" }\n',
        'entity user { roles: set<string> }\nguard "example" { require user.roles has "clerk" }\n',
    ),
)

_PLACES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E241",
        "a fact that does not exist here",
        "Facts declared with `facts on PLACE` exist only at that place. A rule that uses such a fact must apply to "
        "that place or to a part of it. A condition about the caller applies at every place, so it cannot use such a "
        "fact.",
        "facts on POST /refunds { body.amount: number }\nuser any { may POST /refunds  may GET /refunds }\n"
        'guard "example" on /refunds { require body.amount < 5 }\n',
        "facts on POST /refunds { body.amount: number }\nuser any { may POST /refunds  may GET /refunds }\n"
        'guard "example" on POST /refunds { require body.amount < 5 }\n',
    ),
    DiagnosticDoc(
        "E242",
        "`resource` without a binding",
        "`resource` is bound by a typed capture of the path, by `with resource = …` in a scope, or by the action in "
        "the request.",
        "entity invoice { owner: user }\nuser any { may POST /invoices/{id} }\n"
        'guard "example" on POST /invoices/{id} { require resource == invoice "42" }\n',
        "entity invoice { owner: user }\nuser any { may POST /invoices/{id: invoice} }\n"
        'guard "example" on POST /invoices/{id: invoice} { require resource == invoice "42" }\n',
    ),
    DiagnosticDoc(
        "E243",
        "an unknown capture",
        "`params.x` is the text that `{x}` matches in the path of the rule, or in the path of a scope that overlaps "
        "the rule.",
        'user any { may POST /orgs/{org} }\nguard "example" on POST /orgs/{org} { require params.orgs == "acme" }\n',
        'user any { may POST /orgs/{org} }\nguard "example" on POST /orgs/{org} { require params.org == "acme" }\n',
    ),
    DiagnosticDoc(
        "E244",
        "invalid brackets",
        "Brackets can only select a header, a query parameter, or a member of the body, the arguments or the context "
        "whose name cannot follow a dot.",
        'guard "example" { require request["method"] == "GET" }\n',
        'guard "example" { require request.method == "GET" }\n',
    ),
    DiagnosticDoc(
        "E245",
        "a header that is not in lower case",
        "Header names are case-insensitive; write them in lower case.",
        'guard "example" { require request.headers["X-Id"] == "a" }\n',
        'guard "example" { require request.headers["x-id"] == "a" }\n',
    ),
    DiagnosticDoc(
        "E246",
        "`past` outside a history",
        "`past` refers to an earlier request, and is valid only in the `where` of a history.",
        'guard "example" { require past.user.id == user.id }\n',
        'guard "example" { require user.id == "alice" }\n',
    ),
    DiagnosticDoc(
        "E247",
        "a `let` that is not a constant",
        "The value of a `let` must be known before any request. For a condition on facts, use a `define`.",
        'let me = user.id\nguard "example" { require request.headers["x-id"] == me }\n',
        'define me = request.headers["x-id"] == user.id\nguard "example" { require me }\n',
    ),
    DiagnosticDoc(
        "E248",
        "a condition that is too large",
        "With all definitions expanded, a condition may have at most 10,000 parts and may be nested at most 150 "
        "levels deep.",
        "",
        "",
    ),
    condition_doc(
        "E249",
        "a list of mixed or unknown type",
        "All elements of a list must have the same type. An empty list is valid only where the context gives its type.",
        'user.tenant in ["acme", 5]',
        'user.tenant in ["acme", "evil"]',
    ),
    DiagnosticDoc(
        "E250",
        "a group of facts used as a value",
        "`credential`, `body` and similar words are prefixes of facts; a condition must name one of these facts. "
        "`agent` and `tool` are values only if the policy declares them as entities.",
        'guard "example" { require credential == jwt }\n',
        'guard "example" { require credential.kind == jwt }\n',
    ),
    DiagnosticDoc(
        "E251",
        "a value of the wrong type",
        "The value that `with` binds to a fact must have the type of the fact. Values that a rate, a budget or `sum` "
        "counts must be numbers. `distinct` counts single values.",
        "facts on TOOL refund { args.amount: string }\nfacts on POST /refunds, TOOL refund { body.amount: number }\n"
        "scope refunds { POST /refunds  TOOL refund with body.amount = args.amount }\nuser any { may refunds }\n",
        "facts on TOOL refund { args.amount: number }\nfacts on POST /refunds, TOOL refund { body.amount: number }\n"
        "scope refunds { POST /refunds  TOOL refund with body.amount = args.amount }\nuser any { may refunds }\n",
    ),
    condition_doc(
        "E252",
        "`any` or `all` without a set or list",
        "A quantifier ranges over the elements of a set or a list.",
        'any c in user.tenant: c == "a"',
        'any c in user.roles: c == "a"',
    ),
    DiagnosticDoc(
        "E253",
        "an invalid history",
        "A history can be part of a condition, but not of another history or of a `let`. Members of `past.output` are "
        "not declared: each has the type of the value that it is compared with, or of its default. `is present` and "
        "`is absent` need no type.",
        'guard "example" { require after (GET /a where past.output.done == past.output.asked) within 1h }\n',
        'guard "example" { require after (GET /a where past.output.done == true) within 1h }\n',
    ),
    DiagnosticDoc(
        "E255",
        "a value that `request.host` never has",
        "`request.host` is normalized: it has no port and no final dot and is in lower case, IPv6 addresses have no "
        "brackets, and international names are in their encoded form (`xn--…`). A string in any other form never "
        "equals it.",
        'guard "example" { require request.host == "api.example:8080" }\n',
        'guard "example" { require request.host == "api.example" }\n',
    ),
    condition_doc(
        "E256",
        "a rule that reads the header `host`",
        "Clients write the same host in many ways: with a port, with a final dot, in any case. `request.host` contains "
        "only the host, in one normalized form.",
        'request.headers["host"] == "api.example"',
        'request.host == "api.example"',
    ),
    DiagnosticDoc(
        "E257",
        "a package name that is probably misspelled",
        "The package lacks names that a package with a similar name declares, and does not import that package. The "
        "files of the misspelled package were probably meant to be part of that other package. Errors that result from "
        "this, such as a missing `user` block, are not reported.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E258",
        "a sum or a distinct count of something other than a past fact",
        "`sum` and `distinct` take one fact of the earlier requests. In parentheses, the fact may have defaults for "
        "requests that lack it: constants, or other facts of the same request. To add several facts, write several "
        "sums.",
        "facts on POST /a { body.n: number }\n"
        'guard "example" on POST /a { require sum (past.output.n else body.n) of POST /a within 1h < 5 }\n',
        "facts on POST /a { body.n: number }\n"
        'guard "example" on POST /a { require sum (past.output.n else past.body.n) of POST /a within 1h < 5 }\n',
    ),
)

_WARNINGS: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "W201",
        "a presence test on a fact that is always present",
        "According to its declaration, the fact is always present, so the test is always true. Declare a fact that may "
        "be absent with `?`. To test whether an entity has a row, write `user is known`.",
        "user.tenant is present",
        "credential.scopes is present",
        name="always-present",
    ),
    DiagnosticDoc(
        "W202",
        "`else` after an inherited set",
        "An inherited set is absent only if neither the entity nor anything that it is in has the set. If some of "
        "these entities have the set and others lack it, the inherited set is only partly known: whether it contains "
        "a value that no known set contains is unknown, also with `else`. `inherited else []` in the declaration "
        "treats a missing set as empty.",
        "entity folder { blocked: set<user> inherited } in folder\nanyone { may GET /folders/{id: folder} }\n"
        'guard "example" on GET /folders/{id: folder} { deny when user in (resource.blocked else []) }\n',
        "entity folder { blocked: set<user> inherited else [] } in folder\nanyone { may GET /folders/{id: folder} }\n"
        'guard "example" on GET /folders/{id: folder} { deny when user in resource.blocked }\n',
        name="inherited-default",
    ),
    DiagnosticDoc(
        "W209",
        "an unused import",
        "The imported package only declares names, and this package uses none of them. An import of a package with "
        "rules is never reported, because it makes these rules take effect.",
        "",
        "",
        name="unused-import",
    ),
)  # fmt: skip

CODES: tuple[DiagnosticDoc, ...] = (*_NAMES, *OPERATORS, *LITERALS, *_PLACES, *_WARNINGS)
