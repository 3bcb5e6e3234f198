"""The peers: each module gives one engine the rules of the workload, written in that engine's own language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Protocol, TypeAlias

from bench.workload import Workload


class Peer(Protocol):
    """One engine with the rules in it.

    `question` is made before the clock starts, in the shape that the engine's own interface takes; `ask` is what is
    timed, with whatever conversion the binding itself needs; `allowed` reads the answer, after the clock has stopped.
    """

    @property
    def ask(self) -> Callable[[Any], Any]: ...

    def question(self, asked: Any) -> Any: ...

    def allowed(self, answer: Any) -> bool: ...


Load: TypeAlias = Callable[[Workload], Peer]


@dataclass(frozen=True, slots=True)
class Entry:
    """`package` is the distribution that must be there, None for what this repository brings; `native` is not Python.

    `indexed`: the rules are looked up by path, by the engine or by code that its caller had to write.
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
        """None when it is not installed."""
        try:
            return metadata.version(self.package or "agent-policyengine")
        except metadata.PackageNotFoundError:
            return None

    def loader(self) -> Load:
        loader: Load = getattr(import_module(f"bench.peers.{self.module}"), self.load)
        return loader


OURS = Entry("policyengine", "policyengine", "own", "Ours", indexed=True)
FLOOR = Entry("floor", "floor: plain Python, same duties", "own", "Floor", indexed=True)
BARE = Entry("floor-bare", "floor: no duties, bool only", "own", "BareFloor", indexed=True)
PEERS = (
    Entry("cel-sliced", "CEL in Rust, sliced", "cel", "Sliced", "common-expression-language", True, True),
    Entry("cel", "CEL in Rust", "cel", "Listed", "common-expression-language", True),
    Entry("rego-data", "Rego (regorus), keyed data", "rego", "AsData", "opa-eval", True, True),
    Entry("rego", "Rego (regorus)", "rego", "AsRules", "opa-eval", True),
    Entry("cedar-sliced", "Cedar, sliced", "cedar", "Sliced", "cedarpy", True, True),
    Entry("cedar", "Cedar", "cedar", "Whole", "cedarpy", True),
    Entry("casbin-sliced", "Casbin, FastEnforcer", "casbin", "Sliced", "casbin", False, True),
    Entry("casbin", "Casbin", "casbin", "Listed", "casbin"),
    Entry("cel-python-sliced", "cel-python, sliced", "celpy", "Sliced", "cel-python", False, True),
    Entry("cel-python", "cel-python", "celpy", "Listed", "cel-python"),
    Entry("oso", "Oso", "oso", "Rules", "oso", True),
)
ENTRIES = {entry.name: entry for entry in (OURS, FLOOR, BARE, *PEERS)}
