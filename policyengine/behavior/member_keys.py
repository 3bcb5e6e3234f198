"""The keys of callers in groups: keyed digests, from which only holders of the secret key learn a name."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

HASH_BYTES: Final = 8
KEY_BYTES: Final = 12
MAX_CACHED: Final = 65_536


class MemberKeys:
    """Computes the keys of the members of groups, and the ids of groups. All instances and versions of an agent are one
    member, so that no member leaves its group by starting a new instance."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._known: dict[tuple[str, str], str] = {}

    def of(self, issuer: str, agent: str) -> str:
        """Return the key of an agent."""
        name = issuer, agent
        found = self._known.get(name)
        if found is None:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            found = self._known[name] = self.of_hash(issuer, self.hash_agent(agent))
        return found

    def hash_agent(self, agent: str) -> str:
        """Return the keyed hash of the name of an agent."""
        return blake2b(agent.encode(), digest_size=HASH_BYTES, key=self._secret).hexdigest()

    def of_hash(self, issuer: str, hashed: str) -> str:
        """Return the key of an agent from the hash of its name."""
        text = f"{len(issuer)}:{issuer}{hashed}".encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=KEY_BYTES, key=self._secret, person=b"group member").hexdigest()

    def name_group(self, members: list[str], day: int) -> str:
        """Return the id of a new group: members that form another group on a later day get another id."""
        text = ",".join((str(day), *sorted(members))).encode()
        return blake2b(text, digest_size=KEY_BYTES, key=self._secret, person=b"group").hexdigest()
