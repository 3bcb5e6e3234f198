"""E1xx: the text and its syntax."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_DEEP = "define x = " + "(" * 65 + "a" + ")" * 65 + "\n"
_LONG = "define x = " + "not " * 101 + "a\n"
_MISTAKES = "guard\n" * 26

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E100",
        "not a text that can be read",
        "A policy is UTF-8 without a byte order mark. Anything else reads differently in different programs.",
        "\ufeffanyone { may GET /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E101",
        "something else was expected",
        "The text fits the language up to this place. The message says what could stand here.",
        "entity invoice { owner user }\n",
        "entity invoice { owner: user }\n",
    ),
    DiagnosticDoc(
        "E102",
        "no declaration begins so",
        "Between declarations only another declaration can stand, and each begins with a word of its own.",
        "allow everything\n",
        "anyone { may GET /** }\n",
    ),
    DiagnosticDoc(
        "E103",
        "a bracket is never closed",
        "What is opened must be closed before the next declaration and before the end of the file.",
        'guard "closed" { deny\n\nanyone { may GET /health }\n',
        'guard "closed" { deny }\n\nanyone { may GET /health }\n',
    ),
    DiagnosticDoc(
        "E104",
        "a bracket closes nothing",
        "There is one closing bracket too many, or one before it closed too early.",
        "anyone { may GET /health } }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E105",
        "a text without its closing quote",
        "A text in quotes ends on the line where it began. A line break inside of it is written `\\n`.",
        'guard "closed { deny }\n',
        'guard "closed" { deny }\n',
    ),
    DiagnosticDoc(
        "E106",
        "other quotes than straight double ones",
        "Texts stand in straight double quotes only, so that a text looks the same everywhere.",
        "guard 'closed' { deny }\n",
        'guard "closed" { deny }\n',
    ),
    DiagnosticDoc(
        "E107",
        "a comment that does not begin with #",
        "A comment begins with `#` and ends with its line.",
        "// who may look\nanyone { may GET /health }\n",
        "# who may look\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E108",
        "= and == confused",
        "`=` gives a name to something, `==` compares two things.",
        "define mine = user.id = resource.owner\n",
        "define mine = user.id == resource.owner\n",
    ),
    DiagnosticDoc(
        "E109",
        "and, or, not written as signs",
        "The words are `and`, `or` and `not`: a condition is meant to be read aloud.",
        "define both = a && b\n",
        "define both = a and b\n",
    ),
    DiagnosticDoc(
        "E110",
        "comparisons in a chain",
        "A comparison has two sides. Two comparisons are joined by `and`.",
        "define middle = 1 < body.amount < 9\n",
        "define middle = 1 < body.amount and body.amount < 9\n",
    ),
    DiagnosticDoc(
        "E111",
        "an operator that numbers do not have",
        "Numbers are exact, so there is no division, no remainder and no power. Multiply the other side instead.",
        "define half = body.amount / 2 > 50\n",
        "define half = body.amount > 50 * 2\n",
    ),
    DiagnosticDoc(
        "E112",
        "a separator where none belongs",
        "Items need no separators, because each begins with its own word. A comma only joins the members of a list.",
        "scope files { GET /files, PUT /files; }\n",
        "scope files { GET /files   PUT /files }\n",
    ),
    DiagnosticDoc(
        "E113",
        "a path without its method",
        "Scopes, `may` and history name a method, so that nobody opens more than was meant. "
        "After `on` a bare path means every method.",
        "anyone { may /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E114",
        "a method in small letters",
        "Methods are written as HTTP writes them, in capitals.",
        "anyone { may get /health }\n",
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E115",
        "a misspelled word",
        "The language has no such word here, but one that is nearly the same.",
        'gaurd "closed" { deny }\n',
        'guard "closed" { deny }\n',
    ),
    DiagnosticDoc(
        "E116",
        "a name that needs quotes",
        "What comes from outside, such as the name of an agent or of a rule, stands in quotes.",
        "agent bot { issued by acme   acts alone }\n",
        'agent "bot" { issued by acme   acts alone }\n',
    ),
    DiagnosticDoc(
        "E117",
        "a name that stands without quotes",
        "What the policy itself declares, such as a scope or a definition, stands without quotes.",
        'scope "files" { GET /files }\n',
        "scope files { GET /files }\n",
    ),
    DiagnosticDoc(
        "E118",
        "a character without meaning",
        "Outside of quotes and comments the language uses few characters, all of them ASCII.",
        "define same = a ≠ b\n",
        "define same = a != b\n",
    ),
    DiagnosticDoc(
        "E119",
        "neither a number nor a duration",
        "Numbers are `10_000` or `0.5`. Durations are `500ms`, `90s`, `15m`, `2h`, `7d`, `1w` or several: `1h30m`.",
        "define fresh = task.age < 5min\n",
        "define fresh = task.age < 5m\n",
    ),
    DiagnosticDoc(
        "E120",
        "the head of the file after its declarations",
        "A file begins with `language`, `package` and its imports, in this order.",
        "anyone { may GET /health }\nimport acme.common\n",
        "import acme.common\nanyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E121",
        "a file that is too large",
        "A file has at most 33,554,432 characters, so that checking a policy never takes forever.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E122",
        "too many brackets inside each other",
        "At most 64 brackets may stand inside each other.",
        _DEEP,
        "define x = (a)\n",
    ),
    DiagnosticDoc(
        "E123",
        "too many mistakes",
        "After 25 mistakes the rest of the file is not read: what follows would mostly repeat them.",
        _MISTAKES,
        "anyone { may GET /health }\n",
    ),
    DiagnosticDoc(
        "E124",
        "too many declarations",
        "A file has at most 200,000 declarations.",
        "",
        "",
    ),
    DiagnosticDoc(
        "E125",
        "an expression that is too deep",
        "A declaration nests at most 100 levels deep. Each `not`, each `else` and each further term of a sum is one.",
        _LONG,
        "define x = not a\n",
    ),
    DiagnosticDoc(
        "E126",
        "an escape that stands for no character",
        'In quotes a backslash begins `\\"`, `\\\\`, `\\/`, `\\b`, `\\f`, `\\n`, `\\r`, `\\t` '
        "or `\\u` with four digits. A backslash itself is `\\\\`.",
        'define digits = args.id matches "\\d+"\n',
        'define digits = args.id matches "\\\\d+"\n',
    ),
    DiagnosticDoc(
        "E127",
        "not a name",
        "Names are ASCII letters, digits and `_`, begin with a small letter, and may have parts after dots.",
        "entity Invoice { owner: user }\n",
        "entity invoice { owner: user }\n",
    ),
    DiagnosticDoc(
        "E128",
        "a control character",
        "A control character, or a line end of another system, makes a policy look unlike what it says: "
        "some editors show the part of a comment that follows one as if it were not part of the comment.",
        'anyone { may GET /health } # closed otherwise\rguard "night" { deny }\n',
        'anyone { may GET /health } # closed otherwise\nguard "night" { deny }\n',
    ),
    DiagnosticDoc(
        "E129",
        "a declaration that cannot be exported",
        "Packages export names: enums, entities, lets, defines, scopes, issuers and attesters. "
        "Guards, rates and invariants of every loaded package apply to all, exported or not.",
        'export guard "closed" { deny }\n',
        'guard "closed" { deny }\n',
    ),
)
