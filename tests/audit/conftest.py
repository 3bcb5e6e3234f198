"""Every line that these tests write is valid by the schema. Of lines that differ only in numbers and ids, one is
checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from policyengine.audit import DecisionLog
from tests.audit.log_lines import problems

VARYING = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}|[0-9a-f]{64}|\d+")


@pytest.fixture(autouse=True)
def valid_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lines: dict[bytes, bytes] = {}
    append = DecisionLog._append

    def remember(log: DecisionLog, line: bytes, **options: Any) -> bool:
        lines.setdefault(VARYING.sub(b"0", line), line)
        return append(log, line, **options)

    monkeypatch.setattr(DecisionLog, "_append", remember)
    yield
    assert [(line, found) for line in lines.values() if (found := problems(line))] == []
