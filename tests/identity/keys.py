"""Keys of issuers in tests, each made once, and signatures by them."""

from __future__ import annotations

from functools import cache
from typing import Any
from warnings import catch_warnings, simplefilter

from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

KINDS: dict[str, tuple[Any, Any]] = {
    "RS256": (RSAKey, 2_048), "PS256": (RSAKey, 2_048), "ES256": (ECKey, "P-256"), "ES384": (ECKey, "P-384"),
    "ES512": (ECKey, "P-521"), "ES256K": (ECKey, "secp256k1"), "EdDSA": (OKPKey, "Ed25519"),
    "X25519": (OKPKey, "X25519"), "Ed448": (OKPKey, "Ed448"), "weak": (RSAKey, 1_024), "HS256": (OctKey, 256),
}  # fmt: skip


def key(kind: str, number: int = 1) -> Any:
    return made(kind, number)


@cache
def made(kind: str, number: int) -> Any:
    cls, size = KINDS[kind]
    with catch_warnings():
        simplefilter("ignore")  # a weak one is wanted
        return cls.generate_key(size)


def public(kind: str, number: int = 1, **members: Any) -> dict[str, Any]:
    """Return the key as in a JWKS; a member that is None is omitted."""
    told = {"kid": f"{kind.lower()}-{number}", **key(kind, number).as_dict(private=kind == "HS256"), **members}
    return {name: value for name, value in told.items() if value is not None}


def private(kind: str, number: int = 1, **members: Any) -> dict[str, Any]:
    return {"kid": f"{kind.lower()}-{number}", **key(kind, number).as_dict(private=True), **members}


def jwks(*keys: dict[str, Any]) -> dict[str, Any]:
    return {"keys": list(keys)}


def signed(kind: str, number: int = 1, alg: str | None = None, **header: Any) -> str:
    """Return a JWS of `{}`; a member of the header that is None is omitted."""
    told = {"alg": alg or kind, "kid": f"{kind.lower()}-{number}", **header}
    told = {name: value for name, value in told.items() if value is not None}
    return jws.serialize_compact(told, b"{}", key(kind, number), algorithms=[told["alg"]])
