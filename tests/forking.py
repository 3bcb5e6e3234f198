"""Our programs without their startup time: one process has imported everything, and forks for each program that is run.
The code is the same, in its own process, with the caller's arguments, folder, environment and streams."""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import os
import pkgutil
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from ast import literal_eval
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread, active_count
from typing import IO, Any, Self

ENVIRONMENT = dict(
    os.environ
)  # of the forking process: some tests have an empty home, without the caches of hypothesis
COMMAND = "import sys; from policyengine.cli import main; sys.exit(main())"
# What `python` does with the arguments of a command line: code, a module or a file, after options that change nothing
# once everything is imported. The programs that a file starts with `sys.executable` are forked as well.
PYTHON = """
import runpy, sys
words, is_safe = sys.argv[1:], False
while words[0][0] == "-" and words[0][1] not in "cm":
    is_safe |= words.pop(0) in ("-P", "-I")
kind, rest = "", words
if words[0][0] == "-":
    kind, rest = words[0][:2], [words[0][2:], *words[1:]] if words[0][2:] else words[1:]
if not is_safe:
    sys.path[0] = "" if kind else rest[0].rpartition("/")[0]
sys.argv = ["-c" if kind == "-c" else rest[0], *rest[1:]]
if kind == "-c":
    exec(compile(rest[0], "<string>", "exec"), {{"__name__": "__main__"}})
elif kind == "-m":
    runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
else:
    sys.executable = {path!r}
    runpy.run_path(rest[0], run_name="__main__")
"""
# Requests the command and forwards signals. It imports only modules in C, which halves the time of its start.
ASKING = """#!{python} -IS
import _signal, _socket, os, sys
asking = _socket.socket(_socket.AF_UNIX)
asking.connect({address!r})
said = ascii([{code!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n"
streams = b"".join(file.to_bytes(4, sys.byteorder) for file in range(3))
asking.sendmsg([said[:1]], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
asking.sendall(said[1:])
def number():
    line = b""
    while not line.endswith(b"\\n"):
        byte = asking.recv(1)
        if not byte:
            return 1
        line += byte
    return int(line)
pid = number()
for one in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
    _signal.signal(one, lambda number, frame: os.kill(pid, number))
status = number()
if status < 0:
    _signal.signal(-status, _signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@cache
def address() -> str | None:
    """The address of the forking process; None if processes cannot be forked."""
    if not hasattr(os, "pidfd_open") or not hasattr(socket, "send_fds"):
        return None
    run, folder = os.environ.get("PYTEST_XDIST_TESTRUNUID"), Path(tempfile.gettempdir())
    if run is None:
        return started(Path(tempfile.mkdtemp(prefix="forking-")), os.getpid())
    shared = folder / f"forking-{run}"  # by all workers of the run: to import everything takes seconds
    shared.mkdir(mode=0o700, exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return started(shared, os.getppid())


def started(folder: Path, lives: int) -> str:
    """Where in a folder it is asked, once it is there; it ends with the process `lives`."""
    asked = folder / "asked"
    if not asked.exists():
        command = [sys.executable, "-m", "tests.forking", str(asked), str(lives)]
        server = subprocess.Popen(command, cwd=Path(__file__).parent.parent, env=ENVIRONMENT)
        atexit.register(setattr, server, "returncode", 0)  # holds it until then: it goes on for other workers
        while not asked.exists():
            assert server.poll() is None, "the process that forks has ended"
            time.sleep(0.01)
    return str(asked)


@cache
def commands() -> Path | None:
    """A folder with `policyengine` in it, a program that starts immediately."""
    command = program("policyengine", COMMAND)
    return None if command is None else command.parent


@cache
def program(name: str, code: str) -> Path | None:
    """Return a few lines of Python as a program that starts immediately."""
    asked = address()
    if asked is None:
        return None
    found = place(asked, name)
    found.parent.mkdir(exist_ok=True)
    found.write_text(ASKING.format(python=sys.executable, address=asked, code=code))
    found.chmod(0o755)
    return found


def place(asked: str, name: str) -> Path:
    """Return where a program is: at a path where no other worker writes it."""
    return Path(asked).parent / str(os.getpid()) / name


@cache
def python() -> str:
    """A Python that has imported all of our modules, with `policyengine` in the same folder."""
    asked = address()
    if asked is None:
        return sys.executable
    commands()
    return str(program("python", PYTHON.format(path=str(place(asked, "python")))))


def module(name: str) -> tuple[str, ...]:
    """What runs the `main` of a module with its arguments, as the first words of a command line."""
    found = program(name, f"import sys; from {name} import main; main(*sys.argv[1:])")
    return (sys.executable, "-m", name) if found is None else (str(found),)


def code(name: str, text: str) -> tuple[str, ...]:
    """Return the command that runs a few lines of Python."""
    found = program(name, text)
    return (sys.executable, "-c", text) if found is None else (str(found),)


def script(file: Path) -> tuple[str, ...]:
    """Return the command that runs a file of Python, as the first words of a command line."""
    return python(), str(file)


def command() -> tuple[str, ...]:
    """The first words of a command line that runs `policyengine`."""
    folder = commands()
    return (sys.executable, "-c", COMMAND) if folder is None else (str(folder / "policyengine"),)


def popen(command: Sequence[str], *, start_new_session: bool = False, **options: Any) -> Any:
    """Start a command as `subprocess.Popen` does, but fork it if it is one of Python, perhaps after the prefix of
    another program. Its output goes to the file `stdout`, if that is one, and otherwise to pipes, as text."""
    if address() is None or sys.executable not in command:
        return subprocess.Popen(command, start_new_session=start_new_session, **options)
    words = command[command.index(sys.executable) + 1 :]
    code = PYTHON.format(path=python())
    code = f"import os; os.setsid(){code}" if start_new_session else code
    output = options.get("stdout")
    to = output.fileno() if hasattr(output, "fileno") else None
    return Forked(
        code, *words, cwd=options.get("cwd") or Path.cwd(), environment=options.get("env") or os.environ, to=to
    )


class Forked:
    """A program with the interface of `subprocess.Popen`, as far as tests need it: text from both streams, no input."""

    def __init__(
        self, code: str, *arguments: str, cwd: Path, environment: Mapping[str, str] = os.environ, to: int | None = None
    ) -> None:
        """Start it; `to` is a file for both of its streams."""
        asked = address()
        assert asked is not None
        ours_out, theirs_out = os.pipe()
        ours_err, theirs_err = os.pipe()
        outputs = (theirs_out, theirs_err) if to is None else (to, to)
        nothing = os.open(os.devnull, os.O_RDONLY)
        self._asking = socket.socket(socket.AF_UNIX)
        self._asking.connect(asked)
        said = ascii([code, list(arguments), str(cwd), dict(environment)]).encode() + b"\n"
        socket.send_fds(self._asking, [said[:1]], [nothing, *outputs])
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
        waiting = select.poll()  # `select` accepts no file descriptor above 1,023
        waiting.register(self._asking, select.POLLIN)
        if not waiting.poll(None if timeout is None else timeout * 1_000):
            return None
        self.returncode = int(self._answers.readline())
        self._answers.close()
        self._asking.close()
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
        self._close_streams()
        return said[0], said[1]

    def __del__(self) -> None:
        """Close what a test left open that failed, or that waited for the program only: a warning would hit a later
        test."""
        with suppress(AttributeError):  # the program was not started
            for one in (self.stdout, self.stderr, self._answers, self._asking):
                one.close()

    def _close_streams(self) -> None:
        self.stdout.close()
        self.stderr.close()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and its end is not reported yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._close_streams()


# ── The process that forks ────────────────────────────────────────────────────────────────────


@dataclass
class Program:
    """What runs for somebody, who is told over the connection how it ended."""

    pid: int
    ends: int  # its process, as a file that can be waited for
    connection: socket.socket


class Server:
    """Starts programs and tells how they ended. A program ends with who asked for it, and the server with `lives`."""

    def __init__(self, asked: str, lives: int) -> None:
        self._signals = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGHUP)}
        for one in self._signals:
            signal.signal(one, signal.SIG_IGN)  # of a terminal they come to all
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{asked}.new")
        self._listening.listen(64)
        self._ends = os.pidfd_open(lives)
        self._programs: dict[int, Program] = {}  # by each of the files that are waited for
        os.rename(f"{asked}.new", asked)

    def serve(self) -> None:
        while True:
            for file in select.select([self._listening.fileno(), self._ends, *self._programs], [], [])[0]:
                if file == self._ends:
                    return
                if file == self._listening.fileno():
                    self._start(self._listening.accept()[0])
                elif file in self._programs:
                    self._look(self._programs[file], file)

    def _start(self, connection: socket.socket) -> None:
        first, streams, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as said:
            code, arguments, folder, environment = literal_eval((first + said.readline()).decode("ascii"))
        pid = os.fork()
        if pid == 0:
            for file in (self._listening.fileno(), self._ends, connection.fileno(), *self._programs):
                os.close(file)
            for number, handler in self._signals.items():
                signal.signal(number, handler)
            run(code, arguments, folder, environment, streams)
        for stream in streams:
            os.close(stream)
        program = Program(pid, os.pidfd_open(pid), connection)
        self._programs[program.ends] = self._programs[connection.fileno()] = program
        self._tell(program, pid)

    def _look(self, program: Program, file: int) -> None:
        if file != program.ends:  # who asked is gone
            del self._programs[file]
            os.kill(program.pid, signal.SIGKILL)
            return
        _, status = os.waitpid(program.pid, 0)
        self._tell(program, os.waitstatus_to_exitcode(status))
        del self._programs[program.ends]
        self._programs.pop(program.connection.fileno(), None)
        os.close(program.ends)
        program.connection.close()

    def _tell(self, program: Program, number: int) -> None:
        with suppress(OSError):
            program.connection.sendall(b"%d\n" % number)


def serve(asked: str, lives: int) -> None:
    import policyengine

    for module in pkgutil.walk_packages(policyengine.__path__, "policyengine."):
        with suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(module.name)
    warm_up()
    fork_children(asked)
    gc.collect()
    gc.freeze()  # what no program looks through, none copies
    Server(asked, lives).serve()
    shutil.rmtree(Path(asked).parent, ignore_errors=True)


def fork_children(asked: str) -> None:
    """Let the processes be forked that our programs start to check and compare policies and to search for groups. The
    one that reads logs is not: it inherits a file."""
    path = Path(asked).with_name("python")
    path.write_text(ASKING.format(python=sys.executable, address=asked, code=PYTHON.format(path=str(path))))
    path.chmod(0o755)
    for name in ("reload.prepare_process", "reload.comparison", "behavior.lockstep.search_process"):
        module = sys.modules[f"policyengine.{name}"]
        setattr(module, "python_command", lambda code: [str(path), "-P", "-c", code])  # noqa: B010


def warm_up() -> None:
    """Check an example, as most programs do with their policies: this compiles the patterns of the language. Build the
    models of the settings, as servers do. Let hypothesis generate something: when first used, it reads the source of
    every module of the checkout."""
    from policyengine.check import check_text
    from policyengine.cli.settings.sections import ProjectSections
    from policyengine.testing.properties.run import run_hypothesis

    for example in (Path(__file__).parent.parent / "policies" / "examples" / "payments").glob("*.policy"):
        check_text(example.read_text(encoding="utf-8"))
    ProjectSections()
    run_hypothesis(lambda choose: all(choose.below(60) >= 0 for _ in range(4)), "", 100)
    assert active_count() == 1, "a thread does not survive a fork"


def run(code: str, arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    buffering = 1 if environment.get("PYTHONUNBUFFERED") else -1
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", buffering, encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = ["policyengine" if code == COMMAND else "-c", *arguments]
    status = 1
    try:
        exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    finally:
        for one in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the latter if the program has closed it
                one.flush()
        if status < 0:  # as Python itself exits then
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
