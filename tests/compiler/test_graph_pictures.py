"""Drawings in their formats: each is well-formed, says what the boxes say and nothing a policy could smuggle in."""

import json
import re
import shutil
import subprocess
from html import unescape
from xml.etree import ElementTree

import pytest

from policyengine.compiler.graph import dot, mermaid, svg, text
from policyengine.compiler.graph.box import Box, BoxKind
from policyengine.compiler.graph.styles import (
    MAX_LINE_COLUMNS,
    MAX_LINES,
    box_lines,
    number_boxes,
    text_columns,
    wrap_text,
)

HOSTILE = [
    "plain",
    "quotes \" and ' and `",
    "</text></svg><script>alert(1)</script>",
    "]]> <!-- --> <?x ?> &amp; &",
    "\\ \\n \\l \\N \\\\",
    "#quot; #35; ; %% %%{init}%%",
    "style x:#fff;",
    "end --- --> ~~~ [x] (y) {z} |w|",
    "1. list - item * star __under__",
    "tab\tand\nbreak and \x00 and \x1b[31m",
    "bidi \u202e override and \u2028 separator",
    "äöü 日本語 e\u0301 😀",
    "a  b   c    spaces",
    "x" * 500,
    "word " * 200,
    "",
]


def nested() -> Box:
    boxes = tuple(
        Box(BoxKind.MAY, label, detail, "p.policy:1", (), 1)
        for label, detail in zip(HOSTILE, HOSTILE[::-1], strict=True)
    )
    kinds = tuple(Box(kind, str(kind), children=boxes if kind is BoxKind.PATH else ()) for kind in BoxKind)
    return Box(BoxKind.POLICY, "policy p", "revision 0", None, kinds)


EXPECTED = [box_lines(box) for box, _, _ in number_boxes(nested())]
EDGES = {(parent, number) for _, number, parent in number_boxes(nested()) if parent is not None}


# ── Text ──────────────────────────────────────────────────────────────────────────────────────


def test_text_shows_who_is_in_whom():
    root = Box(
        BoxKind.POLICY,
        "p",
        children=(
            Box(BoxKind.PATH, "/a", children=(Box(BoxKind.MAY, "may x", "scope", "p.policy:1"),)),
            Box(BoxKind.MORE, "2 more"),
        ),
    )
    assert text.render(root) == "p\n├─ /a\n│  └─ may x — scope  (p.policy:1)\n└─ … 2 more\n"
    assert text.render(root, text.ASCII).startswith("p\n|- /a\n|  `- may x")


# ── Mermaid: a strict parser of what we write ─────────────────────────────────────────────────

MERMAID_NODE = re.compile(r'  n(\d+)\["((?:[\w /.,|=+()\[\]-]|#\d+;|<br/>)*)"\]:::(\w+)', re.ASCII)
MERMAID_EDGE = re.compile(r"  n(\d+) -(?:-|\.)- n(\d+)")
MERMAID_CLASS = re.compile(r"  classDef (\w+) fill:#[0-9a-f]{6},stroke:#[0-9a-f]{6},color:#[0-9a-f]{6}")


def test_mermaid_is_a_flowchart_with_every_box_and_edge():
    head, *lines = mermaid.render(nested()).splitlines()
    nodes, edges, classes = {}, set(), set()
    for line in lines:
        if found := MERMAID_NODE.fullmatch(line):
            nodes[int(found[1])] = (found[2], found[3])
        elif found := MERMAID_EDGE.fullmatch(line):
            edges.add((int(found[1]), int(found[2])))
        else:
            found = MERMAID_CLASS.fullmatch(line)
            assert found, line
            classes.add(found[1])
    assert head == "flowchart LR"
    assert [read_mermaid(nodes[number][0]) for number in range(len(nodes))] == EXPECTED
    assert edges == EDGES
    assert {styled for _, styled in nodes.values()} == classes


def read_mermaid(label: str) -> list[str]:
    """What a browser shows; the joiner after a backslash is not seen."""
    return [
        re.sub(r"#(\d+);", lambda found: chr(int(found[1])), line).replace("\N{WORD JOINER}", "")
        for line in label.split("<br/>")
    ]


# ── DOT: a strict parser of what we write ─────────────────────────────────────────────────────

DOT_NODE = re.compile(
    r'  n(\d+) \[label="((?:[^"\\\n]|\\["\\l])*)", fillcolor="#\w+", color="#\w+", fontcolor="#\w+".*\]'
)
DOT_EDGE = re.compile(r"  n(\d+) -> n(\d+)")


def test_dot_is_a_graph_with_every_box_and_edge():
    lines = dot.render(nested()).splitlines()
    nodes, edges = {}, set()
    assert (lines[0], lines[-1]) == ("digraph policy {", "}")
    for line in lines[4:-1]:
        if found := DOT_NODE.fullmatch(line):
            nodes[int(found[1])] = found[2]
        else:
            found = DOT_EDGE.fullmatch(line)
            assert found, line
            edges.add((int(found[1]), int(found[2])))
    assert [read_dot(nodes[number]) for number in range(len(nodes))] == EXPECTED
    assert edges == EDGES


