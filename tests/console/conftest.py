"""Consoles of tests: with links from the terminal, and with a provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from policyengine.audit.query.log_process import LogReader, answer_question
from tests.console.world import Provider, World, console, login_of
from tests.identity.providing import faulty


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages read the log in this process, because a child takes half a second; tests of the child call it."""
    monkeypatch.setattr(LogReader, "ask", lambda reader, question: answer_question(question))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with console(tmp_path) as made:
        yield made


@pytest.fixture
def provider() -> Iterator[Provider]:
    with faulty() as server:
        yield Provider(server)


@pytest.fixture
def signing(tmp_path: Path, provider: Provider) -> Iterator[World]:
    """A console where people sign in at the provider; those with the role `ops` may view, and `finance` approves."""
    with console(tmp_path, provider.url, login_of(), view=["roles:ops"], approve=["roles:finance"]) as made:
        yield made
