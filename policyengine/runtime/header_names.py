"""Spellings of header names that some server treats as the same name.

CGI and its successors (PHP, Rack, WSGI) map a header to a variable, where dashes, dots and other characters become
underscores. There, `X.Role`, `X_Role` and `X-Role` are one header.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from policyengine.runtime.structure_checks import RequestError
from policyengine.runtime.values import Invalid

NON_ALPHANUMERIC: Final = re.compile(r"[^a-z0-9]")
AMBIGUOUS_NAME: Final = Invalid("given in two spellings, which some servers treat as one name")
OTHER_SPELLING: Final = Invalid("absent, but present in another spelling")
GATEWAY_PREFIXES: Final = ("x-auth-", "x-forwarded-")


def fold_header_name(name: str) -> str:
    """Return one spelling for all names that some server may treat as the same."""
    return NON_ALPHANUMERIC.sub("-", name.casefold())


def has_other_spelling(headers: Iterable[str], name: str) -> bool:
    """Return whether the headers include another spelling of this name."""
    folded = fold_header_name(name)
    return any(one != name and fold_header_name(one) == folded for one in headers)


def ambiguous_names(headers: Collection[str]) -> frozenset[str]:
    """Return the names, in lower case, that some server treats as equal to another of these names."""
    counts = Counter(map(fold_header_name, headers))
    return frozenset(name for name in headers if counts[fold_header_name(name)] > 1)


def check_spellings(headers: Iterable[str], reserved: Iterable[str]) -> None:
    """Check that no header is another spelling of a reserved header, or of a header with a gateway's prefix.

    A server may treat `X_Agent_Id` or `X.Agent.Id` as `X-Agent-Id`, which it trusts. Names are in lower case. Raises
    RequestError.
    """
    known = ReservedNames.of(frozenset(reserved))
    for name in headers:
        if known.has_spelling(name):
            raise spelling_error(name)


class ReservedNames(NamedTuple):
    """Trusted headers, such as those that only a gateway may set, and their folded spellings."""

    names: frozenset[str]
    folded: frozenset[str]

    @classmethod
    def of(cls, names: frozenset[str]) -> ReservedNames:
        return cls(names, folded_names(names))

    def has_spelling(self, name: str) -> bool:
        """Return whether the name is another spelling of one of these names, or of a name with a gateway's prefix."""
        same = fold_header_name(name)
        respelled = same in self.folded or (same != name and same.startswith(GATEWAY_PREFIXES))
        return respelled and name not in self.names


@lru_cache(maxsize=64)  # each adapter has one set
def folded_names(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(fold_header_name, names))


def spelling_error(name: str) -> RequestError:
    same = fold_header_name(name)
    why = f"the header `{name}` is another spelling of `{same}`, which some servers treat as that name"
    return RequestError(f"headers.{name}", why)
