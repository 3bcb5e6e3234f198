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
from policyengine.testing.coverage.annotated_source import Line, Piece, State, lines_of, state_of
from policyengine.testing.coverage.measure import Count, Coverage
from policyengine.testing.coverage.points import Point
from policyengine.testing.coverage.style import STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
INDEX = "index.html"
UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
LONGEST_NAME = 80
CODE = re.compile(r"`([^`]+)`")


def render_html(coverage: Coverage, directory: Path) -> Path:
    """Writes the pages, over those of an earlier time, and gives the index. Raises OSError where it cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    names = page_names(coverage.files)
    for source, points in coverage.files.items():
        write(directory / names[source], file_page(source, points, coverage))
    write(directory / INDEX, index_page(coverage, names))
    return directory / INDEX


def write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def page_names(sources: Iterable[Source]) -> dict[Source, str]:
    """A name for each file that every system takes, and no two that only differ by case."""
    taken, found = {INDEX}, {}
    for source in sources:
        plain = UNFIT.sub("_", source.name).strip("._")[-LONGEST_NAME:] or "policy"
        name, number = f"{plain}.html", 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}.html"
        taken.add(name.lower())
        found[source] = name
    return found


def shown(text: str) -> str:
    """Text that cannot be markup. What has no shape is told by its number: it may turn the order of letters around."""
    return "".join(
        escape(char) if char.isprintable() or char == "\t" else f'<span class="odd">U+{ord(char):04X}</span>'
        for char in text
    )


def plain(text: str) -> str:
    """For titles, where there is no markup."""
    return escape("".join(char if char.isprintable() else f"U+{ord(char):04X}" for char in text))


def words(point: Point) -> str:
    """Its words, with what stands in backticks as code."""
    return CODE.sub(r"<code>\1</code>", shown(point.words))


def page(title: str, body: Iterable[str]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{plain(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>"
    yield from body
    yield "</body>\n</html>"


# ── The index ─────────────────────────────────────────────────────────────────────────────────


def index_page(coverage: Coverage, names: Mapping[Source, str]) -> Iterator[str]:
    return page("Coverage of the tests", index_body(coverage, names))


def index_body(coverage: Coverage, names: Mapping[Source, str]) -> Iterator[str]:
    yield f"<main>\n<h1>Coverage of the tests: {share(coverage.count)}</h1>"
    yield f'<p class="dim">{summary(coverage.count)}</p>'
    yield from table("kind", ((str(kind), count) for kind, count in coverage.kinds.items() if count.total))
    yield "<h2>Files</h2>"
    files = [
        (f'<a href="{names[source]}">{shown(source.name)}</a>', coverage.counted(points))
        for source, points in coverage.files.items()
    ]
    yield from table("file", files)
    for source, points in coverage.files.items():
        if missing := missing_of(points, coverage):
            yield f"<h2>Missing in {shown(source.name)}</h2>"
            yield from missing_list(missing, names[source])
    yield "</main>"


def summary(count: Count) -> str:
    missing = count.total - count.seen
    return f"{count.seen:,} of {count.total:,} seen; " + (f"{missing:,} missing" if missing else "nothing is missing")


def share(count: Count) -> str:
    """`88.1 %`, which no line ends within."""
    return count.percent.replace(" ", "&nbsp;")


def table(what: str, rows: Iterable[tuple[str, Count]]) -> Iterator[str]:
    """`rows` begin with markup."""
    yield f'<table>\n<thead><tr><th scope="col">{what}</th><th scope="col" class="number">seen</th>'
    yield '<th scope="col" class="number">share</th><td></td></tr></thead>\n<tbody>'
    for name, count in rows:
        bar = f'<span class="bar" aria-hidden="true"><span style="width:{count.fraction:.1%}"></span></span>'
        yield f'<tr><th scope="row">{name}</th><td class="number">{count.seen:,}/{count.total:,}</td>'
        yield f'<td class="number">{share(count)}</td><td>{bar}</td></tr>'
    yield "</tbody>\n</table>"


def missing_of(points: Sequence[Point], coverage: Coverage) -> dict[Point, str]:
    """What is missing in a file, and the name of its place on the page."""
    missing = [point for point in points if point not in coverage.hits]
    return {point: f"m{number}" for number, point in enumerate(missing, 1)}


def missing_list(missing: Mapping[Point, str], where: str = "") -> Iterator[str]:
    yield '<ul class="missing">'
    for point, anchor in missing.items():
        yield f'<li><a href="{where}#{anchor}"><b>{point.span.line}</b>{words(point)}</a></li>'
    yield "</ul>"


# ── A file ────────────────────────────────────────────────────────────────────────────────────


def file_page(source: Source, points: Sequence[Point], coverage: Coverage) -> Iterator[str]:
    return page(f"Coverage of {source.name}", file_body(source, points, coverage))


def file_body(source: Source, points: Sequence[Point], coverage: Coverage) -> Iterator[str]:
    count, missing = coverage.counted(points), missing_of(points, coverage)
    yield '<a class="skip" href="#source">To the source</a>'
    yield f'<header>\n<p><a href="{INDEX}">All files</a></p>\n<h1>{shown(source.name)}: {share(count)}</h1>'
    yield f'<p class="dim">{summary(count)}</p>'
    yield f'<p class="key">{KEY}</p>\n</header>\n<div class="file">\n<main id="source" class="source">'
    anchors = list(missing.values())
    after = dict(pairwise(anchors))
    for line in lines_of(source, points):
        yield one_line(line, coverage)
        for point in line.points:
            if point in missing:
                yield note(point, missing[point], after.get(missing[point]))
    yield '</main>\n<aside aria-label="What is missing">\n<h2>Missing</h2>'
    yield from missing_list(missing) if missing else ["<p>Nothing: the tests show all there is to see.</p>"]
    yield "</aside>\n</div>"


KEY = "".join(f'<span class="{state}">{state}</span>' for state in State)


def one_line(line: Line, coverage: Coverage) -> str:
    code = "".join(piece_of(piece, coverage) for piece in line.pieces)
    count = coverage.counted(line.points)
    seen = (
        f'<small title="{count.seen} of {count.total} seen">{count.seen}/{count.total}</small>' if count.total else ""
    )
    number = f'<a href="#L{line.number}" tabindex="-1">{line.number}</a>'
    return f'<div class="line" id="L{line.number}">{number}<code>{code}</code>{seen}</div>'


def piece_of(piece: Piece, coverage: Coverage) -> str:
    if not piece.points or not piece.text.strip():
        return shown(piece.text)
    state = state_of(piece.points, coverage)
    missing = "; ".join(point.words for point in piece.points if point not in coverage.hits)
    title = f' title="{plain(missing)}"' if missing else ""
    tag = "span" if state is State.COVERED else "mark"
    return f'<{tag} class="{state}"{title}>{shown(piece.text)}</{tag}>'


def note(point: Point, anchor: str, after: str | None) -> str:
    further = f' <a href="#{after}">next ↓</a>' if after is not None else ""
    return f'<div class="note" id="{anchor}">{words(point)}{further}</div>'
