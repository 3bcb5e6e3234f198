"""Random traces on every store: what the engine says there is what the specification says of all that happened."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis.stateful import rule, run_state_machine_as_test

from policyengine.clock import epoch_microseconds
from policyengine.stores.redis import history_cache
from policyengine.stores.redis.cluster import ClusterStore
from policyengine.stores.sql import history
from policyengine.stores.sql.store import EVICTION_BATCH_SIZE
from policyengine.stores.sqlite.store import SqliteStore
from tests.history.test_stateful import Traffic
from tests.stores.conftest import Fresh, fresh_everywhere

fresh = fresh_everywhere


def traffic(fresh: Fresh) -> type[Traffic]:
    class Elsewhere(Traffic):
        def opened(self, complete: bool) -> bool:
            self.store = fresh()
            self.has_one_clock = not isinstance(self.store, ClusterStore)
            return False

        @rule()
        def forget(self) -> None:
            """What happens now and then in a file, and in servers by itself: nothing that counts is lost."""
            if isinstance(self.store, SqliteStore):
                with self.store.step() as asked:
                    history.forget(asked, epoch_microseconds(self.now), EVICTION_BATCH_SIZE)

    return Elsewhere


@pytest.fixture(autouse=True)
def follow_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_cache, "MIN_CACHED_EVENTS", 1)


def test_traffic_on_every_store_agrees_with_the_specification(fresh: Fresh) -> None:
    run_state_machine_as_test(traffic(fresh), settings=settings(max_examples=8, stateful_step_count=30, deadline=None))


@pytest.mark.deep
def test_traffic_on_every_store_agrees_with_the_specification_in_a_long_run(fresh: Fresh) -> None:
    run_state_machine_as_test(
        traffic(fresh), settings=settings(max_examples=400, stateful_step_count=60, deadline=None)
    )
