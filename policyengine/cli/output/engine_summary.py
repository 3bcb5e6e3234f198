"""The part of the summaries of `serve` and `mcp-gateway` about the engine: policies, store, log and behavior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyengine.cli.output.terminal import Screen
from policyengine.plurals import pluralize

if TYPE_CHECKING:
    from policyengine.audit import DecisionLog
    from policyengine.behavior.shared import SharedTracker
    from policyengine.behavior.tracker import BehaviorTracker
    from policyengine.compiler.tree import Tree
    from policyengine.engine import Engine
    from policyengine.kernel import Kernel


def shown_store(url: str) -> str | None:
    """Return the URL of a store without its password; None for a store in memory."""
    from policyengine.stores.url import parse_store_url

    return None if url == "memory:" else parse_store_url(url).shown


def describe_engine(engine: Engine, tests: int | None, store: str | None) -> dict[str, Any]:
    """Return an engine as JSON. `tests` is the number of test requests, or None if tests were not run."""
    facts = {
        "packages": list(engine.packages), "revision": engine.revision,
        "rules": count_rules(engine.kernel, engine.decider.tree), "warnings": len(engine.warnings),
    }  # fmt: skip
    observing = engine.observing
    optional = {
        "tests": tests,
        "store": store,
        "log": None if engine.log is None else describe_log(engine.log),
        "behavior": None if engine.behavior is None else engine.behavior.describe(),
        "observing": None if observing is None else observing.to_dict(),
    }
    return {**facts, **{name: fact for name, fact in optional.items() if fact is not None}}


def print_engine(screen: Screen, engine: Engine, tests: int | None, store: str | None) -> None:
    """Print what `describe_engine` returns."""
    warnings = len(engine.warnings)
    screen.line(f"packages: {', '.join(engine.packages)}")
    screen.line(f"revision: {engine.revision}")
    screen.line(f"rules:    {count_rules(engine.kernel, engine.decider.tree):,}")
    if tests is not None:
        screen.line(f"tests:    {tests:,} passed")
    if store is not None:
        screen.line(f"store:    {store}")
    if engine.log is not None:
        print_log(screen, engine.log)
    if engine.behavior is not None:
        print_behavior(screen, engine.behavior)
    if engine.observing:
        until = engine.observing.to_dict()["until"]
        screen.line((f"OBSERVING until {until}: decisions are reported, not enforced", "bold yellow"))
    if warnings:
        screen.line((f"{pluralize(warnings, 'warning')}: `policyengine check` shows them", "yellow"))


def describe_log(log: DecisionLog) -> dict[str, object]:
    """Return where the decision log is, how it is sealed, and the names of its sinks."""
    sealer, sinks = log.sealer, [] if log.sinks is None else [sink.name for sink in log.sinks.sinks]
    sealed = {} if sealer is None else {"seal": str(sealer.folder), "key": str(sealer.key_path)}
    return {"file": str(log.path), **sealed, "sinks": sinks}


def print_log(screen: Screen, log: DecisionLog) -> None:
    sealed = "not sealed" if log.sealer is None else f"sealed in {log.sealer.folder} with the key {log.sealer.key_path}"
    screen.line(f"log:      {log.path}, {sealed}")
    if log.sinks is not None:
        screen.line(f"sinks:    {', '.join(sink.name for sink in log.sinks.sinks)}")


def print_behavior(screen: Screen, tracker: BehaviorTracker | SharedTracker) -> None:
    known = tracker.describe()
    place = known.get("folder", "in memory: it is lost with this process (name a folder: `--behavior FOLDER`)")
    if "shared" in known:
        place = "in the store, for all processes that share it"
    callers = f"{pluralize(known['callers'], 'caller')}, " if "callers" in known else ""
    learned = f"{callers}model {known['model']}" if known["model"] else "nothing is learned yet"
    screen.line(f"behavior: {place}; {learned}")


def count_rules(kernel: Kernel, tree: Tree) -> int:
    """Count the grants, guard effects and limits of the policies. Grants are counted in the tree, because counting them
    in a bundle would decode its blocks.
    """
    grants = {(opens.kind, opens.block, opens.grant) for uses in tree.uses for opens in uses.opens}
    return len(grants) + sum(len(guard.effects) for guard in kernel.guards) + len(kernel.limits)
