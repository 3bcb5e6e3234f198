"""Coverage-guided fuzzing of one target for a limited time: `python -m tests.deep.fuzz TARGET [libFuzzer options]`. An
exception that leaves a target is a crash; libFuzzer then keeps the input. Each target runs in its own process, because
atheris instruments what is imported and ends the process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["policyengine"]):
    from policyengine.check import check_text
    from policyengine.runtime.paths import CanonicalPath, canonical_path
    from policyengine.runtime.patterns import PatternError, compile_regex
    from policyengine.runtime.regex_linearity import is_provably_linear
    from policyengine.runtime.request import Request, RequestError

SLOW = 5.0  # seconds for one small input, instrumented, on a busy machine


def policy(data: bytes) -> None:
    for found in check_text(data.decode("utf-8", "replace")):
        assert found.render()


def json_question(data: bytes) -> None:
    asked(Request.from_json, data)


def msgpack_question(data: bytes) -> None:
    asked(Request.from_msgpack, data)


def asked(read: Callable[[bytes], Request], data: bytes) -> None:
    try:
        read(data)
    except RequestError:
        return


def path(data: bytes) -> None:
    found = canonical_path(data.decode("utf-8", "surrogateescape"))
    if isinstance(found, CanonicalPath):
        assert canonical_path(found.path) == found
        assert not {"", ".", ".."} & set(found.segments)
        assert not set("".join(found.segments)) & set("/\\\0;?#%")


def regex(data: bytes) -> None:
    """Check that a pattern that is claimed to be linear is linear, on generated texts."""
    text, _, seed = data.decode("utf-8", "replace").partition("\n")
    started = time.process_time()
    try:
        compiled = compile_regex(text)
    except PatternError:
        return
    compiled.matches((seed or text)[:50] * 200 + "\0")
    assert time.process_time() - started < SLOW, f"slow: {text!r}, proved: {is_provably_linear(text)}"


TARGETS = {one.__name__: one for one in (policy, json_question, msgpack_question, path, regex)}


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
