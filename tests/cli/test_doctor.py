"""`policyengine doctor`: every check with something right and something wrong."""

import json
import os
import re
import socket
import sqlite3
import sys
import time
import tomllib
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from joserfc.jwk import ECKey

from policyengine.cli.doctor import listeners, machine, policies, storage
from policyengine.cli.doctor.machine import EXTRAS, MIN_OPEN_FILES
from policyengine.cli.doctor.model import DoctorStatus, ServePlan
from policyengine.identity.keys.signing_keys import new_ring, write_ring
from policyengine.install_hints import install_command
from policyengine.stores import clock_skew
from policyengine.stores.sqlite.store import SqliteStore
from tests.ports import free_port
from tests.stores.servers import running

LIMITED = 'language 1\npackage p\nanyone { may GET /a }\nrate "r" per request.path on GET /a { 5/1m }\n'


@pytest.fixture
def port():
    return free_port()


def statuses(found):
    return {one["check"]: one["status"] for one in found.json["checks"]}


def test_doctor_passes_on_a_healthy_machine(run, project, port):
    ended = run("doctor", project, "--port", port, "--format", "json")
    assert ended.code == 0
    assert ended.json["failed"] == 0
    assert {"python", "speed", "clock", "timezones", "files", "port", "store", "policies"} <= statuses(ended).keys()


def test_a_failed_check_exits_with_1_and_gives_a_hint(run, project, port):
    ended = run("doctor", project, "--port", port, "--host", "0.0.0.0")
    assert ended.code == 1
    assert "✗ port: `0.0.0.0` can be reached from other machines and no token is set" in ended.out
    assert "  hint: give the gateway a token with `--token-file FILE`" in ended.out
    assert ended.out.endswith("not ready to serve: 1 failed, 0 with warnings\n")


def test_doctor_has_only_options_of_serve(run):
    of_serve, of_doctor = (
        set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", run(command, "--help").out, re.MULTILINE))
        for command in ("serve", "doctor")
    )
    assert len(of_doctor) > 10
    assert of_doctor - of_serve == set()
    assert {"--console", "--behavior"} <= of_serve - of_doctor  # which its help names as not checked


def test_doctor_knows_every_extra():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert EXTRAS.keys() == extras["optional-dependencies"].keys() - {"build", "test", "bench", "dev"}


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), DoctorStatus.FAILED), ((3, 11), DoctorStatus.OK), ((3, 14), DoctorStatus.OK)]
)
def test_doctor_checks_the_python_version(version, status):
    assert machine.check_python(version).status is status


@pytest.mark.parametrize(("there", "status"), [(True, DoctorStatus.OK), (False, DoctorStatus.WARNING)])
def test_doctor_checks_the_optional_speedups(monkeypatch, there, status):
    monkeypatch.setattr(machine, "find_spec", lambda name: object() if there else None)
    [found] = machine.check_speed()
    assert found.status is status


def test_doctor_reports_a_missing_extra_and_its_use(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None if name == "redis" else object())
    missing, there = machine.check_extras()
    assert (missing.status, missing.hint) == (DoctorStatus.NOTE, install_command("redis"))
    assert "`--store redis://…`" in missing.message
    assert there.status is DoctorStatus.OK
    assert "redis" not in there.message


def test_doctor_rejects_a_clock_before_the_installation():
    assert machine.check_clock(1_000_000_000.0).status is DoctorStatus.FAILED
    assert machine.check_clock(5_000_000_000.0).status is DoctorStatus.OK


@pytest.mark.parametrize(
    ("zone", "status"), [("Europe/Berlin", DoctorStatus.OK), ("Nowhere/Land", DoctorStatus.FAILED)]
)
def test_doctor_checks_the_time_zone_database(zone, status):
    assert machine.check_time_zones(zone).status is status


@pytest.mark.parametrize(
    ("limit", "status"), [(1_024, DoctorStatus.WARNING), (MIN_OPEN_FILES, DoctorStatus.OK), (None, DoctorStatus.OK)]
)
def test_doctor_checks_the_open_file_limit(limit, status):
    assert machine.check_open_files(limit).status is status
    assert machine.open_file_limit() is None or machine.open_file_limit() > 0


