"""Syntax errors speak the user's words: each row is a policy, then code, message, hint and the underlined text."""

import re

import pytest

from policyengine.diagnostics.model import Diagnostic
from policyengine.diagnostics.suggest import suggest
from policyengine.source import Source
from policyengine.syntax.parse import parse

# fmt: off
CASES: list[tuple[str, str, str, str | None, str]] = [
    (
        "define x = a < b < c",
        "E110",
        "comparisons do not chain",
        "write two comparisons joined by `and`: `a < x and x < b`",
        "<",
    ),
    (
        "define x = a = b",
        "E108",
        "`=` does not compare",
        "write `==`",
        "=",
    ),
    (
        "let x == 1",
        "E108",
        "`==` compares and does not define a name",
        "write `=`",
        "=",
    ),
    (
        "define x = !c",
        "E109",
        "`!` is spelled `not` here",
        "write `not`",
        "!",
    ),
    (
        "openapi: 3.1.0",
        "E102",
        "`openapi` does not begin a declaration",
        "to generate a policy from a specification: `policyengine init DIR --openapi FILE`",
        "openapi",
    ),
    (
        "define x = a || b",
        "E109",
        "`||` is spelled `or` here",
        "write `or`",
        "||",
    ),
    (
        "define x = 'abc'",
        "E106",
        "strings use straight double quotes, not `'`",
        'write `"…"`',
        "'",
    ),
    (
        "define x = “abc”",
        "E106",
        "strings use straight double quotes, not `“`",
        'write `"…"`',
        "“",
    ),
    (
        "// hello\ndefine x = a",
        "E107",
        "a comment begins with `#`, not with `//`",
        "write `# …`",
        "//",
    ),
    (
        "scope s { GET /a // x\n}",
        "E107",
        "a comment begins with `#`, not with `//`",
        "write `# …`",
        "//",
    ),
    (
        "/* hi */\ndefine x = a",
        "E107",
        "a comment begins with `#`, not with `/*`",
        "write `# …`",
        "/*",
    ),
    (
        "scope s {\n  GET /a\n\nguard \"x\" { deny }",
        "E103",
        "`}` is missing before this `guard`",
        None,
        "guard",
    ),
    (
        "guard \"x\" { deny when (a and b\n  deny when c\n}",
        "E103",
        "`)` is missing before this `deny`",
        None,
        "deny",
    ),
    (
        'guard "x" { deny when f(a, b }',
        "E103",
        "`)` is missing before this `}`",
        None,
        "}",
    ),
    (
        "scope s { /a }",
        "E113",
        "a path needs a method here",
        "write the method: `GET /a`; it is optional only after `on`",
        "/a",
    ),
    (
        'agent "x" { issued by a acts alone may /v1/x }',
        "E113",
        "a path needs a method here",
        "write the method: `GET /v1/x`; it is optional only after `on`",
        "/v1/x",
    ),
    (
        "scope s { get /x }",
        "E114",
        "methods must be in capitals",
        "write `GET`",
        "get",
    ),
    (
        'agent "x" { issued by a acts alone may get /x, post /y }',
        "E114",
        "methods must be in capitals",
        "write `GET /x`",
        "get",
    ),
    (
        "define x = \"abc\ndefine y = 1",
        "E105",
        "this string has no closing quote on its line",
        "close it with `\"`; write a line break as `\\n`",
        '"',
    ),
    (
        "define x = a / b",
        "E111",
        "the language has no division",
        "multiply the other side instead",
        "/",
    ),
    (
        "define x = a/2",
        "E111",
        "the language has no division",
        "multiply the other side instead",
        "/",
    ),
    (
        "define x = a % 2",
        "E111",
        "unknown operator `%`",
        "the operators on numbers are `+`, `-` and `*`",
        "%",
    ),
    (
        "scope s { GET /a; GET /b }",
        "E112",
        "items are not separated by `;`",
        "remove it: each item begins with a keyword",
        ";",
    ),
    (
        "scope s { GET /a, GET /b }",
        "E112",
        "`,` does not belong here",
        "remove it: each item begins with a keyword",
        ",",
    ),
    (
        "agent \"x\" { issued by a acts alone may a,\n}",
        "E112",
        "expected a scope, a method, `TOOL` or `ACTION` after this `,`",
        "add it, or remove the `,`",
        ",",
    ),
    (
        "gaurd \"x\" { deny }\nguard \"y\" { denny when a }",
        "E115",
        "unknown word `gaurd`",
        "did you mean `guard`?",
        "gaurd",
    ),
    (
        "agent bot { issued by acme }",
        "E116",
        "`bot` needs quotes",
        'write `"bot"`',
        "bot",
    ),
    (
        "agent any { issued by acme }",
        "E116",
        "`any` needs quotes",
        'write `"*"` for every agent: `"any"` is an agent with that name',
        "any",
    ),
    (
        "agent everyone { issued by acme }",
        "E116",
        "`everyone` needs quotes",
        'write `"*"` for every agent: `"everyone"` is an agent with that name',
        "everyone",
    ),
    (
        "agent * { issued by acme }",
        "E101",
        "expected a string, `where` or `group`, got `*`",
        'write `"*"` for every agent',
        "*",
    ),
    (
        "user * { may read }",
        "E101",
        "expected a string, `any` or `where`, got `*`",
        "write `user any` for every user",
        "*",
    ),
    (
        "user everybody { may read }",
        "E116",
        "`everybody` needs quotes",
        'write `user any` for every user: `"everybody"` is a user with that name',
        "everybody",
    ),
    (
        'agent "a" { may delegate TOOL fs/read to agent "b" }',
        "E127",
        "an agent can delegate scopes, not endpoints",
        "declare a scope for it, `scope NAME { TOOL … }`, and write `may delegate NAME to …`",
        "TOOL",
    ),
    (
        'agent "a" { may delegate read, GET /m to agent "b" }',
        "E127",
        "an agent can delegate scopes, not endpoints",
        "declare a scope for it, `scope NAME { GET … }`, and write `may delegate NAME to …`",
        "GET",
    ),
    (
        'profile "p" for agent "a" { expect POST /a/{id} | GET /b -> POST /c }',
        "E101",
        "alternatives in an order of calls need parentheses, which show where they end",
        "write `(POST /a/{id} | GET /b) -> …` or `(POST /a/{id} | GET /b -> …)`",
        "|",
    ),
    (
        'profile "p" for agent "a" { expect POST /a -> read\n repeated | GET /b }',
        "E101",
        "alternatives in an order of calls need parentheses, which show where they end",
        "write `(read repeated | GET /b)`",
        "|",
    ),
    (
        'profile "p" for agent "a" { expect POST /a or GET /b run within 5m }',
        "E101",
        "alternatives in an order of calls need parentheses, which show where they end",
        "write `(POST /a | GET /b)`",
        "or",
    ),
    (
        'profile "p" for agent "a" { expect (GET /a) repeated | GET /b }',
        "E101",
        "alternatives in an order of calls need parentheses, which show where they end",
        "write alternatives in parentheses: `(GET /a | GET /b) -> GET /c`",
        "|",
    ),
    (
        'profile "p" for agent "a" { expect (GET /a | GET /b) || GET /c }',
        "E101",
        "alternatives in an order of calls need parentheses, which show where they end",
        "write alternatives in parentheses: `(GET /a | GET /b) -> GET /c`",
        "||",
    ),
    (
        'rate "r" per agent.id { 10/1m raise x2 when a }',
        "E101",
        "a raise needs `at most`",
        "write its upper limit: `raise x2 at most 100/1m when …`",
        "x2",
    ),
    (
        "guard large { deny }",
        "E116",
        "`large` needs quotes",
        'write `"large"`',
        "large",
    ),
    (
        'scope "x" { GET /a }',
        "E117",
        'write a name without quotes, not `"x"`',
        "write `x`",
        '"x"',
    ),
    (
        "entity User { a: int }",
        "E127",
        "a name must begin with a lower-case letter, unlike `User`",
        "write `user`",
        "User",
    ),
    (
        "scope invoices-read { GET /a }",
        "E127",
        "`invoices-read` is not a name",
        "a name may contain only ASCII letters, digits, `_` and `.`",
        "invoices-read",
    ),
    (
        'guard "x" on a { confirm by role f within 5min when a }',
        "E119",
        "`5min` is neither a number nor a duration",
        "write numbers as `10_000` or `0.5`, durations as `500ms`, `90s`, `15m`, `1h30m`, `7d`",
        "5min",
    ),
    (
        "define x = a > 1e5",
        "E119",
        "`1e5` is neither a number nor a duration",
        "write numbers as `10_000` or `0.5`, durations as `500ms`, `90s`, `15m`, `1h30m`, `7d`",
        "1e5",
    ),
    (
        "define x = a > .5",
        "E119",
        "a number must begin with a digit",
        "write `0.5`, not `.5`",
        ".",
    ),
    (
        "define x = a\nimport b",
        "E120",
        "`import` must come before all declarations",
        "begin the file with `language`, `package` and the imports, in this order",
        "import",
    ),
    (
        'export guard "x" {}',
        "E129",
        "`guard` cannot be exported",
        "guards, rates and budgets always apply everywhere; "
        "you can export `enum`, `entity`, `let`, `define`, `scope`, `issuer`, `attester`",
        "guard",
    ),
    (
        "}\ndefine x = a",
        "E104",
        "this `}` closes no bracket",
        "remove it, or look for a bracket that was closed too early",
        "}",
    ),
    (
        "guard \"x\" { deny } }\nguard \"y\" { deny }",
        "E104",
        "this `}` closes no bracket",
        "remove it, or look for a bracket that was closed too early",
        "}",
    ),
    (
        "define x = a b",
        "E101",
        "expected an operator or a declaration (`agent`, `guard`, `scope`, …), got `b`",
        None,
        "b",
    ),
    (
        'guard "x" { deny when a b }',
        "E101",
        "expected an operator, `deny`, `confirm`, `require`, … or `}`, got `b`",
        None,
        "b",
    ),
    (
        'guard "x" { deny when }',
        "E101",
        "expected a condition, got `}`",
        None,
        "}",
    ),
    (
        "define x =",
        "E101",
        "expected a condition, got the end of the file",
        None,
        "",
    ),
    (
        "entity a { b int }",
        "E101",
        "expected `:`, got `int`",
        "write `b: int`",
        "int",
    ),
    (
        "enum a = b > c",
        "E101",
        "expected a declaration (`agent`, `guard`, `scope`, …) or `<`, got `>`",
        None,
        ">",
    ),
    (
        'test "x" { GET /a -> allow }',
        "E101",
        "expected `{` or `=>`, got `->`",
        None,
        "->",
    ),
    (
        'test "x" { GET /a => allowed }',
        "E115",
        "unknown word `allowed`",
        "did you mean `allow`?",
        "allowed",
    ),
    (
        'test "x" { GET /a => }',
        "E101",
        "expected an outcome (`allow`, `deny`, …), got `}`",
        None,
        "}",
    ),
    (
        'rate "x" per a { 100 per minute }',
        "E101",
        "expected a rate, `on`, `at`, … or `}`, got `100`",
        "write the number and the period: `100/1m`",
        "100",
    ),
    (
        'agent "x" { issued acme }',
        "E101",
        "expected `by`, got `acme`",
        None,
        "acme",
    ),
    (
        'agent "x" { isued by acme }',
        "E115",
        "unknown word `isued`",
        "did you mean `issued`?",
        "isued",
    ),
    (
        'guard "x" on POST { deny }',
        "E101",
        "expected a path, got `{`",
        "for example `/v1/invoices/{id}`",
        "{",
    ),
    (
        "define entité = 1",
        "E127",
        "`entité` is not a name",
        "a name may contain only ASCII letters, digits, `_` and `.`",
        "entité",
    ),
    (
        'guard "x" { require a message b }',
        "E116",
        "`b` needs quotes",
        'write `"b"`',
        "b",
    ),
    (
        "define x = time within mon..fri 08:00..18:00",
        "E101",
        "a time window needs its time zone",
        'add the zone: `18:00 "Europe/Berlin"`, or `"UTC"`',
        "18:00",
    ),
    (
        "define x = \"\\d\"",
        "E126",
        "`\\d` is not a valid escape",
        "write `\\\\d` for a backslash itself",
        "\\d",
    ),
    (
        'agent "x" { issued by acme credential { lifetime < 15m } }',
        "E101",
        "expected `<=`, got `<`",
        None,
        "<",
    ),
    (
        "define x = a in [1, 2 3]",
        "E101",
        "expected an operator, `,` or `]`, got `3`",
        None,
        "3",
    ),
    (
        "define x = a in [1, 2",
        "E103",
        "`]` is missing before the end of the file",
        None,
        "",
    ),
    (
        "test \"x\" { cases { | a | => | \n| 1 | allow\n} }",
        "E101",
        "expected `with`, `|` or `by`, got `}`",
        None,
        "}",
    ),
    (
        'fixture f { given user "alice" { a: 1 } }',
        "E101",
        "expected `use`, `given` or `}`, got `{`",
        None,
        "{",
    ),
    (
        'rate "x" per a { 100/1m burst }',
        "E101",
        "expected a number, got `}`",
        None,
        "}",
    ),
    (
        'guard "x" { deny when a mesage "m" }',
        "E115",
        "unknown word `mesage`",
        "did you mean `message`?",
        "mesage",
    ),
    (
        'guard "x" { require (a or b }',
        "E103",
        "`)` is missing before this `}`",
        None,
        "}",
    ),
    (
        'agent "x" { may , b }',
        "E101",
        "expected a scope, a method, `TOOL`, `ACTION`, …, got `,`",
        None,
        ",",
    ),
    (
        "anyone { may GET }",
        "E101",
        "expected a path, got `}`",
        "for example `/v1/invoices/{id}`",
        "}",
    ),
    (
        'agent "x" { valid until tomorrow }',
        "E101",
        "expected a date, got `tomorrow`",
        "for example `2028-01-01`",
        "tomorrow",
    ),
    (
        'map authzen { subject "user" -> user }',
        "E101",
        "expected `=>`, got `->`",
        None,
        "->",
    ),
    (
        "define x = a == b == c",
        "E110",
        "comparisons do not chain",
        "write two comparisons joined by `and`: `a < x and x < b`",
        "==",
    ),
    (
        "guard \"x\" {\n  -- no\n  deny\n}",
        "E107",
        "a comment begins with `#`, not with `--`",
        "write `# …`",
        "-",
    ),
    (
        'guard "x" { denywhen a }',
        "E101",
        "expected `deny`, `confirm`, `require`, … or `}`, got `denywhen`",
        None,
        "denywhen",
    ),
    (
        "enum plan = Free",
        "E127",
        "a name must begin with a lower-case letter, unlike `Free`",
        "write `free`",
        "Free",
    ),
    (
        'agent "x" { credential { kind in jwt } }',
        "E101",
        "expected `[`, got `jwt`",
        None,
        "jwt",
    ),
    (
        'guard "x" on a { confirm by role f withing 5m }',
        "E115",
        "unknown word `withing`",
        "did you mean `within`?",
        "withing",
    ),
    (
        "delegation { depth < 3 }",
        "E101",
        "expected `<=`, got `<`",
        None,
        "<",
    ),
    (
        'package "acme"',
        "E117",
        'write a name without quotes, not `"acme"`',
        "write `acme`",
        '"acme"',
    ),
    (
        'package "Acme Shop"',
        "E117",
        'write a name without quotes, not `"Acme Shop"`',
        "a name may contain letters, digits, `_` and `.`, and must begin with a lower-case letter",
        '"Acme Shop"',
    ),
    (
        "fixture f { given entities { user alice {} } }",
        "E116",
        "`alice` needs quotes",
        'write `"alice"`',
        "alice",
    ),
    (
        'guard "x" on TOOL { deny }',
        "E101",
        "expected a tool or a string, got `{`",
        None,
        "{",
    ),
    (
        "define x = \"a\\u12\"",
        "E126",
        "`\\u` is not a valid escape",
        "write `\\\\u` for a backslash itself",
        "\\u",
    ),
    (
        "define x = \"\\ud800\"",
        "E126",
        "`\\u` is not a valid escape",
        "write `\\\\u` for a backslash itself",
        "\\u",
    ),
    (
        'guard "x" { deny if a }',
        "E115",
        "unknown word `if`",
        "did you mean `when`?",
        "if",
    ),
    (
        'agent "x" { issued by acme   acts alone   can a }',
        "E115",
        "unknown word `can`",
        "did you mean `may`?",
        "can",
    ),
    (
        "entity invoice extends folder",
        "E115",
        "unknown word `extends`",
        "did you mean `in`?",
        "extends",
    ),
    (
        'define x = user.role is "admin"',
        "E101",
        'expected `present`, `absent` or `known`, got `"admin"`',
        "`is` only tests for presence; compare with `==` or `!=`",
        '"admin"',
    ),
    (
        "define x = user in team legal",
        "E101",
        "expected an operator or a declaration (`agent`, `guard`, `scope`, …), got `legal`",
        'write an entity as `team "legal"`',
        "legal",
    ),
    (
        'guard "x" { deny when body.amount > 1,000 }',
        "E119",
        "commas do not group digits",
        "write `1_000`",
        "1,000",
    ),
    (
        "anyone { may GET /a, /b }",
        "E113",
        "a path needs a method here",
        "write the method: `GET /b`; it is optional only after `on`",
        "/b",
    ),
    (
        "issuer acme { claims { tenant: user.tenant } }",
        "E101",
        "expected `->`, got `:`",
        None,
        ":",
    ),
    (
        'rule "x" { deny }',
        "E115",
        "unknown word `rule`",
        "did you mean `guard`?",
        "rule",
    ),
    (
        "scope s { GET /a/<id> }",
        "E101",
        "`<id>` is not valid in a path",
        "write a variable segment as `{id}`, or as `{id: invoice}` if it is the id of an entity",
        "<id>",
    ),
    (
        "scope s { GET /a/inv-* }",
        "E101",
        "`-*` is not valid in a path",
        "`*` matches a whole segment, `**` the rest of the path",
        "-*",
    ),
    (
        "scope s { GET /a?b=1 }",
        "E101",
        "`?b=1` is not valid in a path",
        "the query is not part of the path; read it with `request.query`",
        "?b=1",
    ),
    (
        'scope s { GET "/a/{id}" }',
        "E101",
        'expected a path, got `"/a/{id}"`',
        "write the path without quotes",
        '"/a/{id}"',
    ),
    (
        "scope s { GET https://x.example/a }",
        "E101",
        "expected a path, got `https`",
        "a path must begin with `/`; read the host with `request.host`",
        "https",
    ),
    (
        "anyone { may GET,POST /a }",
        "E101",
        "expected a path, got `,`",
        "write several methods as `GET|POST`",
        ",",
    ),
    (
        "scope s as read:things { GET /a }",
        "E116",
        "`read:things` needs quotes",
        'write `"read:things"`',
        "read:things",
    ),
    (
        "agent invoice-bot { }",
        "E116",
        "`invoice-bot` needs quotes",
        'write `"invoice-bot"`',
        "invoice-bot",
    ),
    (
        "user when user.vip { may a }",
        "E115",
        "`when` does not belong here",
        "did you mean `where`?",
        "when",
    ),
    (
        'agent "x" { acts for all users }',
        "E115",
        "`all` does not belong here",
        "did you mean `any`?",
        "all",
    ),
    (
        'define x = user.roles contains "a"',
        "E115",
        "unknown word `contains`",
        "did you mean `has`?",
        "contains",
    ),
    (
        "define x = user is unknown",
        "E101",
        "expected `present`, `absent` or `known`, got `unknown`",
        "write `not … is known`",
        "unknown",
    ),
    (
        "define x = body.a is null",
        "E101",
        "expected `present`, `absent` or `known`, got `null`",
        "write `is absent`",
        "null",
    ),
    (
        'define x = time within mon-fri 08:00..18:00 "UTC"',
        "E101",
        "`mon-fri` is not a range of days",
        "write `mon..fri`",
        "mon-fri",
    ),
    (
        'define x = time within mon..fri 8:00..18:00 "UTC"',
        "E101",
        "expected a string or a time of day, got `8`",
        "write hours with two digits: `08:00`",
        "8",
    ),
    (
        'define x = time within mon..fri 6pm..11pm "UTC"',
        "E119",
        "`6pm..11pm` is neither a number nor a duration",
        "write times of day on a 24-hour clock: `18:00`",
        "6pm..11pm",
    ),
    (
        'guard "x" { deny body.a > 1 }',
        "E101",
        "expected `when`, `deny`, `confirm`, … or `}`, got `body.a`",
        "begin a condition with `when`: `deny when body.a …`",
        "body.a",
    ),
    (
        'guard "x" { same_tenant }',
        "E101",
        "expected `deny`, `confirm`, `require`, … or `}`, got `same_tenant`",
        "a condition follows `require`, or `deny when`: `require same_tenant`",
        "same_tenant",
    ),
    (
        'guard "x" { confirm within 15m }',
        "E101",
        "expected `by`, got `within`",
        "say who approves: `confirm by role finance within 15m`",
        "within",
    ),
    (
        "entity user in team { roles: set<string> }",
        "E101",
        "expected a declaration (`agent`, `guard`, `scope`, …) or `,`, got `{`",
        "write `in TYPE` after the attributes: `entity user { … } in team`",
        "{",
    ),
    (
        "enum plan { free, team }",
        "E101",
        "expected `=`, got `{`",
        "list the values in ascending order: `enum plan = free < team`",
        "{",
    ),
    (
        "entity a { b: string[] }",
        "E101",
        "expected a name, `?`, `<`, … or `}`, got `[`",
        "for several values, use `set<string>` or `list<string>`",
        "[",
    ),
    (
        'guard "g" { require sum past.output.n else 0 of GET /a within 1h < 5 }',
        "E101",
        "expected `of`, got `else`",
        "write a fact with its default in parentheses: `(past.output.n else 0)`",
        "else",
    ),
    (
        "facts { body.a?: string }",
        "E101",
        "expected `:`, got `?`",
        "write the `?` of an optional field after its type: `body.a: string?`",
        "?",
    ),
    (
        "user any { may a and b }",
        "E101",
        "expected `,`, `when`, `may`, … or `}`, got `and`",
        "write `,`",
        "and",
    ),
    (
        "user any { may a b }",
        "E101",
        "expected `,`, `when`, `may`, … or `}`, got `b`",
        "write `,` between them: `a, b`",
        "b",
    ),
    (
        "user any { may read:a }",
        "E101",
        "expected `,`, `when`, `may`, … or `}`, got `:`",
        "use the scope's own name, not its name in credentials",
        ":",
    ),
    (
        'agent "x" { credential { bound: true } }',
        "E101",
        "expected `,`, `age`, `kind`, … or `}`, got `:`",
        "write `bound` alone",
        ":",
    ),
    (
        'anyone { may\xa0GET /a }',
        "E118",
        "this is U+00A0 (no-break space), not a plain space",
        "write a plain space",
        '\xa0',
    ),
    (
        'guard "g" { confirm from acme by role f }',
        "E101",
        "expected `by`, got `from`",
        "say who approves before the issuers: `confirm by role finance from acme`",
        "from",
    ),
    (
        'guard "g" { confirm by 2 of team "x" from acme from acme }',
        "E101",
        "expected `,`, `bound`, `when`, … or `}`, got `from`",
        "list all issuers after one `from`: `from acme, partner`",
        "from",
    ),
    (
        'guard "g" { deny when body.a > 1 confirm by role f within 15m from acme }',
        "E101",
        "expected `bound`, `when`, `deny`, … or `}`, got `from`",
        "write `from ISSUER` after the approvers and before `within`, `bound to`, `when` and `message`",
        "from",
    ),
    (
        'guard "g" { confirm by role f when body.a > 1 from acme }',
        "E101",
        "expected an operator, `deny`, `confirm`, `require`, … or `}`, got `from`",
        "write `from ISSUER` after the approvers and before `within`, `bound to`, `when` and `message`",
        "from",
    ),
    (
        'guard "g" { confirm by role f from issuer acme }',
        "E101",
        "expected `,`, `bound`, `when`, … or `}`, got `acme`",
        "write only the name of the issuer: `from acme`",
        "acme",
    ),
    (
        'guard "g" { confirm by role f from acme partner }',
        "E101",
        "expected `,`, `bound`, `when`, … or `}`, got `partner`",
        "write `,` between them: `acme, partner`",
        "partner",
    ),
    (
        'guard "g" { confirm by role f from "acme" }',
        "E117",
        'write a name without quotes, not `"acme"`',
        "write `acme`",
        '"acme"',
    ),
    ("anyone { mai GET /x }", "E115", "unknown word `mai`", "did you mean `may`?", "mai"),
    ("anyone { mya GET /x }", "E115", "unknown word `mya`", "did you mean `may`?", "mya"),
    ("user any { mat GET /x }", "E115", "unknown word `mat`", "did you mean `may`?", "mat"),
    ("user any { nay GET /x }", "E101", "expected `may`, `valid` or `}`, got `nay`", None, "nay"),
    (
        "define x = body.a > $100",
        "E118",
        "`$` means nothing here",
        "write only the number: `10_000`",
        "$",
    ),
]
# fmt: on


