"""Reading a policy leaves the garbage collector as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from policyengine.check import check_text
from policyengine.gc_pause import gc_paused


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.parametrize("text", ["anyone { may GET /health }", "anyone { may", "\0"])
def test_garbage_collection_is_enabled_after_a_check(text: str) -> None:
    check_text(text)
    assert gc.isenabled()


def test_a_check_does_not_enable_disabled_garbage_collection() -> None:
    gc.disable()
    check_text("anyone { may GET /health }")
    assert not gc.isenabled()


def test_gc_paused_disables_garbage_collection() -> None:
    with gc_paused():
        assert not gc.isenabled()


def test_gc_paused_enables_garbage_collection_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), gc_paused():
        raise ZeroDivisionError
    assert gc.isenabled()