@pytest.mark.parametrize("option", ["--port", "--metrics-port", "--envoy-grpc"])
def test_doctor_reports_a_port_in_use(run, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run("doctor", "--port", 0, option, taken.getsockname()[1], "--format", "json")
    [found] = [one for one in ended.json["checks"] if one["status"] == "failed"]
    assert (ended.code, found["check"]) == (1, "port")
    assert "is in use" in found["message"]


def test_a_public_metrics_port_needs_no_token(port):
    plan = ServePlan(host="0.0.0.0", ports=(("--metrics-port", port), ("--port", 0)))
    assert [one.status for one in listeners.check_ports(plan)] == [DoctorStatus.OK, DoctorStatus.FAILED]


def test_doctor_checks_the_unix_socket_path(tmp_path):
    assert listeners.check_unix_socket(tmp_path / "a.sock").status is DoctorStatus.OK
    assert not (tmp_path / "a.sock").exists()
    assert listeners.check_unix_socket(tmp_path / "none" / "a.sock").status is DoctorStatus.FAILED


@pytest.mark.parametrize(("tokens", "served"), [(None, False), ("edge: ", True), ("egde: ", False), ("", False)])
def test_doctor_and_serve_reject_an_authzen_consumer_without_a_token(run, project, port, tokens, served, monkeypatch):
    monkeypatch.chdir(project)
    (project / "policyengine.toml").write_text('[authzen]\nconsume = ["edge"]\n')
    options = ["--port", port]
    if tokens is not None:
        (project / "tokens").write_text(f"{tokens}a-token-of-the-gateway\n")
        options += ["--token-file", project / "tokens"]
    ended = run("doctor", project, *options)
    assert ended.code == int(not served)
    assert ("✗ authzen: `[authzen] consume` names the caller `edge`, but no token has that name" in ended.out) != served
    if not served:
        assert "error: `[authzen] consume` names the caller `edge`" in run("serve", project, *options).err


def test_doctor_checks_the_token_file(tmp_path):
    file = tmp_path / "tokens"
    assert listeners.check_token_file(file).status is DoctorStatus.FAILED
    file.write_text("a-token-of-the-gateway\n")
    file.chmod(0o644)
    assert (listeners.check_token_file(file).status, listeners.check_token_file(file).hint) == (
        DoctorStatus.WARNING,
        f"chmod 600 {file}",
    )
    file.chmod(0o600)
    assert listeners.check_token_file(file).status is DoctorStatus.OK


def test_doctor_checks_the_log_file(tmp_path, monkeypatch):
    file = tmp_path / "log"
    assert storage.check_log(file).status is DoctorStatus.OK
    assert not file.exists()
    file.touch()
    file.chmod(0o644)
    assert storage.check_log(file).status is DoctorStatus.WARNING
    file.chmod(0o600)
    assert storage.check_log(file).status is DoctorStatus.OK
    assert storage.check_log(tmp_path / "none" / "log").status is DoctorStatus.FAILED
    assert storage.check_log(Path("/dev/null")).status is DoctorStatus.FAILED
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    assert "cannot be written to" in storage.check_log(file).message


@pytest.mark.parametrize(
    ("free", "status"),
    [(2 * 1024**3, DoctorStatus.OK), (512 * 1024**2, DoctorStatus.WARNING), (1024**2, DoctorStatus.FAILED)],
)
def test_doctor_checks_the_disk_space_for_the_log(tmp_path, monkeypatch, free, status):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert storage.check_log(tmp_path / "log").status is status


def test_doctor_rejects_a_store_that_cannot_be_written(tmp_path):
    path = tmp_path / "store.db"
    SqliteStore(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = storage.check_store(f"sqlite:///{path}?timeout=10ms")
    assert found.status is DoctorStatus.FAILED


def test_doctor_does_not_recreate_a_database_whose_wal_file_remains(tmp_path):
    path = tmp_path / "store.db"
    (tmp_path / "store.db-wal").write_bytes(b"what a server wrote")
    found = storage.check_store(f"sqlite:///{path}")
    assert (found.status, path.exists()) == (DoctorStatus.FAILED, False)
    assert "restore the file" in found.hint


def test_doctor_checks_each_kind_of_store(tmp_path):
    assert storage.check_store("memory:").status is DoctorStatus.NOTE
    path = tmp_path / "store.db"
    assert storage.check_store(f"sqlite:///{path}").message == f"`{path}` does not exist yet: `serve` creates it"
    assert not path.exists()
    SqliteStore(path).close()
    assert storage.check_store(f"sqlite:///{path}").message.startswith("SQLite 3")
    assert storage.check_store("redis://127.0.0.1:1").status is DoctorStatus.FAILED
    assert storage.check_store("postgres://nowhere").status is DoctorStatus.FAILED


def test_doctor_reports_the_redis_version_and_a_clock_skew(monkeypatch, tmp_path):
    with running("redis-server", tmp_path) as server:
        url = f"{server.url}?timeout=20s"
        found = storage.check_store(url)
        assert found.status is DoctorStatus.OK
        assert re.fullmatch(r"Redis [\d.]+ answers; clocks differ by \d+m?s \(± \d+m?s\)", found.message)
        for seconds, status, message in (
            (3, DoctorStatus.WARNING, "the clock of this server is 3s ahead of the store's"),
            (-20, DoctorStatus.FAILED, "the clock of this server is 20s behind the store's"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(clock_skew, "time_ns", lambda seconds=seconds: time.time_ns() + seconds * 10**9)
                found = storage.check_store(url)
            assert (found.status, found.message) == (status, message)
            assert "NTP" in (found.hint or "")


def test_doctor_rejects_broken_and_missing_policies(run, tmp_path, port):
    (tmp_path / "a.policy").write_text("language 1\npackage p\nanyone { may GET }\n")
    for path in ("a.policy", "none.policy"):
        ended = run("doctor", path, "--port", port, "--format", "json")
        assert ended.code == 1
        assert statuses(ended)["policy"] == "failed"


def test_doctor_accepts_a_policy_with_warnings(run, tmp_path, port):
    (tmp_path / "a.policy").write_text('language 1\npackage p\nanyone { may GET /a }\nguard "g" on GET /b { deny }\n')
    ended = run("doctor", "a.policy", "--port", port, "--format", "json")
    assert (ended.code, statuses(ended)["policies"]) == (0, "warning")


@pytest.mark.parametrize(("store", "code"), [("memory:", 1), ("sqlite:///store.db", 0)])
def test_doctor_rejects_limits_with_several_workers_and_a_memory_store(run, tmp_path, port, store, code):
    (tmp_path / "a.policy").write_text(LIMITED)
    ended = run("doctor", "a.policy", "--port", port, "--workers", 2, "--store", store, "--format", "json")
    assert ended.code == code
    assert statuses(ended).get("workers") == ("failed" if code else None)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('[gateway]\nagent_id = "X-Consumer"\n', "ok"),
        ('[gateway]\nagent_id = ""\n', "warning"),
        ('[gateway]\nagent = "X"\n', "failed"),
    ],
)
def test_doctor_checks_the_configuration_file(run, project, port, text, status):
    (project / "policyengine.toml").write_text(text)
    ended = run("doctor", project, "--port", port, "--format", "json")
    assert statuses(ended)["configuration"] == status


IDENTIFIED = """language 1
package p
scope a { GET /a }
issuer acme { url "https://login.acme.example"   keys "acme.json" }
user any { may a }
"""


ATTESTED = IDENTIFIED + 'agent "a" { issued by acme   acts for any user   attested by lab   may a }'
DESK_BOT = 'agent "desk-bot" { issued by acme   acts for any user   may a }\n'


def test_doctor_fetches_the_keys_of_issuers(tmp_path):
    (tmp_path / "p.policy").write_text(IDENTIFIED)
    (tmp_path / "identity.toml").write_text("")
    keys = tmp_path / "acme.json"

    def findings():
        plan = ServePlan((tmp_path,), identity=tmp_path / "identity.toml")
        return {one.check: (one.status, one.message) for one in policies.check_policies(plan, answers=True)}

    assert findings()["identity"][0] == "failed"
    keys.write_text(json.dumps({"keys": [{**ECKey.generate_key("P-256").as_dict(private=False), "kid": "k1"}]}))
    found = findings()
    assert found["identity"] == ("ok", f"`{tmp_path}/identity.toml` matches the policies")
    assert found["issuer"] == ("ok", "`acme` publishes 1 key")
    assert found["hosts"][0] == "warning"
    (tmp_path / "identity.toml").write_text('[identity]\nhosts = ["api.acme.example"]\n')
    assert "hosts" not in findings()
    keys.write_text('{"keys": []}')
    assert findings()["issuer"] == ("warning", "`acme` has no usable key")


def test_doctor_warns_about_a_client_whose_agent_is_unknown(run, tmp_path, port):
    policy = IDENTIFIED.replace('keys "acme.json"', 'audience "a"   records chains')
    (tmp_path / "p.policy").write_text(policy + DESK_BOT)
    write_ring(tmp_path / "signing.json", new_ring("ES256", 0), new=True)
    (tmp_path / "identity.toml").write_text(
        '[signing]\nissuer = "acme"\nkeys = "file:signing.json"\n'
        '[clients.bot]\nagent = "desk-bt"\nissuer = "acme"\nmethod = "token"\n'
    )
    ended = run("doctor", tmp_path, "--port", port, "--identity", tmp_path / "identity.toml")
    assert ended.code == 0
    assert "? identity: `clients.bot.agent`: the policies have no agent `desk-bt`" in ended.out
    assert "  hint: did you mean `desk-bot`?" in ended.out


def test_doctor_warns_about_an_unreachable_issuer(run, tmp_path, port):
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "p.policy").write_text(IDENTIFIED.replace("acme.json", f"{url}/jwks"))
    (tmp_path / "identity.toml").write_text("")
    ended = run("doctor", tmp_path, "--port", port, "--identity", tmp_path / "identity.toml")
    assert ended.code == 0
    assert "? issuer: the keys of `acme` cannot be read: the server cannot be reached" in ended.out
    assert "  hint: until they can be read, its tokens are refused with the code `provider`" in ended.out


def test_doctor_warns_about_an_unreachable_attester(run, tmp_path, port):
    url = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "p.policy").write_text(f'{ATTESTED} attester lab {{ url "https://attest.acme.example" }}')
    (tmp_path / "acme.json").write_text('{"keys": []}')
    (tmp_path / "identity.toml").write_text(f'[attesters.lab]\nkeys = "{url}/jwks"')
    ended = run("doctor", tmp_path, "--port", port, "--identity", tmp_path / "identity.toml")
    assert ended.code == 0
    assert "? attester: the keys of `lab` cannot be read: the server cannot be reached" in ended.out
    assert "  hint: until they can be read, its attestations are refused with the code `provider`" in ended.out


