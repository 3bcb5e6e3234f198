"""E1xx: the text of a policy, and its syntax."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_DEEP = "define x = " + "(" * 65 + "a" + ")" * 65 + "\n"
_LONG = "define x = " + "not " * 101 + "a\n"
_MISTAKES = "guard\n" * 26

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E100",
        "a file that is not valid UTF-8",
        "A policy must be UTF-8 without a byte order mark, because programs disagree on how to read any other "
        "encoding.",
        "\ufeffanyone { may GET /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E101",
        "unexpected token",
        "The text is valid up to this position. The message lists what may follow.",
        "entity invoice { owner user }\n",
        "entity invoice { owner: user }\n",
    ),
    DiagnosticDoc(
        "E102",
        "not the start of a declaration",
        "Each declaration begins with a keyword, such as `agent` or `guard`. After its header, a file contains only "
        "declarations.",
        "allow everything\n",
        "anyone { may GET /** }\n",
    ),
    DiagnosticDoc(
        "E103",
        "an unclosed bracket",
        "Each bracket must be closed before the next declaration and before the end of the file.",
        'guard "closed" { deny\n\nanyone { may GET /health }\n',
        'guard "closed" { deny }\n\nanyone { may GET /health }\n',
    ),
    DiagnosticDoc(
        "E104",
        "an unmatched closing bracket",
        "This bracket has no opening bracket, or an earlier bracket was closed too soon.",
        "anyone { may GET /health } }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E105",
        "an unterminated string",
        "A string must end on the line where it begins. Write a line break inside it as `\\n`.",
        'guard "closed { deny }\n',
        'guard "closed" { deny }\n',
    ),
    DiagnosticDoc(
        "E106",
        "quotes other than straight double quotes",
        "Strings must use straight double quotes. Single and curly quotes do not begin a string.",
        "guard 'closed' { deny }\n",
        'guard "closed" { deny }\n',
    ),
    DiagnosticDoc(
        "E107",
        "a comment that does not begin with `#`",
        "A comment must begin with `#`, and ends at the end of its line.",
        "// who may look\nanyone { may GET /health }\n",
        "# who may look\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E108",
        "`=` and `==` confused",
        "`=` defines a name; `==` compares two values.",
        "define mine = user.id = resource.owner\n",
        "define mine = user.id == resource.owner\n",
    ),
    DiagnosticDoc(
        "E109",
        "a symbol instead of `and`, `or` or `not`",
        "The operators are the words `and`, `or` and `not`, so that a condition can be read aloud.",
        "define both = a && b\n",
        "define both = a and b\n",
    ),
    DiagnosticDoc(
        "E110",
        "chained comparisons",
        "A comparison has exactly two sides. Join two comparisons with `and`.",
        "define middle = 1 < body.amount < 9\n",
        "define middle = 1 < body.amount and body.amount < 9\n",
    ),
    DiagnosticDoc(
        "E111",
        "an operator that numbers do not have",
        "Numbers are exact, so the language has no division, remainder or power. Instead of dividing one side, "
        "multiply the other.",
        "define half = body.amount / 2 > 50\n",
        "define half = body.amount > 50 * 2\n",
    ),
    DiagnosticDoc(
        "E112",
        "a separator that does not belong here",
        "Items need no separators, because each begins with its own keyword. Commas separate only the elements of a "
        "list.",
        "scope files { GET /files, PUT /files; }\n",
        "scope files { GET /files   PUT /files }\n",
    ),
    DiagnosticDoc(
        "E113",
        "a path without a method",
        "Scopes, `may` and histories must name a method, so that a rule grants no more than its author meant. After "
        "`on`, a path without a method applies to every method.",
        "anyone { may /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E114",
        "a method in lower case",
        "Write methods in capitals, as in HTTP.",
        "anyone { may get /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E115",
        "a misspelled keyword",
        "This word is not a keyword here, but a similar word is.",
        'gaurd "closed" { deny }\n',
        'guard "closed" { deny }\n',
    ),
    DiagnosticDoc(
        "E116",
        "a name that needs quotes",
        "Names of rules, and names from outside the policy, such as names of agents, must be written in quotes.",
        "agent bot { issued by acme   acts alone }\n",
        'agent "bot" { issued by acme   acts alone }\n',
    ),
    DiagnosticDoc(
        "E117",
        "a name that must not be quoted",
        "Names that the policy declares, such as scopes and definitions, must be written without quotes.",
        'scope "files" { GET /files }\n',
        "scope files { GET /files }\n",
    ),
    DiagnosticDoc(
        "E118",
        "an invalid character",
        "Outside strings and comments, only certain ASCII characters are allowed.",
        "define same = a ≠ b\n",
        "define same = a != b\n",
    ),
    DiagnosticDoc(
        "E119",
        "not a valid number or duration",
        "Numbers look like `10_000` or `0.5`. Durations look like `500ms`, `90s`, `15m`, `2h`, `7d`, `1w`, or several "
        "in a row: `1h30m`.",
        "define fresh = task.age < 5min\n",
        "define fresh = task.age < 5m\n",
    ),
    DiagnosticDoc(
        "E120",
        "a file header after a declaration",
        "`language`, `package` and imports must come first in a file, in this order.",
        "anyone { may GET /health }\nimport acme.common\n",
        "import acme.common\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E121",
        "a policy file that is too long",
        "A file may have at most 33,554,432 characters. This limit bounds the time that checking takes.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E122",
        "brackets that are nested too deeply",
        "Brackets may be nested at most 64 levels deep.",
        _DEEP,
        "define x = (a)\n",
    ),
    DiagnosticDoc(
        "E123",
        "too many syntax errors",
        "The checker stops reading the file after 25 errors, because most further errors would follow from these.",
        _MISTAKES,
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E124",
        "too many declarations",
        "A file may have at most 200,000 declarations.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E125",
        "an expression that is nested too deeply",
        "A declaration may be nested at most 100 levels deep. Each `not`, each `else` and each further term of a sum "
        "adds a level.",
        _LONG,
        "define x = not a\n",
    ),
    DiagnosticDoc(
        "E126",
        "an invalid escape",
        'In a string, a backslash must begin one of `\\"`, `\\\\`, `\\/`, `\\b`, `\\f`, `\\n`, `\\r`, `\\t` or `\\u` '
        "with four hexadecimal digits. Write a backslash itself as `\\\\`.",
        'define digits = args.id matches "\\d+"\n',
        'define digits = args.id matches "\\\\d+"\n',
    ),
    DiagnosticDoc(
        "E127",
        "not a valid name",
        "Names must consist of ASCII letters, digits and `_`, and begin with a lower-case letter. They may have parts "
        "separated by dots.",
        "entity Invoice { owner: user }\n",
        "entity invoice { owner: user }\n",
    ),
    DiagnosticDoc(
        "E128",
        "a control character",
        "Control characters, such as a carriage return without a line feed, can make a policy look different from what "
        "it means: some editors show the rest of a comment after such a character as if it were code.",
        'anyone { may GET /health } # closed otherwise\rguard "night" { deny }\n',
        'anyone { may GET /health } # closed otherwise\nguard "night" { deny }\n',
    ),
    DiagnosticDoc(
        "E129",
        "a declaration that cannot be exported",
        "A package can export only enums, entities, lets, defines, scopes, issuers and attesters. Guards, rates and "
        "budgets of every loaded package always apply, exported or not.",
        'export guard "closed" { deny }\n',
        'guard "closed" { deny }\n',
    ),
)