def read_dot(label: str) -> list[str]:
    marked = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "l" else found[1], label)
    return [unescape(line) for line in marked.removesuffix("\n").split("\n")]


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is missing: apt install graphviz")
def test_graphviz_reads_it():
    done = subprocess.run(["dot", "-Tplain"], input=dot.render(nested()), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\nnode ") == nested().size


# ── SVG ───────────────────────────────────────────────────────────────────────────────────────

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def picture() -> ElementTree.Element:
    return ElementTree.fromstring(svg.render(nested()))


def rectangles(picture: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box."""
    found = [group.find(f"{SVG}rect") for group in picture.iter(f"{SVG}g")]
    sides = [[float(one.get(name)) for name in ("x", "y", "width", "height")] for one in found]
    return [(x, y, x + wide, y + high) for x, y, wide, high in sides]


def test_svg_has_every_box(picture):
    assert len(rectangles(picture)) == nested().size


def test_boxes_of_svg_do_not_overlap_and_lie_in_the_picture(picture):
    boxes = rectangles(picture)
    right, bottom = float(picture.get("width")), float(picture.get("height"))
    for number, (left, top, *corner) in enumerate(boxes):
        assert 0 <= left < corner[0] <= right
        assert 0 <= top < corner[1] <= bottom
        for x1, y1, x2, y2 in boxes[number + 1 :]:
            assert x2 <= left or corner[0] <= x1 or y2 <= top or corner[1] <= y1


def test_boxes_of_svg_are_to_the_right_of_those_they_are_in(picture):
    boxes = rectangles(picture)
    assert all(boxes[parent][0] < boxes[number][0] for parent, number in EDGES)


def test_text_of_svg_stays_in_its_box(picture):
    for group, (left, top, right, bottom) in zip(picture.iter(f"{SVG}g"), rectangles(picture), strict=True):
        for line in group.findall(f"{SVG}text"):
            said = "".join(line.itertext())
            x, y = float(line.get("x")), float(line.get("y"))
            assert left < x
            assert (
                x + text_columns(said) * 0.61 * svg.FONT_SIZE_PIXELS < right
            )  # the widest of the usual fonts: 0.602 em a letter
            assert top < y - svg.FONT_SIZE_PIXELS * 0.7
            assert y < bottom


def test_svg_contains_no_script_no_link_and_no_handler(picture):
    assert {element.tag.removeprefix(SVG) for element in picture.iter()} <= set(
        "svg title style rect path g text tspan".split()
    )
    names = {name for element in picture.iter() for name in element.attrib}
    assert names <= set("width height viewBox role class x y rx d".split())
    assert "url(" not in picture.find(f"{SVG}style").text


def test_svg_says_the_whole_text_to_who_points_at_a_box():
    root = Box(BoxKind.MAY, "may x", ", ".join(["a detail"] * 100), "p.policy:1")
    titles = ElementTree.fromstring(svg.render(root)).findall(f".//{SVG}g/{SVG}title")
    assert ", ".join(["a detail"] * 100) in titles[0].text


def test_svg_has_colours_for_light_and_dark(picture):
    style = picture.find(f"{SVG}style").text
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for kind in BoxKind:
        assert f".{kind} rect" in light
        assert f".{kind} rect" in dark


def test_branches_of_svg_end_at_the_boxes(picture):
    boxes = rectangles(picture)
    ends = [re.fullmatch(r"M[\d.]+ [\d.]+V([\d.]+)H([\d.]+)", path.get("d")) for path in picture.iter(f"{SVG}path")]
    assert len(ends) == len(boxes) - 1
    for (left, top, _, bottom), end in zip(boxes[1:], ends, strict=True):
        assert float(end[2]) == left
        assert top < float(end[1]) < bottom


# ── Data and lines ────────────────────────────────────────────────────────────────────────────


def test_a_box_as_data_omits_empty_members():
    root = Box(BoxKind.PATH, "/a", children=(Box(BoxKind.MORE, "2 more", hidden=3),))
    assert json.loads(json.dumps(root.to_dict())) == {
        "kind": "path",
        "label": "/a",
        "children": [{"kind": "more", "label": "2 more", "hidden": 3}],
    }


@pytest.mark.parametrize("words", HOSTILE)
def test_lines_fit_into_their_box(words):
    lines = wrap_text(words)
    assert len(lines) <= MAX_LINES
    assert all(text_columns(line) <= MAX_LINE_COLUMNS for line in lines)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("letters", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0)])
def test_letters_are_as_wide_as_a_terminal_shows_them(letters, columns):
    assert text_columns(letters) == columns
