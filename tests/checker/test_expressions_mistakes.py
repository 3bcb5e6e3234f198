"""Every mistake in an expression is told: its code, its words, exactly what is underlined, and what to do about it.

The cases are in `mistakes/*.txt`: a condition, then each finding with what it underlines and its hint.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from policyengine.diagnostics.catalog import CODES
from policyengine.diagnostics.model import Diagnostic
from policyengine.typesystem import Scalar
from tests.checker.reading import PLACE, ask, give, read, told

CASES = Path(__file__).parent / "mistakes"
AT_A_PLACE = frozenset("E217 E241 E242 E243".split())  # below, since they need another place than the files have
# Of declarations: test_symbols.py and test_schema.py.
OF_DECLARATIONS = frozenset("E208 E209 E210 E213 E214 E216 E218 E219 E247 E248 E257 W209".split())


def cases() -> Iterator[tuple[str, str]]:
    """Conditions and what is expected of them, as written."""
    for file in sorted(CASES.glob("*.txt")):
        for block in file.read_text(encoding="utf-8").split("\n\n")[1:]:
            condition, _, expected = block.rstrip("\n").partition("\n")
            yield condition, expected


def shown(finding: Diagnostic) -> str:
    hint = f"\n    hint {finding.hint}" if finding.hint else ""
    return f"  {finding.code} {finding.message}\n    at {finding.span.text}{hint}"


@pytest.mark.parametrize(("condition", "expected"), list(cases()))
def test_a_mistake_is_reported_with_code_message_place_and_hint(condition: str, expected: str) -> None:
    assert expected
    assert "\n".join(shown(finding) for finding in ask(condition).findings) == expected


@pytest.mark.parametrize("condition", [condition for condition, expected in cases() if "\n  E" in f"\n{expected}"])
def test_a_condition_with_an_error_has_no_expression(condition: str) -> None:
    assert ask(condition).expression is None


def test_every_name_and_type_error_code_has_a_case() -> None:
    told_in_files = {line.split()[0] for _, expected in cases() for line in expected.split("\n") if line[2:3] != " "}
    documented = {code for code in CODES if code.startswith("E2") or code in ("W201", "W202", "W209")}
    assert documented - told_in_files == AT_A_PLACE | OF_DECLARATIONS


REFUNDS = f"`{PLACE}`"


@pytest.mark.parametrize(
    ("condition", "place", "expected"),
    [
        (
            "body.amount > 5",
            "GET /x",
            (
                "E241",
                f"`body.amount` exists only on {REFUNDS}, but this rule applies elsewhere too",
                "body.amount",
                f"narrow the rule to {REFUNDS}, or declare the fact for its place",
            ),
        ),
        (
            "body.amount > 5",
            "/v1/**",
            (
                "E241",
                f"`body.amount` exists only on {REFUNDS}, but this rule applies elsewhere too",
                "body.amount",
                f"narrow the rule to {REFUNDS}, or declare the fact for its place",
            ),
        ),
        (
            "body.amount > 5",
            None,
            (
                "E241",
                "`body.amount` belongs to a request, but this condition is about the caller",
                "body.amount",
                "move it to a `may … when` or to a guard",
            ),
        ),
        (
            "user == resource.owner",
            "GET /x",
            (
                "E242",
                "nothing binds `resource` here",
                "resource",
                "give a path capture a type, `{id: invoice}`, or bind `resource` with `with resource = invoice(…)`",
            ),
        ),
        (
            "same_tenant",
            "GET /x",
            (
                "E242",
                "`same_tenant` cannot be used here: nothing binds `resource` here",
                "same_tenant",
                "give a path capture a type, `{id: invoice}`, or bind `resource` with `with resource = invoice(…)`",
            ),
        ),
        (
            "params.idd == resource",
            PLACE,
            ("E243", "the path of this rule captures no `idd`", "params.idd", "did you mean `params.id`?"),
        ),
        (
            'params.x == "a"',
            "GET /x",
            (
                "E243",
                "the path of this rule captures no `x`",
                "params.x",
                "write `{x}` in the path of the rule",
            ),
        ),
        (
            'resource.title == "a"',
            "/a/{x: invoice}, /b/{x: folder}",
            (
                "E203",
                "`invoice` has no attribute `title`, but `resource` may be of this type",
                "resource.title",
                "`resource` is a reference to folder or invoice: declare `title` for each",
            ),
        ),
    ],
)
def test_the_error_states_where_a_fact_or_name_is_available(
    condition: str, place: str | None, expected: tuple[str, str, str, str]
) -> None:
    found = ask(condition, place)
    assert told(found.findings) == [expected]
    assert found.expression is None


def test_an_error_in_a_used_definition_shows_where_it_is_written() -> None:
    [finding] = ask("same_tenant", "GET /x").findings
    assert [(note.message, note.span.text, note.span.line) for note in finding.related] == [
        ("written here", "resource", finding.related[0].span.line)
    ]


def test_a_fact_with_two_types_in_one_rule_is_rejected() -> None:
    world = "facts on POST /a { body.x: int }\nfacts on POST /b { body.x: string }"
    assert told(ask("body.x == 5", "POST /a, POST /b", world).findings) == [
        (
            "E217",
            "`body.x` is an int at one endpoint of this rule and a string at another",
            "body.x",
            "write one rule for each",
        )
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "let a = user.id",
            (
                "E247",
                "a `let` is a constant, but `user.id` is a fact",
                "user.id",
                "write `define` for a condition on facts",
            ),
        ),
        (
            "define a = request.size > 5\nlet b = [a]",
            ("E247", "a `let` is a constant, but `a` is a condition", "a", "write `define` for a condition on facts"),
        ),
        ("define a = 5", ("E228", "`5` is an int, not a condition", "5", "compare it: `5 == …`")),
        (
            'define a = resource.nope == "a"',
            ("E203", "no entity has an attribute `nope`", "resource.nope", "declare it: `entity invoice { nope: … }`"),
        ),
    ],
)
def test_a_definition_is_checked_without_its_uses(text: str, expected: tuple[str, str, str, str]) -> None:
    assert told(read(text).findings) == [expected]


def test_a_mistake_in_a_definition_used_several_times_is_reported_once() -> None:
    found = ask("bad and (bad or not bad)", "GET /x", 'define bad = user.rolle == "a"')
    assert found.codes == ["E201"]
    assert found.expression is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("user.tenant", "this must be a number, but `user.tenant` is a string"),
        ("[1]", "this must be a number, but `[1]` is a list<int>"),
        ("user.age > 5", "this must be a number, but `user.age > 5` is a bool"),
    ],
)
def test_a_value_of_the_wrong_type_is_reported(written: str, message: str) -> None:
    found = give(written, Scalar.NUMBER)
    assert [(finding.code, finding.message, finding.span.text) for finding in found.findings] == [
        ("E251", message, written)
    ]
    assert found.expression is None


def test_an_int_is_a_number_but_a_number_is_not_an_int() -> None:
    assert give("user.age", Scalar.NUMBER).codes == []
    assert give("body.amount", Scalar.INT).codes == ["E251"]


@pytest.mark.parametrize(
    ("condition", "code"), [('user == user "e\u0301"', "E240"), ('args["e\u0301"] == "a"', "E244")]
)
def test_an_id_or_foreign_name_outside_nfc_is_rejected(condition: str, code: str) -> None:
    assert ask(condition).codes == [code]


def test_all_mistakes_of_a_condition_are_reported_in_one_run() -> None:
    condition = (
        'user.rolle == 5 and (user.tenant > 5 or (any r in user.age: r == acme)) and not user.tenant and lowr("a")'
    )
    assert ask(condition).codes == ["E201", "E220", "E252", "E228", "E204"]


def test_a_mistake_in_a_chain_of_definitions_is_reported_where_it_is_written() -> None:
    assert told(read("define a = b\ndefine b = c\ndefine c = request.size > five").findings) == [
        ("E202", "unknown name `five`", "five", 'write `"five"` for a string, or declare `let five = …`')
    ]


def test_a_list_of_ambiguous_enum_words_takes_its_type_from_the_comparison() -> None:
    world = "enum one = low < high\nenum two = low < top\nfacts { context.x: one  context.y: two }\nlet lows = [low]"
    assert ask("context.x in lows and context.y in lows", "GET /x", world).codes == []
    assert ask("size(lows) == 1", "GET /x", world).codes == ["E206"]


def test_suggestions_stop_after_very_many_findings() -> None:
    unknown = "\n".join(f"define d{i} = user.id{i} == user.id" for i in range(300))
    hints = {finding.hint for finding in read(unknown).findings}
    assert "did you mean `user.id`?" in hints
    assert len(hints) > 1


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ('args.path == "x"', "declare it: `facts on … { args.path: string }`"),
        ('context.server == "x"', "declare it: `facts on … { context.server: string }`"),
        ('tool.args.path == "x"', "the arguments of a call are `args`, without `tool.`"),
        ('tool.path == "x"', "for an argument of the call, declare `facts on TOOL … { args.path: string }` and write "
                             "`args.path`"),
        ('tool.nmae == "x"', "did you mean `tool.name`?"),
        ('tool.due == "x"', "did you mean `args.due`?"),
        ('args.pat == "x"', "declare it: `facts on … { args.pat: string }`"),
        ('user.path == "x"', "did you mean `request.path`?"),
    ],
)  # fmt: skip
def test_an_unknown_argument_of_a_tool_is_not_taken_for_a_fact_of_the_request(condition, hint):
    world = "facts on TOOL notes/pay { args.due: string }"
    assert [(one.code, one.hint) for one in ask(condition, "TOOL notes/pay", world).findings] == [("E201", hint)]
