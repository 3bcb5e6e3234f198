"""The places of halts. They are written like the places after `on` in a guard and, like guards, ignore letter case."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

from policyengine.halts.errors import HaltError
from policyengine.runtime.endpoints import Endpoint
from policyengine.runtime.structure_checks import quote_input
from policyengine.source import Source
from policyengine.spec.match_endpoint import place_covers

PLACE_HINT: Final = "write it as after `on`: `/v1/reports/**`, `GET /v1/invoices/*`, `TOOL mail/*`"


@lru_cache(maxsize=1_024)
def parse_place(text: str) -> Callable[[Endpoint], bool]:
    """Return a function that returns whether the place covers an endpoint. Raises HaltError."""
    from policyengine.check import compile_sources  # a quarter of the startup of the process that reads logs

    source = f'language 1\npackage halted\nguard "halted" on {text} {{ deny }}\n'
    found, problems = compile_sources([Source("place", source)])
    if found is None:
        raise HaltError(f"`{quote_input(text)}` is not a place: {problems[0].message}", PLACE_HINT)
    if len(found.guards) != 1 or {"#", "\n"} & set(text) or found.agents or found.users or found.anyones:
        raise HaltError(f"`{quote_input(text)}` is not a place", PLACE_HINT)
    return partial(place_covers, found.guards[0].place)
