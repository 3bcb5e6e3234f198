"""YAML and JSON as plain values: nothing is executed, nothing grows, and what is wrong has its line."""

import pytest

from policyengine.importers import ApiImportError
from policyengine.importers.documents import read_document


def tree(text):
    return read_document("x.yaml", text.encode()).tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: on", {"a": "on"}),
        ("on: yes", {"on": "yes"}),
        ("200: ok", {"200": "ok"}),
        ("a: 1.0", {"a": 1.0}),
        ("a: 012", {"a": 12}),
        ("a: 1:20", {"a": "1:20"}),
        ("a: 2020-01-01", {"a": "2020-01-01"}),
        ("a: '7'", {"a": "7"}),
        ("a: !!str 7", {"a": "7"}),
        ("a: ~\nb:\nc: null", {"a": None, "b": None, "c": None}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("a: &x {b: 1}\nc: &y {d: 2}\ne: {<<: [*x, *y]}", {"a": {"b": 1}, "c": {"d": 2}, "e": {"b": 1, "d": 2}}),
        ("- a\n- [b, {c: d}]", ["a", ["b", {"c": "d"}]]),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
    ],
)
def test_yaml_is_read_by_the_yaml_1_2_rules(text, value):
    assert tree(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !!python/object/apply:os.system [ls]", "`x.yaml`:1:4: the tag"),
        ("a: 1\nb: 2\na: 3", "`x.yaml`:3:1: a mapping contains the key `a` twice"),
        ("a: *x", "`x.yaml`:1:4: the anchor `&x` is not defined"),
        ("a: &x\n  b: *x", "refers to a value that contains it"),
        ("{? [1] : 2}", "this is not valid JSON"),
        ("? [1]\n: 2", "a key must be a string"),
        ("a: {<<: 7}", "`<<` needs a mapping"),
        ("a: [", "`x.yaml`:"),
        ("---\na: 1\n---\nb: 2", "2 documents instead of one"),
        ("a: " + "[" * 500 + "]" * 500, "nested more than 200 levels"),
        ("[" * 100_000, "`x.yaml`"),
        ('{"a": ' * 100_000, "`x.yaml`"),
    ],
)
def test_invalid_yaml_is_rejected_with_its_place(text, told):
    with pytest.raises(ApiImportError) as raised:
        tree(text)
    assert told in str(raised.value)


def test_a_document_that_is_not_utf8_is_rejected_with_its_line():
    with pytest.raises(ApiImportError) as raised:
        read_document("x.yaml", b"a: 1\nb: \xff")
    assert str(raised.value) == "`x.yaml`:2: this is not UTF-8"


def test_yaml_aliases_share_their_value():
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 60))]
    found = tree("\n".join(lines))
    assert found["a59"][0] is found["a59"][8]


def test_a_schema_of_nested_aliases_terminates(tmp_path):
    from policyengine.importers import read_openapi

    lines = ["openapi: 3.0.0", "x0: &x0 {type: object, properties: {a: {type: string}}}"]
    for i in range(1, 40):
        lines.append(f"x{i}: &x{i} {{allOf: [{', '.join([f'*x{i - 1}'] * 5)}]}}")
    lines += ["paths:", "  /x:", "    post:", "      requestBody: {content: {application/json: {schema: *x39}}}"]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    assert len(read_openapi(str(tmp_path / "a.yaml")).operations) == 1


@pytest.mark.parametrize(("text", "told"), [("openapi: 3.0.0\npaths:\n\t/a: {}\n", True), ("a: [1\nb: 2\n", False)])
def test_a_tab_in_yaml_indentation_gets_a_hint(text, told):
    with pytest.raises(ApiImportError) as raised:
        read_document("a.yaml", text.encode())
    assert (raised.value.hint == "indent YAML with spaces, not with tabs") is told
