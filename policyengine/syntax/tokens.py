"""The words and signs of a text: what the lexer finds and the builder puts together."""

from __future__ import annotations

from msgspec import Struct


# A struct, as a large policy has hundreds of thousands: it costs a tenth of a dataclass.
class Token(Struct, frozen=True, gc=False):
    """One word or sign. `type` is its terminal in the grammar; offsets count characters, `end` lies behind it."""

    type: str
    text: str
    start: int
    end: int
