"""Benchmarks in tests measure for correctness only: they need no collected heap, and no processes that import all."""

import gc
import subprocess
from collections.abc import Iterator

import pytest

from bench.serving import connections, servers
from tests import forking


@pytest.fixture(autouse=True)
def no_full_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `gc.collect` do nothing: in the process of the tests, each full collection takes a third of a second."""
    monkeypatch.setattr(gc, "collect", lambda *_: 0)


class ForkedPrograms:
    """What `bench.serving.servers` uses of `subprocess`."""

    Popen = staticmethod(forking.popen)
    STDOUT, TimeoutExpired = subprocess.STDOUT, subprocess.TimeoutExpired


@pytest.fixture(autouse=True, scope="module")
def forked_servers() -> Iterator[None]:
    """Fork the measured servers, instead of starting each with its imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "subprocess", ForkedPrograms)
        patch.setattr(connections, "Popen", forking.popen)
        yield
