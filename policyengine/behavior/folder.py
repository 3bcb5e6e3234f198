"""The folder of learned behavior: a secret key, signed models, the rows of callers, and the files of operators.

| file | what |
|---|---|
| `key` | the key of the tags and of the signatures, 32 bytes in hexadecimal; only its owner may read it |
| `models/00000012.model` | the latest models, by their number |
| `rows` | the rows at the last save, with a keyed digest |
| `lock` | locked by the process that saves |
| `recent` | the requests of the last days, in which groups are searched for, in parts with keyed digests |
| `releases` | planned changes of classes, with a keyed digest |
| `requests/….request` | callers to forget, each with a keyed digest |

Rows are refused if their digest is wrong, or if they were written with a later model than the latest one in the folder,
because then the model was replaced by an older one.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b, sha256
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import msgspec

from policyengine.behavior.events import Caller, Tagger
from policyengine.behavior.model import EMPTY_MODEL, MAX_MODEL_BYTES, BehaviorModel, ModelError, decode_model
from policyengine.behavior.row import ROW_BYTES, RowError, unpack_row
from policyengine.behavior.state import CallerRow
from policyengine.bounded_files import open_regular, read_bounded
from policyengine.trusted_files import UntrustedPathError, open_trusted, write_problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LOG = logging.getLogger("policyengine")
KEY_BYTES: Final = 32
KEPT_MODELS: Final = 32
FOLDER_MODE, FILE_MODE = 0o700, 0o600
ROWS_FORMAT: Final = "policyengine behavior rows"
ROWS_VERSION: Final = 1
LENGTH_BYTES: Final = 4
MAX_NAME_BYTES: Final = 16_384  # maximum size of the names of a caller and its class
MAX_ITEM_BYTES: Final = ROW_BYTES + MAX_NAME_BYTES
DIGEST_BYTES: Final = 32
OWN_NAMES: Final = frozenset({"key", "models", "rows"})
RESTORE_HINT = (
    "restore the folder from a backup, or move it away and learn from the log again: `policyengine behavior learn`"
)


class BehaviorFolderError(Exception):
    """The error for a folder that cannot be read or written; `hint` says how to correct the problem."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} ({hint})")
        self.message, self.hint = message, hint


class RowsHeader(msgspec.Struct, forbid_unknown_fields=True):
    """The first item of the file of rows."""

    format: str
    version: int
    model: int  # number of the latest model
    callers: int


class SavedRow(NamedTuple):
    """A caller, its class, and its packed row."""

    caller: Caller
    group: str
    packed: bytes


ItemTuple = tuple[str, str, str, str, str, bytes]


