"""The page about security: each promise names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
PROMISES = [line for line in PAGE.split("\n## ")[1].splitlines() if line.startswith("| ") and "tested by" not in line]


def test_every_promise_names_tests_that_are_there():
    assert len(PROMISES) >= 20
    for promise in PROMISES:
        named = re.findall(r"`(tests/[\w/]+\.py)`", promise)
        assert named, promise
        assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_readme_leads_to_it():
    assert "(docs/security.md)" in (ROOT / "README.md").read_text("utf-8")
