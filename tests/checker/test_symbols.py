"""Names of packages: what is declared, exported and imported, and what a name means where."""

import pytest

from policyengine.checker.names.program import report_unused_imports
from policyengine.checker.names.symbols import Symbol, check_usable
from policyengine.checker.reporter import Reporter
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast
from policyengine.syntax.reserved_words import RESERVED_WORDS
from tests.checker.reading import read, told

COMMON = """package acme.common
export enum plan = free < team
export entity team in team
export define late = request.size > 5
define secret = request.size > 6
export scope invoices.read { GET /invoices }
"""


def name(text: str) -> ast.Name:
    return ast.Name(text, span=Span(Source("asked", text), 0, len(text)))


def find(
    package: str, kind: str, text: str, *texts: str
) -> tuple[Symbol | None, list[tuple[str, str, str, str | None]]]:
    report = Reporter()
    found = read(*texts).program.find(package, kind, name(text), report)  # type: ignore[arg-type]
    return found, told(report.diagnostics)


def test_a_file_without_a_package_belongs_to_main() -> None:
    assert set(read("let a = 1").program.packages) == {"main"}


def test_all_files_of_a_package_share_their_names() -> None:
    assert read("package a\ndefine x = y", "package a\ndefine y = request.size > 5").findings == ()


def test_the_order_of_files_does_not_matter() -> None:
    files = [COMMON, "package b\nimport acme.common\ndefine x = common.late and common.zip"]
    assert told(read(*files).findings) == told(read(*reversed(files)).findings)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("enum", "common.plan"), ("entity", "common.team"), ("define", "common.late"), ("scope", "common.invoices.read")],
)
def test_exported_names_are_found_by_the_last_part_of_their_package(kind: str, text: str) -> None:
    found, findings = find("b", kind, text, COMMON, "package b\nimport acme.common")
    assert findings == []
    assert found is not None
    assert (found.package, found.kind) == ("acme.common", kind)


def test_an_import_alias_replaces_the_last_part_of_the_package() -> None:
    found, findings = find("b", "define", "c.late", COMMON, "package b\nimport acme.common as c")
    assert found is not None
    assert findings == []


def test_the_error_for_a_private_name_shows_its_declaration() -> None:
    [finding] = read(COMMON, "package b\nimport acme.common\ndefine x = common.secret").findings
    assert told([finding]) == [
        (
            "E208",
            "`common.secret` is private to package `acme.common`",
            "common.secret",
            "write `export define secret` there",
        )
    ]
    assert [(note.message, note.span.text) for note in finding.related] == [("declared here", "secret")]


def test_a_name_of_another_kind_is_unknown() -> None:
    found, findings = find("main", "scope", "x", "let x = 1")
    assert found is None
    assert findings == [("E207", "unknown scope `x`", "x", "declare it: `scope invoices.read { GET /invoices }`")]


def test_declarations_of_different_kinds_may_share_a_name() -> None:
    assert read("entity team\nscope team { GET /team }\nlet team = 1").findings == ()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("invoices.raed", "did you mean `invoices.read`?"),
        ("common.invoices.raed", "did you mean `common.invoices.read`?"),
        ("common.zip", "package `acme.common` has no such name"),
        ("zip", "declare it: `scope invoices.read { GET /invoices }`"),
    ],
)
def test_the_error_for_an_unknown_name_suggests_a_similar_name(text: str, hint: str) -> None:
    importing = "package b\nimport acme.common\nscope invoices.read { GET /x }"
    assert find("b", "scope", text, COMMON, importing)[1] == [("E207", f"unknown scope `{text}`", text, hint)]


def test_the_error_for_an_unknown_name_suggests_a_package_that_exports_it() -> None:
    hint = "package `acme.common` exports this name"
    assert find("b", "scope", "invoices.read", COMMON, "package b")[1][0][3] == hint


def test_the_error_for_an_unknown_name_suggests_the_missing_package_prefix() -> None:
    hint = "did you mean `common.invoices.read`?"
    assert find("b", "scope", "invoices.read", COMMON, "package b\nimport acme.common\nlet x = 1")[1][0][3] == hint


def test_a_user_exists_without_a_declaration() -> None:
    found, findings = find("main", "entity", "user", "let x = 1")
    assert found is not None
    assert findings == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("let a = 1\nlet a = 2", ("E210", "`a` is declared twice", "a", "give one of them another name")),
        (
            "enum a = x\nentity a",
            ("E210", "`a` is declared as an enum and as an entity", "a", "give one of them another name"),
        ),
        (
            "let a = 1\ndefine a = true",
            ("E210", "`a` is declared as a let and as a define", "a", "give one of them another name"),
        ),
        ("enum a = x < y < x", ("E210", "the value `x` is written twice", "x", "remove one")),
        (
            "let user = 1",
            ("E211", "the let `user` hides the built-in facts of that name", "user", "choose another name"),
        ),
        (
            "define time = true",
            ("E211", "the define `time` hides the built-in facts of that name", "time", "choose another name"),
        ),
        (
            "enum a = tool < x",
            ("E211", "the value `tool` hides the built-in facts of that name", "tool", "choose another name"),
        ),
        ("enum a = x\nlet x = 1", ("E211", "the let `x` hides a value of the enum `a`", "x", "choose another name")),
        ("entity string", ("E212", "`string` is already a type", "string", "choose another name")),
        ("let a.b = 1", ("E215", "the name of a let cannot contain dots", "a.b", "write `a_b`")),
        ("entity a.b", ("E215", "the name of an entity cannot contain dots", "a.b", "write `a_b`")),
        ("enum a = x.y", ("E215", "the value of an enum cannot contain dots", "x.y", "write `x_y`")),
        (
            "import zip",
            ("E209", "unknown package `zip`", "zip", "it must be in `zip.policy`, relative to the policy root"),
        ),
        ("package a\nimport a", ("E209", "package `a` imports itself", "a", "its own names need no import")),
    ],
)
def test_a_mistake_in_a_name_declaration_is_reported(text: str, expected: tuple[str, str, str, str]) -> None:
    assert told(read(text).findings) == [expected]