class BehaviorFolder:
    """Reads and writes a folder of learned behavior. Several processes may read it, but only one at a time saves."""

    def __init__(self, path: Path | str) -> None:
        """Open the folder, or create it with a new key. Raises BehaviorFolderError."""
        self.path = Path(path)
        self._check_place()
        try:
            self.path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
            (self.path / "models").mkdir(FOLDER_MODE, exist_ok=True)
            places = (self.path, self.path / "models")
            if problem := next(filter(None, (write_problem(place, os.stat(place)) for place in places)), None):
                raise BehaviorFolderError(
                    f"others can change the learned behavior: {problem}", "run `chmod go-w` on the folder"
                )
        except OSError as error:
            raise BehaviorFolderError(
                f"the folder `{self.path}` cannot be written: {reason(error)}", "make it writable"
            ) from None
        self._key = self._load_or_create_key()
        self.tagger = Tagger(self._derive(b"tags"))
        self.key_id = blake2b(self._derive(b"id"), digest_size=8).hexdigest()

    def _check_place(self) -> None:
        """Check that the path is a folder of learned behavior, or a new or empty one. Raises BehaviorFolderError."""
        if self.path.exists() and not self.path.is_dir():
            raise BehaviorFolderError(f"`{self.path}` is a file", "name a folder")
        try:
            names = {file.name for file in self.path.iterdir()} if self.path.exists() else set()
        except OSError as error:
            message = f"the folder `{self.path}` cannot be read: {reason(error)}"
            raise BehaviorFolderError(message, "make it readable") from None
        if names and not names & OWN_NAMES:
            message = f"`{self.path}` is a folder that contains other files and no learned behavior"
            raise BehaviorFolderError(message, "name a new folder")

    # ── The key ───────────────────────────────────────────────────────────────────────────────

    def _derive(self, purpose: bytes) -> bytes:
        return blake2b(purpose, digest_size=KEY_BYTES, key=self._key).digest()

    def digest_of(self, purpose: bytes) -> hmac.HMAC:
        """Return a new keyed digest for a purpose."""
        return hmac.new(self._derive(purpose), digestmod=sha256)

    def seal(self, purpose: bytes, payload: bytes) -> bytes:
        """Return the content of a file that only holders of the key can write."""
        return payload + b"\n" + hmac.new(self._derive(purpose), payload, sha256).hexdigest().encode() + b"\n"

    def unseal(self, purpose: bytes, raw: bytes) -> bytes:
        """Return the payload of a file that `seal` sealed for the same purpose. Raises ValueError."""
        payload = raw[:-1].rpartition(b"\n")[0]
        if not hmac.compare_digest(self.seal(purpose, payload), raw):
            raise ValueError("it was not written with the key")
        return payload

    def _signer(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._derive(b"models"))

    def _load_or_create_key(self) -> bytes:
        path = self.path / "key"
        with suppress(FileNotFoundError):
            return self._load_key(path)
        if any((self.path / "models").iterdir()) or (self.path / "rows").exists():
            raise BehaviorFolderError(f"the key `{path}` is missing, and the folder is not empty", RESTORE_HINT)
        new = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            write_new(new, secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
            os.link(new, path)
        except FileExistsError:
            pass  # another process created the key
        except OSError as error:
            raise BehaviorFolderError(
                f"the key `{path}` cannot be created: {reason(error)}", "let this user create files in the folder"
            ) from None
        finally:
            new.unlink(missing_ok=True)
        return self._load_key(path)

    def _load_key(self, path: Path) -> bytes:
        """Load the key. Raises BehaviorFolderError, and FileNotFoundError if there is no key."""
        try:
            with os.fdopen(open_trusted(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                found = os.fstat(file.fileno())
                raw = file.read(4 * KEY_BYTES)
        except FileNotFoundError:
            raise
        except UntrustedPathError as error:
            raise BehaviorFolderError(error.message, error.hint) from None
        except OSError as error:
            raise BehaviorFolderError(f"the key `{path}` cannot be read: {reason(error)}", "make it readable") from None
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
            raise BehaviorFolderError(
                f"the key `{path}` is not a regular file of this user", "move it away, or `chown` it"
            )
        if found.st_mode & 0o077:
            raise BehaviorFolderError(f"other users can access the key `{path}`", f"`chmod 600 {path}`")
        try:
            key = bytes.fromhex(raw.decode("ascii"))
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise BehaviorFolderError(f"the key `{path}` is damaged", RESTORE_HINT)
        return key

    def lock(self) -> int:
        """Lock the folder, so that this process is the one that saves. Return the descriptor that holds the lock, or -1
        if another process holds it. A forked process must lock the folder itself. Raises OSError."""
        import fcntl

        opened = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            return -1
        return opened

    # ── Models ────────────────────────────────────────────────────────────────────────────────

    def _model_paths(self) -> list[Path]:
        return sorted((self.path / "models").glob("????????.model"))

    def load_model(self, path: Path) -> BehaviorModel:
        """Load one model. Raises BehaviorFolderError."""
        try:
            return decode_model(read_bounded(path, MAX_MODEL_BYTES), self._signer().public_key())
        except OSError as error:
            raise BehaviorFolderError(f"the model `{path}` cannot be read: {reason(error)}", RESTORE_HINT) from None
        except ModelError as error:
            raise BehaviorFolderError(f"the model `{path}` cannot be used: {error}", RESTORE_HINT) from None

    def latest_model(self) -> BehaviorModel:
        """Load the latest model, or an empty model if nothing was learned yet. Raises BehaviorFolderError."""
        paths = self._model_paths()
        if not paths:
            return EMPTY_MODEL
        found = self.load_model(paths[-1])
        if found.content.serial != int(paths[-1].stem):
            raise BehaviorFolderError(
                f"the model `{paths[-1]}` has a number that differs from its file name", RESTORE_HINT
            )
        return found

    def models(self) -> dict[str, BehaviorModel]:
        """Load all models in the folder, by digest. Raises BehaviorFolderError."""
        return {found.digest: found for found in map(self.load_model, self._model_paths())}

    def save_model(self, model: BehaviorModel) -> None:
        """Write a model, and remove the oldest models. Raises OSError."""
        write_durable(self.path / "models" / f"{model.content.serial:08d}.model", model.sign(self._signer()))
        for old in self._model_paths()[:-KEPT_MODELS]:
            old.unlink(missing_ok=True)

    # ── Rows ──────────────────────────────────────────────────────────────────────────────────

    def save_rows(self, rows: Iterator[SavedRow], callers: int, model: int) -> None:
        """Write at most `callers` rows, with the number of the latest model. Raises OSError."""
        path = self.path / "rows"
        new = path.with_name(f".rows.{os.getpid()}.new")
        digest = hmac.new(self._derive(b"rows"), digestmod=sha256)
        try:
            opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            with os.fdopen(opened, "wb") as file:
                header = msgspec.msgpack.encode(RowsHeader(ROWS_FORMAT, ROWS_VERSION, model, callers))
                items = (msgspec.msgpack.encode((*row.caller, row.group, row.packed)) for row in rows)
                for item in chain((header,), items):
                    part = len(item).to_bytes(LENGTH_BYTES) + item
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)

    @property
    def has_rows(self) -> bool:
        """Whether rows were saved. The file may contain no rows."""
        return (self.path / "rows").exists()

    def load_rows(self, model: int) -> dict[Caller, CallerRow]:
        """Load the rows; the result is empty if the file does not exist. `model` is the number of the latest model.
        Raises BehaviorFolderError."""
        path = self.path / "rows"
        found: dict[Caller, CallerRow] = {}
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                items = self._read_items(file, path)
                header = msgspec.msgpack.decode(next(items), type=RowsHeader)
                if header.format != ROWS_FORMAT or header.version != ROWS_VERSION:
                    raise BehaviorFolderError(f"the rows `{path}` have an unsupported version", RESTORE_HINT)
                if header.model > model:
                    raise BehaviorFolderError(
                        f"the rows in `{self.path}` are newer than its models: some are missing, or were restored",
                        RESTORE_HINT,
                    )
                if header.model < model - 1:  # a model is saved just before the rows
                    _LOG.warning(
                        "the rows in `%s` are %d models older than the latest one: an older file was restored, or "
                        "the latest rows were not saved",
                        self.path, model - header.model, extra={"event": "behavior_rows_old"},
                    )  # fmt: skip
                for item in items:
                    *names, group, packed = msgspec.msgpack.decode(item, type=ItemTuple)
                    found[Caller(*names)] = CallerRow(group, unpack_row(packed))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise BehaviorFolderError(f"the rows `{path}` cannot be read: {reason(error)}", RESTORE_HINT) from None
        except (RowError, msgspec.MsgspecError, StopIteration) as error:
            raise BehaviorFolderError(f"the rows `{path}` are damaged: {error}", RESTORE_HINT) from None
        return found

    def _read_items(self, file: IO[bytes], path: Path) -> Iterator[bytes]:
        """Check the digest of the file and yield its items. Raises BehaviorFolderError."""
        size = os.fstat(file.fileno()).st_size - DIGEST_BYTES
        digest, left = hmac.new(self._derive(b"rows"), digestmod=sha256), size
        while left > 0 and (part := file.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
        if size <= 0 or not hmac.compare_digest(digest.digest(), file.read(DIGEST_BYTES)):
            raise BehaviorFolderError(f"the rows `{path}` were changed, or are damaged", RESTORE_HINT)
        file.seek(0)
        while file.tell() < size:
            length = int.from_bytes(file.read(LENGTH_BYTES))
            if length > MAX_ITEM_BYTES:
                raise BehaviorFolderError(f"the rows `{path}` are damaged", RESTORE_HINT)
            yield file.read(length)


def write_new(path: Path, raw: bytes) -> None:
    """Write a new file with mode 0600, and flush it to disk. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def write_durable(path: Path, raw: bytes) -> None:
    """Replace a file atomically. Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    try:
        write_new(new, raw)
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
