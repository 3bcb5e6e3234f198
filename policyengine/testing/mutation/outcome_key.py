"""What a walk comes to: where that is the same, so is the decision, whatever else was seen on the way."""

from __future__ import annotations

from collections.abc import Hashable

from policyengine.spec.trace import BlockSeen, EffectSeen, GuardSeen, LimitSeen, Walk


def comes_to(seen: Walk) -> Hashable:
    """Equal only for walks that the specification concludes the same from: each gate's answer where it is passed, all
    that was seen there where it is not."""
    return (
        seen.identified,
        seen.open_to_anyone,  # then users and chains do not matter
        opening(seen.open_to_anyone or any(block.opens for block in seen.presenter), (*seen.anyone, *seen.presenter)),
        opening(seen.user_allowed, seen.user or ()),
        seen.chain_known is True,
        tuple((opening(hop.opens, hop.blocks), opening(hop.hands_on, hop.blocks)) for hop in seen.hops),
        tuple(map(limited, seen.limits)),
        tuple((id(guard.guard), tuple(map(acting, guard.effects))) for guard in seen.guards if acts(guard)),
        tuple(id(limit) for limit in seen.limited if limit.acts),  # of this walk alone: what they read is not compared
    )


def opening(open_: bool, blocks: tuple[BlockSeen, ...]) -> Hashable:
    return True if open_ else tuple(map(block_of, blocks))


def block_of(block: BlockSeen) -> Hashable:
    """One that is about somebody else is told apart from none only by its number: there is nothing to say of it."""
    if block.applies is False:
        return None
    return (id(block.block),)


def limited(limit: LimitSeen) -> Hashable:
    return True if limit.holds is True else (limit.words, limit.limits, limit.holds)


def acts(guard: GuardSeen) -> bool:
    return any(effect.triggered for effect in guard.effects)


def acting(effect: EffectSeen) -> Hashable:
    return (id(effect.effect), effect.triggered, effect.acts)