def test_doctor_reports_that_identity_needs_policies(run, tmp_path, port):
    (tmp_path / "identity.toml").write_text("[isuers]")
    ended = run("doctor", "--port", port, "--identity", tmp_path / "identity.toml")
    assert "is checked only together with its policies" in ended.out


def test_doctor_reports_observe_mode(monkeypatch, tmp_path):
    real = policies.load_settings([tmp_path])
    observing = SimpleNamespace(file=None, gateway=real.gateway, observe=object())
    for found, checks in ((real, ["configuration"]), (observing, ["configuration", "observe"])):
        monkeypatch.setattr(policies, "load_settings", lambda paths, found=found: found)
        assert [one.check for one in policies.check_project_settings([tmp_path])] == checks


def test_doctor_starts_without_the_packages_of_extras(run, project, port, monkeypatch):
    for module, _ in EXTRAS.values():
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    ended = run("doctor", project, "--port", port, "--format", "json")
    assert ended.code == 0
    assert len([one for one in ended.json["checks"] if one["check"] == "extras"]) == len(EXTRAS)


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def hints(run, *arguments):
    """What mends what is wrong with files, by check."""
    checks = run("doctor", *arguments, "--port", "0", "--format", "json").json["checks"]
    return {(one["check"], one["hint"]) for one in checks if (one["hint"] or "").startswith(("chmod", "chown"))}


