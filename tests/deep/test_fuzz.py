"""Coverage-guided fuzzing, each target for a fixed time; seeds are small inputs that already mean something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from policyengine.client.socket import encode_question
from tests.generate import checked_policy, question
from tests.security.paths import MALFORMED, READ
from tests.syntax.layouts import CORPUS

pytest.importorskip("atheris", reason="could not import atheris, which is for Linux on x86_64: pip install '.[dev]'")
pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("FUZZ_SECONDS", "45"))
QUESTIONS = [question(Random(seed), right=1.0) for seed in range(20)]
REGEXES = ["[a-z]+@acme", "(a|b)*c", "(a+)+$", "x{2,5}y?", r"\d+(\.\d+)?", "(?:ab|ac)*", ".*foo.*bar"]
SEEDS: dict[str, list[bytes]] = {
    "policy": [text.encode() for text in (*CORPUS.values(), checked_policy(Random(7)).texts[0])],
    "json_question": [json.dumps(one).encode() for one in QUESTIONS],
    "msgpack_question": [encode_question(one) for one in QUESTIONS],
    "path": [one.encode("utf-8", "surrogateescape") for one in (*READ, *MALFORMED) if len(one) < 200 and one.isascii()],
    "regex": [f"{one}\na".encode() for one in REGEXES],
}


@pytest.mark.parametrize("target", SEEDS)
def test_a_fuzz_target_does_not_crash(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (corpus / str(number)).write_bytes(seed)
    options = [
        f"-max_total_time={SECONDS}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-max_len=4096",
        f"-artifact_prefix={tmp_path}/",
    ]
    command = [sys.executable, "-m", "tests.deep.fuzz", target, *options, str(corpus)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 120, check=False)
    found = [(one.name, one.read_bytes()) for one in tmp_path.iterdir() if one.is_file()]
    assert run.returncode == 0, f"{found}\n{run.stderr[-4_000:]}"
    assert "Done" in run.stderr
