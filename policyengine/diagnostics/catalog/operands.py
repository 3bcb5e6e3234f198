"""E22x to E24x: operators, their operands, and literals; a part of names.py."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_USER = "entity user { tenant: string  roles: set<string>  age: int  plan: plan }\nenum plan = free < team\n"


def _required(condition: str) -> str:
    return f'{_USER}guard "example" {{ require {condition} }}\n'


def condition_doc(code: str, title: str, explanation: str, bad: str, good: str, name: str = "") -> DiagnosticDoc:
    """A mistake inside a condition about the user."""
    return DiagnosticDoc(code, title, explanation, _required(bad), _required(good), name)


OPERATORS: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "E220",
        "a comparison of two types",
        "Both sides of a comparison have the same type; whole numbers count as numbers. Nothing is converted silently.",
        'user.age == "18"',
        "user.age == 18",
    ),
    DiagnosticDoc(
        "E221",
        "an order that does not exist",
        "`<`, `<=`, `>` and `>=` need an order: numbers, durations, times, texts and declared enums have one.",
        'guard "example" { require credential.kind >= mtls }\n',
        'guard "example" { require credential.kind == mtls }\n',
    ),
    condition_doc(
        "E222",
        "membership that cannot be",
        "`in` looks for an element in a set or list, or for an entity in what holds it; `has` is the same from "
        "the other "
        "side, and `below` is for entities. A part of a text is found by `contains`.",
        'user.tenant in "acme"',
        'user.tenant in ["acme"]',
    ),
    condition_doc(
        "E223",
        "a pattern without a text",
        "`like` and `matches` compare a text with a pattern that is written out.",
        'user.age like "1*"',
        'user.tenant like "a*"',
    ),
    condition_doc(
        "E224",
        "`overlaps` or `subset of` without sets",
        "Both sides are sets or lists, and hold things of the same type.",
        'user.roles overlaps "clerk"',
        'user.roles overlaps ["clerk"]',
    ),
    DiagnosticDoc(
        "E225",
        "`within` something that holds nothing of the kind",
        "An address is within a network or within a list of networks; a time is within a window of time.",
        'guard "example" { require request.ip within "10.0.0.0/8" }\n',
        'guard "example" { require request.ip within 10.0.0.0/8 }\n',
    ),
    condition_doc(
        "E226",
        "arithmetic with what is no number",
        "`+`, `-` and `*` take numbers, durations, a time and a duration, a duration and a whole number.",
        'user.tenant + "x" == "acmex"',
        "user.age + 1 == 18",
    ),
    condition_doc(
        "E227",
        "`and` and `or` mixed without parentheses",
        "Readers disagree about which of the two binds tighter, so a condition that has both says it by parentheses.",
        'user.age > 17 and user.tenant == "acme" or user.roles has "clerk"',
        '(user.age > 17 and user.tenant == "acme") or user.roles has "clerk"',
    ),
    condition_doc(
        "E228",
        "not a condition",
        "Where a condition stands, something is true or false: a comparison, or a fact of type `bool`.",
        "user.tenant",
        'user.tenant == "acme"',
    ),
    condition_doc(
        "E229",
        "`else`, `is present` or `is absent` on what is no fact",
        "Only a fact, an attribute or a member of a record can be absent. `else` binds tightest: "
        "parentheses say what it belongs to.",
        "5 is absent",
        "credential.scopes is absent",
    ),
    condition_doc(
        "E254",
        "`is known` on what is no entity",
        "`x is known` asks the directory, or the rows that come with a request, whether there is a row for an entity. "
        "Whether a fact is there is asked by `is present`.",
        "credential.scopes is known",
        "user is known",
    ),
    DiagnosticDoc(
        "E230",
        "`else` gives another type",
        "What stands after `else` takes the place of the fact, so it has the same type.",
        'facts { body.amount: number? }\nguard "example" { require body.amount else "none" == 5 }\n',
        'facts { body.amount: number? }\nguard "example" { require body.amount else 0 == 5 }\n',
    ),
    condition_doc(
        "E231",
        "the wrong number of arguments",
        "Each function takes a fixed number of arguments; an entity is called with its id alone.",
        "starts_with(user.tenant) == true",
        'starts_with(user.tenant, "a")',
    ),
    condition_doc(
        "E232",
        "an argument of the wrong type",
        "Each argument has the type that the function takes.",
        'lower(user.age) == "18"',
        'lower(user.tenant) == "acme"',
    ),
)

LITERALS: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "E233",
        "a number that is too long",
        "Numbers are exact decimals of at most 34 significant digits, zeros at either end not counted; a longer one "
        "would have to be rounded.",
        "user.age < 12345678901234567890123456789012345",
        "user.age < 1234567890123456789012345678901234",
    ),
    DiagnosticDoc(
        "E234",
        "not a date or time",
        "A date is written year-month-day and exists in the calendar; a time of a day says its zone.",
        'guard "example" { require time < 2026-13-45 }\n',
        'guard "example" { require time < 2026-12-31 }\n',
    ),
    DiagnosticDoc(
        "E235",
        "not an address or network",
        "An IPv4 address has four parts from 0 to 255. In a network all bits beyond the prefix are zero.",
        'guard "example" { require request.ip == 999.1.1.1 }\n',
        'guard "example" { require request.ip == 10.1.1.1 }\n',
    ),
    DiagnosticDoc(
        "E236",
        "not a window of time",
        "Times of day go from 00:00 to 24:00, days are `mon` to `sun`, and a window has a length.",
        'guard "example" { require time within 08:00..25:00 "Europe/Berlin" }\n',
        'guard "example" { require time within 08:00..18:00 "Europe/Berlin" }\n',
    ),
    DiagnosticDoc(
        "E237",
        "an unknown time zone",
        "Zones have the names of the IANA database, spelled exactly: `Europe/Berlin`, `UTC`.",
        'guard "example" { require time within 08:00..18:00 "Berlin" }\n',
        'guard "example" { require time within 08:00..18:00 "Europe/Berlin" }\n',
    ),
    DiagnosticDoc(
        "E238",
        "a duration that cannot be",
        "A duration is bounded, and a window that looks back has a length.",
        'guard "example" { require credential.age < 99999999999999999999d }\n',
        'guard "example" { require credential.age < 30d }\n',
    ),
    condition_doc(
        "E239",
        "a regular expression that cannot be used",
        "Patterns match in linear time, whatever the text. A pattern that cannot be shown to do so, or is none, "
        "is refused.",
        'user.tenant matches "(a"',
        'user.tenant matches "a+"',
    ),
    DiagnosticDoc(
        "E240",
        "an id or text that equals nothing",
        "Ids are not empty and in Unicode NFC, the composed form; texts have at most 65,536 characters.",
        'guard "example" { require user == user "" }\n',
        'guard "example" { require user == user "alice" }\n',
    ),
)
