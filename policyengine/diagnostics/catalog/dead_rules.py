"""E14x: text that deceives; E7xx, W7xx: conditions and rules that never matter; W26x … W65x: what was hardly meant."""

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
        "a character that cannot be seen",
        "Characters without a shape hide in names and comments, and two texts that look the same are then different. "
        "They are refused everywhere, comments and strings included.",
        "# re\u200bviewed\n" + _DOOR,
        "# reviewed\n" + _DOOR,
    ),
    DiagnosticDoc(
        "E141",
        "an escape for a character that cannot be seen",
        "Wherever this id is shown it looks like another one. Tests may use such escapes as samples, ids may not.",
        'guard "a" { deny when user.id == "al\\u200bice" }\n' + _DOOR,
        'guard "a" { deny when user.id == "alice" }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E142",
        "a word in two alphabets",
        "Letters of different alphabets can look the same, so a word that mixes them can pass for another one. "
        "Whole words in any alphabet are fine.",
        'guard "a" { deny when user.id == "\u0430lice" }\n' + _DOOR,
        'guard "a" { deny when user.id == "alice" }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E143",
        "a text in a second spelling",
        "Unicode writes some letters in two ways that look the same. Ids and strings stand in the composed form (NFC).",
        'guard "a" { deny when user.id == "rene\u0301" }\n' + _DOOR,
        'guard "a" { deny when user.id == "ren\u00e9" }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E144",
        "a character that turns the direction of writing",
        "Text after it is shown in another order than it is read, so a reviewer sees another policy than the engine.",
        "# open \u202e desolc\n" + _DOOR,
        "# open or closed\n" + _DOOR,
    ),
    DiagnosticDoc(
        "W142",
        "a word in two alphabets, in words for people",
        "Letters of different alphabets can look the same. In a message that is odd rather than dangerous.",
        'guard "a" { deny message "\u0430sk us" }\n',
        'guard "a" { deny message "ask us" }\n',
        name="mixed-alphabets",
    ),
    DiagnosticDoc(
        "W260",
        "declared and never used",
        "No rule speaks of it. A misspelled name in a rule would be an error, so this is what was left behind.",
        "let limit = 5\n" + _DOOR,
        _DOOR,
        name="unused-name",
    ),
    DiagnosticDoc(
        "W350",
        "HEAD written",
        "HEAD is decided as GET, so a rule for one is a rule for both.",
        "anyone { may HEAD /a }\n",
        _DOOR,
        name="head",
    ),
    DiagnosticDoc(
        "W351",
        "a scope that no block grants",
        "A scope alone opens nothing: some `may` must name it, or another scope include it.",
        "scope a.read { GET /a }\n" + _DOOR,
        _DOOR,
        name="unused-scope",
    ),
    DiagnosticDoc(
        "W450",
        "a laxer twin",
        "Two blocks open one door to one agent and only one of them asks for something. "
        "A block's requirements guard its own doors only, so the other block is the way around them.",
        _BOT + 'agent "bot" { issued by acme  acts alone  credential { bound }  may GET /a }\n' + _ALONE + "/** }\n",
        _BOT + 'agent "bot" { issued by acme  acts alone  credential { bound }  may GET /a/** }\n',
        name="laxer-twin",
    ),
    DiagnosticDoc(
        "W451",
        "`all` over a set that may be empty opens a door",
        "`all x in s: …` is true when `s` is empty. Where that opens a door, say that the set must hold something.",
        'entity user { roles: set<string> }\nuser where all r in user.roles: r like "eu-*" { may GET /a }\n',
        'entity user { roles: set<string> }\n'
        'user where size(user.roles) > 0 and (all r in user.roles: r like "eu-*") { may GET /a }\n',
        name="all-opens",
    ),
    DiagnosticDoc(
        "W452",
        "a limit of depth for chains that are not recorded",
        "Unless an issuer records chains their depth is unknown, and an unknown depth fails every limit.",
        _BOT + "delegation { depth <= 3 }\n" + _ALONE + " }\n",
        _BOT.replace("scopes none", "scopes none  records chains") + "delegation { depth <= 3 }\n" + _ALONE + " }\n",
        name="unrecorded-chains",
    ),
    DiagnosticDoc(
        "W453",
        "an agent without a door",
        "The block names an agent and opens nothing for it.",
        _BOT + 'agent "bot" { issued by acme  acts alone }\n',
        _BOT + _ALONE + " }\n",
        name="no-door",
    ),
    DiagnosticDoc(
        "W454",
        "`users unrestricted` beside user blocks",
        "With that line agents do not need the user's door, so the user blocks bind only users who come alone.",
        _BOT + _ALONE + " }\nuser any { may GET /a }\n",
        _BOT + _ALONE + " }\n",
        name="unrestricted-users",
    ),
    DiagnosticDoc(
        "W455",
        "an empty block",
        "It does nothing, and a reader looks for what is missing.",
        "anyone { }\n" + _DOOR,
        _DOOR,
        name="empty-block",
    ),
    DiagnosticDoc(
        "W550",
        "a guard that does nothing",
        "A guard without a rule looks like protection and is none.",
        'guard "a" { }\n' + _DOOR,
        'guard "a" { deny when request.size > 1000 }\n' + _DOOR,
        name="empty-guard",
    ),
    DiagnosticDoc(
        "W551",
        "`require all` over a set that may be empty",
        "`all x in s: …` is true when `s` is empty. Say that the set must hold something. So it is with what raises a "
        "rate, and with `not all` in what a limit or a clamp is for.",
        'guard "a" { require all g in agent.groups: g like "eu-*" }\n' + _DOOR,
        'guard "a" { require size(agent.groups) > 0 and (all g in agent.groups: g like "eu-*") }\n' + _DOOR,
        name="all-passes",
    ),
    DiagnosticDoc(
        "W650",
        "a fixture that no test uses",
        "What it prepares is never tried.",
        "fixture bot { given credential { bound: true } }\n" + _DOOR,
        _DOOR,
        name="unused-fixture",
    ),
    DiagnosticDoc(
        "E651",
        "a test that checks nothing",
        "A test without a request passes whatever the policy says.",
        'test "a" { given credential { bound: true } }\n' + _DOOR,
        'test "a" { GET /a => allow }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E701",
        "a door that never opens",
        "Its condition contradicts itself: no values of the facts make it true, and a door opens on true only.",
        _FACTS + "anyone { may GET /a when body.amount > 10 and body.amount < 5 }\n",
        _FACTS + "anyone { may GET /a when body.amount > 5 and body.amount < 10 }\n",
    ),
    DiagnosticDoc(
        "E702",
        "a rule of a guard that never acts",
        "Its condition can be neither true nor unknown (for `require`, neither false nor unknown).",
        'guard "a" { deny when 1 > 2 }\n' + _DOOR,
        'guard "a" { deny when request.size > 2 }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "E703",
        "a `require` that nothing meets",
        "Its condition is never true, so the guard denies everything at its place. If that is meant, write `deny`.",
        _FACTS + 'guard "a" { require body.amount > 10 and body.amount < 5 }\n' + _DOOR,
        _FACTS + 'guard "a" { require body.amount > 5 and body.amount < 10 }\n' + _DOOR,
    ),
    DiagnosticDoc(
        "W701",
        "a condition that is always true",
        "The door is open without it. A condition that looks like a limit and is none misleads.",
        "anyone { may GET /a when 1 < 2 }\n",
        _DOOR,
        name="always-true",
    ),
    DiagnosticDoc(
        "W702",
        "a rule of a guard that acts only on unknown facts",
        "No values of the facts make it act; only a fact that is absent or broken does.",
        _FACTS + 'guard "a" { deny when body.amount > 10 and body.amount < 5 }\n' + _DOOR,
        _FACTS + 'guard "a" { deny when body.amount > 10 or body.amount < 5 }\n' + _DOOR,
        name="acts-on-unknown",
    ),
    DiagnosticDoc(
        "W703",
        "a rule of a guard that always acts",
        "Its condition is never false, and a guard acts on true and on unknown. Without the condition it says so.",
        _FACTS + 'guard "a" { deny when body.amount > 5 or body.amount < 10 }\n' + _DOOR,
        _FACTS + 'guard "a" { deny when body.amount > 10 or body.amount < 5 }\n' + _DOOR,
        name="always-acts",
    ),
    DiagnosticDoc(
        "W704",
        "a part of a condition that decides nothing",
        "The part is never true, or never false, whatever the facts are.",
        _FACTS + 'guard "a" { deny when request.size > 5 and (body.amount > 5 or body.amount < 10) }\n' + _DOOR,
        _FACTS + 'guard "a" { deny when request.size > 5 and (body.amount > 10 or body.amount < 5) }\n' + _DOOR,
        name="idle-part",
    ),
    DiagnosticDoc(
        "W711",
        "a `may` that opens nothing more",
        "Another `may` of the block opens all of it, on the same or a weaker condition.",
        "anyone { may GET /a   may GET /** }\n",
        "anyone { may GET /** }\n",
        name="covered-may",
    ),
    DiagnosticDoc(
        "W712",
        "a rule of a guard that changes nothing",
        "Another rule already denies whenever it acts, or says the same.",
        'guard "a" { deny when request.size > 10   deny when request.size > 100 }\n' + _DOOR,
        'guard "a" { deny when request.size > 10 }\n' + _DOOR,
        name="covered-rule",
    ),
    DiagnosticDoc(
        "W713",
        "a `may` behind a guard that denies everything",
        "A guard without a condition stays shut, whichever door was opened.",
        'guard "a" on /a { deny }\nanyone { may GET /a   may GET /b }\n',
        "anyone { may GET /a   may GET /b }\n",
        name="closed-may",
    ),
    DiagnosticDoc(
        "W714",
        "the same again",
        "A block or guard says exactly what an earlier one says.",
        _DOOR + _DOOR,
        _DOOR,
        name="duplicate",
    ),
    DiagnosticDoc(
        "W715",
        "loops that take too many steps",
        "A decision has 200,000 steps, and what takes more is denied at gate `failure`. A loop takes one step for each "
        "part of its condition and each element, a loop inside of it all of its own each time. Told is the worst case: "
        "10,000 elements of whatever a request brings, 100 of what the directory holds. `overlaps` and `subset of` "
        "take as many steps as both sides have elements, `in` takes one where the set stands outside of the loop.",
        "facts { body.a: list<int>  body.b: list<int> }\n"
        'guard "none twice" { deny when (any x in body.a: (any y in body.b: x == y)) }\n' + _DOOR,
        "facts { body.a: list<int>  body.b: list<int> }\n"
        'guard "none twice" { deny when body.a overlaps body.b }\n' + _DOOR,
        name="costly-loop",
    ),
)  # fmt: skip
