"""Configuration holds references to secrets, and nothing shows what lies there."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import socket
import stat
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from policyengine.identity.config.model import IdentityConfigError, OpenBaoSettings, parse_identity_config
from policyengine.identity.config.secret_references import parse_secret_reference
from policyengine.identity.openbao import RETRY_SECONDS, OpenBaoClient
from policyengine.identity.secret_reader import MAX_SECRET_BYTES, Secret, SecretReader
from policyengine.identity.single_flight import SingleFlightTimeoutError
from tests.identity.openbao import ROOT_TOKEN, OpenBao
from tests.identity.providing import PATIENCE, Faulty, Handling, drips_body, faulty, hangs
from tests.identity.test_fetching import over_tls
from tests.ports import free_port
from tests.processes import is_usually_within, wait_until

PASTED = "hunter2-correct-horse"
NOW = 1_800_000_000


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_secret_is_neither_printed_nor_pickled():
    secret = Secret(PASTED)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>20}",
        repr([secret]),
        json.dumps(str(secret)),
    ]
    assert not any("hunter2" in one for one in shown)
    assert secret.reveal() == PASTED
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)


def test_secrets_are_comparable_but_not_hashable():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    with pytest.raises(TypeError):
        hash(Secret("a"))


@pytest.mark.parametrize(
    "text",
    [
        PASTED, "", "file:", "env:", "env:A B", "env:1A", "bao:secret", "bao:secret/app", "bao:secret/app#", "bao:/a#b",
        "bao:secret/../sys#x", "bao:secret/a/../b#x", "bao:secret/a?version=1#x",
        "vault:secret/a#b", "FILE:/x", "file:a\0b",
    ],
)  # fmt: skip
def test_an_invalid_secret_reference_is_rejected_without_quoting_it(text: str):
    with pytest.raises(ValueError, match="this is not a reference to a secret") as found:
        parse_secret_reference(text)
    assert len(text) < 8 or text not in str(found.value)
    with pytest.raises(IdentityConfigError) as told:
        SecretReader().read(text, NOW)
    assert len(text) < 8 or text not in str(told.value)


@pytest.mark.parametrize(
    ("raw", "setting"),
    [
        ({"issuers": {"acme": {"client_secret": PASTED}}}, "issuers.acme.client_secret"),
        ({"bao": {"address": "https://bao", "token": PASTED}}, "bao.token"),
        ({"bao": {"address": "https://bao", "token": "bao:secret/a#b"}}, "bao.token"),
        ({"signing": {"keys": PASTED, "issuer": "desk"}}, "signing.keys"),
    ],
)
def test_a_literal_secret_in_the_configuration_is_rejected_without_quoting_it(raw: dict[str, object], setting: str):
    with pytest.raises(IdentityConfigError) as found:
        parse_identity_config(raw)
    assert f"`{setting}`" in str(found.value)
    assert PASTED not in str(found.value)


# ── Files and variables ───────────────────────────────────────────────────────────────────────


def test_a_secret_file_is_read_without_its_final_newline(tmp_path: Path):
    private(tmp_path / "one", "s3cret \n")
    assert SecretReader(tmp_path).read("file:one", NOW) == Secret("s3cret ")
    private(tmp_path / "two", "a\nb\r\n")
    assert SecretReader(tmp_path).read("file:two", NOW) == Secret("a\nb")


def test_a_changed_secret_file_is_reloaded(tmp_path: Path):
    secrets, path = SecretReader(tmp_path), private(tmp_path / "one", "old")
    assert secrets.read("file:one", NOW) == Secret("old")
    private(tmp_path / "next", "new").replace(path)
    assert secrets.read("file:one", NOW) == Secret("new")


def test_a_temporarily_missing_secret_file_keeps_the_last_value(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    secrets, path = SecretReader(tmp_path), private(tmp_path / "one", "old")
    secrets.read("file:one", NOW)
    path.unlink()
    with caplog.at_level(logging.WARNING, "policyengine"):
        assert secrets.read("file:one", NOW) == secrets.read("file:one", NOW) == Secret("old")
    assert len(caplog.records) == 1
    private(path, "new")
    assert secrets.read("file:one", NOW) == Secret("new")


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666, 0o620, 0o601])
def test_a_secret_file_accessible_to_other_users_is_rejected(tmp_path: Path, mode: int):
    path = private(tmp_path / "one", PASTED)
    path.chmod(mode)
    with pytest.raises(
        IdentityConfigError, match=r"other users of this machine can access .* \(run `chmod 600"
    ) as found:
        SecretReader(tmp_path).read("file:one", NOW)
    assert PASTED not in str(found.value)


def test_a_group_readable_secret_file_is_accepted(tmp_path: Path):
    private(tmp_path / "one", "x").chmod(0o640)
    assert SecretReader(tmp_path).read("file:one", NOW) == Secret("x")


def test_an_unusable_secret_file_is_rejected_with_its_cause(tmp_path: Path):
    private(tmp_path / "empty", "\n")
    private(tmp_path / "large", "x" * (MAX_SECRET_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "binary").chmod(0o600)
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    for name, why in (
        ("none", "no such file"), ("empty", "is empty"), ("large", "larger than"), ("binary", "is not UTF-8 text"),
        ("pipe", "is not a regular file"), ("folder", "is not a regular file"),
    ):  # fmt: skip
        with pytest.raises(IdentityConfigError, match=why):
            SecretReader(tmp_path).read(f"file:{name}", NOW)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_an_environment_secret_is_read_each_time():
    environment = {"TOKEN": "one"}
    secrets = SecretReader(environment=environment)
    assert secrets.read("env:TOKEN", NOW) == Secret("one")
    environment["TOKEN"] = "two"
    assert secrets.read("env:TOKEN", NOW) == Secret("two")
    with pytest.raises(IdentityConfigError, match="`env:OTHER`: the variable is not set"):
        secrets.read("env:OTHER", NOW)
    assert "two" not in repr(secrets)


# ── OpenBao ───────────────────────────────────────────────────────────────────────────────────


def settings(address: str, **more: object) -> OpenBaoSettings:
    return OpenBaoSettings.model_validate({"address": address, "token": "env:BAO", **more})


def secrets_in(address: str, token: str = ROOT_TOKEN, folder: Path = Path(), **more: object) -> SecretReader:
    secrets = SecretReader(folder, environment={"BAO": token})
    secrets.bao = OpenBaoClient.of(settings(address, **more), secrets)
    return secrets


def put(bao: OpenBao, path: str, **fields: object) -> None:
    bao.client.secrets.kv.v2.create_or_update_secret(path=path, secret=fields, mount_point="secret")


def test_an_openbao_secret_is_cached_and_refreshed(openbao: OpenBao):
    put(openbao, "app/db", password="one")
    secrets = secrets_in(openbao.address)
    assert secrets.read("bao:secret/app/db#password", NOW) == Secret("one")
    put(openbao, "app/db", password="two")
    assert secrets.read("bao:secret/app/db#password", NOW + 299) == Secret("one")
    assert secrets.read("bao:secret/app/db#password", NOW + 300) == Secret("two")


@pytest.mark.parametrize(
    ("reference", "token", "why"),
    [
        ("bao:secret/nowhere#x", ROOT_TOKEN, "not found in OpenBao"),
        ("bao:secret/app/some#other", ROOT_TOKEN, "has no string `other`"),
        ("bao:secret/app/some#number", ROOT_TOKEN, "has no string `number`"),
        ("bao:secret/app/some#empty", ROOT_TOKEN, "is empty"),
        ("bao:secret/app/some#password", "s.wrong", "does not permit this token to read it"),
        ("bao:cubbyhole/app/some#password", ROOT_TOKEN, "not found in OpenBao"),
    ],
)
def test_an_openbao_error_names_the_cause_without_quoting_secrets(
    openbao: OpenBao, reference: str, token: str, why: str
):
    put(openbao, "app/some", password=PASTED, number=7, empty="")
    with pytest.raises(IdentityConfigError, match=why) as found:
        secrets_in(openbao.address, token).read(reference, NOW)
    assert PASTED not in str(found.value)
    assert token not in str(found.value)


def test_an_unreachable_openbao_at_startup_is_an_error():
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(IdentityConfigError, match=f"OpenBao at `{address}` does not answer"):
        secrets_in(address).read("bao:secret/app#x", NOW)


def test_an_openbao_secret_survives_an_outage_until_it_is_stale(openbao: OpenBao, caplog: pytest.LogCaptureFixture):
    put(openbao, "app/kept", x="kept")
    secrets = secrets_in(openbao.address, refresh="1m", stale="1h")
    assert secrets.read("bao:secret/app/kept#x", NOW) == Secret("kept")
    assert isinstance(secrets.bao, OpenBaoClient)
    secrets.bao.settings = settings(f"http://127.0.0.1:{free_port()}", refresh="1m", stale="1h")
    with caplog.at_level(logging.WARNING, "policyengine"):
        for later in (60, 61, 60 + RETRY_SECONDS, 3_600):
            assert secrets.read("bao:secret/app/kept#x", NOW + later) == Secret("kept")
    assert len(caplog.records) == 3  # not at every question
    with pytest.raises(IdentityConfigError, match="has not answered for 3,601 seconds"):
        secrets.read("bao:secret/app/kept#x", NOW + 3_601)
    secrets.bao.settings = settings(openbao.address)
    assert secrets.read("bao:secret/app/kept#x", NOW + 3_700) == Secret("kept")


@pytest.fixture
def silent() -> Iterator[int]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_silent_openbao_times_out(silent: int):
    secrets = secrets_in(f"http://127.0.0.1:{silent}", timeout="50ms")
    with pytest.raises(IdentityConfigError, match=r"did not answer within 0\.05 seconds"):
        secrets.read("bao:secret/app#x", NOW)


def test_an_openbao_that_drips_its_response_times_out(server: Faulty):
    server.pages["/v1/secret/data/app"] = drips_body

    def read() -> None:
        with pytest.raises(IdentityConfigError, match=r"did not answer within 0\.1 seconds"):
            secrets_in(server.url, timeout="100ms").read("bao:secret/app#x", NOW)

    assert is_usually_within(5, read)


def begins_and_hangs(request: Handling) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    request.server.ends.wait(PATIENCE)


def test_an_openbao_that_stops_in_its_response_times_out(server: Faulty):
    """The request itself ends with a timeout, whichever of the two limits is noticed first."""
    server.pages["/v1/secret/data/app"] = begins_and_hangs
    bao = secrets_in(server.url, timeout="100ms").bao
    assert isinstance(bao, OpenBaoClient)
    with pytest.raises(SingleFlightTimeoutError):
        bao._asked("app", lambda client: client.read("secret/data/app"), NOW)


def test_a_hanging_openbao_is_limited_to_a_few_concurrent_requests(server: Faulty, monkeypatch: pytest.MonkeyPatch):
    server.pages["/v1/secret/data/app"] = hangs
    monkeypatch.setattr("policyengine.identity.openbao.MAX_REQUESTS_AT_ONCE", 1)
    secrets = secrets_in(server.url, timeout="30s")
    refused: list[IdentityConfigError] = []

    def read(name: str) -> None:
        with pytest.raises(IdentityConfigError) as caught:
            secrets.read(f"bao:secret/app#{name}", NOW)
        refused.append(caught.value)

    hanging = threading.Thread(target=read, args=("x",))
    hanging.start()
    wait_until(lambda: server.asked)
    read("y")
    server.ends.set()
    hanging.join()
    second, first = map(str, refused)
    assert "is not available now: too many requests are in progress" in second
    assert "does not answer" in first


def test_openbao_is_trusted_only_by_the_configured_certificates(certificate: tuple[Path, Path]):
    told = {"data": {"data": {"x": "kept"}, "metadata": {}}}
    with faulty() as secure:
        over_tls(secure, certificate)
        secure.pages["/v1/secret/data/app"] = json.dumps(told).encode()
        address = f"https://127.0.0.1:{secure.server_port}"
        secrets = secrets_in(address, folder=certificate[0].parent, ca=certificate[0].name)
        assert secrets.read("bao:secret/app#x", NOW) == Secret("kept")
        with pytest.raises(IdentityConfigError, match="certificate of OpenBao is not trusted"):
            secrets_in(address).read("bao:secret/app#x", NOW)


def test_an_invalid_openbao_address_or_ca_is_rejected_at_startup(tmp_path: Path):
    for address, why in (
        ("http://bao.example:8200", "`bao.address`: the URL must begin with `https://` (`plain_http = true`"),
        ("bao.example:8200", "`bao.address`: the URL"),
        ("", "`bao.address`: the URL"),
    ):
        with pytest.raises(IdentityConfigError, match=re.escape(why)):
            secrets_in(address)
    assert secrets_in("http://bao.example:8200", plain_http=True).bao
    with pytest.raises(IdentityConfigError, match=r"the certificates of `.*missing\.pem` cannot be used: no such file"):
        secrets_in("https://bao.example", folder=tmp_path, ca="missing.pem")


def test_an_openbao_secret_is_refreshed_before_it_is_stale(server: Faulty):
    server.pages["/v1/secret/data/app"] = json.dumps({"data": {"data": {"x": "kept"}, "metadata": {}}}).encode()
    secrets = secrets_in(server.url, refresh="5m", stale="10s")
    assert [secrets.read("bao:secret/app#x", NOW + later) for later in (0, 9, 11)] == [Secret("kept")] * 3
    assert len(server.asked) == 2


def test_the_openbao_token_is_not_sent_to_a_redirect_target():
    """A redirect is no answer."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.1)

        def serve() -> None:
            connection = server.accept()[0]
            asked.append(connection.recv(65_536))
            where = f"http://127.0.0.1:{other.getsockname()[1]}/"
            connection.sendall(f"HTTP/1.1 307 Elsewhere\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(IdentityConfigError):
            secrets_in(f"http://127.0.0.1:{server.getsockname()[1]}").read("bao:secret/app#x", NOW)
        thread.join()
        assert ROOT_TOKEN.encode() in asked[0]
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_slow_refresh_does_not_block_readers_of_the_cached_value():
    """One asks again; the others take what is known."""
    from policyengine.identity.openbao import RefreshedValue

    entered, go = threading.Event(), threading.Event()
    answers = iter(["first", "second"])

    def asks() -> str:
        if entered.is_set() or next_is_slow:
            entered.set()
            assert go.wait(10)
        return next(answers)

    next_is_slow = False
    kept = RefreshedValue(asks, refresh=10, stale=100)
    assert kept.read(NOW) == "first"
    next_is_slow = True
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(kept.read(NOW + 10)))
    thread.start()
    assert entered.wait(10)
    assert kept.read(NOW + 10) == "first"
    go.set()
    thread.join()
    assert found == ["second"]
    assert kept.read(NOW + 11) == "second"


def test_openbao_issues_certificates_for_spiffe_ids(openbao: OpenBao):
    x509 = pytest.importorskip("cryptography.x509")
    found = openbao.certificate("spiffe://demo.example/agent/planner")
    certificate = x509.load_pem_x509_certificate(found["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://demo.example/agent/planner"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(found["issuing_ca"].encode()))


def test_openbao_durations_have_the_documented_defaults():
    found = settings("https://bao.example")
    assert (found.timeout, found.refresh, found.stale) == (
        timedelta(seconds=2),
        timedelta(minutes=5),
        timedelta(hours=1),
    )
