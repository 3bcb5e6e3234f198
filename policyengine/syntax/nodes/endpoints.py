"""Endpoints, and the places of rules."""

from __future__ import annotations

from dataclasses import field
from typing import TypeAlias

from policyengine.source import Span
from policyengine.syntax.nodes.base import Name, Node, node


@node()
class HttpPattern(Node):
    """`GET|POST /v1/{id: invoice}`. Empty `methods` means every method: a path without a method after `on`."""

    methods: tuple[str, ...]
    path: str
    path_span: Span = field(compare=False, repr=False)


@node()
class ToolPattern(Node):
    pattern: str


@node()
class ActionPattern(Node):
    """`ACTION view invoice`."""

    verb: Name
    type: Name


@node()
class ReservedWord(Node):
    """`INPUT`, `OUTPUT`, `RESULT`: words reserved for later versions."""

    word: str


Endpoint: TypeAlias = HttpPattern | ToolPattern | ActionPattern | ReservedWord
Target: TypeAlias = Endpoint | Name  # a Name refers to a scope


@node()
class Place(Node):
    """`on A, B except C`."""

    targets: tuple[Target, ...]
    excepts: tuple[Target, ...] = ()


@node()
class PathsIgnoreCase(Node):
    pass