def diagnostics(text: str) -> list[Diagnostic]:
    return parse(Source("x.policy", text))[1]


@pytest.mark.parametrize(("text", "code", "message", "hint", "underlined"), CASES)
def test_a_syntax_error_has_its_code_message_hint_and_span(
    text: str, code: str, message: str, hint: str | None, underlined: str
) -> None:
    first = diagnostics(text)[0]
    assert (first.code, first.message, first.hint, first.span.text) == (code, message, hint, underlined)


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_a_syntax_error_message_contains_no_internal_names(text: str) -> None:
    for diagnostic in diagnostics(text):
        words = re.sub(r"`[^`]*`", "", diagnostic.message)
        assert not re.search(r"[A-Z]{2,}(?<!ASCII)(?<!UTF)|__|\$|token|unexpected", words)
        assert not diagnostic.message.endswith(".")
        assert not diagnostic.message[0].isupper()


def test_the_error_for_a_missing_bracket_points_at_the_open_bracket() -> None:
    (diagnostic,) = diagnostics('scope s {\n  GET /a\n\nguard "x" { deny }\n')
    (related,) = diagnostic.related
    assert (diagnostic.code, related.span.line, related.span.text) == ("E103", 1, "{")


def test_an_error_at_the_end_of_the_file_points_after_the_last_word() -> None:
    (diagnostic,) = diagnostics("define x =\n\n# more to come\n")
    assert (diagnostic.span.line, diagnostic.span.column) == (1, 11)


