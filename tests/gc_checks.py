"""What `policyengine.gc_freeze` does to the collector: checks for a small process of their own.

In the process of the tests, a full collection of everything that is not frozen any more takes a second.
"""

from __future__ import annotations

import gc
import json
import traceback
import weakref
from collections.abc import Callable

from policyengine import gc_freeze
from policyengine.engine import Engine
from policyengine.reload import ReloadableEngine

POLICY = 'language 1 package p issuer acme { scopes none } agent "bot" { issued by acme   acts alone   may GET /a }'


class Ring:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.own = self


def check_a_full_collection_passes_over_the_objects_of_the_startup() -> None:
    assert gc.get_freeze_count() > len(gc.get_objects())


def check_an_object_of_the_startup_is_freed_after_a_reload_and_the_others_are_frozen_again() -> None:
    ring = Ring()
    gc_freeze.freeze_startup()
    watched = weakref.ref(ring)
    del ring
    gc.collect()
    assert watched() is not None
    gc_freeze.release_after_reload()
    gc_freeze.release_after_reload()  # of two reloads, the first full collection ends both
    gc.collect(1)
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert watched() is None
    assert gc.get_freeze_count() > 0


def check_what_is_built_later_is_frozen_by_the_next_full_collections_but_not_for_ever() -> None:
    gc.collect()
    assert len(gc.get_objects()) < gc_freeze.MANY
    built = []
    for _ in range(gc_freeze.LATER_FREEZES):
        built.append([Ring() for _ in range(gc_freeze.MANY)])
        gc.collect()
        assert len(gc.get_objects()) < gc_freeze.MANY
    built.append([Ring() for _ in range(gc_freeze.MANY)])
    gc.collect()
    assert len(gc.get_objects()) > gc_freeze.MANY
    assert gc_freeze._freeze_when_collected not in gc.callbacks


def check_a_reload_frees_the_previous_policies() -> None:
    reloading = ReloadableEngine(Engine.from_text(POLICY))
    gc_freeze.freeze_startup()
    before = weakref.ref(reloading.current)
    reloading.replace(Engine.from_text(POLICY.replace("/a", "/b")))
    gc.collect()
    assert before() is None
    assert gc.get_freeze_count() > 0


def check_a_reload_in_an_application_that_freezes_nothing_leaves_the_collector_alone() -> None:
    gc_freeze.unfreeze()
    reloading = ReloadableEngine(Engine.from_text(POLICY))
    reloading.replace(Engine.from_text(POLICY.replace("/a", "/b")))
    gc.collect()
    assert gc.get_freeze_count() == 0


def check_a_run_of_policy_tests_leaves_the_objects_of_an_application_as_they_were() -> None:
    gc.freeze()
    with gc_freeze.objects_frozen():
        gc.collect()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    with gc_freeze.objects_frozen():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


CHECKS: dict[str, Callable[[], None]] = {name: one for name, one in globals().items() if name.startswith("check_")}


def failure_of(check: Callable[[], None]) -> str:
    """Return the traceback of a check after a startup, or nothing."""
    gc_freeze.freeze_startup()
    try:
        check()
    except AssertionError:
        return traceback.format_exc()
    finally:
        gc_freeze.unfreeze()
    return "" if gc.get_freeze_count() == 0 else "objects are frozen after `unfreeze`"


if __name__ == "__main__":
    print(json.dumps({name: failure_of(check) for name, check in CHECKS.items()}))
