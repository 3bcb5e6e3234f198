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
        "A fixture applies the fixtures that it uses, and then its own givens. In a cycle, no fixture comes first.",
        'fixture a { use b }\nfixture b { use a given user "x" }\n' + _test("use a GET /a => allow"),
        'fixture a { use b }\nfixture b { given user "x" }\n' + _test("use a GET /a => allow"),
    ),
    DiagnosticDoc(
        "E602",
        "an unknown fact in a test",
        "A test can give only facts that policies know: built-in facts, facts that `facts` declares, and attributes of "
        "entities. A misspelled fact would have no effect, and the test would not show what it claims.",
        _test("GET /a { request.sice: 5 } => allow"),
        _test("GET /a { request.size: 5 } => allow"),
    ),
    DiagnosticDoc(
        "E603",
        "an unknown word in a test",
        "An unquoted word in a test must be `absent`, a value of an enum, a variable of the test's matrix, or, where "
        "one is expected, the name of an issuer or attester. Write any other string in quotes.",
        _test("GET /a { credential.kind: jtw } => allow"),
        _test("GET /a { credential.kind: jwt } => allow"),
    ),
    DiagnosticDoc(
        "E604",
        "a given for a derived fact",
        "Captures are derived from the path, the tool from the request, and the depth of a chain from its hops. "
        "`approval.granted` is derived from the approval. Give the facts from which these are derived.",
        _test('GET /a { request.path: "/b" } => allow'),
        _ALLOWED,
    ),
    DiagnosticDoc(
        "E605",
        "a malformed given",
        "Give a group of facts as `{ … }`, a chain as a list of agents, a resource as an entity, the time as a moment, "
        "and an approval as its rule and its approver. A single fact may be given a value of any type, so that tests "
        "can show the effect of wrong types.",
        _test('given credential "jwt" GET /a => allow'),
        _test("given credential { kind: jwt } GET /a => allow"),
    ),
    DiagnosticDoc(
        "E606",
        "a row that does not match its entity",
        "Rows in `given entities` must have attributes that their entity declares, with the declared types. To test a "
        "wrong type, give the attribute alone: `given user.roles 5`.",
        _USER + 'test "a" { given entities { user "alice" { roles: "clerk" } } GET /a => allow }\n',
        _USER + 'test "a" { given entities { user "alice" { roles: ["clerk"] } } GET /a => allow }\n',
    ),
    DiagnosticDoc(
        "E607",
        "a fact given twice in one block",
        "Later givens replace earlier ones; a repetition within one pair of braces can only be a mistake.",
        _test("GET /a { request.size: 5, request.size: 6 } => allow"),
        _test("GET /a { request.size: 6 } => allow"),
    ),
    DiagnosticDoc(
        "E608",
        "an unknown rule in a test",
        'The name in quotes after `by` must be the name of a guard, a rate or a budget. Otherwise, `deny by "…"` '
        "could never hold. An approval can lift only a guard that has a `confirm`.",
        'guard "small" { deny when request.size > 9 }\n' + _test('GET /a { request.size: 10 } => deny by "smal"'),
        'guard "small" { deny when request.size > 9 }\n' + _test('GET /a { request.size: 10 } => deny by "small"'),
    ),
    DiagnosticDoc(
        "E609",
        "an unknown gate",
        "The word after `by` must be a gate: `default` if no grant applied, `identity`, `user`, `chain`, `guard`, "
        "`malformed_path` and the others that the message lists.",
        _test("GET /b => deny by defualt"),
        _test("GET /b => deny by default"),
    ),
    DiagnosticDoc(
        "E610",
        "a reason for an outcome that has none",
        "An allow has no reason, and `not deny` does not say which outcome is expected instead, so `by` cannot "
        "follow either of them. `not allow by …` is valid.",
        _test("GET /a => allow by guard"),
        _ALLOWED,
    ),
    DiagnosticDoc(
        "E611",
        "a detail that no decision has",
        "Only members of a decision may follow `with`: `message`, `reason`, `remedy`, `obligation`, `unknown`, `chain` "
        "and the others that the message lists. Remedies and obligations must begin with their kind, and a guard must "
        "require the obligation. A misspelled member could never match.",
        _test("GET /a => allow with { usr: absent }"),
        _test("GET /a => allow with { user: absent }"),
    ),
    DiagnosticDoc(
        "E612",
        "two tests with one name",
        "Reports identify a test by its package and name.",
        _ALLOWED + 'test "a" { GET /b => deny by default }\n',
        _ALLOWED + 'test "b" { GET /b => deny by default }\n',
    ),
    DiagnosticDoc(
        "E613",
        "an inconsistent table",
        "Each row of a table must have a cell for each column, with the outcome in the last one. One column must be "
        "`request`; the other columns must be facts and contain values.",
        _test("cases { | request | request.size | => | | GET /a | allow | }"),
        _test("cases { | request | request.size | => | | GET /a | 5 | allow | }"),
    ),
    DiagnosticDoc(
        "E614",
        "an inconsistent matrix",
        "A matrix either has an axis `request` and rows with the outcome of each cell, or has no such axis and has "
        "its requests in the braces. No axis may be repeated, and no value within an axis may be repeated.",
        _test("cases for request.size in [5, 6] { otherwise allow }"),
        _test("cases for request.size in [5, 6] { GET /a => allow }"),
    ),
    DiagnosticDoc(
        "E615",
        "a cell that is missing or repeated",
        "Each combination of values must have exactly one row or be covered by `otherwise`, and each row must name "
        "one value of each axis.",
        _test("cases for request in [GET /a, GET /b] { | GET /a | allow | }"),
        _test("cases for request in [GET /a, GET /b] { | GET /a | allow | otherwise deny }"),
    ),
    DiagnosticDoc(
        "E616",
        "not a valid test request",
        "A test request must name one path or one tool: without `*`, without captures, and with only variables of its "
        'matrix in braces. Write a path with such characters in quotes: `GET "/a*"`.',
        _test("GET /a/* => deny"),
        _test("GET /a/b => deny"),
    ),
    DiagnosticDoc(
        "E617",
        "a clock that runs backwards",
        "The requests of a test are made in order, so `at` and `after` can only move the clock forward. Each row of a "
        "table has its own clock.",
        _test("at 2027-01-01 GET /a => allow at 2026-12-31 GET /a => allow"),
        _test("at 2026-12-31 GET /a => allow at 2027-01-01 GET /a => allow"),
    ),
    DiagnosticDoc(
        "E618",
        "a malformed detail",
        "A singular member, such as `remedy`, takes one value, which must be among the actual values. A plural member, "
        "such as `remedies`, takes a list, which must match exactly; `[]` means none. Write strings in quotes.",
        _test("GET /b => deny with { reasons: default }"),
        _test("GET /b => deny with { reasons: [default] }"),
    ),
    DiagnosticDoc(
        "E619",
        "a detail that can never hold",
        "An allow has no reasons, messages or remedies; approvals are the remedy of a confirm; only an allow carries "
        "obligations for the gateway. `forall` covers many decisions with different details, so it cannot have `with`.",
        _test('GET /a => allow with { message: "no" }'),
        _test('GET /b => deny with { message: "*" }'),
    ),
    DiagnosticDoc(
        "E620",
        "a rule in a test file",
        "Engines do not load files named `…_test.policy`. If such a file contained a rule, its tests would pass for a "
        "policy that no engine enforces. So these files may contain only fixtures and tests.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E621",
        "an invalid repetition or response",
        "`repeat` sends a request a number of times within a period, and `first … at` names the first of these "
        "requests with the expected outcome. `responded` is the gateway's report on an allowed request: an HTTP "
        "status, and `output.…`.",
        _test("GET /b => first deny at 2"),
        _test("GET /b => deny"),
    ),
)
