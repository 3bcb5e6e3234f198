"""The pages of coverage: the whole text, marked where something is missing, and nothing that a policy could add."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyengine.source import Source, Span
from policyengine.testing.coverage import Coverage, Point, PointKind
from policyengine.testing.coverage.annotated_source import annotated_lines
from policyengine.testing.coverage.html import page_names, render_html
from tests.testing.coverage.seeing import DOORS, coverage, coverage_of, guarded, policy, written
from tests.testing.running import checked

EVIL = '"><script>alert(1)</script><img src=x onerror=y>&amp;'
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page holds; fails where an element is not closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.marks: list[tuple[str, str]] = []
        self.code = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found[name]) for name in ("href", "src") if name in found]
        assert not [name for name in found if name.startswith("on")]
        if found.get("class") in ("covered", "partly", "uncovered") and "code" in self.open:
            self.marks.append((str(found["class"]), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "div":
            self.code += "\n"

    def handle_data(self, data: str) -> None:
        if "main" in self.open and "code" in self.open:
            self.code += data
            if self.open[-1] in ("mark", "span") and self.marks:
                self.marks[-1] = (self.marks[-1][0], self.marks[-1][1] + data)


def pages(found: Coverage, folder: Path) -> dict[str, Page]:
    render_html(found, folder)
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in folder.iterdir()}


def test_html_has_an_index_and_a_page_for_each_file(tmp_path: Path) -> None:
    found = coverage_of(checked(policy(DOORS, "GET /docs/1 => allow"), "anyone { may GET /health }"))
    index = render_html(found, tmp_path / "new" / "folder")
    assert index == tmp_path / "new" / "folder" / "index.html"
    assert sorted(path.name for path in index.parent.iterdir()) == ["0.policy.html", "1.policy.html", "index.html"]


def test_parts_are_marked_covered_partly_or_uncovered(tmp_path: Path) -> None:
    found = coverage(guarded("body.n > 5 and body.urgent"), written(n="9"))
    marks = pages(found, tmp_path)["0.policy.html"].marks
    assert ("covered", "POST /docs/{id: doc}") in marks
    assert ("uncovered", "GET /docs/{id: doc}") in marks
    assert ("partly", "body.n > 5") in marks
    assert ("partly", " and ") in marks
    assert ("uncovered", "deny when ") in marks


def test_the_list_and_the_index_link_to_each_missing_point(tmp_path: Path) -> None:
    found = coverage(guarded("body.n > 5"), written(n="9"))
    shown = pages(found, tmp_path)
    count = len(found.missing)
    anchors = [f"m{number}" for number in range(1, count + 1)]
    page, index = shown["0.policy.html"], shown["index.html"]
    assert [one for one in page.ids if one.startswith("m") and one[1:].isdigit()] == anchors
    assert {f"#{anchor}" for anchor in anchors} <= set(page.links)
    assert [one for one in index.links if "#" in one] == [f"0.policy.html#{anchor}" for anchor in anchors]


def test_every_link_targets_an_existing_anchor(tmp_path: Path) -> None:
    shown = pages(coverage(guarded("body.n > 5"), written(n="9")), tmp_path)
    for name, page in shown.items():
        assert len(page.ids) == len(set(page.ids))
        for link in page.links:
            file, _, anchor = link.partition("#")
            target = shown[file or name]
            assert not anchor or anchor in target.ids


def test_a_fully_covered_file_shows_that_nothing_is_missing(tmp_path: Path) -> None:
    render_html(coverage("anyone { may GET /health }", "GET /health => allow"), tmp_path)
    assert "Nothing is missing." in (tmp_path / "0.policy.html").read_text(encoding="utf-8")
    assert "100&nbsp;%" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_pages_have_no_scripts_and_no_external_links(tmp_path: Path) -> None:
    for page in pages(coverage(guarded("body.n > 5"), written(n="9")), tmp_path).values():
        assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(page.tags)
        assert not [link for link in page.links if ":" in link or link.startswith("/")]


def test_policy_text_is_never_rendered_as_markup(tmp_path: Path) -> None:
    text = policy(f"{DOORS}guard {quoted(EVIL)} on write {{ deny when body.note == {quoted(EVIL)} }}", written(n="9"))
    shown = pages(coverage_of(checked(text)), tmp_path)
    assert text.split("guard")[1].split("\n")[0] in shown["0.policy.html"].code
    for page in shown.values():
        assert not {"script", "img"} & set(page.tags)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def test_invisible_characters_are_shown_by_code_point(tmp_path: Path) -> None:
    """The checker refuses those that turn the order of letters around; the names of files it does not see."""
    span = Span(Source("a\u202e.policy", "x\u202e\x1b y"), 0, 3)
    render_html(Coverage((Point(PointKind.RULES, "x", "acted", span, "`x\u202e` never acted"),), {}), tmp_path)
    for path in tmp_path.iterdir():
        page = path.read_text(encoding="utf-8")
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert '<span class="odd">U+202E</span>' in page


def test_the_page_contains_the_policy_text_unchanged(tmp_path: Path) -> None:
    found = coverage(guarded("body.n > 5 and (body.urgent or time > 2030-01-01)"), written(n="9"))
    source = found.points[0].span.source
    lines = [line for line in source.text.split("\n") if line.strip()]
    page = (pages(found, tmp_path)["0.policy.html"]).code
    found_lines = iter(page.split("\n"))
    assert all(any(line in one for one in found_lines) for line in lines)


@given(st.text("ab \n\r\t{}", max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8))
def test_annotated_pieces_join_to_the_source_text(text: str, places: list[tuple[int, int]]) -> None:
    source = Source("x", text)
    spans = [Span(source, min(a, b), max(a, b)) for a, b in places if max(a, b) <= len(text)]
    points = [Point(PointKind.RULES, str(number), "acted", span, "") for number, span in enumerate(spans)]
    lines = list(annotated_lines(source, points))
    told = "\n".join("".join(piece.text for piece in line.pieces) for line in lines)
    assert told.rstrip("\n") == text.replace("\r", "").rstrip("\n")
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert {point for line in lines for point in line.points} <= set(points)
    for line in lines:
        for piece in line.pieces:
            assert len({(point.span.start, point.span.end) for point in piece.points}) <= 1


@pytest.mark.parametrize(
    "names",
    [
        ["a/b.policy", "a_b.policy", "A/B.policy"],
        ["index", "INDEX"],
        ["../../etc/passwd", "/etc/passwd", "..", "…", ""],
        ["x" * 500, "y" * 500, "x" * 501],
        ["a\nb.policy", 'a"b.policy', "<b>.policy"],
    ],
)
def test_page_names_are_safe_and_unique(names: list[str]) -> None:
    found = list(page_names(Source(name, str(number)) for number, name in enumerate(names)).values())
    assert len({name.lower() for name in found} | {"index.html"}) == len(names) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}\.html", name) for name in found)


def test_an_unwritable_folder_raises_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    with pytest.raises(OSError, match="taken"):
        render_html(coverage(DOORS), tmp_path / "taken")
