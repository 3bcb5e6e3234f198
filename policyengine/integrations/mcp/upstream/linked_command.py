"""The command of an upstream server that ends together with the gateway, even if the gateway is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

# Runs as `python -c … GATEWAY COMMAND…`. PR_SET_PDEATHSIG is 1 in `linux/prctl.h`; it stays in effect for the command.
_LINUX_PROGRAM: Final = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "try: os.execvp(sys.argv[2], sys.argv[2:])\n"
    "except OSError as error: sys.exit(f'{sys.argv[2]}: {error.strerror}')\n"
)


def link_command(words: Sequence[str]) -> list[str]:
    """Return a command that becomes the given one, and that Linux kills when the thread that started it ends. On other
    systems the command stays as it is: it can only notice that its input was closed.
    """
    if sys.platform != "linux":
        return list(words)
    return [sys.executable, "-I", "-S", "-c", _LINUX_PROGRAM, str(os.getpid()), *words]
