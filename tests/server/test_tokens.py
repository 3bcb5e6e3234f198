"""Tokens from a file: what is taken, what is refused, and what nobody gets to see."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from policyengine.server import BearerTokenError, create_app, read_token_file
from policyengine.server.bearer_tokens import BearerTokens
from tests.server.conftest import TOKEN, Watched


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (f"{TOKEN}\n", (TOKEN,)),
        (TOKEN, (TOKEN,)),
        (f"\n  {TOKEN}  \r\n\nthe-token-that-comes-next\n", (TOKEN, "the-token-that-comes-next")),
    ],
)
def test_a_token_file_holds_one_token_per_line(file: Path, text: str, tokens: tuple[str, ...]) -> None:
    file.write_bytes(text.encode())
    assert read_token_file(file).tokens == tokens


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the token file `{file}` holds no token"),
        (b"\n \n", "the token file `{file}` holds no token"),
        (b"fifteen-letters", "the token in line 1 of `{file}` is shorter than 16 characters"),
        (b"\nsixteen-letters!\nshort\n", "the token in line 3 of `{file}` is shorter than 16 characters"),
        (b"a token with blanks", "the token in line 1 of `{file}` has a character that is not visible ASCII"),
        (
            "sixteen-lettérs!".encode(),
            "the token in line 1 of `{file}` has a character that is not visible ASCII",
        ),
        (b"\xff\xfe\x00", "the token file `{file}` is not UTF-8 text"),
    ],
)
def test_an_invalid_token_file_is_rejected(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(BearerTokenError) as error:
        read_token_file(file)
    assert error.value.message == message.format(file=file)


def test_a_missing_token_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BearerTokenError) as error:
        read_token_file(tmp_path / "none")
    assert error.value.message == f"cannot read the token file `{tmp_path / 'none'}`: no such file or directory"
    assert error.value.hint == "create a token with `openssl rand -base64 32`"


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_world_readable_token_file_gives_a_warning(file: Path, mode: int, warns: bool) -> None:
    file.write_text(TOKEN)
    file.chmod(mode)
    warning = read_token_file(file).warning
    assert (warning is not None) is warns
    assert not warns or f"chmod 600 {file}" in str(warning)


def test_the_repr_of_a_token_file_hides_the_token(file: Path) -> None:
    file.write_text(TOKEN)
    assert TOKEN not in repr(read_token_file(file))


def test_the_error_does_not_show_a_rejected_token(file: Path) -> None:
    file.write_text("fifteen-letters")
    with pytest.raises(BearerTokenError) as error:
        read_token_file(file)
    assert "fifteen-letters" not in str(error.value)


def test_a_token_is_compared_with_every_known_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr("policyengine.server.bearer_tokens.compare_digest", compare)
    tokens = BearerTokens.of((TOKEN, "the-token-that-comes-next"))
    assert tokens.accept(f"Bearer {TOKEN}")
    assert compared == list(tokens.digests)


DIGEST = f"sha256:{sha256(TOKEN.encode()).hexdigest()}"
SHOWN = f"Bearer {TOKEN}"


@pytest.mark.parametrize("line", [DIGEST, f"edge: {DIGEST}"])
def test_a_token_file_may_hold_the_digest_of_a_token(file: Path, line: str) -> None:
    file.write_text(line)
    tokens = BearerTokens.of(read_token_file(file).tokens)
    assert tokens.accept(SHOWN)
    assert not tokens.accept(f"Bearer {DIGEST}")


@pytest.mark.parametrize(
    ("lines", "gateway"),
    [
        ((f"edge: {TOKEN}",), "name edge"),
        ((f"edge:\t{TOKEN}", "edge: the-token-that-comes-next"), "name edge"),
        ((f"edge-2.eu: {DIGEST}",), "name edge-2.eu"),
        ((TOKEN,), f"token {sha256(TOKEN.encode()).hexdigest()}"),
        ((DIGEST,), f"token {sha256(TOKEN.encode()).hexdigest()}"),
        (("edge: the-token-that-comes-next",), None),
        ((f"edge:{TOKEN}",), None),  # a token that has a colon
    ],
)
def test_a_token_identifies_its_gateway(lines: tuple[str, ...], gateway: str | None) -> None:
    assert BearerTokens.of(lines).gateway(SHOWN) == gateway


@pytest.mark.parametrize(
    "line", ["edge: short", f"Edge: {TOKEN}", f"two words: {TOKEN}", f": {TOKEN}", f"{'x' * 65}: {TOKEN}"]
)
def test_a_token_file_line_with_an_invalid_name_or_token_is_rejected(file: Path, line: str) -> None:
    file.write_text(line)
    with pytest.raises(BearerTokenError) as error:
        read_token_file(file)
    assert error.value.message.startswith("the token in line 1 of")
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("token", ["", "short", ("a-token-long-enough", "short")])
def test_an_application_rejects_a_token_that_is_too_short(engine: Watched, token: str | tuple[str, ...]) -> None:
    with pytest.raises(BearerTokenError):
        create_app(engine, token=token)
