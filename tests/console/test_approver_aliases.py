"""A person of the console whom a claim other than `sub` names, and who is revoked by `sub` after an answer."""

from __future__ import annotations

import time
from pathlib import Path

from policyengine.identity.login.open_id_client import Person
from tests.console.answering import Answers, answer, answering
from tests.console.world import Visitor


def fay(found: Answers) -> Visitor:
    console = found.world.server.console
    name, _ = console.sessions.open(Person("fay", "acme", {"sub": "u-17", "email": "fay"}))
    return Visitor(found.world.url, {console.cookies.name("session"): name})


def test_an_answer_in_the_console_does_not_count_after_the_subject_was_revoked(tmp_path: Path) -> None:
    with answering(tmp_path) as found:
        id, now = found.open(), int(time.time())
        assert answer(fay(found), id).status == 200
        [vote] = found.find(id).approval.votes
        assert (vote.by, vote.aliases) == ("fay", ("u-17",))
        found.world.engine.store.marks.revoke(["user:acme/u-17"], now + 3_600, now, by_operator=True)
        assert found.open() != id
        assert answer(fay(found), found.open()).status in (303, 403)
