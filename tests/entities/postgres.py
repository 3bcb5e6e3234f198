"""A real PostgreSQL: a server in its own folder, on a free port of this machine, stopped after the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from tests.ports import free_port
from tests.processes import is_running, wait_until
from tests.stores.servers import reachable

PATIENCE = 30.0
EMPTY = """
do $$ declare one record; begin
  for one in select format('%I.%I', schemaname, tablename) as name from pg_tables
             where schemaname = '{schema}' and tablename <> 'store' loop
    execute 'delete from ' || one.name;
  end loop;
  for one in select format('%I.%I', schemaname, sequencename) as name from pg_sequences
             where schemaname = '{schema}' loop
    execute format('select setval(%L, 1)', one.name);
  end loop;
end $$;
"""
PASSWORD = "s3cret-of-the-test"  # of a short-lived server on this machine


def program(name: str) -> str:
    """Return the path of a program; Debian keeps servers of several versions in separate folders."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    where = str(found[-1]) if found else shutil.which(name)
    if where is None:
        pytest.skip("PostgreSQL is missing: apt-get install postgresql")
    return where


def somebody() -> dict[str, Any]:
    """Return the process options of an unprivileged user: the server refuses to run as root."""
    known = {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}
    return {"cwd": "/", **known}


def parameters(port: int) -> dict[str, str | int]:
    """Return the connection parameters of the superuser."""
    return {"host": "127.0.0.1", "port": port, "user": "postgres", "password": PASSWORD, "dbname": "postgres"}


@dataclass
class Postgres:
    folder: Path
    port: int
    options: tuple[str, ...] = ("-F",)  # without fsync
    process: subprocess.Popen[bytes] | None = None
    idle: list[Any] = field(default_factory=list)  # connections that the next test of this process uses again
    owner: int = field(default_factory=os.getpid)

    @property
    def url(self) -> str:
        return f"postgresql://reader:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    @property
    def local(self) -> dict[str, str | int]:
        """The connection parameters of the superuser at the Unix socket, which needs no password."""
        return {"host": str(self.folder), "port": self.port, "user": "postgres", "dbname": "postgres"}

    @property
    def store_url(self) -> str:
        """The URL of the store in this server, for the superuser."""
        return f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def take_idle(self) -> list[Any]:
        """Return the idle connections, which a forked process does not use."""
        if os.getpid() != self.owner:
            return []
        idle, self.idle = self.idle, []
        return idle

    def empty(self, schema: str) -> None:
        """Delete all rows of a schema, if it exists, and restart its sequences."""
        self.run(EMPTY.format(schema=schema))

    def start(self) -> Postgres:
        if self.process is not None:
            return self
        options = ("-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1")
        with (self.folder / "server.log").open("ab") as log:
            command = [program("postgres"), "-D", str(self.folder / "data"), *options, *self.options]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **somebody())
        wait_until(lambda: reachable(self.port))
        wait_until(self._ready)
        return self

    def _ready(self) -> bool:
        from psycopg.pq import PGconn, Ping

        return PGconn.ping(f"host=127.0.0.1 port={self.port}".encode()) == Ping.OK

    def stop(self) -> None:
        """Stop immediately: connections are cut."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(PATIENCE)
            self.process = None

    def promote(self) -> None:
        """Make a replica the primary."""
        self.run("select pg_promote()")

    def own(self, *paths: Path) -> None:
        """Make the user of the server the owner of files."""
        for path in paths:
            if os.geteuid() == 0:
                shutil.chown(path, "postgres")
            path.chmod(0o600)

    def kill(self) -> None:
        """Kill the server and all of its processes: they end by themselves only once they are idle."""
        if self.process is not None:
            family = self._family()
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
            self.process = None
            wait_until(lambda: not any(map(is_running, family)))

    def pause(self) -> None:
        """Suspend the server and all of its processes; connections stay open."""
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def run(self, statements: str) -> None:
        """Run statements as the superuser."""
        import psycopg
        from psycopg.conninfo import make_conninfo

        with psycopg.connect(make_conninfo("", **self.local), autocommit=True) as connection:
            connection.execute(statements)  # type: ignore[call-overload]

    def fresh(self, statements: str) -> None:
        """Create a database with only these statements, readable by `reader`."""
        self.run(
            "drop schema public cascade; create schema public; grant usage on schema public to reader;"
            f"{statements} grant select on all tables in schema public to reader;"
        )


@contextmanager
def running(*options: str) -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install '.[sql]'")
    initdb = program("initdb")
    folder = Path(mkdtemp(prefix="pg"))  # a socket's path must be short, and accessible to another user
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    secret = folder / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    manner = (
        "-U",
        "postgres",
        "--auth=scram-sha-256",
        "--auth-local=trust",
        f"--pwfile={secret}",
        "--no-sync",
        "-E",
        "UTF8",
        "--locale=C",
    )
    command = [initdb, "-D", str(folder / "data"), *manner]
    made = subprocess.run(command, capture_output=True, text=True, **somebody())
    assert made.returncode == 0, made.stderr
    server = Postgres(folder, free_port(), options or ("-F",)).start()
    try:
        server.run(f"create role reader login password '{PASSWORD}'")
        yield server
    finally:
        while server.idle:
            server.idle.pop().close()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replica_of(primary: Postgres) -> Iterator[Postgres]:
    """A replica of a server."""
    folder = Path(mkdtemp(prefix="pg"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    where = f"host=127.0.0.1 port={primary.port} user=postgres password={PASSWORD}"
    command = [program("pg_basebackup"), "-D", str(folder / "data"), "-R", "-X", "stream", "-c", "fast", "-d", where]
    subprocess.run(command, check=True, capture_output=True, **somebody())
    server = Postgres(folder, free_port(), primary.options).start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
