"""Every line that these tests write is valid by the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from policyengine.audit import DecisionLog
from tests.audit.log_lines import problems


@pytest.fixture(autouse=True)
def valid_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lines: list[bytes] = []
    append = DecisionLog._append

    def remember(log: DecisionLog, line: bytes, **options: Any) -> bool:
        lines.append(line)
        return append(log, line, **options)

    monkeypatch.setattr(DecisionLog, "_append", remember)
    yield
    assert [(line, found) for line in lines if (found := problems(line))] == []
