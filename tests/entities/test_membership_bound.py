"""Chains of memberships: their closures are bounded, and what is beyond is refused with its place."""

import json

import pytest

from policyengine import Engine
from policyengine.entities import store
from policyengine.entities.errors import EntitiesError

POLICY = "entity team in team\nentity user in team\nanyone { may GET /a }\n"


def rows(teams: int, users: int) -> str:
    chain = [
        {"type": "team", "id": f"t{n}", "in": [{"type": "team", "id": f"t{n - 1}"}] if n else []} for n in range(teams)
    ]
    people = [{"type": "user", "id": f"u{n}", "in": [{"type": "team", "id": f"t{teams - 1}"}]} for n in range(users)]
    return json.dumps({"entities": [*chain, *people]})


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAX_MEMBERSHIPS", 1_000)

    def load_rows(text: str) -> Engine:
        (tmp_path / "p.policy").write_text(POLICY)
        (tmp_path / "rows.json").write_text(text)
        return Engine.load(tmp_path / "p.policy", entities=tmp_path / "rows.json")

    return load_rows


def test_too_many_memberships_are_rejected_with_the_row(load):
    with pytest.raises(EntitiesError) as refused:
        load(rows(60, 0))
    assert (refused.value.code, refused.value.member) == ("E188", "entities[45]")
    assert refused.value.message == 'team "t45" brings the total to more than 1,000 memberships'


def test_memberships_of_a_team_count_once_for_all_its_users(load):
    assert load(rows(40, 5_000)).directory is not None
