"""Which links count: those that nobody else could point elsewhere, wherever keys, logs and stores are opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from policyengine.audit.log import DecisionLog
from policyengine.audit.log_file import DecisionLogError
from policyengine.cli.errors import CommandError
from policyengine.cli.settings.file import load_settings
from policyengine.compiler.bundle.signature import KeyFileError, _read_key_file
from policyengine.identity.config.model import IdentityConfigError, read_identity_config
from policyengine.identity.keys.agent_directories import read_directory_file
from policyengine.identity.proof.spiffe import read_bundle
from policyengine.identity.secret_reader import read_private
from policyengine.identity.verify.api_keys import read_key_lines
from policyengine.server.bearer_tokens import BearerTokenError, read_token_file
from policyengine.stores.base import StoreError
from policyengine.stores.sqlite.store import SqliteStore
from policyengine.trusted_files import MAX_LINKS, UntrustedPathError, read_trusted, trusted_path
from tests.stores.charges import START, asks, rate

NOBODY = 65_534


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is of another user: as root really, else as this one is somebody else by now."""
    if os.geteuid() == 0:
        os.lchown(path, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)


def secret_of_kubernetes(folder: Path) -> Path:
    """As a volume of a Secret looks: the file is a link to a link, which is renamed when the secret changes."""
    (folder / "..2027_01_04").mkdir()
    (folder / "..2027_01_04" / "key").write_text("a key")
    (folder / "..data").symlink_to("..2027_01_04")
    (folder / "key").symlink_to("..data/key")
    folder.chmod(0o1777)
    return folder / "key"


def test_a_mounted_kubernetes_secret_is_read(tmp_path: Path) -> None:
    key = secret_of_kubernetes(tmp_path)
    assert trusted_path(key) == tmp_path / "..2027_01_04" / "key"
    assert read_trusted(key, 100) == b"a key"


@pytest.mark.parametrize("read_only", [True, False])
def test_a_link_in_a_writable_folder_is_trusted_only_on_a_read_only_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    key = secret_of_kubernetes(tmp_path)
    tmp_path.chmod(0o777)
    flags = os.ST_RDONLY if read_only else 0
    monkeypatch.setattr(os, "statvfs", lambda place: SimpleNamespace(f_flag=flags if place == str(tmp_path) else 0))
    if read_only:
        assert read_trusted(key, 100) == b"a key"
    else:
        with pytest.raises(UntrustedPathError, match="others can write to"):
            trusted_path(key)


def test_a_token_file_others_can_write_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("edge: a-token-of-the-gateway\n")
    (tmp_path / "tokens").chmod(0o666)
    with pytest.raises(BearerTokenError, match="a user who can write the file can add a token"):
        read_token_file(tmp_path / "tokens")


def test_a_path_without_links_is_normalized(tmp_path: Path) -> None:
    assert trusted_path(tmp_path / "a" / ".." / "b") == tmp_path / "b"
    assert trusted_path(tmp_path / "not" / "there") == tmp_path / "not" / "there"


@pytest.mark.parametrize("link", ["key", "..data"])
def test_a_link_of_another_user_is_rejected(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = secret_of_kubernetes(tmp_path)
    give_away(tmp_path / link, monkeypatch)
    with pytest.raises(UntrustedPathError) as caught:
        trusted_path(key)
    first = tmp_path / ("key" if os.geteuid() == NOBODY else link)
    assert caught.value.message == f"`{first}` is a link of another user"


@pytest.mark.parametrize(("mode", "counts"), [(0o755, True), (0o1777, True), (0o777, False), (0o775, False)])
def test_a_link_is_trusted_only_when_no_other_user_can_replace_it(mode: int, counts: bool, tmp_path: Path) -> None:
    key = secret_of_kubernetes(tmp_path)
    tmp_path.chmod(mode)
    if counts:
        assert trusted_path(key).name == "key"
        return
    with pytest.raises(UntrustedPathError) as caught:
        trusted_path(key)
    assert caught.value.message == f"`{key}` is a link in a folder that others can write to"
    assert caught.value.hint == f"pass the path of the file itself, or `chmod go-w {tmp_path}`"


def test_circular_links_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UntrustedPathError, match=f"more than {MAX_LINKS} links"):
        trusted_path(tmp_path / "a")


# ── Wherever one is opened ────────────────────────────────────────────────────────────────────


def settings(path: Path) -> object:
    """As it lies beside the policies."""
    (path.parent / "policyengine.toml").symlink_to(path.name)
    return load_settings([path.parent])


OPENS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "log": (DecisionLog, DecisionLogError),
    "store": (SqliteStore, StoreError),
    "secret": (read_private, IdentityConfigError),
    "tokens": (read_token_file, BearerTokenError),
    "API keys": (read_key_lines, IdentityConfigError),
    "keys of agents": (lambda path: read_directory_file(path, 0.0), IdentityConfigError),
    "SPIFFE bundle": (read_bundle, IdentityConfigError),
    "key of a bundle": (_read_key_file, KeyFileError),
    "identity.toml": (read_identity_config, IdentityConfigError),
    "settings": (settings, CommandError),
}


@pytest.mark.parametrize("name", OPENS)
def test_a_link_others_can_replace_is_never_opened(name: str, tmp_path: Path) -> None:
    opens, error = OPENS[name]
    (tmp_path / "there").write_text("")
    link = tmp_path / "link"
    link.symlink_to("there")
    tmp_path.chmod(0o777)
    with pytest.raises(error, match="a link in a folder that others can write to"):
        opens(link)
    assert (tmp_path / "there").read_text() == ""


def test_a_log_replaced_by_an_untrusted_link_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "log"
    log = DecisionLog(path)
    path.unlink()
    path.symlink_to(tmp_path / "theirs")
    (tmp_path / "folder").chmod(0o777)
    log.reopen()
    assert not log._append(b"{}\n")
    assert not (tmp_path / "theirs").exists()
    log.close()


# ── Files that we make ────────────────────────────────────────────────────────────────────────


def test_the_sqlite_store_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(SqliteStore(tmp_path / "store.db")) as store:
            store.commit(asks(rate()), "one", START)
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
