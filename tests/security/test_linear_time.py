"""Nothing that reads a request takes longer than in proportion to it: neither a pattern nor all of them together.

A backtracking pattern that is quadratic holds the interpreter for minutes, and with it every caller. What counts here
is how the time grows from one size to eight times of it (sixty-four times where it is quadratic), not how long it is.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

import pytest

import policyengine
from policyengine.http.body_facts import body_members
from policyengine.http.query_fields import form_fields
from policyengine.runtime.paths import canonical_path

SMALL, TIMES = 512, 8
MOST_GROWTH = 3 * TIMES
TRIES = 4
UNNOTICED = 0.001  # seconds: what is quadratic takes several times of it
ROOT = Path(policyengine.__file__).parent
# Packages that read what a stranger sent.
READERS = ("runtime", "server", "integrations", "identity", "compiler", "audit", "stores")
USE = r"\b{}\.(search|match|fullmatch|finditer|findall|sub|split)\("

PUMPS = (
    *" \ta0_A[]{}&;=%\"'\\./-,:#\n\r@+", "\r\n ", "&[", "_method]", '"_method" ', ";a", "a=", 'a="a",', "\\a", "a/",
    "/.", "%41", "[a]", "a, ", "form", "a a", 'name="', "name= ", "content-disposition:\n", "]=", "1s", "\x85",
)  # fmt: skip
BEFORE = (
    "", "a", "a ", "&", "/*", '"', "a/", "a/b", 'a="', "https://a/", "spiffe://a/", "bearer ", "multipart/",
    "application/json", "content-disposition:", 'content-disposition:;name="', "content-disposition:;name",
)  # fmt: skip
AFTER = "\1"  # which nothing expects, so that all else is tried
MADE_FROM = [(before, pump) for pump in PUMPS for before in BEFORE]
OF_WHOLE_DURATIONS = ("runtime.literals", "PART")  # looked for only in a text that consists of it
LARGE_TYPES = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain")
LARGE = 8_192  # and eight times of it


def modules() -> list[str]:
    """Those with a pattern, none of them imported yet."""
    files = (file for package in READERS for file in sorted((ROOT / package).rglob("*.py")))
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in files
        if "re.compile(" in file.read_text(encoding="utf-8")
    ]


def patterns(name: str) -> Iterator[tuple[str, re.Pattern[Any], frozenset[str]]]:
    """Every compiled pattern at the top of a module, with the ways in which the module uses it."""
    module = importlib.import_module(f"policyengine.{name}")
    for variable, value in vars(module).items():
        if isinstance(value, re.Pattern):
            yield variable, value, uses_in(name, variable)
        elif isinstance(bound := getattr(value, "__self__", None), re.Pattern):  # `PLAIN = re.compile(…).fullmatch`
            yield variable, bound, frozenset({value.__name__})


def uses_in(module: str, name: str) -> frozenset[str]:
    """Return what the source calls; `__file__` of a compiled module is a binary."""
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return frozenset(re.findall(USE.format(name), source.read_text(encoding="utf-8")))


@cache
def text_of(before: str, pump: str, size: int) -> str:
    return before + pump * (size // len(pump)) + AFTER


def seconds(call: Callable[[Any], object], given: Any) -> float:
    start = process_time()
    call(given)
    return process_time() - start


def growth(call: Callable[[Any], object], given: Callable[[int], Any], small: int = SMALL) -> float:
    """From one size to `TIMES` of it; 0 where even the latter takes no time to speak of. What looks like too much is
    measured again: another process may have had the caches meanwhile."""
    large = given(small * TIMES)
    first = seconds(call, large)
    if first < UNNOTICED:
        return 0
    found = first / min(seconds(call, given(small)) for _ in range(5))
    if found < MOST_GROWTH:
        return found
    for _ in range(TRIES):
        here = min(seconds(call, large) for _ in range(3)) / min(seconds(call, given(small)) for _ in range(5))
        found = min(found, here)
        if found < MOST_GROWTH:
            break
    return found


def calls(pattern: re.Pattern[Any], uses: frozenset[str]) -> Iterator[Callable[[Any], object]]:
    for use in sorted(uses & {"search", "match", "fullmatch"}):
        yield getattr(pattern, use)
    if uses - {"search", "match", "fullmatch"}:
        yield lambda text: sum(1 for _ in pattern.finditer(text))


@pytest.mark.parametrize("module", modules())
def test_each_regular_expression_takes_linear_time(module: str) -> None:
    in_proportion(module, MADE_FROM[::4])


@pytest.mark.deep
@pytest.mark.parametrize("module", modules())
def test_each_regular_expression_takes_linear_time_on_every_input(module: str) -> None:
    in_proportion(module, MADE_FROM)


def in_proportion(module: str, made_from: Sequence[tuple[str, str]]) -> None:
    for name, pattern, uses in patterns(module):
        of_text = isinstance(pattern.pattern, str)
        for call, parts in product(() if (module, name) == OF_WHOLE_DURATIONS else calls(pattern, uses), made_from):

            def given(size: int, parts: tuple[str, str] = parts, of_text: bool = of_text) -> Any:
                return text_of(*parts, size) if of_text else text_of(*parts, size).encode()

            assert growth(call, given) < MOST_GROWTH, (name, parts)


def test_the_growth_check_detects_a_quadratic_pattern() -> None:
    """As one was that bodies were read by."""
    quadratic = re.compile(r"\s*(?:(?:/[*/].*)?\{.*\}|\S*)\s*", re.DOTALL)
    assert any(growth(quadratic.fullmatch, partial(text_of, *parts)) > MOST_GROWTH for parts in MADE_FROM)


BODIES: dict[str, Callable[[int], str]] = {
    "a comment, then braces": lambda size: "/*" + "{" * size,
    "spaces between words": lambda size: "a" + " " * size + "b c",
    "spaces before words": lambda size: " " * size + "b c",
    "a bracketed name": lambda size: "&" + "[" * size,
    "bracketed names": lambda size: ("&" + "[" * 500) * (size // 501),
    "one name after another": lambda size: "".join(f"&[{number:x}" for number in range(size // 7)),
    "closed brackets behind a method": lambda size: "&_method" + "]" * size,
    "quotes and spaces": lambda size: '"  ' * (size // 3),
    "a method that ends in spaces": lambda size: '"_method"' + " " * size,
    "JSON with names in a text": lambda size: '{"x":"' + "&[a" * (size // 3) + '"}',
    "JSON with parts of a name": lambda size: '{"x":"&[' + ";a" * (size // 2) + '"}',
    "a head that goes on": lambda size: "content-disposition:" + "\r\n " * (size // 3),
    "heads of parts": lambda size: "content-disposition:\n" * (size // 21),
    "names that do not end": lambda size: "content-disposition:" + 'name="' * (size // 6),
    "a name of backslashes": lambda size: 'content-disposition:name="' + "\\" * size,
    "a name of brackets": lambda size: 'content-disposition:name="' + "[" * size,
    "pieces of names": lambda size: "content-disposition:" + ";name*0=x" * (size // 9),
    "an empty line of many": lambda size: ("\n" + " " * 40) * (size // 41),
    "escapes": lambda size: "%41" * (size // 3),
    "escapes of JSON": lambda size: "\\u0041" * (size // 6),
    "digits": lambda size: "1" * size,
    "a number in JSON": lambda size: '{"a":' + "1" * size + "}",
    "openings in JSON": lambda size: '{"a":' + "[" * size,
    "names that differ": lambda size: "{" + ",".join(f'"{number:x}":0' for number in range(size // 9)) + "}",
}  # fmt: skip


@pytest.mark.parametrize("type_", LARGE_TYPES)
@pytest.mark.parametrize("given", BODIES.values(), ids=BODIES.keys())
def test_a_body_is_read_in_linear_time(type_: str, given: Callable[[int], str]) -> None:
    made = cache(lambda size: given(size).encode())
    assert growth(lambda body: body_members([type_], [], body), made, LARGE) < MOST_GROWTH


@pytest.mark.parametrize("before", ["", "application/json", "text/plain", "text/plain;", "multipart/x"])
@pytest.mark.parametrize("pump", [" ", "\t", ";", "a", "/", "form", ", ", '"'])
def test_a_content_type_is_read_in_linear_time(before: str, pump: str) -> None:
    assert growth(lambda type_: body_members([type_], [], b"a b c"), lambda size: before + pump * size) < MOST_GROWTH


@pytest.mark.parametrize("given", BODIES.values(), ids=BODIES.keys())
def test_a_path_and_a_query_are_read_in_linear_time(given: Callable[[int], str]) -> None:
    made = cache(lambda size: given(size))
    assert growth(form_fields, made, LARGE) < MOST_GROWTH
    assert growth(lambda text: canonical_path(f"/{text}"), made, LARGE) < MOST_GROWTH
