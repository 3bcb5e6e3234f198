"""The browser of tests starts in a worker that has many open files."""

import os
from contextlib import ExitStack
from pathlib import Path

from tests.chromium import chromium


def test_a_browser_starts_whatever_the_numbers_of_its_pipes(tmp_path: Path) -> None:
    """A worker that has run many tests has opened a hundred files, and pipes were once copied to fixed numbers."""
    with ExitStack() as opened:
        while (number := os.open(os.devnull, os.O_RDONLY)) < 100:
            opened.callback(os.close, number)
        os.close(number)
        with chromium(tmp_path) as started:
            assert started.js("6 * 7") == 42
