"""Coverage as pages to look at and print: an index, and each file with what is missing marked where it stands.

Nothing runs, nothing comes from elsewhere, and nothing that a policy says is more than text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from policyengine.source import Source
from policyengine.testing.coverage.annotated_source import (
    AnnotatedLine,
    CoverageState,
    SourcePiece,
    annotated_lines,
    coverage_state,
)
from policyengine.testing.coverage.html_style import STYLE
from policyengine.testing.coverage.measure import Coverage, CoverageCount
from policyengine.testing.coverage.points import Point

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
INDEX = "index.html"
UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
MAX_FILE_NAME_LENGTH = 80
CODE_PATTERN = re.compile(r"`([^`]+)`")


def render_html(coverage: Coverage, directory: Path) -> Path:
    """Writes the pages, over those of an earlier time, and gives the index. Raises OSError where it cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    names = page_names(coverage.files)
    for source, points in coverage.files.items():
        write_page(directory / names[source], file_page(source, points, coverage))
    write_page(directory / INDEX, index_page(coverage, names))
    return directory / INDEX


def write_page(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def page_names(sources: Iterable[Source]) -> dict[Source, str]:
    """A name for each file that every system takes, and no two that only differ by case."""
    taken, found = {INDEX}, {}
    for source in sources:
        plain = UNSAFE_CHARACTERS.sub("_", source.name).strip("._")[-MAX_FILE_NAME_LENGTH:] or "policy"
        name, number = f"{plain}.html", 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}.html"
        taken.add(name.lower())
        found[source] = name
    return found


def escape_html(text: str) -> str:
    """Text that cannot be markup. What has no shape is told by its number: it may turn the order of letters around."""
    return "".join(
        escape(char) if char.isprintable() or char == "\t" else f'<span class="odd">U+{ord(char):04X}</span>'
        for char in text
    )


def escape_title(text: str) -> str:
    """For titles, where there is no markup."""
    return escape("".join(char if char.isprintable() else f"U+{ord(char):04X}" for char in text))


def point_html(point: Point) -> str:
    """Its words, with what stands in backticks as code."""
    return CODE_PATTERN.sub(r"<code>\1</code>", escape_html(point.words))


