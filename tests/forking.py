"""Our command without its start: one process has imported everything, and forks for each command that is run.

What runs is the same `main`, in a process of its own, with the caller's arguments, folder, environment and streams.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

# Asks for a command and passes on what would end it. It imports next to nothing: that is the point.
ASKING = """#!{python} -IS
import json, os, signal, socket, sys
asking = socket.socket(socket.AF_UNIX)
asking.connect({address!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n"
socket.send_fds(asking, [said[:1]], [0, 1, 2])
asking.sendall(said[1:])
answers = asking.makefile("rb")
pid = int(answers.readline())
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, lambda number, frame: os.kill(pid, number))
sys.exit(int(answers.readline() or 1))
"""


@cache
def commands() -> Path | None:
    """A folder with the command in it, and the process behind it; None where processes cannot be forked."""
    if not hasattr(socket, "send_fds") or not hasattr(os, "fork"):
        return None
    folder = Path(tempfile.mkdtemp(prefix="forking-"))
    address = str(folder / "asked")
    server = subprocess.Popen([sys.executable, "-m", "tests.forking", address], cwd=Path(__file__).parent.parent)
    atexit.register(server.terminate)
    command = folder / "policyengine"
    command.write_text(ASKING.format(python=sys.executable, address=address))
    command.chmod(0o755)
    while not Path(address).exists():
        assert server.poll() is None, "the process that forks has ended"
        os.sched_yield()
    return folder


def serve(address: str) -> None:
    import policyengine
    from policyengine.cli import main

    for module in pkgutil.walk_packages(policyengine.__path__, "policyengine."):
        with suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(module.name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    os.rename(f"{address}.new", address)
    while True:
        asked, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(asked, main)
        asked.close()


def answer(asked: socket.socket, main: Callable[[], int]) -> None:
    first, streams, _, _ = socket.recv_fds(asked, 1, 3)
    with asked.makefile("rb") as said:
        arguments, folder, environment = json.loads(first + said.readline())
    asked.sendall(b"%d\n" % os.getpid())
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout = open(0, encoding="utf-8"), open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    sys.argv = ["policyengine", *arguments]
    status = 1
    try:
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        asked.sendall(b"%d\n" % status)
        os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
