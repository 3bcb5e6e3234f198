"""The option `--store` of the `behavior` commands, and functions that open the store and find callers in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from policyengine.cli.errors import CommandError
from policyengine.cli.options.behavior import ambiguous_caller_error
from policyengine.cli.output.terminal import Screen

if TYPE_CHECKING:
    from policyengine.behavior.events import Caller
    from policyengine.behavior.model import BehaviorModel
    from policyengine.behavior.operator_store import StoredBehavior, StoredReleases
    from policyengine.stores.resilient_store import ResilientStore

LEARNS_HINT = "a server with this store learns if its policies read `behavior.*`"
MODEL_HINT = "`behavior forget --all` removes the model, and learning starts again"
NAMES_HINT = "the store contains no names: give the exact name, `--issuer` and `--instance` of the caller"
SharedStoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store with learned behavior, in place of a folder: the store of `serve --store` (docs/stores.md).",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class OpenedStore:
    """A store that processes share: its URL without the password, and its learned behavior."""

    shown: str
    store: ResilientStore
    learned: StoredBehavior


def check_place(behavior: Path | None, store: str | None) -> None:
    """Check that the command line names either a folder or a store. Raises CommandError."""
    if (behavior is None) is (store is None):
        hint = "write `--behavior FOLDER` or `--store URL`"
        raise CommandError("usage", "name either a folder or a store with learned behavior", hint, code=2)


@contextmanager
def open_learned(url: str) -> Iterator[OpenedStore]:
    """Open the learned behavior in a store, and create nothing. Raises CommandError, also for errors of the store
    inside the `with` block.
    """
    from policyengine.behavior.operator_store import NoLearnedBehaviorError, StoredBehavior
    from policyengine.stores.url import StoreUrlError, open_existing_store, parse_store_url

    try:
        store = open_existing_store(url)
    except StoreUrlError as error:
        raise CommandError("store", error.message, error.hint) from None
    shown = parse_store_url(url).shown
    with closing(store), report_store_errors(shown):
        try:
            yield OpenedStore(shown, store, StoredBehavior(store.behavior))
        except NoLearnedBehaviorError:
            message = f"the store at `{shown}` has no learned behavior"
            raise CommandError("behavior", message, LEARNS_HINT, (("store", shown),)) from None


@contextmanager
def report_store_errors(shown: str) -> Iterator[None]:
    """Convert errors of a store, and of damaged data in it, to a CommandError."""
    from policyengine.behavior.model import ModelError
    from policyengine.behavior.operator_store import DocumentConflictError
    from policyengine.cli.doctor.machine import NTP_HINT
    from policyengine.stores.base import StoreError
    from policyengine.stores.behavior import UnreadableBehaviorError
    from policyengine.stores.clock_skew import ClockSkewError

    facts = (("store", shown),)
    try:
        yield
    except ModelError as error:
        raise CommandError("behavior", f"the model in `{shown}` cannot be used: {error}", MODEL_HINT, facts) from None
    except DocumentConflictError as error:
        message = f"{error} in `{shown}` cannot be replaced, because its number is too high or changes all the time"
        raise CommandError("behavior", message, "delete it in the store (docs/stores.md)", facts) from None
    except UnreadableBehaviorError as error:
        raise CommandError("behavior", f"`{shown}`: {error}", "`behavior forget` forgets the caller", facts) from None
    except ClockSkewError as error:
        raise CommandError("store", error.reason.replace("this server", "this machine"), NTP_HINT, facts) from None
    except StoreError as error:
        message = f"the store at `{shown}` cannot be used: {error}"
        raise CommandError("store", message, "check that it is running and reachable from here", facts) from None


def warn_of_refused(planned: StoredReleases) -> None:
    """Warn on stderr about planned changes that processes ignore."""
    if planned.refused:
        Screen(sys.stderr).warn(f"the planned changes in the store are ignored: {planned.refused}")


def find_stored_callers(
    learned: StoredBehavior, name: str, issuer: str | None, instance: str | None, model: BehaviorModel | None = None
) -> list[Caller]:
    """Return the callers with a name, without versions. Raises StoreError, ModelError."""
    from policyengine.behavior.events import name_caller

    issuers = {issuer} if issuer is not None else {"", *learned.issuers(model or learned.load_model())}
    callers = [name_caller(one, name, instance or "") for one in sorted(issuers)]
    return [caller for caller in callers if learned.knows(caller)]


def find_stored_caller(
    learned: StoredBehavior, name: str, issuer: str | None, instance: str | None, model: BehaviorModel | None = None
) -> Caller:
    """Return one caller, without a version. Without an issuer, search at all issuers that the store knows. Raises
    CommandError if no caller or several callers have the name, StoreError, ModelError."""
    found = find_stored_callers(learned, name, issuer, instance, model)
    if not found and learned.has_key(name):
        message = f"`{name}` is the key of a caller, from which its name cannot be found"
        raise CommandError("caller", message, f"`behavior forget {name}` forgets the caller")
    if not found:
        raise CommandError("caller", f"nothing is known about `{name}`", NAMES_HINT)
    if len(found) > 1:
        raise ambiguous_caller_error(name, [caller[:3] for caller in found])
    return found[0]
