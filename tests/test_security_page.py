"""The page about security: each promise names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
PROMISES = [line for line in PAGE.split("\n## ")[1].splitlines() if line.startswith("| ") and "tested by" not in line]
LINK = re.compile(r"\[[^\]]+\]\(([\w-]+\.md)(?:#([\w-]+))?\)")


def test_every_promise_names_existing_test_files():
    assert len(PROMISES) >= 20
    for promise in PROMISES:
        named = re.findall(r"`(tests/[\w/]+\.py)`", promise)
        assert named, promise
        assert [path for path in named if not (ROOT / path).is_file()] == []


def test_every_promise_links_to_an_existing_section():
    for promise in PROMISES:
        _, explained, _ = promise.split(" | ")
        links = LINK.findall(explained)
        assert links, promise
        for page, section in links:
            text = (ROOT / "docs" / page).read_text("utf-8")
            assert not section or section in {anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def anchor(title: str) -> str:
    """As GitHub makes one of a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_the_readme_links_to_the_security_page():
    assert "(docs/security.md)" in (ROOT / "README.md").read_text("utf-8")
