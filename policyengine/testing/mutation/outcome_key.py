"""The key of a trace: traces with equal keys have equal decisions."""

from __future__ import annotations

from collections.abc import Hashable

from policyengine.spec.trace import BlockTrace, DecisionTrace, DelegationLimitTrace, EffectTrace, GuardTrace


def outcome_key(seen: DecisionTrace) -> Hashable:
    """Return a key that is equal only for traces with the same decision: the answer of each gate that passed, and the
    full traces of one that did not."""
    return (
        seen.identified,
        seen.open_to_anyone,  # then users and chains do not matter
        opening_key(
            seen.open_to_anyone or any(block.opens for block in seen.presenter), (*seen.anyone, *seen.presenter)
        ),
        opening_key(seen.user_allowed, seen.user or ()),
        seen.chain_known is True,
        tuple((opening_key(hop.opens, hop.blocks), opening_key(hop.hands_on, hop.blocks)) for hop in seen.hops),
        tuple(map(limit_key, seen.limits)),
        tuple((id(guard.guard), tuple(map(effect_key, guard.effects))) for guard in seen.guards if guard_acts(guard)),
        tuple(id(limit) for limit in seen.limited if limit.acts),  # by identity: the facts they read are not compared
    )


def opening_key(open_: bool, blocks: tuple[BlockTrace, ...]) -> Hashable:
    return True if open_ else tuple(map(block_key, blocks))


def block_key(block: BlockTrace) -> Hashable:
    """Return the key of a block; blocks for other principals are all alike."""
    if block.applies is False:
        return None
    return (id(block.block),)


def limit_key(limit: DelegationLimitTrace) -> Hashable:
    return True if limit.holds is True else (limit.words, limit.limits, limit.holds)


def guard_acts(guard: GuardTrace) -> bool:
    return any(effect.triggered for effect in guard.effects)


def effect_key(effect: EffectTrace) -> Hashable:
    return (id(effect.effect), effect.triggered, effect.acts)