def test_one_run_reports_every_syntax_error() -> None:
    text = 'gaurd "a" { deny }\nguard "b" { deny when x = y }\nscope c { /d }\nguard "e" { deny }\nscope f { get /g }\n'
    assert [(d.code, d.span.line) for d in diagnostics(text)] == [("E115", 1), ("E108", 2), ("E113", 3), ("E114", 5)]


def test_a_module_with_errors_contains_its_valid_declarations() -> None:
    text = 'package p\nimport q\nguard "a" { deny }\nguard "b" { dany }\nguard "c" { deny }\n'
    module, found = parse(Source("x.policy", text))
    assert module is not None
    assert module.package is not None
    assert [d.code for d in found] == ["E115"]
    assert [(d.name.value, d.span.line) for d in module.declarations] == [("a", 3), ("c", 5)]  # type: ignore[union-attr]


def test_a_declaration_before_a_stray_bracket_is_kept() -> None:
    module, found = parse(Source("x.policy", 'guard "a" { deny }\n}\nguard "b" { deny }\n'))
    assert module is not None
    assert ([d.code for d in found], len(module.declarations)) == (["E104"], 2)


def test_a_missing_bracket_does_not_drop_other_declarations() -> None:
    module, found = parse(Source("x.policy", 'guard "a" { deny\nguard "b" { deny }\nguard "c" { deny }\n'))
    assert module is not None
    assert ([d.code for d in found], len(module.declarations)) == (["E103"], 2)