def page_lines(title: str, body: Iterable[str]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape_title(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield from body
    yield "</body>\n</html>"


# ── The index ─────────────────────────────────────────────────────────────────────────────────


def index_page(coverage: Coverage, names: Mapping[Source, str]) -> Iterator[str]:
    return page_lines("Coverage of the tests", index_body(coverage, names))


def index_body(coverage: Coverage, names: Mapping[Source, str]) -> Iterator[str]:
    yield f"<main>\n<h1>Coverage of the tests: {percent_html(coverage.count)}</h1>"
    yield f'<p class="dim">{summary_text(coverage.count)}</p>'
    yield from count_table("kind", ((str(kind), count) for kind, count in coverage.kinds.items() if count.total))
    yield "<h2>Files</h2>"
    files = [
        (f'<a href="{names[source]}">{escape_html(source.name)}</a>', coverage.counted(points))
        for source, points in coverage.files.items()
    ]
    yield from count_table("file", files)
    for source, points in coverage.files.items():
        if missing := missing_points(points, coverage):
            yield f"<h2>Missing in {escape_html(source.name)}</h2>"
            yield from missing_list(missing, names[source])
    yield "</main>"


def summary_text(count: CoverageCount) -> str:
    missing = count.total - count.seen
    return f"{count.seen:,} of {count.total:,} seen; " + (f"{missing:,} missing" if missing else "nothing is missing")


def percent_html(count: CoverageCount) -> str:
    """`88.1 %`, which no line ends within."""
    return count.percent.replace(" ", "&nbsp;")


def count_table(what: str, rows: Iterable[tuple[str, CoverageCount]]) -> Iterator[str]:
    """`rows` begin with markup."""
    yield f'<table>\n<thead><tr><th scope="col">{what}</th><th scope="col" class="number">seen</th>'
    yield '<th scope="col" class="number">share</th><td></td></tr></thead>\n<tbody>'
    for name, count in rows:
        bar = f'<span class="bar" aria-hidden="true"><span style="width:{count.fraction:.1%}"></span></span>'
        yield f'<tr><th scope="row">{name}</th><td class="number">{count.seen:,}/{count.total:,}</td>'
        yield f'<td class="number">{percent_html(count)}</td><td>{bar}</td></tr>'
    yield "</tbody>\n</table>"


def missing_points(points: Sequence[Point], coverage: Coverage) -> dict[Point, str]:
    """What is missing in a file, and the name of its place on the page."""
    missing = [point for point in points if point not in coverage.hits]
    return {point: f"m{number}" for number, point in enumerate(missing, 1)}


def missing_list(missing: Mapping[Point, str], where: str = "") -> Iterator[str]:
    yield '<ul class="missing">'
    for point, anchor in missing.items():
        yield f'<li><a href="{where}#{anchor}"><b>{point.span.line}</b>{point_html(point)}</a></li>'
    yield "</ul>"


# ── A file ────────────────────────────────────────────────────────────────────────────────────


def file_page(source: Source, points: Sequence[Point], coverage: Coverage) -> Iterator[str]:
    return page_lines(f"Coverage of {source.name}", file_body(source, points, coverage))


def file_body(source: Source, points: Sequence[Point], coverage: Coverage) -> Iterator[str]:
    count, missing = coverage.counted(points), missing_points(points, coverage)
    yield '<a class="skip" href="#source">To the source</a>'
    title = f"{escape_html(source.name)}: {percent_html(count)}"
    yield f'<header>\n<p><a href="{INDEX}">All files</a></p>\n<h1>{title}</h1>'
    yield f'<p class="dim">{summary_text(count)}</p>'
    yield f'<p class="key">{LEGEND}</p>\n</header>\n<div class="file">\n<main id="source" class="source">'
    anchors = list(missing.values())
    after = dict(pairwise(anchors))
    for line in annotated_lines(source, points):
        yield line_html(line, coverage)
        for point in line.points:
            if point in missing:
                yield note_html(point, missing[point], after.get(missing[point]))
    yield '</main>\n<aside aria-label="What is missing">\n<h2>Missing</h2>'
    yield from missing_list(missing) if missing else ["<p>Nothing: the tests show all there is to see.</p>"]
    yield "</aside>\n</div>"


LEGEND = "".join(f'<span class="{state}">{state}</span>' for state in CoverageState)


def line_html(line: AnnotatedLine, coverage: Coverage) -> str:
    code = "".join(piece_html(piece, coverage) for piece in line.pieces)
    count = coverage.counted(line.points)
    seen = (
        f'<small title="{count.seen} of {count.total} seen">{count.seen}/{count.total}</small>' if count.total else ""
    )
    number = f'<a href="#L{line.number}" tabindex="-1">{line.number}</a>'
    return f'<div class="line" id="L{line.number}">{number}<code>{code}</code>{seen}</div>'


def piece_html(piece: SourcePiece, coverage: Coverage) -> str:
    if not piece.points or not piece.text.strip():
        return escape_html(piece.text)
    state = coverage_state(piece.points, coverage)
    missing = "; ".join(point.words for point in piece.points if point not in coverage.hits)
    title = f' title="{escape_title(missing)}"' if missing else ""
    tag = "span" if state is CoverageState.COVERED else "mark"
    return f'<{tag} class="{state}"{title}>{escape_html(piece.text)}</{tag}>'


def note_html(point: Point, anchor: str, after: str | None) -> str:
    further = f' <a href="#{after}">next ↓</a>' if after is not None else ""
    return f'<div class="note" id="{anchor}">{point_html(point)}{further}</div>'
