"""A process ends though threads are at work: with its code, and with a line in its log."""

from __future__ import annotations

import subprocess
import sys

from policyengine import server

# Without the package of the module, which imports all of the server.
ENDS = """
import logging, sys, threading, types
sys.modules["policyengine.server"] = types.ModuleType("policyengine.server")
sys.modules["policyengine.server"].__path__ = [sys.argv[2]]
from policyengine.server.shutdown import limit_exit_time
logging.getLogger("policyengine").addHandler(logging.StreamHandler(sys.stderr))
threading.Thread(target=threading.Event().wait, args=(None if sys.argv[1] == "at work" else 0,)).start()
print("said", end="")
limit_exit_time(0.01 if sys.argv[1] == "at work" else 60, 7)
"""


def ended(threads: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENDS, threads, *server.__path__], capture_output=True, text=True, timeout=60
    )


def test_a_process_does_not_wait_for_working_threads_and_logs_it() -> None:
    found = ended("at work")
    assert (found.returncode, found.stdout) == (7, "said")
    assert found.stderr == "the process ended while threads were working: their answers are lost\n"


def test_a_process_without_working_threads_exits_normally() -> None:
    found = ended("idle")
    assert (found.returncode, found.stdout, found.stderr) == (0, "said", "")
