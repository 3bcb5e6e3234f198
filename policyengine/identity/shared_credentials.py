"""Detects credentials used from several networks, and keys used by several agents: the fact `credential.shared`.

It watches proved identities: the key to which a credential is bound, or otherwise the credential itself. Networks come
from the client address that the gateway reports.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from threading import Lock

from policyengine.identity.verified import VerifiedCredential

MAX_WATCHED_NAMES = 200_000
SWEEP_SECONDS = 10  # minimum seconds between sweeps of expired entries


def address_text(ip: object) -> str | None:
    """Return the text of an address, or None for a value that is not an address. A subclass of `str` is ignored,
    because it could claim to equal every address.
    """
    if type(ip) is str:
        return ip
    return str(ip) if type(ip) in (IPv4Address, IPv6Address) else None


@dataclass(slots=True)
class CredentialUse:
    """The last use of a credential or key: the reported `ip`, its network `place`, the `presenter`, the time (`last`),
    and the time until which the credential or key counts as `shared`.
    """

    ip: str | None
    place: str | None
    presenter: str
    last: int
    shared: int = 0


@dataclass
class SharingDetector:
    """A detector of shared credentials; threads may share it. `window` is in seconds; `ipv4` and `ipv6` are the prefix
    lengths of a network. When full, it watches no new names, and their `credential.shared` is unknown.
    """

    window: int = 3_600
    ipv4: int = 24
    ipv6: int = 48
    most: int = MAX_WATCHED_NAMES
    _uses: dict[str, CredentialUse] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)
    _sweep: int = 0

    def told(self, found: VerifiedCredential, ip: object, now: int) -> VerifiedCredential:
        """Count a use, and return the credential `found` with the current value of `credential.shared`, which is false
        in `found`.
        """
        ip = address_text(ip)
        use = self._uses.get(found.watched[0]) if len(found.watched) == 1 else None
        if use is not None and use.ip == ip and use.shared <= now and use.presenter == found.presenter:
            use.last = now  # without the lock: the most common case
            return found
        shared = self.shared(found, ip, now)
        if shared is False:
            return found
        credential = {name: value for name, value in found.facts["credential"].items() if name != "shared"}
        more = {} if shared is None else {"shared": True}
        return replace(found, facts={**found.facts, "credential": {**credential, **more}})

    def shared(self, found: VerifiedCredential, ip: object, now: int) -> bool | None:
        ip, known, seen = address_text(ip), True, False
        for name in found.watched:
            use = self._uses.get(name)
            if use is None or use.ip != ip or use.presenter != found.presenter:
                use = self._record_use(name, found.presenter, ip, now)
            else:
                use.last = now
            known = known and use is not None
            seen = seen or (use is not None and use.shared > now)
        return seen or (False if known else None)

    def _record_use(self, name: str, presenter: str, ip: str | None, now: int) -> CredentialUse | None:
        place = self._place(ip)
        with self._lock:
            use = self._uses.get(name)
            if use is None or use.last + self.window <= now:
                if use is None and not self._has_room(now):
                    return None
                use = self._uses[name] = CredentialUse(ip, place, presenter, now)
                return use
            moved = place is not None and use.place is not None and place != use.place
            if moved or presenter != use.presenter:
                use.shared = max(use.shared, now + self.window)
            use.ip, use.place, use.presenter, use.last = ip, place or use.place, presenter, now
            return use

    def _place(self, ip: str | None) -> str | None:
        try:
            address = ip_address(ip or "")
            mapped = getattr(address, "ipv4_mapped", None)
            address = address if mapped is None else mapped
            return str(ip_network(f"{address}/{self.ipv4 if address.version == 4 else self.ipv6}", strict=False))
        except ValueError:
            return None

    def _has_room(self, now: int) -> bool:
        if len(self._uses) >= self.most and now >= self._sweep:
            self._sweep = now + SWEEP_SECONDS
            for name in [name for name, use in self._uses.items() if use.last + self.window <= now]:
                del self._uses[name]
        return len(self._uses) < self.most
