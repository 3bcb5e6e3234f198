"""One measurement in a fresh process on one core, independent of everything that ran before it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.machine import cores, pin

Data = dict[str, Any]


def in_child(
    function: str, timeout: float, arguments: Data, core: int | None = None, folder: Path | None = None
) -> Data:
    """Call `module:function` with JSON data in a child process, by default on the last core, and return its JSON
    answer, or `{"error": …}`. `folder` has the code to use instead of this code."""
    place = cores()[-1] if core is None else core
    command = [sys.executable, "-m", "bench.child", str(place), function, json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:300]}
    answer: Data = json.loads(done.stdout.splitlines()[-1])
    return answer


def main(core: str, function: str, arguments: str) -> None:
    pin(int(core))
    module, name = function.split(":")
    print(json.dumps(getattr(import_module(module), name)(**json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
