"""Workers of pytest-xdist that do not collect: one process imports and collects all tests, and forks for each worker.
The worker is that of pytest-xdist, in its own process: also its crash, and the worker that replaces it."""

from __future__ import annotations

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from ast import literal_eval
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread, active_count
from typing import Any, BinaryIO

import _pytest.config
import pytest

# What pytest-xdist starts as the Python of a worker: it passes its streams to the template and ends as the worker ends.
# If there is no template, it becomes the Python that pytest-xdist wanted.
CONNECTION = """
import _signal, _socket, os, sys
template = _socket.socket(_socket.AF_UNIX)
try:
    template.connect(sys.argv[1])
    streams = b"".join(file.to_bytes(4, sys.byteorder) for file in range(3))
    template.sendmsg([b"w"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    is_forked = template.recv(1) == b"f"
except OSError:
    is_forked = False
if not is_forked:
    os.write(2, b"a worker collects the tests itself: the process that collects for all workers has ended\\n")
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
_signal.signal(_signal.SIGINT, _signal.SIG_IGN)
nothing = os.open(os.devnull, os.O_RDWR)
os.dup2(nothing, 0)
os.dup2(nothing, 1)
status = int(template.recv(16) or 1)
if status < 0:
    _signal.signal(-status, _signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def start(config: pytest.Config, specs: list[Any]) -> None:
    """Start the template of a run, wait until it has collected, and let the workers be forked from it. Raises
    UsageError."""
    from xdist.plugin import _sys_path

    folder = tempfile.mkdtemp(prefix="workers-")
    address = f"{folder}/template"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    options = [str(each) for each in config.invocation_params.args]
    template = subprocess.Popen(
        [sys.executable, __file__, repr((_sys_path, options))],
        stdin=listening,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")},
    )
    listening.close()
    config.add_cleanup(lambda: stop(template, address))
    assert template.stdout is not None
    with template.stdout as mistakes:
        if mistake := mistakes.read():
            raise pytest.UsageError(*literal_eval(mistake.decode()))
    for spec in specs:
        spec.python = shlex.join([sys.executable, "-IS", "-c", CONNECTION, address])


def stop(template: subprocess.Popen[bytes], address: str) -> None:
    template.kill()
    template.wait()
    with suppress(OSError):
        os.unlink(address)
        os.rmdir(os.path.dirname(address))


class Template:
    """The plugin of the process that collects: in place of the tests, it runs a loop that forks the workers."""

    def __init__(self, listening: socket.socket, mistakes: BinaryIO) -> None:
        self._listening, self._mistakes = listening, mistakes
        self._reports: list[pytest.CollectReport] = []
        self._is_worker = False
        self._has_interactor, self._has_ended = Event(), Event()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not self._is_worker and not report.passed:
            self._reports.append(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if self._is_worker:
            return None
        assert active_count() == 1, "a thread does not survive a fork"
        self._mistakes.close()
        streams = fork_workers(self._listening)
        self._is_worker = True
        return self._work(session, streams)

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int | None:
        """Wait, in the thread in which the code of pytest-xdist runs, until the main thread has run the tests."""
        if not self._is_worker:
            return None
        self._has_interactor.set()
        self._has_ended.wait()
        return 0

    def _work(self, session: pytest.Session, streams: list[int]) -> bool:
        from execnet.gateway_base import serve

        config = session.config
        io = take_streams(config, streams)
        prepare = _pytest.config._prepareconfig
        _pytest.config._prepareconfig = lambda *_: config
        self._server = Thread(target=serve, args=(io, "worker"), daemon=True)
        self._server.start()
        self._has_interactor.wait()
        _pytest.config._prepareconfig = prepare
        factory = config._tmp_path_factory  # type: ignore[attr-defined]
        factory._basetemp, factory._given_basetemp = None, Path(config.option.basetemp).absolute()
        plugins: Any = config.pluginmanager.get_plugins()
        interactor = next(each for each in plugins if type(each).__name__ == "WorkerInteractor")
        interactor.pytest_sessionstart(session)
        for report in self._reports:
            interactor.pytest_collectreport(report)
        interactor.pytest_collection_finish(session)
        config.hook.pytest_runtestloop(session=session)
        return True

    def end(self) -> None:
        """Let pytest-xdist end the connection, once pytest has ended."""
        self._has_ended.set()
        self._server.join()


def take_streams(config: pytest.Config, streams: list[int]) -> Any:
    """Return the connection to the controller. Keep the output of this process apart from that of other workers, in the
    same Python objects: imported modules have references to them."""
    from execnet.gateway_base import get_execmodel, init_popen_io

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    while not os.read(0, 1 << 16).endswith(b"\n"):  # the source of what is imported here
        pass
    standard = sys.stdin, sys.stdout
    io = init_popen_io(get_execmodel("main_thread_only"))
    sys.stdin, sys.stdout = standard
    io.write(b"1")
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    parts = capture._global_capturing
    for number, part in enumerate((parts.in_, parts.out, parts.err)):
        if hasattr(part, "targetfd_save"):
            os.dup2(number, part.targetfd_save)
        if number and hasattr(part, "targetfd_save"):
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), part.tmpfile.fileno())
    return io


@dataclass
class Worker:
    """A forked worker, and the connection of the process that passed its streams."""

    pid: int
    end: int  # its process, as a file that is readable once the process has ended
    connection: socket.socket

    def close(self) -> None:
        os.close(self.end)
        self.connection.close()


def fork_workers(listening: socket.socket) -> list[int]:
    """Fork for each connection, and send it how its worker ended. Return, in a worker, its streams. End with the
    controller."""
    interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers: dict[int, Worker] = {}  # by both files of each
    controller = os.pidfd_open(os.getppid())
    while True:
        for file in select.select([controller, listening.fileno(), *workers], [], [])[0]:
            if file == controller:
                os._exit(0)
            elif file in workers:
                end_worker(workers, workers[file], file)
            elif file == listening.fileno():
                connection, _ = listening.accept()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                pid = os.fork()
                if pid == 0:
                    signal.signal(signal.SIGINT, interrupts)
                    for each in {worker.pid: worker for worker in workers.values()}.values():
                        each.close()
                    os.close(controller)
                    connection.close()
                    listening.close()
                    return streams
                worker = Worker(pid, os.pidfd_open(pid), connection)
                workers[worker.end] = workers[connection.fileno()] = worker
                connection.sendall(b"f")
                for stream in streams:
                    os.close(stream)


def end_worker(workers: dict[int, Worker], worker: Worker, file: int) -> None:
    """Kill a worker whose connection has ended; otherwise send how it ended."""
    if file != worker.end:
        os.kill(worker.pid, signal.SIGKILL)
    _, status = os.waitpid(worker.pid, 0)
    with suppress(OSError):
        worker.connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))
    del workers[worker.end], workers[worker.connection.fileno()]
    worker.close()


def main(path: list[str], arguments: list[str]) -> None:
    sys.path = path
    listening = socket.socket(fileno=os.dup(0))
    mistakes = os.fdopen(os.dup(1), "wb")
    for number, mode in enumerate((os.O_RDONLY, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, mode), number)
    config = _pytest.config._prepareconfig(arguments, None)
    from xdist.remote import setup_config  # not before pytest has registered it

    setup_config(config, None)
    config.workerinput = {"workerid": "template", "testrunuid": ""}  # type: ignore[attr-defined]
    config.workeroutput = {}  # type: ignore[attr-defined]
    template = Template(listening, mistakes)
    config.pluginmanager.register(template)
    try:
        config.hook.pytest_cmdline_main(config=config)
    except pytest.UsageError as error:
        with mistakes:
            mistakes.write(repr(error.args).encode())
        sys.exit(pytest.ExitCode.USAGE_ERROR)
    if template._is_worker:
        template.end()


if __name__ == "__main__":
    main(*literal_eval(sys.argv[1]))
