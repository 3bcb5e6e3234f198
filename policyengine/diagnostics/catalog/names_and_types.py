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
        "A fact is built in, or declared by `facts` or as an attribute of an `entity`. A name that is neither is "
        "a mistake, "
        "because a condition on it could never hold.",
        'user.rolle has "clerk"',
        'user.roles has "clerk"',
    ),
    condition_doc(
        "E202",
        "an unknown name",
        "A single word in a condition is a `let`, a `define`, a value of an enum or a variable. A text stands in "
        "quotes.",
        "user.tenant == acme",
        'user.tenant == "acme"',
    ),
    DiagnosticDoc(
        "E203",
        "an unknown attribute or member",
        "What follows a dot is an attribute that the entity declares, or a member of a record. Where a name may "
        "stand for "
        "one of several entities, each of them declares the attribute.",
        _on_invoice("resource.ownr == user"),
        _on_invoice("resource.owner == user"),
    ),
    condition_doc(
        "E204",
        "an unknown function",
        "The functions are those of the language; a declared entity may be called with an id. There are no others.",
        'lowercase(user.tenant) == "acme"',
        'lower(user.tenant) == "acme"',
    ),
    DiagnosticDoc(
        "E205",
        "an unknown type",
        "A type is a built-in one, an `enum` or an `entity`; those of another package come with the name of its "
        "import.",
        'entity user { age: integer }\nguard "example" { require user.age > 17 }\n',
        'entity user { age: int }\nguard "example" { require user.age > 17 }\n',
    ),
    condition_doc(
        "E206",
        "not a value of the enum",
        "Compared with an enum, a word is one of its values. A word that several enums have means nothing by itself.",
        "user.plan == gold",
        "user.plan == team",
    ),
    DiagnosticDoc(
        "E207",
        "an unknown scope, issuer, attester or fixture",
        "The name is declared nowhere in this package, or not exported by the package that it is looked for in.",
        "scope invoices.read { GET /invoices }\nuser any { may invoices.raed }\n",
        "scope invoices.read { GET /invoices }\nuser any { may invoices.read }\n",
    ),
    DiagnosticDoc(
        "E208",
        "a name that is private to another package",
        "Names are private to their package unless it says `export` before their declaration.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E209",
        "an unknown package",
        "The imported package is not among the files that are loaded. `import acme.common` is looked for in "
        "`acme/common.policy`, from the policy root; a package does not import itself.",
        "package acme.payments\nimport acme.common\nanyone { may GET /health }\n",
        "package acme.payments\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E210",
        "a name is declared twice",
        "Within a package a name means one thing, in whichever of its files that is declared.",
        "scope read { GET /a }\nscope read { GET /b }\nuser any { may read }\n",
        "scope read { GET /a  GET /b }\nuser any { may read }\n",
    ),
    DiagnosticDoc(
        "E211",
        "a name hides another one",
        "A name that is already a built-in fact, a value of an enum or a variable would make that one unreachable.",
        'let user = 5\nguard "example" { require request.size < 5 }\n',
        'let small = 5\nguard "example" { require request.size < small }\n',
    ),
    DiagnosticDoc(
        "E212",
        "a name that could never be used",
        "Some words mean something else wherever the name would be used: `not`, `true`, `any`, the names of types.",
        'let not = "noon"\nguard "example" { require request.headers["x-when"] == "noon" }\n',
        'let noon = "noon"\nguard "example" { require request.headers["x-when"] == noon }\n',
    ),
    DiagnosticDoc(
        "E213",
        "a definition uses itself",
        "A `let` or `define` stands for what is written after it; one that uses itself, directly or through "
        "others, stands "
        "for nothing.",
        'define one = two\ndefine two = one\nguard "example" { require one }\n',
        'define one = two\ndefine two = request.size < 5\nguard "example" { require one }\n',
    ),
    DiagnosticDoc(
        "E214",
        "two packages declare the same entity",
        "There is one directory, so an entity is declared once: its package exports it, others import that package.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E215",
        "dots where a name has none",
        "Only scopes, packages and facts have names with dots.",
        'let limits.age = 17\nguard "example" { require request.size < 5 }\n',
        'let limits_age = 17\nguard "example" { require request.size < limits_age }\n',
    ),
    DiagnosticDoc(
        "E216",
        "`facts` that are no facts of a request",
        "`facts` declares members of the body, of a tool's arguments and of what the gateway adds: their names "
        "begin with "
        "`body.`, `args.` or `context.`. Attributes of entities are declared by `entity`, and what is built in "
        "needs no declaration.",
        'facts { amount: number }\nguard "example" { require request.size < 5 }\n',
        'facts { body.amount: number }\nguard "example" { require body.amount < 5 }\n',
    ),
    DiagnosticDoc(
        "E217",
        "a fact is declared in two ways that do not agree",
        "Where the places of two declarations meet, a fact has one type, and what has members is a record. A rule "
        "that reaches two places with different types is two rules. A set is inherited from sets of its own type.",
        'facts { body.amount: number }\nfacts { body.amount: string }\nguard "example" { require body.amount == 5 }\n',
        'facts { body.amount: number }\nguard "example" { require body.amount == 5 }\n',
    ),
    DiagnosticDoc(
        "E218",
        "`?` or `inherited` where it means nothing",
        "A whole fact, attribute or member may be absent (`?`), an element of a set may not. `inherited` unites a "
        "set of an entity with the same set of all that the entity is in; `else []` after it says that a row which "
        "lacks the set holds nothing, so the set is never absent.",
        'entity user { roles: set<string?> }\nguard "example" { require user.roles has "clerk" }\n',
        'entity user { roles: set<string>? }\nguard "example" { require user.roles has "clerk" }\n',
    ),
    DiagnosticDoc(
        "E219",
        "types that do not go together",
        "`set<…>` and `list<…>` say what they hold, other types hold nothing; sets hold plain values and "
        "entities; `or` "
        "joins entities.",
        'entity user { roles: set }\nguard "example" { require user.roles has "clerk" }\n',
        'entity user { roles: set<string> }\nguard "example" { require user.roles has "clerk" }\n',
    ),
)

