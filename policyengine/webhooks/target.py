"""The target of a webhook: its URL, its secrets, and the events that it receives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from policyengine.approvals.events import ApprovalEvent, ApprovalEventKind
from policyengine.approvals.links import approval_url
from policyengine.audit.sinks.secret_values import SecretValue, SecretValueError
from policyengine.http.webhook_signature import signature_key

REAL_EVENTS = tuple(kind for kind in ApprovalEventKind if kind is not ApprovalEventKind.TEST)
MIN_SECRET_BYTES = 24  # as the Standard Webhooks specification requires


class WebhookFormat(StrEnum):
    """The format of the messages of a webhook."""

    JSON = "json"
    SLACK = "slack"
    SLACK_WORKFLOW = "slack-workflow"
    TEAMS = "teams"


@dataclass(frozen=True, slots=True)
class WebhookLinks:
    """The base URLs of links to approvals: of the console, and of the decision API."""

    console: str | None = None
    api: str | None = None

    def page(self, id: str) -> str | None:
        """Return the URL of the approval's page in the console, or None without a public URL of the console."""
        return approval_url(self.console, id)

    def status(self, id: str) -> str | None:
        """Return the URL of the approval's state, or None without a public URL of the decision API."""
        return approval_url(self.api, id)


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """A webhook. `url`, or the content of `url_file`, is its URL. `secret_files` hold the secrets that sign its
    messages: each message has a signature by each of them. `approvers`, if there are any, select the approvals by their
    `by`, such as `role finance`. `include_request` adds the values of the request. `allow_private` permits addresses of
    this machine, also over `http://`, and of private networks; `ca` is a PEM file of certificates to trust instead of
    the system's.
    """

    name: str
    url: str | None = None
    url_file: Path | None = None
    secret_files: tuple[Path, ...] = ()
    format: WebhookFormat = WebhookFormat.JSON
    events: tuple[ApprovalEventKind, ...] = REAL_EVENTS
    approvers: tuple[str, ...] = ()
    include_request: bool = False
    allow_private: bool = False
    ca: Path | None = None
    timeout: float = 10.0

    def wants(self, event: ApprovalEvent) -> bool:
        """Return whether the webhook receives an event."""
        if event.kind is ApprovalEventKind.TEST:
            return True
        return event.kind in self.events and (not self.approvers or event.approval.by in self.approvers)

    def read_url(self) -> str:
        """Return the URL. Raises SecretValueError."""
        return self.url or SecretValue("file", str(self.url_file)).read()

    def read_keys(self) -> list[bytes]:
        """Return the signature keys. Raises SecretValueError."""
        return [read_key(path) for path in self.secret_files]


def read_key(path: Path) -> bytes:
    """Return the signature key in a file. Raises SecretValueError."""
    place = SecretValue("file", str(path))
    try:
        key = signature_key(place.read())
    except ValueError as error:
        raise SecretValueError(f"`{place}`: {error}") from None
    if len(key) < MIN_SECRET_BYTES:
        raise SecretValueError(f"`{place}`: the secret has fewer than {MIN_SECRET_BYTES} bytes")
    return key
