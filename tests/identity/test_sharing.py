"""`credential.shared`: one credential seen from several places, one key with several agents."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest

from policyengine.identity.shared_credentials import SharingDetector
from policyengine.identity.verified import VerifiedCredential
from policyengine.runtime.credentials import Credentials
from tests.generate.impostors import Agreeable
from tests.identity.bound_world import API_KEY, NOW, World, jkt, proof

HOUR = 3_600


def proved(name: str = "token:a", presenter: str = "acme/bot#") -> VerifiedCredential:
    return VerifiedCredential(
        {"credential": {"shared": False}}, NOW + HOUR, frozenset({name}), name, True, (name,), presenter
    )


@pytest.mark.parametrize(("first", "second", "shared"), [
    ("10.1.2.3", "10.1.2.3", False), ("10.1.2.3", "10.1.2.250", False), ("10.1.2.3", "10.1.3.3", True),
    ("2001:db8:1::1", "2001:db8:1:ffff::2", False), ("2001:db8:1::1", "2001:db8:2::1", True),
    ("10.1.2.3", "::ffff:10.1.2.9", False), ("10.1.2.3", "2001:db8::1", True), ("::1", "0.0.0.1", True),
    ("10.1.2.3", None, False), (None, "10.1.2.3", False), ("10.1.2.3", "nowhere", False), (7, [], False),
])  # fmt: skip
def test_a_credential_used_from_two_networks_is_shared(first: object, second: object, shared: bool) -> None:
    sharing = SharingDetector()
    assert sharing.shared(proved(), first, NOW) is False
    assert sharing.shared(proved(), second, NOW + 1) is shared


def test_an_address_object_that_equals_everything_does_not_hide_a_network() -> None:
    sharing = SharingDetector()
    said = (Agreeable("10.1.2.3"), "192.0.2.1", "10.9.9.9")
    assert [sharing.shared(proved(), ip, NOW) for ip in said] == [False, False, True]


def test_a_request_without_an_address_does_not_hide_a_network() -> None:
    sharing = SharingDetector()
    assert [sharing.shared(proved(), ip, NOW) for ip in ("10.1.2.3", None, "192.0.2.1")] == [False, False, True]


def test_a_credential_stays_shared_until_the_window_ends() -> None:
    sharing = SharingDetector(window=HOUR)
    for ip in ("10.1.2.3", "192.0.2.1"):
        sharing.shared(proved(), ip, NOW)
    told = {after: sharing.shared(proved(), "192.0.2.1", NOW + after) for after in (1, HOUR - 1, HOUR)}
    assert told == {1: True, HOUR - 1: True, HOUR: False}
    assert sharing.shared(proved(), "10.1.2.3", NOW + HOUR + 1) is True


def test_a_new_network_after_the_window_is_not_sharing() -> None:
    sharing = SharingDetector(window=HOUR)
    assert sharing.shared(proved(), "10.1.2.3", NOW) is False
    assert sharing.shared(proved(), "192.0.2.1", NOW + HOUR) is False


def test_steady_use_keeps_the_network_in_the_window() -> None:
    sharing = SharingDetector(window=HOUR)
    for after in (0, HOUR - 1, 2 * HOUR - 2):
        assert sharing.shared(proved(), "10.1.2.3", NOW + after) is False
    assert sharing.shared(proved(), "192.0.2.1", NOW + 3 * HOUR - 3) is True


@pytest.mark.parametrize("other", ["acme/admin#", "acme/bot#pod-2", "other/bot#"])
def test_a_key_presented_by_two_principals_is_shared(other: str) -> None:
    sharing = SharingDetector()
    assert sharing.shared(proved("key:k"), None, NOW) is False
    assert sharing.shared(proved("key:k", other), None, NOW) is True
    assert sharing.shared(proved("key:k"), None, NOW) is True


def test_sharing_is_unknown_for_new_credentials_while_the_table_is_full() -> None:
    sharing = SharingDetector(window=HOUR, most=2)
    for name in ("token:a", "token:b"):
        assert sharing.shared(proved(name), "10.1.2.3", NOW) is False
    assert sharing.shared(proved("token:c"), "10.1.2.3", NOW) is None
    assert "shared" not in sharing.told(proved("token:c"), "10.1.2.3", NOW).facts["credential"]
    assert sharing.shared(proved("token:a"), "192.0.2.1", NOW) is True
    assert sharing.shared(proved("token:c"), "10.1.2.3", NOW + HOUR) is False


def test_concurrent_use_from_many_networks_is_detected_as_shared() -> None:
    sharing, together, found = SharingDetector(), Barrier(8), []

    def use(number: int) -> None:
        together.wait(10)
        for _ in range(200):
            sharing.shared(proved(), f"10.1.{number}.3", NOW)
        together.wait(10)
        found.append(sharing.shared(proved(), f"10.1.{number}.3", NOW))

    threads = [Thread(target=use, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert found == [True] * 8


# ── Through the front ─────────────────────────────────────────────────────────────────────────


def shared(world: World, given: Credentials, ip: str = "10.1.2.3") -> object:
    return world.prove(given, ip=ip).facts["credential"].get("shared")


def test_a_bearer_token_used_from_two_networks_is_shared(world: World) -> None:
    given = Credentials(authorization=f"Bearer {world.issued.token()}")
    assert [shared(world, given, ip) for ip in ("10.1.2.3", "10.1.2.4", "192.0.2.1", "10.1.2.3")] == [
        False, False, True, True,
    ]  # fmt: skip


def test_an_api_key_used_from_two_networks_is_shared(world: World) -> None:
    given = Credentials(api_key=API_KEY)
    assert [shared(world, given, ip) for ip in ("10.1.2.3", "192.0.2.1")] == [False, True]


def test_a_dpop_key_in_the_tokens_of_two_agents_is_shared(world: World) -> None:
    def asked(agent: str, number: int) -> object:
        token = world.issued.token({"jkt": jkt()}, agent)
        return shared(world, Credentials(authorization=f"DPoP {token}", dpop=proof(token, jti=f"p-{number}")))

    assert [asked("one", 1), asked("one", 2), asked("other", 3), asked("one", 4)] == [False, False, True, True]


def test_a_rejected_credential_does_not_count_as_use(world: World) -> None:
    token = world.issued.token({"jkt": jkt()})
    stolen = Credentials(authorization=f"Bearer {token}")
    assert world.refusal(stolen, ip="192.0.2.1") == "wrong_scheme"
    assert shared(world, Credentials(authorization=f"DPoP {token}", dpop=proof(token))) is False
