"""The users that an issuer may name: `users like "*@partner.example"`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policyengine import kernel as k
from policyengine.runtime.globs import Glob
from policyengine.runtime.values import Invalid, Value


def speaks_for(issuer: k.Issuer, user: str) -> bool:
    """Return whether an issuer may name a user: the id of the user matches one of the issuer's patterns, or the issuer
    has no patterns."""
    return not issuer.users_like or any(Glob(pattern).matches(user) for pattern in issuer.users_like)


def mask_foreign_user(
    issuers: Mapping[str, k.Issuer], named: Iterable[Value], user: Value
) -> Mapping[tuple[str, ...], object]:
    """Return `user.id` as unknown if a named issuer may not name that user; otherwise an empty mapping."""
    if not isinstance(user, str):
        return {}
    declared = (issuers.get(name) for name in named if isinstance(name, str))
    foreign = next((one for one in declared if one is not None and not speaks_for(one, user)), None)
    return {} if foreign is None else {("user", "id"): Invalid(f"`{foreign.name}` may not name this user")}