@pytest.mark.parametrize(
    "text",
    [
        "user any { may GET /x with body.a = 1 }",
        'guard "a" on GET /x/{id}, TOOL a/b with body.a = 1 { deny }',
        "user any { may ACTION view invoice with body.a = 1 }",
    ],
)
def test_with_outside_a_scope_says_where_it_belongs(text: str) -> None:
    [finding] = diagnostics(text)
    assert (finding.code, finding.span.text) == ("E101", "with")
    assert finding.hint == "`with` belongs in a scope: `scope NAME { GET /x with … }`"


def test_mixing_and_with_or_is_not_a_syntax_error() -> None:
    assert diagnostics("define x = a and b or c") == []


def test_windows_line_endings_and_tabs_are_accepted() -> None:
    assert diagnostics('guard "a" {\r\n\tdeny\r\n}\r\n') == []


@pytest.mark.parametrize(
    ("word", "candidates", "meant"),
    [
        ("gaurd", ["guard", "agent"], "guard"),
        ("user.rolle", ["user.role", "user.id"], "user.role"),
        ("Guard", ["guard"], "guard"),
        ("xyz", ["guard"], None),
        ("guard", [], None),
    ],
)
def test_a_suggestion_is_close_or_none(word: str, candidates: list[str], meant: str | None) -> None:
    assert suggest(word, candidates) == meant
