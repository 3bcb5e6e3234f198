"""Sends checkpoints elsewhere: to webhooks, and to witnesses that cosign them.

A checkpoint that is kept elsewhere can prove later that the log was not rewritten, not even by the holder of the key.
The file `cosigned` contains the last checkpoint with cosignatures. One thread sends the latest checkpoint, so that a
slow receiver delays no decision and no seal. Checkpoints between two deliveries are skipped, because each checkpoint
covers all lines before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import msgspec

from policyengine.audit.seal.merkle import consistency_proof
from policyengine.audit.seal.notes import (
    COSIGNATURE,
    MAX_SIZE_DIGITS,
    Note,
    NoteError,
    Signature,
    SignedCheckpoint,
    Verifier,
)
from policyengine.audit.seal.options import SealOptions, WitnessOptions
from policyengine.audit.seal.proofs import ConsistencyProof
from policyengine.audit.seal.tiles import TileError, TileFolder, read_file, write_file
from policyengine.http.fetch import Fetcher, FetchError, FetchResponse, parse_fetch_url
from policyengine.log_throttle import LogThrottle

_LOG = logging.getLogger("policyengine")
MIN_SECONDS = 10.0  # minimum seconds between two deliveries
ANSWER_SECONDS = 5.0  # maximum seconds for the answer of one receiver
ACCEPTED = frozenset({200, 201, 202, 204})
CONFLICT = 409
SIZE_TYPE = "text/x.tlog.size"
COSIGNED, WITNESSED = "cosigned", "witnessed"
TEXT = {"Content-Type": "text/plain; charset=utf-8", "Accept": "text/plain, */*;q=0.1"}


class DeliveryError(Exception):
    """The error for a receiver that cannot be used; the message says why."""


class CheckpointWitness:
    """A witness, which cosigns a checkpoint after it has verified the proof that the log only grew."""

    def __init__(self, options: WitnessOptions) -> None:
        """Parse the URL and the key. Raises DeliveryError."""
        self.url = options.url.rstrip("/")
        try:
            parse_fetch_url(self.url)
            self.key = Verifier.parse(options.key)
        except (FetchError, NoteError) as error:
            raise DeliveryError(f"the witness `{options.url}` cannot be used: {error}") from None
        if self.key.kind != COSIGNATURE:
            raise DeliveryError(f"the key of the witness `{options.url}` is not a key for cosignatures")

    def cosign(self, fetcher: Fetcher, tiles: TileFolder, signed: SignedCheckpoint, old: int) -> Signature:
        """Return the cosignature of a checkpoint. `old` is the size of the last checkpoint that this witness cosigned.
        If the witness reports another size, the request is sent once more with that size. Raises FetchError, NoteError,
        TileError, OSError."""
        answer = self._request(fetcher, tiles, signed, old)
        if answer.status == CONFLICT:
            known = answer.body.strip()
            is_size = answer.kind == SIZE_TYPE and known.isdigit() and len(known) <= MAX_SIZE_DIGITS
            if not is_size or int(known) > signed.size:
                raise FetchError("the witness knows another state of this log", CONFLICT)
            answer = self._request(fetcher, tiles, signed, int(known))
            if answer.status == CONFLICT:
                raise FetchError("the witness knows another state of this log", CONFLICT)
        return self._cosignature(answer.body, signed)

    def _request(self, fetcher: Fetcher, tiles: TileFolder, signed: SignedCheckpoint, old: int) -> FetchResponse:
        path = consistency_proof(tiles.subtrees(signed.size), old, signed.size)
        body = str(ConsistencyProof(old, tuple(path), signed)).encode()
        return fetcher.post(f"{self.url}/add-checkpoint", body, TEXT, monotonic() + ANSWER_SECONDS)

    def _cosignature(self, answer: bytes, signed: SignedCheckpoint) -> Signature:
        """Return the cosignature in an answer. Raises NoteError."""
        for line in answer.decode(errors="replace").splitlines():
            found = Signature.parse(line)
            if (found.name, found.id) == (self.key.name, self.key.id):
                if not self.key.accepts(signed.note.text, found.signature):
                    raise NoteError(f"the cosignature of `{self.key.name}` is wrong")
                return found
        raise NoteError(f"the witness did not sign with the key `{self.key.name}`")


class CheckpointDelivery:
    """The delivery of the checkpoints of one log."""

    def __init__(self, folder: Path, options: SealOptions, every: float = MIN_SECONDS) -> None:
        """Parse the receivers. Raises DeliveryError."""
        self.folder, self.tiles, self._every = folder, TileFolder(folder), every
        self.witnesses = [CheckpointWitness(each) for each in options.witnesses]
        self.webhooks = options.webhooks
        for url in self.webhooks:
            try:
                parse_fetch_url(url)
            except FetchError as error:
                raise DeliveryError(f"the URL `{url}` for checkpoints cannot be used: {error}") from None
        self._fetcher = Fetcher(statuses=ACCEPTED)
        self._witness_fetcher = Fetcher(statuses=frozenset({200, CONFLICT}))
        self._throttle = LogThrottle.every(60.0)
        self._due, self._stop = Event(), Event()
        self._latest: SignedCheckpoint | None = None
        self._delivered = -1
        self._thread: Thread | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether there is a receiver."""
        return bool(self.witnesses or self.webhooks)

    def announce(self, signed: SignedCheckpoint) -> None:
        """Deliver this checkpoint soon, in a thread."""
        self._latest = signed
        self._due.set()
        if self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            thread = Thread(target=self._loop, name="log checkpoints", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads; the next checkpoint tries again
                text = f"checkpoints are not delivered: {error}"
                self._throttle.tell(logging.ERROR, "thread", text, event="checkpoint_not_delivered")
                return
            self._thread = thread

    def stop(self) -> None:
        """Deliver the latest checkpoint, and stop the thread."""
        self._stop.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS)
        self.deliver()

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._due.wait()
            self._due.clear()
            if self._stop.is_set():
                return
            self.deliver()
            self._stop.wait(self._every)

    def deliver(self) -> None:
        """Send the latest checkpoint once to every receiver. Failures are logged; a receiver that missed a checkpoint
        gets the next one.
        """
        signed = self._latest
        if signed is None or signed.size == self._delivered:
            return
        self._delivered = signed.size
        for url in self.webhooks:
            self._attempt(url, lambda url=url: self._post(url, signed))  # type: ignore[misc]
        if self.witnesses:
            self._collect_cosignatures(signed)

    def _post(self, url: str, signed: SignedCheckpoint) -> None:
        self._fetcher.post(url, str(signed.note).encode(), TEXT, monotonic() + ANSWER_SECONDS)

    def _collect_cosignatures(self, signed: SignedCheckpoint) -> None:
        sizes, found = read_witnessed(self.folder), list[Signature]()

        def cosign(witness: CheckpointWitness) -> None:
            found.append(witness.cosign(self._witness_fetcher, self.tiles, signed, sizes.get(witness.key.name, 0)))
            sizes[witness.key.name] = signed.size

        for witness in self.witnesses:
            self._attempt(witness.url, lambda witness=witness: cosign(witness))  # type: ignore[misc]
        if found:
            note = Note(signed.note.text, (*signed.note.signatures, *found))
            self._attempt(str(self.folder), lambda: self._write(note, sizes))

    def _write(self, note: Note, sizes: Mapping[str, int]) -> None:
        write_file(self.folder / COSIGNED, str(note).encode())
        write_file(self.folder / WITNESSED, msgspec.json.encode(sizes))

    def _attempt(self, url: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (FetchError, NoteError, TileError, OSError) as error:
            text = f"a checkpoint was not delivered to `{url}`: {error}"
            self._throttle.tell(logging.ERROR, url, text, event="checkpoint_not_delivered")
        except Exception:  # a defect must not end the thread
            _LOG.exception("a checkpoint was not delivered to `%s`", url, extra={"event": "checkpoint_not_delivered"})


def read_witnessed(folder: Path) -> dict[str, int]:
    """Return the size of the last checkpoint that each witness cosigned. The result is empty if the file is missing or
    damaged, because each witness reports its size anyway. Raises OSError."""
    try:
        return msgspec.json.decode(read_file(folder / WITNESSED), type=dict[str, int])
    except (FileNotFoundError, msgspec.DecodeError, ValueError):
        return {}


def read_cosigned(folder: Path) -> SignedCheckpoint | None:
    """Return the last checkpoint that a witness cosigned, if any. Raises OSError, NoteError."""
    try:
        return SignedCheckpoint.parse(read_file(folder / COSIGNED))
    except FileNotFoundError:
        return None


def parse_witnesses(given: Sequence[str]) -> tuple[WitnessOptions, ...]:
    """Parse witnesses of the form `<URL> <key>`. Raises DeliveryError."""
    found = []
    for text in given:
        url, space, key = text.strip().partition(" ")
        if not space:
            raise DeliveryError(f"`{text}` is not a witness: a URL and a public key are expected, with a space between")
        found.append(WitnessOptions(url, key.strip()))
    for options in found:
        CheckpointWitness(options)
    return tuple(found)