@pytest.fixture
def served(tmp_path):
    """Everything that a server reads and writes, each as it should be."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.policy").write_text(LIMITED)
    (tmp_path / "policies" / "policyengine.toml").write_text("")
    (tmp_path / "store.db").touch()
    (tmp_path / "tokens").write_text("a-token-of-the-gateway\n")
    (tmp_path / "log").touch()
    for one in tmp_path.rglob("*"):
        one.chmod(0o755 if one.is_dir() else 0o600)
    tmp_path.chmod(0o755)
    return tmp_path


def options(folder):
    paths = (folder / "policies", "--store", f"sqlite:///{folder}/store.db")
    return (*paths, "--log", folder / "log", "--token-file", folder / "tokens")


@pytest.mark.parametrize(
    ("name", "mode", "check", "hint"),
    [
        ("store.db", 0o644, "store", "chmod 600 {}"),
        ("store.db", 0o666, "store", "chmod 600 {}"),
        ("log", 0o644, "log", "chmod 600 {}"),
        ("log", 0o622, "log", "chmod 600 {}"),
        ("tokens", 0o644, "tokens", "chmod 600 {}"),
        ("tokens", 0o620, "tokens", "chmod 600 {}"),
        ("policies/policyengine.toml", 0o666, "policies", "chown -R {euid} {policies}; chmod -R go-w {policies}"),
        ("policies/p.policy", 0o664, "policies", "chown -R {euid} {policies}; chmod -R go-w {policies}"),
        ("policies", 0o777, "policies", "chown -R {euid} {policies}; chmod -R go-w {policies}"),
        (".", 0o777, "log", "chmod go-w {}"),
    ],
)
def test_doctor_reports_unsafe_file_modes_with_the_command_that_fixes_them(run, served, name, mode, check, hint):
    assert hints(run, *options(served)) == set()
    (served / name).chmod(mode)
    expected = hint.format(served / name, euid=os.geteuid(), policies=served / "policies")
    assert (check, expected) in hints(run, *options(served))


def test_doctor_rejects_a_link_in_a_folder_that_others_can_write(run, served):
    (served / "link").symlink_to("log")
    served.chmod(0o777)
    ended = run("doctor", "--port", "0", "--log", served / "link")
    assert ended.code == 1
    assert f"✗ log: `{served}/link` is a link in a folder that others can write to" in ended.out


def test_doctor_checks_the_modes_of_files_named_by_identity_settings(run, served):
    key = served / "signing.json"
    write_ring(key, new_ring("ES256", int(time.time())), new=True)
    (served / "keys.json").write_text("{}")
    settings = served / "identity.toml"
    settings.write_text('[signing]\nkeys = "file:signing.json"\nissuer = "acme"\n[issuers.acme]\nkeys = "keys.json"\n')
    for one, mode in ((settings, 0o666), (key, 0o644), (served / "keys.json", 0o646)):
        one.chmod(mode)
    assert hints(run, *options(served), "--identity", settings) == {
        ("identity", f"chmod go-w {settings}"),
        ("keys", f"chmod 600 {key}"),
        ("keys", f"chmod go-w {served}/keys.json"),
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_doctor_reports_files_of_another_user(run, served):
    os.chown(served / "store.db", 65_534, 65_534)
    assert ("store", f"chown 0 {served}/store.db") in hints(run, *options(served))


def test_doctor_closes_the_store_that_it_opened(run, served, monkeypatch):
    opened, made, close = set(), [], SqliteStore.close

    class Counted(SqliteStore):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            opened.add(id(self))
            made.append(self)

        def close(self):
            close(self)
            opened.discard(id(self))

    monkeypatch.setattr("policyengine.stores.url.SqliteStore", Counted)
    run("doctor", *options(served))
    assert len(made) == 2  # of the check of the store, and of the policies
    assert not opened


@pytest.mark.parametrize(("key", "there", "warns"), [
    ("cluster.id", False, True), ("cluster.id", True, False), ("agent.id", False, False),
])  # fmt: skip
def test_doctor_warns_of_rules_that_read_groups_without_numpy(run, tmp_path, port, monkeypatch, key, there, warns):
    text = (
        'language 1\npackage a.b\nissuer acme { scopes none }\nagent "b" { issued by acme  acts alone  may GET /x }\n'
    )
    (tmp_path / "a.policy").write_text(f'{text}rate "r" per {key} {{ 9/1m }}\n')
    monkeypatch.setattr(policies, "find_spec", lambda name: object() if there else None)
    found = run("doctor", "a.policy", "--port", port, "--format", "json").json["checks"]
    assert ["numpy" in one["message"] for one in found if one["check"] == "groups"] == [True] * warns
