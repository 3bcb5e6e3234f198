"""A stranger who sends refused tokens all day fills no disk, and nothing of them is in the log."""

from __future__ import annotations

import logging

import pytest

from policyengine.log_throttle import MAX_LINES, WINDOW_SECONDS, LogThrottle
from tests.identity.issuing import Door, ec, token


@pytest.fixture
def door(caplog: pytest.LogCaptureFixture) -> Door:
    caplog.set_level(logging.INFO, "policyengine")
    return Door()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "a credential was refused" in one.getMessage()]


def test_log_lines_about_rejected_credentials_are_rate_limited_per_code(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    times, raw = [0.0], token(_key=ec("P-256", "evil"))
    door.identity.telling = LogThrottle(clock=lambda: times[0])
    for _ in range(MAX_LINES + 30):
        assert door.bearer(raw).reasons[0].code == "signature"
    assert lines(caplog) == ["a credential was refused: the signature of the token is not valid"] * MAX_LINES
    assert door.bearer("a.b").reasons[0].code == "not_a_token", "another kind is told all the same"
    times[0] = WINDOW_SECONDS
    door.bearer(raw)
    assert len(lines(caplog)) == MAX_LINES + 2
    assert lines(caplog)[-1].endswith("(30 more lines like this were suppressed)")
    assert [one.left_out for one in caplog.records if hasattr(one, "left_out")] == [30]


def test_the_log_contains_no_part_of_a_rejected_credential(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter2-correct-horse"
    for claims in ({"sub": secret, "aud": secret}, {"iss": secret}, {"scope": f"{secret} \x00"}, {"exp": secret}):
        assert not door.bearer(token(jti=secret, **claims)).allowed
    assert not door.bearer(secret).allowed
    assert len(lines(caplog)) == 5
    assert secret not in caplog.text
    assert secret not in repr([one.__dict__ for one in caplog.records])
