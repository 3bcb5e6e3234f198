"""Reads secrets from OpenBao or Vault within a bounded time, and caches and refreshes them. If OpenBao is down at
startup, that is an error; later, the cached value remains valid until it is too old.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from policyengine.http.fetch import create_tls_context
from policyengine.identity.config.model import IdentityConfigError, to_seconds
from policyengine.identity.config.secret_references import OpenBaoReference
from policyengine.identity.http_fetch import check_certificates, check_url
from policyengine.identity.secret_reader import Secret, SecretReader, parse_secret
from policyengine.identity.single_flight import SingleFlight, SingleFlightError, SingleFlightTimeoutError
from policyengine.install_hints import install_command
from policyengine.plurals import format_seconds, pluralize

if TYPE_CHECKING:
    import hvac

    from policyengine.identity.config.model import OpenBaoSettings

RETRY_SECONDS = 5  # seconds without a request after a failure
MAX_REQUESTS_AT_ONCE = 16  # maximum number of concurrent requests to OpenBao
INSTALL = install_command("bao")
_LOG = logging.getLogger("policyengine")
T = TypeVar("T")


@dataclass
class RefreshedValue(Generic[T]):
    """A cached value and the time when it was read. One thread at a time refreshes it; in the meantime, other threads
    use the cached value.
    """

    asks: Callable[[], T] = field(repr=False)
    refresh: int
    stale: int
    _found: tuple[int, T] | None = field(default=None, repr=False)
    _next: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def read(self, now: int) -> T:
        """Return the value, after reading it again if it is due. Raises IdentityConfigError if it cannot be read and
        there is no value, or only a value that is older than `stale` seconds.
        """
        found = self._found
        if found is not None and now < self._next:
            return self._young(found, now)
        if self._lock.acquire(blocking=found is None):
            try:
                return self._asked(now)
            finally:
                self._lock.release()
        assert found is not None  # without a value, `acquire` waits for the lock
        return self._young(found, now)

    def at_hand(self, now: int) -> T | None:
        """Return the cached value; None if this would require a request."""
        found = self._found
        return None if found is None or now >= self._next else self._young(found, now)

    def _asked(self, now: int) -> T:
        if self._found is not None and now < self._next:  # another thread has refreshed the value
            return self._young(self._found, now)
        try:
            self._found, self._next = (now, self.asks()), now + self.refresh
        except IdentityConfigError as error:
            if self._found is None:
                raise
            self._next = now + RETRY_SECONDS
            _LOG.warning("using the previous secret: %s", error, extra={"event": "secret_not_read"})
        return self._young(self._found, now)

    def _young(self, found: tuple[int, T], now: int) -> T:
        if now - found[0] > self.stale:
            raise IdentityConfigError(
                f"OpenBao has not answered for {pluralize(now - found[0], 'second')}: the cached secret is too old"
            )
        return found[1]


@dataclass
class OpenBaoClient:
    """A client of OpenBao. `token` is read for each request, because another process may renew it. `ca` is a file of CA
    certificates to trust instead of the system's.
    """

    settings: OpenBaoSettings
    token: Callable[[int], Secret] = field(repr=False)
    ca: Path | None = None
    _kept: dict[OpenBaoReference, RefreshedValue[Secret]] = field(default_factory=dict, repr=False)
    _flights: SingleFlight[Any] = field(
        default_factory=lambda: SingleFlight("OpenBao", MAX_REQUESTS_AT_ONCE, MAX_REQUESTS_AT_ONCE), repr=False
    )

    @classmethod
    def of(cls, settings: OpenBaoSettings, secrets: SecretReader) -> OpenBaoClient:
        """Create the client; its token is in a file or variable. Raises IdentityConfigError."""
        _import_hvac()
        check_url(settings.address, "bao.address", settings.plain_http)
        ca = None if settings.ca is None else secrets.folder / settings.ca
        if ca is not None:
            check_certificates(lambda: create_tls_context(ca))
        return cls(settings, lambda now: secrets.read(settings.token, now), ca)

    def read(self, place: OpenBaoReference, now: int) -> Secret:
        """Return a secret. Raises IdentityConfigError."""
        return self.kept(self._kept, place, lambda: self._field(place, now)).read(now)

    def kept(self, known: dict[Any, RefreshedValue[T]], key: object, asks: Callable[[], T]) -> RefreshedValue[T]:
        found = known.setdefault(key, RefreshedValue(asks, *self.times))
        found.asks = asks
        return found

    @property
    def times(self) -> tuple[int, int]:
        """The number of seconds for which a value is reused, and its maximum age in seconds; a value is never reused
        beyond its maximum age.
        """
        refresh, stale = to_seconds(self.settings.refresh), to_seconds(self.settings.stale)
        return min(refresh, stale), stale

    def _field(self, place: OpenBaoReference, now: int) -> Secret:
        def asked(client: hvac.Client) -> Any:
            return client.secrets.kv.v2.read_secret_version(
                path=place.path, mount_point=place.mount, raise_on_deleted_version=True
            )

        name = f"bao:{place.mount}/{place.path}"
        fields = get_member(self.ask(name, asked, now), "data", "data")
        text = fields.get(place.field) if isinstance(fields, dict) else None
        if not isinstance(text, str):
            raise IdentityConfigError(f"`{name}` has no string `{place.field}`")
        return parse_secret(text.encode(), f"{name}#{place.field}")

    def ask(self, name: str, asks: Callable[[hvac.Client], Any], now: int) -> Any:
        """Send a request and wait at most `timeout` for it, even if OpenBao keeps sending data. Raises
        IdentityConfigError, whose message contains nothing from the answer.
        """
        wait = self.settings.timeout.total_seconds()
        try:
            flight = self._flights.start(object(), lambda: self._asked(name, asks, now))
            return self._flights.wait(flight, monotonic() + wait)
        except SingleFlightTimeoutError:
            raise IdentityConfigError(f"`{name}`: OpenBao did not answer within {format_seconds(wait)}") from None
        except SingleFlightError as why:
            raise IdentityConfigError(f"`{name}`: OpenBao is not available now: {why}") from None

    def _asked(self, name: str, asks: Callable[[hvac.Client], Any], now: int) -> Any:
        import requests
        from hvac import exceptions
        from urllib3.exceptions import ReadTimeoutError

        with requests.Session() as session:
            session.trust_env = False  # so that the token reaches no proxy, and `.netrc` is ignored
            session.verify = True if self.ca is None else str(self.ca)  # hvac takes this setting from the session
            client = self._client(session, now)
            try:
                return asks(client)
            except exceptions.Forbidden:
                raise IdentityConfigError(f"`{name}`: OpenBao does not permit this token to read it") from None
            except exceptions.InvalidPath:
                raise IdentityConfigError(f"`{name}`: not found in OpenBao") from None
            except requests.exceptions.Timeout:
                raise SingleFlightTimeoutError from None
            except requests.exceptions.SSLError:
                raise IdentityConfigError(
                    f"`{name}`: the certificate of OpenBao is not trusted", "check `ca`"
                ) from None
            except (OSError, exceptions.VaultError, ValueError) as error:
                if isinstance(error.__context__, ReadTimeoutError):  # in a body, `requests` raises ConnectionError
                    raise SingleFlightTimeoutError from None
                why = type(error).__name__
                raise IdentityConfigError(
                    f"`{name}`: OpenBao at `{self.settings.address}` does not answer: {why}"
                ) from None

    def _client(self, session: Any, now: int) -> hvac.Client:
        given = self.settings
        return _import_hvac().Client(
            url=given.address,
            token=self.token(now).reveal(),
            timeout=given.timeout.total_seconds(),
            allow_redirects=False,  # redirects are refused: the token is only for this server
            namespace=given.namespace,
            session=session,
        )


def get_member(answer: Any, *path: str) -> Any:
    """Return the nested member of an answer, or None if it has another form."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def _import_hvac() -> Any:
    try:
        import hvac
    except ImportError:
        raise IdentityConfigError("secrets in OpenBao need the package `hvac`", INSTALL) from None
    return hvac
