"""Spellings of header names: which of them some server takes for the same name.

CGI and what came after it (PHP, Rack, WSGI) write a header as a variable: dashes become underscores, and so do a dot
and other characters. `X.Role`, `X_Role` and `X-Role` are one header there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from policyengine.runtime.structure_checks import RequestError
from policyengine.runtime.values import Invalid

OTHER: Final = re.compile(r"[^a-z0-9]")
IN_TWO_SPELLINGS: Final = Invalid("given in two spellings, which some servers take for one name")
IN_ANOTHER_SPELLING: Final = Invalid("absent, but there in another spelling")
OF_GATEWAYS: Final = ("x-auth-", "x-forwarded-")


def fold(name: str) -> str:
    """One spelling for all names that some server may take for the same."""
    return OTHER.sub("-", name.casefold())


def in_another_spelling(headers: Iterable[str], name: str) -> bool:
    """Whether a name is there that some servers take for this one."""
    folded = fold(name)
    return any(one != name and fold(one) == folded for one in headers)


def ambiguous_names(headers: Collection[str]) -> frozenset[str]:
    """Those of the names, in lower case, of which some server takes one for another."""
    counts = Counter(map(fold, headers))
    return frozenset(name for name in headers if counts[fold(name)] > 1)


def check_spellings(headers: Mapping[str, object], reserved: Iterable[str]) -> None:
    """A server may take `X_Agent_Id` or `X.Agent.Id` for `X-Agent-Id`, of which it trusts what it says. Names are in
    lower case. Raises RequestError."""
    known = frozenset(reserved)
    folded = frozenset(map(fold, known))
    for name in headers:
        same = fold(name)
        if name not in known and (same in folded or (same != name and same.startswith(OF_GATEWAYS))):
            why = f"the header `{name}` is another spelling of `{same}`, which some servers take for it"
            raise RequestError(f"headers.{name}", why)
