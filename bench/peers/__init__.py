"""The peers: each module translates the rules of the workload to one engine's own language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Protocol, TypeAlias

from bench.workload import Workload


class Peer(Protocol):
    """One engine, loaded with the rules.

    `question` is built before the clock starts, in the shape of the engine's interface; `ask` is timed, including any
    conversion that the binding needs; `allowed` reads the answer after the clock has stopped.
    """

    @property
    def ask(self) -> Callable[[Any], Any]: ...

    def question(self, asked: Any) -> Any: ...

    def allowed(self, answer: Any) -> bool: ...


Load: TypeAlias = Callable[[Workload], Any]


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """A peer in the registry. `package` is its distribution, None for engines of this repository; `native` means not
    Python.

    `indexed`: rules are looked up by path, by the engine or by code that its caller must write.
    """

    name: str
    title: str
    module: str
    load: str
    package: str | None = None
    native: bool = False
    indexed: bool = False

    @property
    def version(self) -> str | None:
        """The installed version, or None if it is not installed."""
        try:
            return metadata.version(self.package or "agent-policyengine")
        except metadata.PackageNotFoundError:
            return None

    def loader(self) -> Load:
        loader: Load = getattr(import_module(f"bench.peers.{self.module}"), self.load)
        return loader


OURS = PeerEntry("policyengine", "policyengine", "own", "PolicyenginePeer", indexed=True)
FLOOR = PeerEntry("floor", "floor: plain Python, same duties", "own", "FloorPeer", indexed=True)
BARE = PeerEntry("floor-bare", "floor: no duties, bool only", "own", "BareFloorPeer", indexed=True)
PEERS = (
    PeerEntry("cel-sliced", "CEL in Rust, sliced", "cel", "CelSlicedPeer", "common-expression-language", True, True),
    PeerEntry("cel", "CEL in Rust", "cel", "CelPeer", "common-expression-language", True),
    PeerEntry("rego-data", "Rego (regorus), keyed data", "rego", "RegoDataPeer", "opa-eval", True, True),
    PeerEntry("rego", "Rego (regorus)", "rego", "RegoRulesPeer", "opa-eval", True),
    PeerEntry("cedar-sliced", "Cedar, sliced", "cedar", "CedarSlicedPeer", "cedarpy", True, True),
    PeerEntry("cedar", "Cedar", "cedar", "CedarPeer", "cedarpy", True),
    PeerEntry("casbin-sliced", "Casbin, FastEnforcer", "casbin", "CasbinSlicedPeer", "casbin", False, True),
    PeerEntry("casbin", "Casbin", "casbin", "CasbinPeer", "casbin"),
    PeerEntry("cel-python-sliced", "cel-python, sliced", "celpy", "CelpySlicedPeer", "cel-python", False, True),
    PeerEntry("cel-python", "cel-python", "celpy", "CelpyPeer", "cel-python"),
    PeerEntry("oso", "Oso", "oso", "OsoPeer", "oso", True),
)
# Asked by `kinds` about each kind of question: a `KindPeer` each.
KIND_PEERS = (
    PeerEntry("cel-sliced", "CEL in Rust", "cel_kinds", "CelKindPeer", "common-expression-language", True, True),
    PeerEntry("rego-data", "Rego (regorus)", "rego_kinds", "RegoKindPeer", "opa-eval", True, True),
    PeerEntry("cedar-sliced", "Cedar", "cedar_kinds", "CedarKindPeer", "cedarpy", True, True),
)
ENTRIES = {entry.name: entry for entry in (OURS, FLOOR, BARE, *PEERS)}
