"""Prepares a candidate in a child process, so that checks neither slow down nor crash the process that decides."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys

from policyengine.child_processes import child_environment, python_command
from policyengine.reload.candidate import Candidate, RefusalKind, ReloadRefusedError, prepare_candidate
from policyengine.reload.source import ReloadSource

MAX_PREPARE_SECONDS = 120.0  # maximum seconds for checking and testing
COMMAND = "from policyengine.reload.prepare_process import main; main()"


def prepare_in_subprocess(origin: ReloadSource, longest: float = MAX_PREPARE_SECONDS) -> Candidate:
    """Prepare a candidate in a child process. Raises ReloadRefusedError."""
    try:
        ended = subprocess.run(
            python_command(COMMAND),
            input=pickle.dumps(origin),
            stdout=subprocess.PIPE,
            timeout=longest,
            start_new_session=True,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        raise ReloadRefusedError(
            f"checking and testing took longer than {longest:g} s", reason=RefusalKind.FAILURE
        ) from None
    except OSError as error:
        why = f"no process could be started to check the policies: {(error.strerror or str(error)).lower()}"
        raise ReloadRefusedError(why, reason=RefusalKind.FAILURE) from None
    if ended.returncode:
        why = f"the process that checked the policies ended with status {ended.returncode}"
        raise ReloadRefusedError(why, reason=RefusalKind.FAILURE)
    found = pickle.loads(ended.stdout)
    if isinstance(found, ReloadRefusedError):
        raise found
    assert isinstance(found, Candidate)
    return found


def main() -> None:
    """Prepare the candidate that stdin describes. Printed text goes to stderr, because stdout carries the answer."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        origin = pickle.load(sys.stdin.buffer)
        found: Candidate | ReloadRefusedError
        try:
            found = prepare_candidate(origin)
        except ReloadRefusedError as refused:
            found = refused
        answer.write(pickle.dumps(found))
