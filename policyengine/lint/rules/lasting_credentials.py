"""Credentials that a thief could use for a long time: agents without a lifetime limit, or with static keys."""

from __future__ import annotations

from collections.abc import Iterator

from policyengine import kernel as k
from policyengine.checker.patterns.overlap import covers
from policyengine.diagnostics.model import Diagnostic

STATIC = ("api_key", "basic")
LIFETIME = (("credential", "lifetime"), ("credential", "age"))
KIND = (("credential", "kind"), ("credential", "bound"))


def long_lived(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for agent in opening_agents(kernel):
        if not has_requirement(agent, k.CredentialLifetime, k.CredentialAge) and not is_guarded(
            agent, kernel, LIFETIME
        ):
            message = f"a credential of `{agent.label}` may never expire"
            hint = "add `credential { lifetime <= 15m }`: a stolen credential then expires soon"
            yield Diagnostic("W456", message, agent.span, hint)


def static_keys(kernel: k.Kernel) -> Iterator[Diagnostic]:
    for agent in opening_agents(kernel):
        kinds = [one for one in agent.requirements if isinstance(one, k.CredentialKinds)]
        if not kinds and not has_requirement(agent, k.ProofOfPossession) and not is_guarded(agent, kernel, KIND):
            message = f"`{agent.label}` accepts any kind of credential, including static keys"
            yield Diagnostic("W457", message, agent.span, "add `credential { kind in [jwt, mtls] }`")
        for requirement in kinds:
            accepted = [kind for kind in requirement.kinds if kind in STATIC]
            if accepted and all(set(STATIC) & set(other.kinds) for other in kinds):
                message = f"`{agent.label}` accepts `{accepted[0]}`, a credential that anyone who has seen it can use"
                yield Diagnostic(
                    "W457", message, requirement.span, f"remove `{accepted[0]}`, and issue tokens that expire"
                )


def opening_agents(kernel: k.Kernel) -> Iterator[k.AgentBlock]:
    return (agent for agent in kernel.agents if agent.grants)


def has_requirement(agent: k.AgentBlock, *kinds: type[k.Node]) -> bool:
    return any(isinstance(one, kinds) for one in agent.requirements)


def is_guarded(agent: k.AgentBlock, kernel: k.Kernel, facts: tuple[tuple[str, ...], ...]) -> bool:
    """Return whether guards that deny by one of these facts cover every endpoint of the agent; False if there are no
    such guards.
    """
    asking = [guard for guard in kernel.guards if any(denies_by_fact(effect, facts) for effect in guard.effects)]
    patterns = [opening.pattern for grant in agent.grants for opening in grant.openings]
    return bool(asking) and all(any(covers_pattern(guard.place, p) for guard in asking) for p in patterns)


def denies_by_fact(effect: k.Effect, facts: tuple[tuple[str, ...], ...]) -> bool:
    condition = effect.condition if isinstance(effect, k.Deny) else None
    return condition is not None and any(isinstance(one, k.Fact) and one.path in facts for one in k.walk(condition))


def covers_pattern(place: k.Place, pattern: k.Pattern) -> bool:
    return not place.excepts and (place.patterns is None or any(covers(one, pattern) for one in place.patterns))
