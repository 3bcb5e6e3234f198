"""Tables of the reference have a row for each event, kind of error and route of the program."""

import pkgutil
import re
from pathlib import Path

import pytest

from policyengine import Engine
from policyengine.cli.settings.types import ERROR_KIND
from policyengine.server import create_app

ROOT = Path(__file__).parents[1]
PROGRAM = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "policyengine").rglob("*.py"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def rows(name: str, head: str) -> set[str]:
    """What stands in code in the first column of the table with this head."""
    table = page(name).partition(f"\n{head}")[2].partition("\n\n")[0]
    first = re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(first)))


def in_the_program(pattern: str) -> set[str]:
    return {word for text in PROGRAM for word in re.findall(pattern, text)}


def test_every_server_log_event_has_a_row() -> None:
    events = in_the_program(r'"event": "(\w+)"')
    assert len(events) > 5
    assert events - rows("operations.md", "| event |") == set()


def test_every_kind_of_error_has_a_row() -> None:
    kinds = in_the_program(r'CommandError\(\s*"(\w+)"') | {ERROR_KIND}
    assert len(kinds) > 10
    assert kinds - rows("cli.md", "| `kind` |") == set()


ROUTES = sorted({getattr(route, "path", "") for route in create_app(Engine.from_text("anyone { may GET /a }")).routes})
# A page for people who open the server in a browser, and the search of AuthZEN, which is not there.
UNLISTED = ("/", "/access/v1/search/{what}")


@pytest.mark.parametrize("path", [path for path in ROUTES if path not in UNLISTED])
def test_every_route_is_documented(path: str) -> None:
    pages = page("http-api.md") + page("gateways.md") + page("authzen.md")
    assert path.partition("/{")[0] in pages


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
NAMES = {
    name for one in PAGES for name in re.findall(r"`(policyengine(?:\.\w+)+)`", FENCE.sub("", one.read_text("utf-8")))
}


@pytest.mark.parametrize("name", sorted(NAMES - {"policyengine.toml"}))
def test_every_documented_python_name_exists(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


TEXTS = [one.read_text("utf-8") for one in (*PAGES, ROOT / "CONTRIBUTING.md")]


def test_every_documented_make_target_exists() -> None:
    named = {name for text in TEXTS for name in re.findall(r"(?:^|`)make ([a-z][a-z0-9-]+)", text, re.MULTILINE)}
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert len(named) > 5
    assert named - targets == set()


def test_every_documented_benchmark_exists() -> None:
    named = {name for text in TEXTS for names in re.findall(r"-m bench ([a-z ]+)", text) for name in names.split()}
    known = (ROOT / "bench" / "__main__.py").read_text("utf-8")
    assert [name for name in sorted(named) if f'"{name}"' not in known] == []
