"""The program: the rules of a policy at each endpoint, as plain data that the walker reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from policyengine import kernel as k
from policyengine.evaluator.blocks import Block
from policyengine.evaluator.nodes import BoundValue, Node, Path
from policyengine.evaluator.principals import PrincipalRules
from policyengine.evaluator.rules import Effect, LimitRule, RecordRule, TaskRule
from policyengine.runtime.decision import Answer, Outcome
from policyengine.runtime.endpoints import Endpoint, HttpEndpoint
from policyengine.runtime.letter_case import fold_case

if TYPE_CHECKING:
    from policyengine.evaluator.history_nodes import EventRules


class TrustAnchor:
    """An issuer that the policy trusts. `claims` are triples of a claim, a root and the attribute that the
    claim sets.
    """

    __slots__ = ("claims", "name", "records_chains", "scopes_none")

    def __init__(self, issuer: k.Issuer) -> None:
        self.name = issuer.name
        self.records_chains = issuer.records_chains
        self.scopes_none = issuer.scopes_none
        self.claims = tuple((claim, root, attribute) for claim, (root, attribute) in issuer.claims)


class PathBranch:
    """A set of places in the trie of path patterns, which one path can reach together.

    `next` are the branches after known literal segments, `wild` is the branch after any other segment. `cased` are the
    literals by their folded text: a segment that is not in `next` may spell one of them in another case.

    The rules are indexed by method: `ends` for a path that ends here, `rest` for a path that continues beyond all
    patterns, `last` for a path whose last segment is any non-literal, if its text does not matter.

    `places` are the nodes of the tree, each with the least folding with which a path reaches it. `rests` are matching
    patterns that end in `**`; `loose` are patterns that end in `**` and bind facts, but match only with a folding that
    they do not allow.
    """

    __slots__ = ("cased", "ends", "grown", "last", "loose", "next", "places", "rest", "rests", "wild")

    def __init__(self, places: tuple[Any, ...], rests: tuple[int, ...], loose: tuple[int, ...]) -> None:
        self.places = places
        self.rests = rests
        self.loose = loose
        self.next: dict[str, PathBranch] = {}
        self.cased: dict[str, list[Any]] = {}
        self.wild: PathBranch | None = None
        self.ends: dict[str, EndpointRules] = {}
        self.rest: dict[str, EndpointRules] = {}
        self.last: dict[str, EndpointRules] = {}
        self.grown = False


NO_SIZES: Final = (None, None, -1)
NO_HOP_STEPS: Final = (None, None)
MAX_HEADS, MAX_HEAD_LENGTH = 8_192, 256  # kept heads (paths without their last segment), and their characters


class EndpointRules:
    """All rules of the policy at one endpoint. `bindings` are the bindings of patterns for guards, which ignore letter
    case; `exact_bindings` are the bindings for grants; None if both are the same. `windows` are the patterns of past
    requests that rules of the endpoint read. `covering` has the numbers of the rules in the kernel, and
    `conditional_grants` are pairs of a block and its grant. A decision at an endpoint that `is_stateless` changes
    nothing, unless it uses approvals.
    """

    __slots__ = (
        "agents", "anyones", "bindings", "conditional_grants", "covering", "delegators", "effects", "exact_bindings",
        "hop_steps", "is_action", "is_stateless", "limits", "pattern_names", "patterns", "records", "sizes", "tasks",
        "users", "windows",
    )  # fmt: skip

    def __init__(
        self,
        *,
        is_action: bool,
        anyones: tuple[Block, ...],
        agents: PrincipalRules,
        users: PrincipalRules,
        delegators: PrincipalRules,
        effects: tuple[Effect, ...],
        limits: tuple[LimitRule, ...],
        records: tuple[RecordRule, ...],
        tasks: tuple[TaskRule, ...],
        bindings: dict[Path, BoundValue] | None,
        exact_bindings: dict[Path, BoundValue] | None,
        windows: Sequence[EventRules],
        covering: Any,
        conditional_grants: tuple[Any, ...],
        patterns: tuple[int, ...],
    ) -> None:
        self.covering = covering
        self.conditional_grants = conditional_grants
        self.patterns = patterns
        self.pattern_names: dict[str, str | None] = {}
        self.is_action = is_action
        self.anyones = anyones
        self.agents = agents
        self.users = users
        self.delegators = delegators
        self.effects = effects
        self.limits = limits
        self.records = records
        self.tasks = tasks
        self.bindings = bindings
        self.exact_bindings = exact_bindings
        self.windows = windows
        self.is_stateless = not limits and not records
        # The steps of a hop in blocks that name no agent, after the mark of the entities with which they were computed.
        self.hop_steps: Any = NO_HOP_STEPS
        # The mark of the entities with which the size limit was computed, the limit of a question, and their depth.
        self.sizes: Any = NO_SIZES

    def build_used(self, other: EndpointRules) -> None:
        """Build the blocks that the rules of another program have built, for the same names and groups."""
        self.agents.build_used(other.agents)
        self.users.build_used(other.users)
        self.delegators.build_used(other.delegators)


class PolicyProgram:
    """A policy that is ready to decide.

    `make_rules` creates the rules of an endpoint at its first request; `heads` has the branches of paths without their
    last segment. `blank` has one UNREAD for each slot. `user_slots` are the slots of the user, `hop_slots` the slots of
    facts that differ from hop to hop, and `holders` the facts whose attributes may be pending. `allow` is the answer
    without obligations, and `verdicts` caches other answers by the inputs on which they depend. `reads_history` is True
    if rules read past requests.
    """

    __slots__ = (
        "agent_groups", "agent_id", "agent_issuer", "allow", "blank", "blocks_read_history", "credential_issuer",
        "delegation", "everyone", "everyuser", "heads", "holders", "hop_slots", "issuers", "kernel", "make_rules",
        "masks_users", "reads_history", "recent", "scopes", "user_id", "user_slots", "verdicts",
    )  # fmt: skip

    def __init__(self, kernel: k.Kernel) -> None:
        self.kernel = kernel
        self.issuers = {name: TrustAnchor(issuer) for name, issuer in kernel.issuers.items()}
        self.masks_users = any(issuer.users_like for issuer in kernel.issuers.values())
        self.delegation = kernel.delegation
        self.reads_history = False
        self.blocks_read_history = False
        self.allow = Answer(Outcome.ALLOW, package=kernel.package, revision=kernel.revision)
        self.verdicts: dict[Any, Answer] = {}
        self.blank: list[Any] = []
        self.user_slots: tuple[int, ...] = ()
        self.hop_slots: tuple[int, ...] = ()
        self.holders: dict[str, Node] = {}
        self.make_rules: Any = None
        # The last endpoint of `rules_at` and its rules: a decision and its record are about the same endpoint.
        self.recent: tuple[Endpoint | None, Any] = None, None
        self.heads: dict[str, PathBranch] = {}
        self.everyone: Any = None
        self.everyuser: Any = None
        self.agent_id: Any = None
        self.agent_issuer: Any = None
        self.agent_groups: Any = None
        self.credential_issuer: Any = None
        self.scopes: Any = None
        self.user_id: Any = None

    def rules_at(self, endpoint: Endpoint) -> EndpointRules:
        """Return the rules at an endpoint. Many paths differ only in their last segment, so the program keeps the
        branch before the last segment.
        """
        if type(endpoint) is HttpEndpoint and endpoint.segments:
            path = endpoint.path
            branch = self.heads.get(path[: path.rindex("/")])
            if branch is not None:
                last = branch.last  # read before `cased`: another thread fills `cased` before it sets `last`
                tail = endpoint.segments[-1]
                then = branch.next.get(tail)
                found: EndpointRules | None = None
                if then is not None:
                    found = then.ends.get(endpoint.method)
                elif not branch.cased or fold_case(tail) not in branch.cased:
                    found = last.get(endpoint.method)
                if found is not None:
                    self.recent = endpoint, found
                    return found
        latest, rules = self.recent
        if latest is endpoint:
            again: EndpointRules = rules
            return again
        made: EndpointRules = self.make_rules(endpoint)
        self.recent = endpoint, made
        return made

    def rules_at_again(self, endpoint: Endpoint) -> EndpointRules:
        """Return the rules at an endpoint that was probably decided last."""
        last, rules = self.recent
        return rules if last is endpoint else self.rules_at(endpoint)

    def keep_head(self, head: str, branch: PathBranch) -> None:
        """Keep the branch of a path without its last segment."""
        if len(head) <= MAX_HEAD_LENGTH:
            if len(self.heads) >= MAX_HEADS:
                self.heads.clear()
            self.heads[head] = branch