def test_names_of_an_unknown_package_are_not_reported() -> None:
    texts = ['package web\nimport shops\nagent "x" { issued by shops.acme   acts alone   may shops.read }']
    assert read(*texts).codes == ["E209"]


def test_a_duplicate_declaration_is_underlined_and_the_first_is_shown() -> None:
    [finding] = read("let a = 1\nlet a = 2").findings
    assert finding.span.line == 2
    assert [(note.message, note.span.line) for note in finding.related] == [("first declared here", 1)]


@pytest.mark.parametrize(
    ("what", "word"), [(what, word) for what in ("let", "define") for word in sorted(RESERVED_WORDS[what])]
)
def test_a_reserved_word_is_rejected_as_a_value_name(what: str, word: str) -> None:
    assert "E212" in read(f"{what} {word} = true").codes


@pytest.mark.parametrize(
    ("texts", "code", "message"),
    [
        (["package b\nimport acme.comon"], "E209", "unknown package `acme.comon`"),
        (["package b\nimport acme.common as user"], "E211", "the import `user` hides the built-in facts of that name"),
        (
            ["package b\nimport acme.common\nimport other.common", 'package other.common\nguard "g" { audit full }'],
            "E210",
            "`common` already refers to the package `acme.common`",
        ),
        (
            ["package b\nimport acme.common\nscope common.x { GET /x }"],
            "E211",
            "`common.x` looks like a name of the imported package `acme.common`",
        ),
        (["package b\nentity team"], "E214", "the entity `team` is already declared by package `acme.common`"),
    ],
)
def test_a_mistake_between_packages_is_reported(texts: list[str], code: str, message: str) -> None:
    assert [(finding.code, finding.message) for finding in read(COMMON, *texts).findings] == [(code, message)]


@pytest.mark.parametrize(("what", "word"), [("entity", "string"), ("enum", "set"), ("let", "not"), ("entity", "given")])
def test_a_name_with_an_error_is_not_usable(what: str, word: str) -> None:
    report = Reporter()
    assert check_usable(name(word), what, report) is False
    assert [one.code for one in report.diagnostics] == ["E212"]


@pytest.mark.parametrize(("what", "word"), [("let", "string"), ("entity", "invoice")])
def test_a_name_without_an_error_is_usable(what: str, word: str) -> None:
    report = Reporter()
    assert check_usable(name(word), what, report)
    assert not report.diagnostics


def test_two_files_of_a_package_may_import_the_same_package() -> None:
    assert read(COMMON, *["package b\nimport acme.common"] * 2).findings == ()


def test_imports_may_be_circular() -> None:
    one = "package a\nimport b\nexport define x = b.y"
    assert read(one, "package b\nimport a\nexport define y = request.size > 5\ndefine z = a.x").findings == ()


def unused(*texts: str) -> list[tuple[str, str, str, str | None]]:
    found = read(*texts)
    report_unused_imports(found.program)
    return told(found.program.report.diagnostics)


def test_an_unused_import_is_a_warning() -> None:
    assert unused(COMMON, "package b\nimport acme.common") == [
        ("W209", "no name of package `acme.common` is used", "import acme.common", "remove the import")
    ]


def test_an_import_with_a_used_name_is_not_a_warning() -> None:
    assert unused(COMMON, "package b\nimport acme.common\ndefine x = common.late") == []


def test_an_import_of_a_package_with_rules_is_not_a_warning() -> None:
    assert unused('package a\nguard "g" { audit full }', "package b\nimport a") == []


def test_an_import_of_used_user_attributes_is_not_a_warning() -> None:
    one = "package a\nexport entity user { tenant: string }"
    assert unused(one, 'package b\nimport a\ndefine x = user.tenant == "x"') == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("define a = a", ["`a` is defined in terms of itself"]),
        ("let a = a", ["`a` is defined in terms of itself"]),
        ("define a = b\ndefine b = not a", ["`a` is defined in terms of itself through `b`"]),
        (
            "define a = b\ndefine b = c\ndefine c = a and d\ndefine d = true",
            ["`a` is defined in terms of itself through `b` and `c`"],
        ),
        (
            "define a = b and c\ndefine b = b\ndefine c = a",
            ["`a` is defined in terms of itself through `c`", "`b` is defined in terms of itself"],
        ),
        ("define a = b\ndefine b = true and c\ndefine c = false", []),
    ],
)
def test_each_cycle_of_definitions_is_reported_once(text: str, expected: list[str]) -> None:
    findings = read(text).findings
    assert sorted(finding.message for finding in findings if finding.code == "E213") == expected
    assert {finding.code for finding in findings} <= {"E213"}


def test_exponentially_growing_definitions_are_rejected() -> None:
    doubling = "\n".join(f"define a{i} = a{i + 1} or a{i + 1}" for i in range(60))
    assert read(f"{doubling}\ndefine a60 = request.size > 5").codes == ["E248"]


def test_definitions_nested_thousands_deep_are_rejected() -> None:
    nesting = "\n".join(f"define a{i} = not a{i + 1}" for i in range(5_000))
    assert read(f"{nesting}\ndefine a5000 = request.size > 5").codes == ["E248"]