_PLACES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E241",
        "a fact where it does not exist",
        "`facts on PLACE` exist only there. A rule that uses one applies to that place or to a part of it; "
        "conditions about "
        "who asks have no request.",
        "facts on POST /refunds { body.amount: number }\nuser any { may POST /refunds  may GET /refunds }\n"
        'guard "example" on /refunds { require body.amount < 5 }\n',
        "facts on POST /refunds { body.amount: number }\nuser any { may POST /refunds  may GET /refunds }\n"
        'guard "example" on POST /refunds { require body.amount < 5 }\n',
    ),
    DiagnosticDoc(
        "E242",
        "`resource` where nothing binds it",
        "A typed capture of the path binds `resource`, or `with resource = …` in a scope, or the action that is "
        "asked for.",
        "entity invoice { owner: user }\nuser any { may POST /invoices/{id} }\n"
        'guard "example" on POST /invoices/{id} { require resource == invoice "42" }\n',
        "entity invoice { owner: user }\nuser any { may POST /invoices/{id: invoice} }\n"
        'guard "example" on POST /invoices/{id: invoice} { require resource == invoice "42" }\n',
    ),
    DiagnosticDoc(
        "E243",
        "a capture that the path does not have",
        "`params.x` is what stands for `{x}` in the path of the rule, or of a scope that meets it.",
        'user any { may POST /orgs/{org} }\nguard "example" on POST /orgs/{org} { require params.orgs == "acme" }\n',
        'user any { may POST /orgs/{org} }\nguard "example" on POST /orgs/{org} { require params.org == "acme" }\n',
    ),
    DiagnosticDoc(
        "E244",
        "brackets that name nothing",
        "Brackets name a header, a parameter of the query, or a member of the body, of the arguments or of the "
        "context that "
        "no plain name can spell.",
        'guard "example" { require request["method"] == "GET" }\n',
        'guard "example" { require request.method == "GET" }\n',
    ),
    DiagnosticDoc(
        "E245",
        "a header that is not in lower case",
        "The names of headers have no case; policies write them in lower case.",
        'guard "example" { require request.headers["X-Id"] == "a" }\n',
        'guard "example" { require request.headers["x-id"] == "a" }\n',
    ),
    DiagnosticDoc(
        "E246",
        "`past` outside a history",
        "`past` speaks of an earlier request: it stands in the `where` of a history.",
        'guard "example" { require past.user.id == user.id }\n',
        'guard "example" { require user.id == "alice" }\n',
    ),
    DiagnosticDoc(
        "E247",
        "a `let` that is no constant",
        "A `let` is known before any request. A condition on facts is a `define`.",
        'let me = user.id\nguard "example" { require request.headers["x-id"] == me }\n',
        'define me = request.headers["x-id"] == user.id\nguard "example" { require me }\n',
    ),
    DiagnosticDoc(
        "E248",
        "a condition that is too large",
        "With every name replaced by what it stands for, a condition has at most 10,000 parts and nests at most "
        "150 levels.",
        "",
        "",
    ),
    condition_doc(
        "E249",
        "a list of mixed or unknown type",
        "All elements of a list have one type, and an empty list stands where its type is known.",
        'user.tenant in ["acme", 5]',
        'user.tenant in ["acme", "evil"]',
    ),
    DiagnosticDoc(
        "E250",
        "a group of facts is not a value",
        "`credential`, `body` and others are names before the dot; a condition names one of their facts. `agent` "
        "and `tool` "
        "are values where they are declared as entities.",
        'guard "example" { require credential == jwt }\n',
        'guard "example" { require credential.kind == jwt }\n',
    ),
    DiagnosticDoc(
        "E251",
        "a value of another type",
        "What is bound, given or counted has the type of the fact that it is for.",
        "facts on TOOL refund { args.amount: string }\nfacts on POST /refunds, TOOL refund { body.amount: number }\n"
        "scope refunds { POST /refunds  TOOL refund with body.amount = args.amount }\nuser any { may refunds }\n",
        "facts on TOOL refund { args.amount: number }\nfacts on POST /refunds, TOOL refund { body.amount: number }\n"
        "scope refunds { POST /refunds  TOOL refund with body.amount = args.amount }\nuser any { may refunds }\n",
    ),
    condition_doc(
        "E252",
        "`any` or `all` over what is neither set nor list",
        "A quantifier goes through the elements of a set or a list.",
        'any c in user.tenant: c == "a"',
        'any c in user.roles: c == "a"',
    ),
    DiagnosticDoc(
        "E253",
        "a history that cannot be looked up",
        "A history stands in a condition, not inside another one and not in a `let`. Of an earlier request's "
        "`past.output` nothing is declared: each has the type of the value that it is compared with.",
        'guard "example" { require after (GET /a where past.output.done is present) within 1h }\n',
        'guard "example" { require after (GET /a where past.output.done == true) within 1h }\n',
    ),
    DiagnosticDoc(
        "E255",
        "a host that `request.host` never is",
        "`request.host` is the plain host, whatever the client wrote: without a port, without a final dot, in lower "
        "case; an IPv6 address without brackets, an international name as it travels (`xn--…`). A text with more than "
        "that would never be equal to it.",
        'guard "example" { require request.host == "api.example:8080" }\n',
        'guard "example" { require request.host == "api.example" }\n',
    ),
    condition_doc(
        "E256",
        "the header `host`",
        "What the client wrote there names the same host in many ways: with a port, with a final dot, in any case. "
        "`request.host` is the host alone, in one spelling.",
        'request.headers["host"] == "api.example"',
        'request.host == "api.example"',
    ),
    DiagnosticDoc(
        "E257",
        "a package whose name is probably misspelled",
        "It lacks names that a package of nearly the same name declares, and imports nothing of it. So its files were "
        "more often meant to be part of that one. What follows from it, as that no `user` block is there, is not told.",
        "",
        "",
    ),
)

