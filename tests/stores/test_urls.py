"""A store is named by a URL; whatever is wrong with it is told in a sentence, without a password."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from policyengine.stores.base import Store
from policyengine.stores.memory.store import MemoryStore
from policyengine.stores.resilient_store import ResilientStore
from policyengine.stores.url import StoreUrlError, open_store
from tests.ports import free_port
from tests.stores.charges import START, asks, rate
from tests.stores.servers import Server, running


def works(store: Store) -> bool:
    told = store.commit(asks(rate(1)), "one", START)
    again = store.commit(asks(rate(1)), "two", START)
    return told is not None and again is not None and told.admitted and not again.admitted and not again.failed


def refusal(url: str) -> str:
    with pytest.raises(StoreUrlError) as error:
        open_store(url)
    return error.value.message


def test_the_memory_url_opens_the_memory_store() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)


def test_a_sqlite_file_is_created_where_the_url_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert works(open_store("sqlite:///here.db"))
    assert works(open_store(f"sqlite:///{tmp_path}/there%20too.db?timeout=20s"))
    assert (tmp_path / "here.db").exists()
    assert (tmp_path / "there too.db").exists()


def test_a_redis_url_with_a_database_number_opens_a_store(redis_server: Server) -> None:
    store = open_store(f"{redis_server.url}/3?timeout=20s")
    assert isinstance(store, ResilientStore)
    assert works(store)


def test_a_cluster_is_found_by_any_of_its_servers(redis_cluster: list[Server]) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{redis_cluster[1].port}"
    assert works(open_store(f"redis+cluster://{hosts}?timeout=20s"))


def test_sentinel_is_asked_for_the_primary(tmp_path: Path) -> None:
    with running("redis-server", tmp_path) as primary:
        file = tmp_path / "sentinel.conf"
        file.write_text(f"sentinel monitor shop 127.0.0.1 {primary.port} 1\n")
        with running("redis-server", tmp_path, str(file), "--sentinel") as sentinel:
            assert works(open_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/shop?timeout=20s"))
            assert "cannot be used" in refusal(f"redis+sentinel://127.0.0.1:{sentinel.port}/nothing?timeout=20s")


def test_a_redis_password_is_used_and_never_quoted(tmp_path: Path) -> None:
    with running("redis-server", tmp_path, "--requirepass", "s3cret") as server:
        assert works(open_store(f"redis://:s3cret@127.0.0.1:{server.port}?timeout=20s"))
        told = refusal(f"redis://:wr0ng@127.0.0.1:{server.port}?timeout=20s")
    assert "wr0ng" not in told
    assert f"redis://127.0.0.1:{server.port}" in told


def test_the_certificate_of_a_redis_server_is_verified(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    port = free_port()
    with running("redis-server", tmp_path, "--tls-port", str(port), "--port", "0", *files, port=port):
        assert works(open_store(f"rediss://127.0.0.1:{port}?ca={certificate}&timeout=20s"))
        assert "CERTIFICATE_VERIFY_FAILED" in refusal(f"rediss://127.0.0.1:{port}?timeout=20s")


def test_a_redis_server_that_evicts_keys_is_rejected(tmp_path: Path) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy")
    with running("redis-server", tmp_path, *options, "allkeys-lru") as server:
        assert "`maxmemory-policy allkeys-lru`: evicted entries would no longer count" in refusal(
            f"{server.url}?timeout=20s"
        )
    with running("redis-server", tmp_path, *options, "noeviction") as server:
        assert works(open_store(f"{server.url}?timeout=20s"))


def test_an_unreachable_or_invalid_store_is_reported(tmp_path: Path) -> None:
    port = free_port()
    assert refusal(f"redis://127.0.0.1:{port}").startswith(f"the store at `redis://127.0.0.1:{port}` cannot be used")
    assert refusal(f"redis+cluster://127.0.0.1:{port}").startswith("the store at `redis+cluster://127.0.0.1")
    assert "no such file or directory" in refusal(f"sqlite:///{tmp_path}/no/such/folder.db")
    (tmp_path / "other.db").write_bytes(b"this is no database, and never was one, however long" * 99)
    assert "file is not a database" in refusal(f"sqlite:///{tmp_path}/other.db")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "`` is not a known kind of store"),
        ("redis", "`redis` is not a known kind of store"),
        ("mysql://host/x", "`mysql:` is not a known kind of store"),
        ("sqlite:", "a SQLite URL must have the form `sqlite:///path`"),
        ("sqlite:here.db", "a SQLite URL must have the form `sqlite:///path`"),
        ("sqlite://here.db", "a SQLite URL must have the form `sqlite:///path`"),
        ("postgresql://host", "a PostgreSQL URL needs the name of a database"),
        ("postgresql://host/a/b", "a PostgreSQL URL needs the name of a database"),
        ("postgresql://host:x/a", "`host:x` is neither a valid `HOST` nor a valid `HOST:PORT`"),
        ("postgresql://host/a?password=x", "`password` is not a store option"),
        ("postgresql://host/a?timeout=2h", "`2h` is not a valid time to wait"),
        ("redis://", "`redis://` names no host"),
        ("redis://a,b", "only a URL of a Cluster or of Sentinels may name several hosts"),
        ("redis://a:99999", "`a:99999` is neither a valid `HOST` nor a valid `HOST:PORT`"),
        ("redis://a/prod", "`/prod` is not a database number"),
        ("redis+sentinel://a:26379", "a Sentinel URL needs the name of a service"),
        ("redis://a?ca=x", "`ca` is not a store option"),
        ("redis://a?timeout=soon", "`soon` is not a valid time to wait"),
        ("redis://a?timeout=0s", "`0s` is not a valid time to wait"),
        ("redis://[::1", "this is not a store URL"),
    ],
)
def test_an_invalid_store_url_is_rejected_with_its_cause(url: str, words: str) -> None:
    assert refusal(url) == words


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("postgres://user@host/database", "postgresql"),
        ("rediss+cluster://host", "redis+cluster"),
        ("postgresql://host/a?sslmod=require", "sslmode"),
        ("redis://a?timeot=2s", "timeout"),
    ],
)
def test_a_misspelled_kind_or_option_of_a_store_is_suggested(url: str, meant: str) -> None:
    with pytest.raises(StoreUrlError) as error:
        open_store(url)
    assert error.value.hint == f"did you mean `{meant}`?"


def test_a_store_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in list(sys.modules):
        if name.startswith("policyengine.stores.postgres."):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(StoreUrlError, match=r"the package `psycopg` is not installed .*\[postgres\]"):
        open_store("postgresql://user@host/database")
