"""Where each key of a TOML text stands: whatever is TOML, as `tomllib` reads it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.settings.key_places import key_places
from policyengine.settings.toml_file import SettingsFile

TEXT = '''
# [no] = "header"
a.b = 1 # c = 2
"d e".'f' = "x = ] } # \\" y"
[ g . "h" ] # [i]
j = """
[k]
l = 1 \\""" """
m = QQQ
[n]QQQ
o = [ 1, # ]
  [ "p", 'q]' ], { r = 1, s.t = 2 },
]
u = 1979-05-27 07:32:00Z
v = {w=true,x={},y=[]}
[[z]]
aa=1
[[z]]
aa=2
'''.replace("QQQ", "'" * 3)
PLACES = {
    "a", "a.b", "d e", "d e.f", "g", "g.h", "g.h.j", "g.h.m", "g.h.o", "g.h.o.0", "g.h.o.1", "g.h.o.1.0", "g.h.o.1.1",
    "g.h.o.2", "g.h.o.2.r", "g.h.o.2.s", "g.h.o.2.s.t", "g.h.u", "g.h.v", "g.h.v.w", "g.h.v.x", "g.h.v.y", "z", "z.aa",
}  # fmt: skip


def test_every_toml_key_and_element_has_a_location() -> None:
    tomllib.loads(TEXT)
    places = key_places(TEXT)
    assert {".".join(path) for path in places} == PLACES
    assert TEXT[slice(*places["g", "h", "o", "1", "1"])] == "'q]'"
    assert TEXT[slice(*places["g", "h", "v", "x"])] == "x"


def test_a_path_without_a_location_uses_its_nearest_ancestor() -> None:
    file = SettingsFile("a.toml", "x = 1\n[a]\nb = [1]\n")
    assert [file.place(path) for path in (("a", "b", "7"), ("a", "c"), ("d",))] == [(10, 11), (7, 8), (0, 0)]


KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,3}", fullmatch=True), st.text("a.#='\"]\\ü", max_size=3))
VALUES = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text("a#=[]{},'\"\\\n", max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def written(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quoted(value)
        case list():
            return f"[{', '.join(map(written, value))}]"
        case dict():
            return f"{{ {', '.join(f'{quoted(key)} = {written(one)}' for key, one in value.items())} }}"
        case _:
            return str(value)


def paths(value: object, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*above, str(key))
        yield from paths(one, (*above, str(key)))


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_random_toml_has_a_location_for_every_key(data: dict[str, dict[str, object]]) -> None:
    lines = [
        f"[{quoted(section)}]\n" + "".join(f"{quoted(key)} = {written(value)} # = [\n" for key, value in table.items())
        for section, table in data.items()
    ]
    text = "\n".join(lines)
    assert tomllib.loads(text) == data
    assert set(key_places(text)) == set(paths(data))


@pytest.mark.parametrize("text", ["a = 1\r\n[b]\r\nc = 2\r\n", "a = 1\n\n[b]\nc = 2"])
def test_lines_are_counted_from_1(text: str) -> None:
    assert SettingsFile("a.toml", text).lines() == {("a",): 1, ("b",): text.count("\n", 0, text.index("[")) + 1} | {
        ("b", "c"): text.count("\n", 0, text.index("c")) + 1
    }
