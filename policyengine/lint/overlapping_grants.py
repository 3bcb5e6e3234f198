"""Laxer twins: two agent blocks that open the same endpoint to the same agent, if only one of the blocks has a
requirement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations, islice

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import overlaps
from policyengine.diagnostics.model import Diagnostic, RelatedLocation
from policyengine.solver.satisfiability import ACTS_ON_TRUE, implies

MAX_BLOCK_PAIRS = 50_000
MAX_GRANT_PAIRS = 2_000  # maximum pairs of patterns to compare for each pair of blocks
BEGINNING, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def laxer_twins(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for a, b in unlike_pairs(kernel.agents):
        if may_both_apply(a, b) and (doors := common_grant(a, b)):
            sides = (a, b, doors[1]), (b, a, doors[0])
            asked = ((lax, door, missing_requirement(strict, lax)) for strict, lax, door in sides)
            found = (laxer_twin_finding(lax, door, missing) for lax, door, missing in asked if missing is not None)
            yield from islice(found, 1)


def laxer_twin_finding(lax: k.AgentBlock, door: k.Grant, missing: k.Requirement) -> Diagnostic:
    demand = " ".join(missing.span.text.split())
    message = f"`{lax.label}` grants this without `{demand}`, which another block for the same agent requires"
    hint = "require it in both blocks, or in a guard if it must hold for every caller"
    return Diagnostic("W450", message, door.span, hint, (RelatedLocation("required here", missing.span),))


def unlike_pairs(agents: tuple[k.AgentBlock, ...]) -> Iterator[tuple[k.AgentBlock, k.AgentBlock]]:
    """Return the pairs of blocks that can match the same agent and have different requirements. Most blocks of a large
    policy have the same requirements, so each list of requirements gets a number, and the numbers are compared.
    """
    numbers: dict[tuple[k.Requirement, ...], int] = {}
    asks = {id(agent): numbers.setdefault(agent.requirements, len(numbers)) for agent in agents}
    compared = islice(matching_pairs(agents), MAX_BLOCK_PAIRS)
    return ((a, b) for a, b in compared if asks[id(a)] != asks[id(b)]) if len(numbers) > 1 else iter(())


def matching_pairs(agents: tuple[k.AgentBlock, ...]) -> Iterator[tuple[k.AgentBlock, k.AgentBlock]]:
    """Yield pairs of blocks that can match the same agent: two blocks with the same name, or any pair in which one
    block has a group or a condition.
    """
    named: dict[str, list[k.AgentBlock]] = defaultdict(list)
    others = []
    for agent in agents:
        match agent.who:
            case k.ExactName(name):
                named[name].append(agent)
            case _:
                others.append(agent)
    for same in named.values():
        yield from combinations(same, 2)
    for i, other in enumerate(others):
        for agent in (*(a for same in named.values() for a in same), *others[i + 1 :]):
            yield agent, other


def may_both_apply(a: k.AgentBlock, b: k.AgentBlock) -> bool:
    """Return whether one request can match both blocks: they share an issuer, a way to act and a time."""
    issuers = [{i for r in block.requirements if isinstance(r, k.IssuedBy) for i in r.issuers} for block in (a, b)]
    alone = [any(isinstance(r, k.ActsAlone) for r in block.requirements) for block in (a, b)]
    (start_a, end_a), (start_b, end_b) = validity(a), validity(b)
    return bool(issuers[0] & issuers[1]) and alone[0] == alone[1] and max(start_a, start_b) < min(end_a, end_b)


def validity(block: k.AgentBlock) -> tuple[datetime, datetime]:
    ranges = [r for r in block.requirements if isinstance(r, k.ValidityPeriod)]
    starts, ends = [r.start for r in ranges if r.start], [r.end for r in ranges if r.end]
    return max(starts, default=BEGINNING), min(ends, default=END)


def common_grant(a: k.AgentBlock, b: k.AgentBlock) -> tuple[k.Grant, k.Grant] | None:
    """Return the first grant of each block that opens the same endpoint; None if the blocks have no
    endpoint in common.
    """
    doors = ((g, h, x, y) for g in a.grants for x in g.openings for h in b.grants for y in h.openings)
    return next(((g, h) for g, h, x, y in islice(doors, MAX_GRANT_PAIRS) if overlaps(x.pattern, y.pattern)), None)


def missing_requirement(strict: k.AgentBlock, lax: k.AgentBlock) -> k.Requirement | None:
    """Return the first requirement of `strict` that `lax` does not imply; None if `lax` implies all."""
    given = (*lax.requirements, None)
    return next((r for r in strict.requirements if not any(is_as_strict(other, r) for other in given)), None)


def is_as_strict(other: k.Requirement | None, requirement: k.Requirement) -> bool:
    """Return whether `other` implies `requirement`; None stands for no requirement."""
    match requirement, other:
        case ((k.IssuedBy() | k.ActsAlone() | k.ActsFor(condition=None)), _):
            return True  # the issuers and the way to act are equal: the caller compared them
        case k.ActsFor(condition=wanted), k.ActsFor(condition=given) if wanted is not None and given is not None:
            return implies(given, wanted, ACTS_ON_TRUE)
        case k.CredentialKinds(kinds=wanted), k.CredentialKinds(kinds=given):
            return set(given) <= set(wanted)
        case k.CredentialLifetime(limit=wanted), k.CredentialLifetime(limit=given):
            return given <= wanted
        case k.CredentialAge(limit=wanted), k.CredentialAge(limit=given):
            return given <= wanted
        case k.ProofOfPossession(), k.ProofOfPossession():
            return True
        case k.AttestedBy(attesters=wanted), k.AttestedBy(attesters=given):
            return set(given) <= set(wanted)
        case k.ValidityPeriod(), k.ValidityPeriod():
            begins = (other.start or BEGINNING) >= (requirement.start or BEGINNING)
            return begins and (other.end or END) <= (requirement.end or END)
        case _:
            return False
