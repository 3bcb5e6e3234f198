"""Texts without characters that have an effect where they are shown."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess

import pytest

from policyengine.control_characters import (
    FILLER_CHARACTERS,
    is_invisible,
    is_shown,
    one_line,
    printable,
    printable_json,
    shell_command,
    split_invisible,
)

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


# ── Invisible characters ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "char", [*sorted(FILLER_CHARACTERS), "\ufe00", "\ufe0f", "\u180b", "\U000e0100", "\u200b", "\u202e"]
)
def test_an_invisible_character_is_escaped_on_every_screen(char: str) -> None:
    text = f"bot{char}"
    escape = f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
    assert (printable(text), one_line(text)) == (f"bot{escape}", f"bot{escape}")
    assert is_shown(shell_command([text]))
    if char != "\ufe0f":
        assert is_shown(printable_json(json.dumps(text, ensure_ascii=False)))
    assert json.loads(printable_json(json.dumps(text, ensure_ascii=False))) == text


def test_letters_and_emoji_stay_as_they_are() -> None:
    text = "Zoë 한국어 ❤️ 👍🏽 naïve"
    assert (printable(text), printable_json(text)) == (text, text)


def test_what_pages_show_as_a_code_point_is_escaped_on_screens() -> None:
    for number in [*range(0x20, 0x3000), *range(0xFE00, 0xFE10), 0x3164, 0xFFA0, *range(0xE0100, 0xE01F0)]:
        char = chr(number)
        if is_invisible(char):
            assert printable(char, "") != char, hex(number)
        assert ([*split_invisible(char, "")] == [(char, False)]) is (printable(char, "") == char), hex(number)
