"""E22x to E24x: operators, their operands, and literals."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_USER = "entity user { tenant: string  roles: set<string>  age: int  plan: plan }\nenum plan = free < team\n"


def _required(condition: str) -> str:
    return f'{_USER}guard "example" {{ require {condition} }}\n'


def condition_doc(code: str, title: str, explanation: str, bad: str, good: str, name: str = "") -> DiagnosticDoc:
    """Document a mistake in a condition; `bad` and `good` are conditions on the user."""
    return DiagnosticDoc(code, title, explanation, _required(bad), _required(good), name)


OPERATORS: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "E220",
        "a comparison of different types",
        "Both sides of a comparison must have the same type, except that an integer may be compared with a number. "
        "Values are never converted implicitly.",
        'user.age == "18"',
        "user.age == 18",
    ),
    DiagnosticDoc(
        "E221",
        "a comparison without an order",
        "`<`, `<=`, `>` and `>=` need ordered values: numbers, durations, times, strings and declared enums.",
        'guard "example" { require credential.kind >= mtls }\n',
        'guard "example" { require credential.kind == mtls }\n',
    ),
    condition_doc(
        "E222",
        "an invalid membership test",
        "`in` tests whether a set or list contains an element, or whether an entity is in another entity. `has` "
        "reverses the operands. `below` compares entities only, and an entity is not below itself. To find a part of a "
        "string, use `contains`.",
        'user.tenant in "acme"',
        'user.tenant in ["acme"]',
    ),
    condition_doc(
        "E223",
        "a pattern match without a string",
        "`like` and `matches` compare a string with a literal pattern.",
        'user.age like "1*"',
        'user.tenant like "a*"',
    ),
    condition_doc(
        "E224",
        "`overlaps` or `subset of` without sets",
        "Both sides must be sets or lists with elements of the same type.",
        'user.roles overlaps "clerk"',
        'user.roles overlaps ["clerk"]',
    ),
    DiagnosticDoc(
        "E225",
        "an invalid operand of `within`",
        "`within` tests whether an address is in a network or in a list of networks, or whether a time is in a time "
        "window.",
        'guard "example" { require request.ip within "10.0.0.0/8" }\n',
        'guard "example" { require request.ip within 10.0.0.0/8 }\n',
    ),
    condition_doc(
        "E226",
        "arithmetic on values that are not numbers",
        "`+` and `-` take two numbers, two durations, or a time and a duration. `*` takes two numbers, or a duration "
        "and an integer.",
        'user.tenant + "x" == "acmex"',
        "user.age + 1 == 18",
    ),
    condition_doc(
        "E227",
        "`and` and `or` mixed without parentheses",
        "Readers disagree about whether `and` or `or` binds tighter, so a condition with both needs parentheses.",
        'user.age > 17 and user.tenant == "acme" or user.roles has "clerk"',
        '(user.age > 17 and user.tenant == "acme") or user.roles has "clerk"',
    ),
    condition_doc(
        "E228",
        "not a condition",
        "A condition must be true or false: a comparison, or a fact of type `bool`.",
        "user.tenant",
        'user.tenant == "acme"',
    ),
    condition_doc(
        "E229",
        "`else`, `is present` or `is absent` without a fact",
        "Only a fact, an attribute or a member of a record can be absent. `else` binds tighter than every operator, so "
        "it applies only to the fact before it.",
        "5 is absent",
        "credential.scopes is absent",
    ),
    condition_doc(
        "E254",
        "`is known` without an entity",
        "`x is known` is true if the entity store, or the rows that come with a request, contain a row for the entity. "
        "To test whether a fact is present, write `is present`.",
        "credential.scopes is known",
        "user is known",
    ),
    DiagnosticDoc(
        "E230",
        "`else` with a value of the wrong type",
        "The value after `else` replaces the fact, so it must have the same type.",
        'facts { body.amount: number? }\nguard "example" { require body.amount else "none" == 5 }\n',
        'facts { body.amount: number? }\nguard "example" { require body.amount else 0 == 5 }\n',
    ),
    condition_doc(
        "E231",
        "the wrong number of arguments",
        "Each function takes a fixed number of arguments. An entity takes only an ID: `invoice(args.id)`.",
        "starts_with(user.tenant) == true",
        'starts_with(user.tenant, "a")',
    ),
    condition_doc(
        "E232",
        "an argument of the wrong type",
        "Each argument must have the type that the function expects.",
        'lower(user.age) == "18"',
        'lower(user.tenant) == "acme"',
    ),
)

LITERALS: tuple[DiagnosticDoc, ...] = (
    condition_doc(
        "E233",
        "a number with too many digits",
        "Numbers are exact decimals with at most 34 significant digits, not counting zeros at either end; a longer "
        "number would have to be rounded.",
        "user.age < 12345678901234567890123456789012345",
        "user.age < 1234567890123456789012345678901234",
    ),
    DiagnosticDoc(
        "E234",
        "not a valid date or time",
        "A date must be written as year-month-day and exist in the calendar. A date with a time must also have the "
        "offset from UTC, or `Z`.",
        'guard "example" { require time < 2026-13-45 }\n',
        'guard "example" { require time < 2026-12-31 }\n',
    ),
    DiagnosticDoc(
        "E235",
        "not a valid address or network",
        "An IPv4 address must have four parts from 0 to 255. In a network, all bits after the prefix must be zero.",
        'guard "example" { require request.ip == 999.1.1.1 }\n',
        'guard "example" { require request.ip == 10.1.1.1 }\n',
    ),
    DiagnosticDoc(
        "E236",
        "not a valid time window",
        "Times of day must be between 00:00 and 24:00, days must be `mon` to `sun`, and a window must not be empty.",
        'guard "example" { require time within 08:00..25:00 "Europe/Berlin" }\n',
        'guard "example" { require time within 08:00..18:00 "Europe/Berlin" }\n',
    ),
    DiagnosticDoc(
        "E237",
        "an unknown time zone",
        "Time zones must be exact names of the IANA database, such as `Europe/Berlin` or `UTC`.",
        'guard "example" { require time within 08:00..18:00 "Berlin" }\n',
        'guard "example" { require time within 08:00..18:00 "Europe/Berlin" }\n',
    ),
    DiagnosticDoc(
        "E238",
        "an invalid duration",
        "A duration may be at most about 2.7 million years. The window of a history must be longer than zero and at "
        "most 3,660 days.",
        'guard "example" { require credential.age < 99999999999999999999d }\n',
        'guard "example" { require credential.age < 30d }\n',
    ),
    condition_doc(
        "E239",
        "an invalid regular expression",
        "Patterns must match in linear time on every input. A pattern is refused if it is malformed, or if it cannot "
        "be shown to match in linear time.",
        'user.tenant matches "(a"',
        'user.tenant matches "a+"',
    ),
    DiagnosticDoc(
        "E240",
        "an ID or string that nothing can equal",
        "IDs must be non-empty and in Unicode NFC, the composed form. Strings may have at most 65,536 characters.",
        'guard "example" { require user == user "" }\n',
        'guard "example" { require user == user "alice" }\n',
    ),
)