_WARNINGS: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "W201",
        "a fact that is always present",
        "By its declaration the fact is always there, so asking whether it is says nothing. A fact that may be "
        "absent is declared with `?`. Whether there is a row for an entity at all is asked by `user is known`.",
        "user.tenant is present",
        "credential.scopes is present",
        name="always-present",
    ),
    DiagnosticDoc(
        "W202",
        "an `else` after an inherited set",
        "An inherited set is absent only where neither the entity nor anything that it is in has it. Where one has it "
        "and another lacks it, membership of what none of them holds is unknown, and `else` changes nothing. "
        "`inherited else []` in the declaration says that a row which lacks the set holds nothing.",
        "entity folder { blocked: set<user> inherited } in folder\nanyone { may GET /folders/{id: folder} }\n"
        'guard "example" on GET /folders/{id: folder} { deny when user in (resource.blocked else []) }\n',
        "entity folder { blocked: set<user> inherited else [] } in folder\nanyone { may GET /folders/{id: folder} }\n"
        'guard "example" on GET /folders/{id: folder} { deny when user in resource.blocked }\n',
        name="inherited-default",
    ),
    DiagnosticDoc(
        "W209",
        "an import that nothing uses",
        "The imported package only declares names, and none of them is used. A package with rules has its effect "
        "without "
        "being named.",
        "",
        "",
        name="unused-import",
    ),
)  # fmt: skip

CODES: tuple[DiagnosticDoc, ...] = (*_NAMES, *OPERATORS, *LITERALS, *_PLACES, *_WARNINGS)
