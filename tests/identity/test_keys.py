"""Keys that sign: published before they sign and until their last token has ended."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from policyengine.identity.config.model import IdentityConfigError, OpenBaoSettings
from policyengine.identity.config.secret_references import TransitKeyReference
from policyengine.identity.keys.openbao_signer import OpenBaoSigner
from policyengine.identity.keys.signing_keys import (
    MAX_KEY_SECONDS,
    KeyRing,
    KeyRingFile,
    KeyState,
    new_ring,
    parse_key_ring,
    read_ring,
    rotate_ring,
    write_ring,
)
from policyengine.identity.openbao import OpenBaoClient
from policyengine.identity.secret_reader import SecretReader
from tests.identity.openbao import ROOT_TOKEN, OpenBao

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
NOW = 1_800_000_000
AHEAD, KEEP = 600, 3_600


def states(ring: KeyRing, now: int) -> list[str]:
    return [ring.state(one, now).value for one in ring.keys]


def verified(token: str, published: list[dict[str, object]]) -> dict[str, object]:
    keys = KeySet.import_key_set({"keys": published})  # type: ignore[typeddict-item]
    return dict(jwt.decode(token, keys, algorithms=["ES256", "EdDSA"]).claims)


def test_rotation_publishes_the_new_key_before_it_signs_and_keeps_the_old_one():
    ring = new_ring("ES256", NOW).rotated("ES256", NOW, AHEAD, KEEP)
    old, new = ring.keys
    for later, expected, signs in (
        (0, ["signs", "waits"], old),
        (AHEAD - 1, ["signs", "waits"], old),
        (AHEAD, ["stays", "signs"], new),
        (AHEAD + KEEP - 1, ["stays", "signs"], new),
        (AHEAD + KEEP, ["gone", "signs"], new),
    ):
        assert states(ring, NOW + later) == expected
        assert ring.signs(NOW + later) is signs
    assert ring.published(NOW + AHEAD + KEEP) == (new,)


def test_every_signed_token_verifies_with_keys_fetched_at_any_time_before_it_expires(tmp_path: Path):
    """Over two rotations, by whoever fetched the keys at any time of the `ahead` before."""
    path = tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", NOW), new=True)
    rotations = {NOW + 1_000: "EdDSA", NOW + 1_200: "ES256", NOW + 9_000: "ES256"}
    keys = KeyRingFile.of(path)
    seen: list[tuple[int, list[dict[str, object]]]] = []
    for now in range(NOW, NOW + 14_000, 100):
        if now in rotations:
            rotate_ring(path, rotations[now], now, AHEAD, KEEP)
        seen.append((now, keys.published(now)))
        token = keys.sign({"typ": "at+jwt"}, {"iat": now}, now)
        for fetched, published in seen:
            if fetched == now or fetched >= now - AHEAD >= NOW:
                assert verified(token, published)["iat"] == now
        later = KeyRingFile.of(path).file.read().published(now + KEEP - 1)
        assert json.loads(header(token))["kid"] in {one.kid for one in later}


def header(token: str) -> bytes:
    from base64 import urlsafe_b64decode

    part = token.split(".")[0]
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_a_rotation_with_zero_times_withdraws_old_keys_immediately():
    ring = new_ring("ES256", NOW).rotated("ES256", NOW, AHEAD, KEEP).rotated("ES256", NOW + 1, 0, 0)
    assert states(ring, NOW + 1) == ["gone", "gone", "signs"]
    assert ring.signs(NOW + 5_000) is ring.keys[-1]


def test_the_newest_key_signs_even_if_an_earlier_one_is_still_waiting():
    ring = new_ring("ES256", NOW).rotated("ES256", NOW, AHEAD, KEEP).rotated("ES256", NOW + 1, 0, KEEP)
    assert states(ring, NOW + 1) == [KeyState.STAYS, KeyState.STAYS, KeyState.SIGNS]
    assert states(ring, NOW + AHEAD) == [KeyState.STAYS, KeyState.STAYS, KeyState.SIGNS]


def test_a_rotation_drops_withdrawn_keys():
    ring = new_ring("ES256", NOW).rotated("ES256", NOW, 0, 10).rotated("ES256", NOW + 10, 0, 10)
    assert len(ring.keys) == 2


def test_a_rotation_beyond_fifty_published_keys_is_rejected():
    ring = new_ring("ES256", NOW)
    for _ in range(49):
        ring = ring.rotated("ES256", NOW, AHEAD, KEEP)
    with pytest.raises(IdentityConfigError, match="50 keys are published already"):
        ring.rotated("ES256", NOW, AHEAD, KEEP)


@pytest.mark.parametrize(("ahead", "keep"), [(MAX_KEY_SECONDS + 1, KEEP), (AHEAD, 86_400 * 10**9)])
def test_an_excessive_rotation_time_is_rejected_before_the_file_is_written(tmp_path: Path, ahead: int, keep: int):
    path = tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", NOW), new=True)
    with pytest.raises(IdentityConfigError, match="longer than ten years"):
        rotate_ring(path, None, NOW, ahead, keep)
    assert len(read_ring(path).keys) == 1


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_a_key_ring_file_is_private_and_round_trips(tmp_path: Path, algorithm: str):
    path, ring = tmp_path / "signing.json", new_ring(algorithm, NOW).rotated(algorithm, NOW, AHEAD, KEEP)
    write_ring(path, ring, new=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.to_dict() for one in read_ring(path).keys] == [one.to_dict() for one in ring.keys]
    with pytest.raises(FileExistsError):
        write_ring(path, ring, new=True)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_rotation_keeps_mode_and_owner_of_the_key_ring_file(tmp_path: Path, mode: int):
    """A server that is another user reads it by its group."""
    path = tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", NOW), new=True)
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    owner = path.stat()
    rotate_ring(path, None, NOW, AHEAD, KEEP)
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, owner.st_uid, owner.st_gid)


KILLED = """
import os, signal, sys
from pathlib import Path
from policyengine.identity.keys.signing_keys import rotate_ring
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
rotate_ring(Path(sys.argv[1]), None, 1_800_000_000, 600, 3_600)
"""


def test_a_killed_rotation_keeps_the_old_keys_and_the_next_one_cleans_up(tmp_path: Path):
    path = tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", NOW), new=True)
    before, other = path.read_bytes(), tmp_path / ".signing.json.backup"
    other.write_bytes(b"mine")
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3
    rotate_ring(path, None, NOW, AHEAD, KEEP)
    assert set(tmp_path.iterdir()) == {path, other}
    assert len(read_ring(path).keys) == 2


def test_published_keys_contain_no_private_member(tmp_path: Path):
    path = tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", NOW), new=True)
    keys = KeyRingFile.of(path)
    private = json.loads(path.read_bytes())["keys"][0]["d"]
    assert private not in json.dumps(keys.published(NOW))
    assert private not in repr(keys) + repr(read_ring(path))
    assert set(keys.published(NOW)[0]) == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def broken(**changes: object) -> bytes:
    one = new_ring("ES256", NOW).keys[0].to_dict()
    return json.dumps({"keys": [{**one, **changes}]}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"{\"keys\": []}", b"{\"keys\": [7]}", b"[" * 5_000, broken(kid="other"),
        broken(alg="HS256"), broken(d=None), broken(d="AAAA"), broken(created="now"), broken(signs_from=1.5),
        broken(gone_from="x"), broken(crv="P-384"), broken(alg="EdDSA"), broken(kty="oct"),
    ],
)  # fmt: skip
def test_an_invalid_key_ring_file_is_rejected_without_quoting_it(content: bytes):
    with pytest.raises(IdentityConfigError, match=r"`signing\.json` is not a file of signing keys") as found:
        parse_key_ring(content, "signing.json")
    assert found.value.__cause__ is None


def test_concurrent_rotations_lose_no_key(tmp_path: Path):
    path = tmp_path / "signing.json"
    write_ring(path, new_ring("ES256", NOW), new=True)
    threads = [threading.Thread(target=rotate_ring, args=(path, None, NOW, AHEAD, KEEP)) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(read_ring(path).keys) == 9


# ── OpenBao signs ─────────────────────────────────────────────────────────────────────────────


def transit(openbao: OpenBao, name: str, kind: str, **more: object) -> OpenBaoSigner:
    client = openbao.client
    if "transit/" not in client.sys.list_mounted_secrets_engines()["data"]:
        client.sys.enable_secrets_engine("transit")
    client.secrets.transit.create_key(name, key_type=kind)
    settings = OpenBaoSettings.model_validate({"address": openbao.address, "token": "env:BAO", "refresh": "1m", **more})
    bao = OpenBaoClient.of(settings, SecretReader(environment={"BAO": ROOT_TOKEN}))
    return OpenBaoSigner(bao, TransitKeyReference("transit", name), AHEAD, KEEP)


@pytest.mark.parametrize(("kind", "algorithm"), [("ecdsa-p256", "ES256"), ("ed25519", "EdDSA")])
def test_openbao_signs_tokens_and_publishes_rotated_keys(openbao: OpenBao, kind: str, algorithm: str):
    keys = transit(openbao, f"agents-{kind}", kind)
    made = keys.versions(int(time.time()))[0].created  # OpenBao has a clock of its own
    token = keys.sign({"typ": "at+jwt"}, {"sub": "alice"}, made)
    assert verified(token, keys.published(made)) == {"sub": "alice"}
    assert json.loads(header(token))["alg"] == algorithm
    openbao.client.secrets.transit.rotate_key(f"agents-{kind}")
    later = made + 65  # what it said before is renewed then
    assert len(keys.published(later)) == 2
    assert keys.signs(later).number == 1
    changed = keys.versions(later)[1].created + AHEAD
    assert keys.signs(changed).number == 2
    assert verified(keys.sign({}, {"sub": "bob"}, changed), keys.published(later)) == {"sub": "bob"}
    assert [one["kid"] for one in keys.published(changed + KEEP)] == [keys.signs(changed).kid]


def test_an_openbao_key_of_an_unsupported_type_is_rejected(openbao: OpenBao):
    with pytest.raises(IdentityConfigError, match="has an unsupported type"):
        transit(openbao, "large", "rsa-2048").sign({}, {}, NOW)


def test_a_missing_openbao_key_is_rejected(openbao: OpenBao):
    keys = transit(openbao, "here", "ed25519")
    keys.place = TransitKeyReference("transit", "elsewhere")
    with pytest.raises(IdentityConfigError, match="not found in OpenBao"):
        keys.sign({}, {}, NOW)
