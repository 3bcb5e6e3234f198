"""Texts without characters that have an effect where they are shown."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

import pytest

from policyengine.control_characters import shell_command

WORDS = ["plain", "two words", "it's", "a\nb\tc", "\x1b[2J'\\n", "\u202eé𝛑\U000e0041f", "\udcff1", "", "$(a) `b`\x07"]
SHELLS = [shell for shell in ("bash", "zsh") if shutil.which(shell)]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_the_words_of_a_printed_command(shell: str) -> None:
    command = shell_command(["printf", r"%s\0", *WORDS])
    assert command.isprintable()
    printed = subprocess.run([shell, "-c", command], stdout=subprocess.PIPE, check=True, timeout=30).stdout
    assert printed.split(b"\0")[:-1] == [os.fsencode(word) for word in WORDS]


def test_a_command_of_printable_words_is_quoted_for_every_shell() -> None:
    words = ["policyengine", "audit", "query", "it's my log.jsonl", "--count"]
    assert shlex.split(shell_command(words)) == words


def test_a_surrogate_that_is_no_byte_of_a_file_name_is_printable() -> None:
    assert shell_command(["\ud800"]) == r"$'\xed\xa0\x80'"
