"""An engine some of whose decisions cannot be written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count

from policyengine.engine import Engine
from policyengine.engine.question import new_id
from policyengine.stores.url import open_store

POLICY = """
language 1
package shop
entity order {}
anyone { may POST /pay/{id}, ACTION pay order }
rate "pays" per params.id on POST /pay/{id} { 2/1h }
rate "actions" per resource.id on ACTION pay order { 2/1h }
"""
UNWRITABLE = "\ud800"  # not representable in JSON, MessagePack or a header


def sometimes_unwritable() -> Callable[[datetime], str]:
    """One decision of three has an ID that cannot be written."""
    numbers = count()
    return lambda now: new_id(now) if next(numbers) % 3 else UNWRITABLE


def unwritable(store: str = "memory:") -> Engine:
    return Engine.from_text(POLICY, ids=sometimes_unwritable(), store=open_store(store))
