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

NON_ALPHANUMERIC: Final = re.compile(r"[^a-z0-9]")
AMBIGUOUS_NAME: Final = Invalid("given in two spellings, which some servers take for one name")
OTHER_SPELLING: Final = Invalid("absent, but there in another spelling")
GATEWAY_PREFIXES: Final = ("x-auth-", "x-forwarded-")


def fold_header_name(name: str) -> str:
    """One spelling for all names that some server may take for the same."""
    return NON_ALPHANUMERIC.sub("-", name.casefold())


def has_other_spelling(headers: Iterable[str], name: str) -> bool:
    """Whether a name is there that some servers take for this one."""
    folded = fold_header_name(name)
    return any(one != name and fold_header_name(one) == folded for one in headers)


def ambiguous_names(headers: Collection[str]) -> frozenset[str]:
    """Those of the names, in lower case, of which some server takes one for another."""
    counts = Counter(map(fold_header_name, headers))
    return frozenset(name for name in headers if counts[fold_header_name(name)] > 1)


def check_spellings(headers: Mapping[str, object], reserved: Iterable[str]) -> None:
    """A server may take `X_Agent_Id` or `X.Agent.Id` for `X-Agent-Id`, of which it trusts what it says. Names are in
    lower case. Raises RequestError."""
    known = frozenset(reserved)
    folded = frozenset(map(fold_header_name, known))
    for name in headers:
        same = fold_header_name(name)
        if name not in known and (same in folded or (same != name and same.startswith(GATEWAY_PREFIXES))):
            why = f"the header `{name}` is another spelling of `{same}`, which some servers take for it"
            raise RequestError(f"headers.{name}", why)
