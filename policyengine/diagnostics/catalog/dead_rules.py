"""E14x: deceptive text; E7xx, W7xx: conditions and rules without effect; W26x to W65x: likely mistakes."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_FACTS = "facts { body.amount: number  body.note: string? }\n"
_DOOR = "anyone { may GET /a }\n"
_BOT = """\
users unrestricted
issuer acme { url "https://login.acme.example"  scopes none }
"""
_ALONE = 'agent "bot" { issued by acme  acts alone  may GET /a'

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E140",
        "an invisible character",
        "Invisible characters hide in names and comments, so two names that look the same can differ. They are refused "
        "everywhere, including in comments and strings.",
        "# re\u200bviewed\n" + _DOOR,
        "# reviewed\n" + _DOOR,
    ),
    DiagnosticDoc(
        "E141",
        "an escape for an invisible character",
        "An ID with such a character looks like another ID wherever it is shown. Tests may use these escapes in "
        "sample values, but IDs may not contain them.",
        'guard "a" { deny when user.id == "al\\u200bice" }\n' + _DOOR,
        'guard "a" { deny when user.id == "alice" }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E142",
        "a word that mixes alphabets",
        "Letters of different alphabets can look the same, so a word that mixes them can be mistaken for another word. "
        "A word in a single alphabet is accepted, whichever alphabet it is.",
        'guard "a" { deny when user.id == "\u0430lice" }\n' + _DOOR,
        'guard "a" { deny when user.id == "alice" }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E143",
        "a string that is not in NFC",
        "Unicode encodes some letters in two ways that look the same. Write IDs and strings in the composed form "
        "(NFC).",
        'guard "a" { deny when user.id == "rene\u0301" }\n' + _DOOR,
        'guard "a" { deny when user.id == "ren\u00e9" }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E144",
        "a character that changes the direction of writing",
        "Editors reorder the text after such a character, so a reviewer sees a different policy from the one that the "
        "engine reads.",
        "# open \u202e desolc\n" + _DOOR,
        "# open or closed\n" + _DOOR,
    ),
    DiagnosticDoc(
        "W142",
        "a message that mixes alphabets",
        "Letters of different alphabets can look the same. A message does not affect decisions, so this is only a "
        "warning.",
        'guard "a" { deny message "\u0430sk us" }\n',
        'guard "a" { deny message "ask us" }\n',
        name="mixed-alphabets",
    ),
    DiagnosticDoc(
        "W260",
        "an unused declaration",
        "No rule uses this declaration. A misspelled name in a rule would be an error, so the declaration was probably "
        "left behind.",
        "let limit = 5\n" + _DOOR,
        _DOOR,
        name="unused-name",
    ),
    DiagnosticDoc(
        "W350",
        "a rule for HEAD",
        "HEAD requests are decided as GET requests, so a rule for one of the two methods covers both.",
        "anyone { may HEAD /a }\n",
        _DOOR,
        name="head",
    ),
    DiagnosticDoc(
        "W351",
        "a scope that no block grants",
        "A scope by itself grants nothing: a `may` must name it, or a granted scope must include it.",
        "scope a.read { GET /a }\n" + _DOOR,
        _DOOR,
        name="unused-scope",
    ),
    DiagnosticDoc(
        "W450",
        "a laxer block for the same grant",
        "Two blocks grant one endpoint to one agent, and one of them lacks a requirement of the other. The "
        "requirements of a block apply only to the grants of that block, so the laxer block grants the endpoint "
        "without that requirement.",
        _BOT + 'agent "bot" { issued by acme  acts alone  credential { bound }  may GET /a }\n' + _ALONE + "/** }\n",
        _BOT + 'agent "bot" { issued by acme  acts alone  credential { bound }  may GET /a/** }\n',
        name="laxer-twin",
    ),
    DiagnosticDoc(
        "W451",
        "a grant by `all` over a set that may be empty",
        "`all x in s: …` is true if `s` is empty. In a condition that grants access, require that the set is not "
        "empty.",
        'entity user { roles: set<string> }\nuser where all r in user.roles: r like "eu-*" { may GET /a }\n',
        'entity user { roles: set<string> }\n'
        'user where size(user.roles) > 0 and (all r in user.roles: r like "eu-*") { may GET /a }\n',
        name="all-opens",
    ),
    DiagnosticDoc(
        "W452",
        "a depth limit for chains that are not recorded",
        "The depth of a chain is unknown unless an issuer records chains, and an unknown depth fails every limit.",
        _BOT + "delegation { depth <= 3 }\n" + _ALONE + " }\n",
        _BOT.replace("scopes none", "scopes none  records chains") + "delegation { depth <= 3 }\n" + _ALONE + " }\n",
        name="unrecorded-chains",
    ),
    DiagnosticDoc(
        "W453",
        "an agent without a grant",
        "The block names an agent but grants it nothing.",
        _BOT + 'agent "bot" { issued by acme  acts alone }\n',
        _BOT + _ALONE + " }\n",
        name="no-door",
    ),
    DiagnosticDoc(
        "W454",
        "`users unrestricted` with user blocks",
        "With this line, an agent that acts for a user does not need a grant to that user, so user blocks apply only "
        "to users who send requests without an agent.",
        _BOT + _ALONE + " }\nuser any { may GET /a }\n",
        _BOT + _ALONE + " }\n",
        name="unrestricted-users",
    ),
    DiagnosticDoc(
        "W455",
        "an empty block",
        "The block has no effect, and readers wonder what is missing.",
        "anyone { }\n" + _DOOR,
        _DOOR,
        name="empty-block",
    ),
    DiagnosticDoc(
        "W550",
        "a guard that does nothing",
        "A guard without a rule looks like protection but protects nothing.",
        'guard "a" { }\n' + _DOOR,
        'guard "a" { deny when request.size > 1000 }\n' + _DOOR,
        name="empty-guard",
    ),
    DiagnosticDoc(
        "W551",
        "`require all` over a set that may be empty",
        "`all x in s: …` is true if `s` is empty. Require that the set is not empty. The same applies to a condition "
        "that raises a rate, and to `not all` in the condition of a limit or a clamp.",
        'guard "a" { require all g in agent.groups: g like "eu-*" }\n' + _DOOR,
        'guard "a" { require size(agent.groups) > 0 and (all g in agent.groups: g like "eu-*") }\n' + _DOOR,
        name="all-passes",
    ),
    DiagnosticDoc(
        "W650",
        "an unused fixture",
        "No test uses this fixture.",
        "fixture bot { given credential { bound: true } }\n" + _DOOR,
        _DOOR,
        name="unused-fixture",
    ),
    DiagnosticDoc(
        "E651",
        "a test that checks nothing",
        "A test without a request passes for every policy.",
        'test "a" { given credential { bound: true } }\n' + _DOOR,
        'test "a" { GET /a => allow }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E701",
        "a grant that never applies",
        "The condition of the grant contradicts itself: it is not true for any values of the facts, and a grant "
        "applies only if its condition is true.",
        _FACTS + "anyone { may GET /a when body.amount > 10 and body.amount < 5 }\n",
        _FACTS + "anyone { may GET /a when body.amount > 5 and body.amount < 10 }\n",
    ),
    DiagnosticDoc(
        "E702",
        "a guard rule that never acts",
        "The condition of the rule can be neither true nor unknown (for `require`, neither false nor unknown).",
        'guard "a" { deny when 1 > 2 }\n' + _DOOR,
        'guard "a" { deny when request.size > 2 }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E703",
        "a `require` that nothing meets",
        "The condition of the `require` is never true, so the guard denies everything at its place. If that is "
        "intended, write `deny`.",
        _FACTS + 'guard "a" { require body.amount > 10 and body.amount < 5 }\n' + _DOOR,
        _FACTS + 'guard "a" { require body.amount > 5 and body.amount < 10 }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "W701",
        "a condition that is always true",
        "The grant is the same without the condition. A condition that looks like a restriction but restricts nothing "
        "is misleading.",
        "anyone { may GET /a when 1 < 2 }\n",
        _DOOR,
        name="always-true",
    ),
    DiagnosticDoc(
        "W702",
        "a guard rule that acts only on unknown facts",
        "No values of the facts make the rule act. It acts only if a fact is absent or invalid.",
        _FACTS + 'guard "a" { deny when body.amount > 10 and body.amount < 5 }\n' + _DOOR,
        _FACTS + 'guard "a" { deny when body.amount > 10 or body.amount < 5 }\n' + _DOOR,
        name="acts-on-unknown",
    ),
    DiagnosticDoc(
        "W703",
        "a guard rule that always acts",
        "The condition of the rule is never false, and a guard acts if its condition is true or unknown. Remove the "
        "condition, so that the rule says what it does.",
        _FACTS + 'guard "a" { deny when body.amount > 5 or body.amount < 10 }\n' + _DOOR,
        _FACTS + 'guard "a" { deny when body.amount > 10 or body.amount < 5 }\n' + _DOOR,
        name="always-acts",
    ),
    DiagnosticDoc(
        "W704",
        "a part of a condition that has no effect",
        "The part is never true, or is never false, whatever the values of the facts.",
        _FACTS + 'guard "a" { deny when request.size > 5 and (body.amount > 5 or body.amount < 10) }\n' + _DOOR,
        _FACTS + 'guard "a" { deny when request.size > 5 and (body.amount > 10 or body.amount < 5) }\n' + _DOOR,
        name="idle-part",
    ),
    DiagnosticDoc(
        "W711",
        "a redundant `may`",
        "Another `may` of the block grants everything that this `may` grants, under the same or a weaker condition.",
        "anyone { may GET /a   may GET /** }\n",
        "anyone { may GET /** }\n",
        name="covered-may",
    ),
    DiagnosticDoc(
        "W712",
        "a redundant guard rule",
        "Another rule is identical, or denies whenever this rule acts.",
        'guard "a" { deny when request.size > 10   deny when request.size > 100 }\n' + _DOOR,
        'guard "a" { deny when request.size > 10 }\n' + _DOOR,
        name="covered-rule",
    ),
    DiagnosticDoc(
        "W713",
        "a `may` behind a guard that denies everything",
        "A guard with `deny` and no condition denies every request at its place, even if a grant allows it.",
        'guard "a" on /a { deny }\nanyone { may GET /a   may GET /b }\n',
        "anyone { may GET /a   may GET /b }\n",
        name="closed-may",
    ),
    DiagnosticDoc(
        "W714",
        "a duplicate block or guard",
        "This block or guard is identical to an earlier one, so it has no effect.",
        _DOOR + _DOOR,
        _DOOR,
        name="duplicate",
    ),
    DiagnosticDoc(
        "W715",
        "loops that take too many steps",
        "A decision may take at most 200,000 steps; a request that needs more is denied at gate `failure`. For each "
        "element, a loop takes one step for each part of its condition; an inner loop takes all of its steps for each "
        "element of the outer loop. The message shows the worst case: 10,000 elements for a collection from a request, "
        "100 for one from the entity store. `overlaps` and `subset of` take as many steps as both sides together have "
        "elements; `in` takes one step if the set is outside the loop.",
        "facts { body.a: list<int>  body.b: list<int> }\n"
        'guard "none twice" { deny when (any x in body.a: (any y in body.b: x == y)) }\n' + _DOOR,
        "facts { body.a: list<int>  body.b: list<int> }\n"
        'guard "none twice" { deny when body.a overlaps body.b }\n' + _DOOR,
        name="costly-loop",
    ),
)  # fmt: skip
