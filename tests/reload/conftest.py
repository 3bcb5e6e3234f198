"""A folder of policies that changes, and its known states."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine.reload import ReloadRules

OPEN = """language 1
package shop
anyone { may GET /health }
"""
SHUT = OPEN + 'guard "closed" on GET /health { deny }\n'
TEST = """language 1
package shop
test "it is open" { GET /health => allow }
"""
QUIET = ReloadRules(seconds=0)  # no comparison after a reload, which takes a process
ASK = {"request": {"method": "GET", "path": "/health"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policies"
    made.mkdir()
    (made / "shop.policy").write_text(OPEN)
    return made
