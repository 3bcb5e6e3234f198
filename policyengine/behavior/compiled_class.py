"""Describes classes to the compiler, which makes their objects faster; without the compiler, nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:
    Described = TypeVar("Described", bound=type)

    def mypyc_attr(**_: object) -> Callable[[Described], Described]:
        return lambda described: described
