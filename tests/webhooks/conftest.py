"""Closes the connections and spools that a test has opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.webhooks import sending


@pytest.fixture(autouse=True)
def closes_everything() -> Iterator[None]:
    yield
    while sending.OPEN:
        sending.OPEN.pop().close()
