"""Our programs without their startup time: one process has imported everything, and forks for each program that is run.
The code is the same, in its own process, with the caller's arguments, folder, environment and streams."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Thread, active_count
from typing import IO, Self

COMMAND = "import sys; from policyengine.cli import main; sys.exit(main())"
# Requests the command and forwards signals. It imports almost nothing, to start fast.
ASKING = """#!{python} -IS
import json, os, signal, socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect({address!r})
said = json.dumps([{code!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n"
socket.send_fds(asking, [said[:1]], [0, 1, 2])
asking.sendall(said[1:])
answers = asking.makefile("rb")
pid = int(answers.readline())
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, lambda number, frame: os.kill(pid, number))
status = int(answers.readline() or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@cache
def address() -> str | None:
    """The address of the forking process; None if processes cannot be forked."""
    if not hasattr(os, "pidfd_open") or not hasattr(socket, "send_fds"):
        return None
    asked = str(Path(tempfile.mkdtemp(prefix="forking-")) / "asked")
    server = subprocess.Popen([sys.executable, "-m", "tests.forking", asked], cwd=Path(__file__).parent.parent)
    atexit.register(server.terminate)
    while not Path(asked).exists():
        assert server.poll() is None, "the process that forks has ended"
        os.sched_yield()
    return asked


@cache
def commands() -> Path | None:
    """A folder with `policyengine` in it, a program that starts immediately."""
    asked = address()
    if asked is None:
        return None
    command = Path(asked).parent / "policyengine"
    command.write_text(ASKING.format(python=sys.executable, address=asked, code=COMMAND))
    command.chmod(0o755)
    return command.parent


def command() -> tuple[str, ...]:
    """The first words of a command line that runs `policyengine`."""
    folder = commands()
    return (sys.executable, "-c", COMMAND) if folder is None else (str(folder / "policyengine"),)


class Forked:
    """A program with the interface of `subprocess.Popen`, as far as tests need it: text from both streams, no input."""

    def __init__(self, code: str, *arguments: str, cwd: Path) -> None:
        asked = address()
        assert asked is not None
        ours_out, theirs_out = os.pipe()
        ours_err, theirs_err = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        self._asking = socket.socket(socket.AF_UNIX)
        self._asking.connect(asked)
        said = json.dumps([code, list(arguments), str(cwd), dict(os.environ)]).encode() + b"\n"
        socket.send_fds(self._asking, [said[:1]], [nothing, theirs_out, theirs_err])
        for one in (nothing, theirs_out, theirs_err):
            os.close(one)
        self._asking.sendall(said[1:])
        self._answers = self._asking.makefile("rb")
        self.pid = int(self._answers.readline())
        self.stdout: IO[str] = os.fdopen(ours_out, encoding="utf-8")
        self.stderr: IO[str] = os.fdopen(ours_err, encoding="utf-8")
        self.args = ["-c", code, *arguments]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode if self.returncode is not None else self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        ended = self.returncode if self.returncode is not None else self._ended(timeout)
        if ended is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return ended

    def _ended(self, timeout: float | None) -> int | None:
        if not select.select([self._asking], [], [], timeout)[0]:
            return None
        self.returncode = int(self._answers.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return the remaining text of both streams."""
        said = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            said[number] = stream.read()

        readers = [Thread(target=read, args=(n, one)) for n, one in enumerate((self.stdout, self.stderr))]
        for one in readers:
            one.start()
        self.wait(timeout)
        for one in readers:
            one.join(timeout)
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for one in (self.stdout, self.stderr, self._answers, self._asking):
            one.close()


# ── The process that forks ────────────────────────────────────────────────────────────────────


def serve(asked: str) -> None:
    import policyengine

    for module in pkgutil.walk_packages(policyengine.__path__, "policyengine."):
        with suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(module.name)
    warm_up()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{asked}.new")
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are not waited for here
    os.rename(f"{asked}.new", asked)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keep(connection)
        connection.close()


def warm_up() -> None:
    """Check an example, as most programs do with their policies: this compiles the patterns of the language."""
    from policyengine.check import check_text

    for example in (Path(__file__).parent.parent / "policies" / "examples" / "payments").glob("*.policy"):
        check_text(example.read_text(encoding="utf-8"))
    assert active_count() == 1, "a thread does not survive a fork"


def keep(connection: socket.socket) -> None:
    """Run the program in its own process, and report how it ended. It ends together with its caller."""
    first, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as said:
        code, arguments, folder, environment = json.loads(first + said.readline())
    program = os.fork()
    if program == 0:
        connection.close()
        run(code, arguments, folder, environment, streams)
    for stream in streams:
        os.close(stream)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal sends them to all processes
    with suppress(OSError):
        connection.sendall(b"%d\n" % program)
        ends = os.pidfd_open(program)
        if ends not in select.select([ends, connection], [], [])[0]:
            os.kill(program, signal.SIGKILL)
        _, status = os.waitpid(program, 0)
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def run(code: str, arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = ["policyengine" if code == COMMAND else "-c", *arguments]
    status = 1
    try:
        exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    finally:
        for one in (sys.stdout, sys.stderr):
            with suppress(OSError):
                one.flush()
        if status < 0:  # as Python itself exits then
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
