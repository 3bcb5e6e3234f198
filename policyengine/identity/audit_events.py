"""What the decision log says of tokens of our own and of what was ended: who, through whom, for whom, on whose word.

A token is told by its fingerprint, and by the facts that decisions have that are made by it; never by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, assert_never

from policyengine.identity.facts import facts_of, fingerprint, said
from policyengine.identity.issue.clients import Actor, Client
from policyengine.identity.issue.errors import NotIssued
from policyengine.identity.issue.request import Asked, Task
from policyengine.identity.verified import Binding, Proved, Token, Who
from policyengine.identity.verify.claims import LATEST
from policyengine.identity.verify.task_claim import reference_of
from policyengine.kernel import Kernel
from policyengine.runtime.credential_errors import Refused

Told: TypeAlias = dict[str, object]


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever has a token of `--token-file`; `name` where that gives it one."""

    name: str | None = None


By: TypeAlias = Operator | Actor | Proved  # an operator, a client, or an agent with its token


# ── Issued, or not ────────────────────────────────────────────────────────────────────────────


def told_of_issued(
    facts: Mapping[str, object], claims: Mapping[str, object], actor: Actor, subject: tuple[Token, Who], kernel: Kernel
) -> Told:
    """`facts`: as the token proves them; `claims`: what it says."""
    own = {} if actor.token is None else {"actor": told_of_token(*actor.token)}
    return {
        **told_of_client(actor.client), "jti": claims["jti"], "audience": claims["aud"], "bound_to": claims["cnf"],
        "subject": told_of_token(*subject), **own, **facts, **told_of_policies(kernel),
    }  # fmt: skip


def told_of_refused(
    why: NotIssued, asked: Asked, actor: Actor, subject: tuple[Token, Who] | bytes, kernel: Kernel
) -> Told:
    """What a client was not given that had proved who it is; `subject`: the token, or the digest of what is none."""
    about = {"fingerprint": fingerprint(subject)} if isinstance(subject, bytes) else told_of_token(*subject)
    own = {} if actor.token is None else {"actor": told_of_token(*actor.token)}
    scopes = {} if asked.scopes is None else {"credential": {"scopes": asked.scopes}}
    wanted = {} if asked.task is None else {"task": told_of_task(asked.task)}
    return {
        "code": why.code.value, "error": why.error.value, **told_of_client(actor.client), "subject": about, **own,
        **scopes, **wanted, **told_of_policies(kernel),
    }  # fmt: skip


def told_of_task(task: Task) -> Told:
    entities = None if task.entities is None else [reference_of(one) for one in task.entities]
    return said({"id": task.id, "tools": task.tools, "entities": entities})


def told_of_client(client: Client) -> Told:
    return {"client": client.name, "method": client.method, "agent": {"id": client.agent, "issuer": client.issuer}}


def told_of_policies(kernel: Kernel) -> Told:
    return {"package": kernel.package, "revision": kernel.revision}


def told_of_token(token: Token, who: Who) -> Told:
    """Enough to find it by, in this log and at its issuer."""
    jti = token.claims.get("jti")
    return said(
        {
            "fingerprint": fingerprint(token.digest), "issuer": token.issuer,
            "jti": jti if isinstance(jti, str) else None, "agent": who.agent, "user": who.user,
        }
    )  # fmt: skip


# ── Ended ─────────────────────────────────────────────────────────────────────────────────────


def told_of_end(kind: str, about: Mapping[str, object], by: By, until: int | None = None) -> Told:
    """`kind`: what was ended, `about` which one that is; `until`: where it was for a while only."""
    ends = {} if until is None or until > LATEST else {"until": datetime.fromtimestamp(until, UTC)}
    return {"what": kind, "by": told_of_word(by), **about, **ends}


def told_of_word(by: By) -> Told:
    match by:
        case Operator(name):
            return {"kind": "operator", **({} if name is None else {"name": name})}
        case Actor(client):
            return {"kind": "client", **told_of_client(client)}
        case Proved(facts):
            known: Told = {root: facts[root] for root in ("agent", "user") if root in facts}
            return {"kind": "agent", **known, "fingerprint": by.fingerprint}
        case _:
            assert_never(by)


def word_of(by: By) -> str:
    """For a line in words."""
    match by:
        case Operator():
            return "an operator"
        case Actor(client):
            return client.name
        case Proved(facts):
            return str(facts["agent"]["id"])
        case _:
            assert_never(by)


def about_token(token: Token, who: Who | None, binding: Binding) -> Told:
    """The facts that decisions have that were made by it, but for claims. `who` None: it is nobody's, or does not say
    in a way that is understood."""
    jti = token.claims.get("jti")
    facts: Mapping[str, object] = {"credential": {"fingerprint": fingerprint(token.digest), "issuer": token.issuer}}
    if who is not None:
        with suppress(Refused, ValueError, OverflowError):  # it says what is no value: it is ended all the same
            facts = facts_of(token, who, binding)
    return {**({"jti": jti} if isinstance(jti, str) else {}), **facts}


def about_named(kind: str, name: str) -> Told:
    """As an operator names it: `issuer/name`, and of keys the key alone."""
    issuer, _, rest = name.partition("/")
    match kind:
        case "key":
            return {"key": name}
        case "chain":
            return {"chain": {"issuer": issuer, "jti": rest}}
        case "task":
            return about_task(rest, (issuer,))
        case _:
            return {kind: {"id": rest, "issuer": issuer}}


def about_task(task: str, issuers: Collection[str]) -> Told:
    """Of whose tokens it was a task."""
    return {"task": {"id": task}, "issuers": sorted(issuers)}
