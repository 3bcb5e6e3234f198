"""How many cases a test tries: fewer in `make test`, more in `make test-deep`, which runs what is `scaled` again."""

from __future__ import annotations

import os

import pytest

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
scaled = pytest.mark.scaled


def examples(usual: int, deep: int) -> int:
    return deep if DEEP else usual
