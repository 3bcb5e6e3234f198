"""A SIGHUP that comes while a server starts is heeded when it can be, and ends nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from policyengine.engine import Engine
from policyengine.hangup_signal import record_hangups, take_hangup
from policyengine.reload import ReloadableEngine
from policyengine.reload.thread import handle_sighup


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("came", [True, False])
def test_a_hangup_before_startup_triggers_one_reload_after_it(came: bool) -> None:
    record_hangups()
    if came:
        os.kill(os.getpid(), signal.SIGHUP)
    asked: list[str] = []
    with handle_sighup(ReloadableEngine(Engine.from_text("anyone { may GET /x }")), lambda: asked.append("reload")):
        assert asked == ["reload"] * came
    assert not take_hangup()
