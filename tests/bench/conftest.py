"""Benchmarks in tests measure for correctness only, so they need no collected heap before each measurement."""

import gc

import pytest


@pytest.fixture(autouse=True)
def no_full_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `gc.collect` do nothing: in the process of the tests, each full collection takes a third of a second."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)
