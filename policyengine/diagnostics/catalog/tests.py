"""E6xx: fixtures and tests."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_DOOR = "anyone { may GET /a }\n"
_ALLOWED = _DOOR + 'test "a" { GET /a => allow }\n'
_USER = "entity user { roles: set<string> }\n" + _DOOR


def _test(inside: str) -> str:
    return f'{_DOOR}test "a" {{ {inside} }}\n'


CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E601",
        "a fixture that uses itself",
        "A fixture is what the fixtures it uses give, and then what it gives itself. In a circle none comes first.",
        'fixture a { use b }\nfixture b { use a given user "x" }\n' + _test("use a GET /a => allow"),
        'fixture a { use b }\nfixture b { given user "x" }\n' + _test("use a GET /a => allow"),
    ),
    DiagnosticDoc(
        "E602",
        "an unknown fact in a test",
        "A test gives facts that policies know: built-in ones, those that `facts` declares, and attributes of "
        "entities. A misspelt one would change nothing, and the test would show something else than it says.",
        _test("GET /a { request.sice: 5 } => allow"),
        _test("GET /a { request.size: 5 } => allow"),
    ),
    DiagnosticDoc(
        "E603",
        "a word that means nothing",
        "A bare word in a test is `absent`, the value of an enum, a variable of its matrix, or the name of an issuer "
        "or attester where one is wanted. Everything else is a text and stands in quotes.",
        _test("GET /a { credential.kind: jtw } => allow"),
        _test("GET /a { credential.kind: jwt } => allow"),
    ),
    DiagnosticDoc(
        "E604",
        "a fact that follows from others",
        "Captures come from the path, the tool from the request, the depth of a chain from its hops, and whether an "
        "approval is granted from the approval. Give what they follow from.",
        _test('GET /a { request.path: "/b" } => allow'),
        _ALLOWED,
    ),
    DiagnosticDoc(
        "E605",
        "a given without its shape",
        "A group of facts is given as `{ … }`, a chain as a list of agents, a resource as an entity, the time as a "
        "moment, and an approval says its rule and who gives it. Single facts may have any type: a test shows what "
        "wrong ones come to.",
        _test('given credential "jwt" GET /a => allow'),
        _test("given credential { kind: jwt } GET /a => allow"),
    ),
    DiagnosticDoc(
        "E606",
        "a row that no directory would hold",
        "Rows in `given entities` have the attributes that their entity declares, of the declared types. To show what "
        "a wrong type comes to give the attribute alone: `given user.roles 5`.",
        _USER + 'test "a" { given entities { user "alice" { roles: "clerk" } } GET /a => allow }\n',
        _USER + 'test "a" { given entities { user "alice" { roles: ["clerk"] } } GET /a => allow }\n',
    ),
    DiagnosticDoc(
        "E607",
        "the same thing given twice at once",
        "Later givens take the place of earlier ones; within one pair of braces that can only be a slip.",
        _test("GET /a { request.size: 5, request.size: 6 } => allow"),
        _test("GET /a { request.size: 6 } => allow"),
    ),
    DiagnosticDoc(
        "E608",
        "no rule of that name",
        'The name after `by` in quotes is that of a guard. Without such a guard `deny by "…"` can never come true; '
        "an approval lifts only a guard that has a `confirm`.",
        'guard "small" { deny when request.size > 9 }\n' + _test('GET /a { request.size: 10 } => deny by "smal"'),
        'guard "small" { deny when request.size > 9 }\n' + _test('GET /a { request.size: 10 } => deny by "small"'),
    ),
    DiagnosticDoc(
        "E609",
        "no gate of that name",
        "The word after `by` is a gate: `default` where nothing opened the door, `identity`, `user`, `chain`, `guard`, "
        "`malformed_path` and the others that the message lists.",
        _test("GET /b => deny by defualt"),
        _test("GET /b => deny by default"),
    ),
    DiagnosticDoc(
        "E610",
        "a reason for nothing",
        "An allow has no reason, and `not deny` does not say what comes instead, so neither can name one. "
        "`not allow by …` can.",
        _test("GET /a => allow by guard"),
        _ALLOWED,
    ),
    DiagnosticDoc(
        "E611",
        "a detail that no decision has",
        "After `with` stand members of a decision: `message`, `reason`, `remedy`, `obligation`, `unknown`, `chain` and "
        "the others that the message lists. Remedies and obligations begin with their kind, and an obligation is one "
        "that some guard asks for. A misspelt one could never come true.",
        _test("GET /a => allow with { usr: absent }"),
        _test("GET /a => allow with { user: absent }"),
    ),
    DiagnosticDoc(
        "E612",
        "two tests of one name",
        "Reports name a test by its name and its package.",
        _ALLOWED + 'test "a" { GET /b => deny by default }\n',
        _ALLOWED + 'test "b" { GET /b => deny by default }\n',
    ),
    DiagnosticDoc(
        "E613",
        "a table that does not add up",
        "Each row of a table has a cell for each column and the outcome in the last. One column is `request`; the "
        "others are facts and hold values.",
        _test("cases { | request | request.size | => | | GET /a | allow | }"),
        _test("cases { | request | request.size | => | | GET /a | 5 | allow | }"),
    ),
    DiagnosticDoc(
        "E614",
        "a matrix that does not add up",
        "A matrix either has an axis `request` and states what comes of each cell in rows, or has no such axis and "
        "writes its requests in the braces. Its axes and their choices differ.",
        _test("cases for request.size in [5, 6] { otherwise allow }"),
        _test("cases for request.size in [5, 6] { GET /a => allow }"),
    ),
    DiagnosticDoc(
        "E615",
        "a cell that is not stated, or not once",
        "Every combination of the choices has one row, or is covered by `otherwise`; every row is such a combination.",
        _test("cases for request in [GET /a, GET /b] { | GET /a | allow | }"),
        _test("cases for request in [GET /a, GET /b] { | GET /a | allow | otherwise deny }"),
    ),
    DiagnosticDoc(
        "E616",
        "a request that is none",
        "A test asks for one path or one tool: without `*`, without captures, and in braces only variables of its "
        'matrix. A path that needs such characters is written in quotes: `GET "/a*"`.',
        _test("GET /a/* => deny"),
        _test("GET /a/b => deny"),
    ),
    DiagnosticDoc(
        "E617",
        "a clock that runs back",
        "Requests of a test are made one after another; `at` and `after` only move on. Each row of a table has its own "
        "clock.",
        _test("at 2027-01-01 GET /a => allow at 2026-12-31 GET /a => allow"),
        _test("at 2026-12-31 GET /a => allow at 2027-01-01 GET /a => allow"),
    ),
    DiagnosticDoc(
        "E618",
        "a detail without its shape",
        "A singular (`remedy`) takes one value and says that it is among those that came. A plural (`remedies`) takes "
        "a list and says that exactly these came; `[]` is none. Texts stand in quotes.",
        _test("GET /b => deny with { reasons: default }"),
        _test("GET /b => deny with { reasons: [default] }"),
    ),
    DiagnosticDoc(
        "E619",
        "a detail that can never hold",
        "An allow has no reasons, messages and remedies; approvals are the remedy of a confirm; only an allow carries "
        "the obligations that the gateway has to meet. `forall` is about very many decisions, which differ in their "
        "details.",
        _test('GET /a => allow with { message: "no" }'),
        _test('GET /b => deny with { message: "*" }'),
    ),
    DiagnosticDoc(
        "E620",
        "a rule in a file of tests",
        "No engine loads files named `…_test.policy`. If a rule stood there, tests would show a policy that nothing "
        "enforces; so such files hold fixtures and tests only.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E621",
        "a repetition or a response that does not add up",
        "`repeat` makes a request a number of times within some time, and `first … at` names one of these. `responded` "
        "is what the gateway reports of a request that was allowed: a status of HTTP, and `output.…`.",
        _test("GET /b => first deny at 2"),
        _test("GET /b => deny"),
    ),
)
