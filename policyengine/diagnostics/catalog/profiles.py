"""E911 to E915 and W911 to W921: profiles, and conditions on learned facts."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_AGENT = 'issuer idp {}\nscope see { GET /a }\nagent "bot*" { issued by idp   acts alone   may see }\n'
_ONE = _AGENT.replace("bot*", "bot")
_WARN = 'guard "g" on GET /a { warn when behavior.burst }\n'
_LEARNS = _AGENT + _WARN
_ORDERED = _AGENT + 'guard "g" on GET /a { deny when not behavior.sequence }\n'
_EITHER = "(GET /a | GET /b)"
_RATE = _AGENT + 'rate "r" per agent.id on GET /a {\n  60/1m\n'

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "E911",
        "an invalid profile",
        "A profile has at least one item, and each item at most once. `learn` takes 1 to 28 days, `ready` 1 to 1,000 "
        "runs and 1 to 28 days but no more days than `learn`, `burst once in` 1 to 1,000 days, and `run "
        "within` 1 second to 24 hours.",
        _LEARNS + 'profile "p" for agent "bot*" { learn 60d }\n',
        _LEARNS + 'profile "p" for agent "bot*" { learn 28d }\n',
    ),
    DiagnosticDoc(
        "E912",
        "a key of a profile that is not a string fact of the request",
        "`run by` and `version by` take a fact of type `string` that belongs to the credential, the attestation, the "
        "task or the request. Other facts are unknown when requests are counted, or are themselves learned.",
        _LEARNS + 'profile "p" for agent "bot*" { run by user.id }\n',
        _LEARNS + 'profile "p" for agent "bot*" { run by task.id }\n',
    ),
    DiagnosticDoc(
        "E913",
        "two profiles for one agent",
        "At most one profile applies to an agent: one with its exact name, else one with a pattern that matches the "
        "name, else one for a group of the agent. Two profiles of the same rank that may both apply to one agent are "
        "an error.",
        _LEARNS + 'profile "p" for agent "b*" { learn 14d }\nprofile "q" for agent "*t" { learn 7d }\n',
        _LEARNS + 'profile "p" for agent "bot-a*" { learn 14d }\nprofile "q" for agent "bot-b*" { learn 7d }\n',
    ),
    DiagnosticDoc(
        "E914",
        "a limit that counts by a learned fact",
        "The keys, amounts and bounds of a rate or budget must not be learned facts: a caller would get another "
        "counter, or another bound, than the policy states. Learned facts belong in conditions, where `at most` bounds "
        "them.",
        _AGENT + 'rate "r" per (agent.id, behavior.ready) on GET /a { 60/1m }\n',
        _AGENT + 'rate "r" per agent.id on GET /a { 60/1m   clamp 30/1m when not behavior.ready }\n',
    ),
    DiagnosticDoc(
        "E915",
        "an order of calls that is too large",
        "An order after `expect` has at most 32 steps. An automaton of at most 256 states decides whether a run "
        "follows the order, and one request can match at most 256 combinations of the steps. Steps that share "
        "endpoints and are `repeated` or alternatives need the most states.",
        _ORDERED
        + f'profile "p" for agent "bot*" {{\n  expect {_EITHER} repeated -> GET /a{f" -> {_EITHER}" * 8}\n}}\n',
        _ORDERED + 'profile "p" for agent "bot*" { expect GET /a -> GET /a }\n',
    ),
    DiagnosticDoc(
        "W911",
        "a profile that matches no agent block",
        "No agent block names an agent of this profile, so the profile has no effect. Usually the name is misspelled.",
        _LEARNS + 'profile "p" for agent "bat" { learn 14d }\n',
        _LEARNS + 'profile "p" for agent "bot*" { learn 14d }\n',
        name="profile-without-agent",
    ),
    DiagnosticDoc(
        "W912",
        "a threshold out of range",
        "`behavior.trust`, `novelty`, `deviation` and `error_rate` are numbers from 0 to 1. A comparison with a "
        "number outside this range, or at an end of the range, can be true for every value or for none.",
        _AGENT + 'guard "g" on GET /a { deny when behavior.novelty > 30 }\n',
        _AGENT + 'guard "g" on GET /a { deny when behavior.novelty > 0.3 }\n',
        name="learned-threshold",
    ),
    DiagnosticDoc(
        "W913",
        "a clamp that new callers escape",
        "Learned facts are neutral for a caller about whom too little is known, so this clamp never slows down such "
        "a caller. An attacker who uses a new name for each attack is always such a caller. Add a clamp for callers "
        "that are not `behavior.ready`.",
        _RATE + "  clamp 2/1m when behavior.burst\n}\n",
        _RATE + "  clamp 2/1m when behavior.burst\n  clamp 30/1m when not behavior.ready\n}\n",
        name="clamp-escaped",
    ),
    DiagnosticDoc(
        "W914",
        "a profile that no rule reads",
        "Behavior is learned only if a rule reads a learned fact. In this policy, no rule does, so the profile has no "
        "effect. A `warn` on a learned fact is enough to learn without stopping a request.",
        _AGENT + 'profile "p" for agent "bot*" { learn 14d }\n',
        _AGENT + 'profile "p" for agent "bot*" { learn 14d }\nguard "g" on GET /a { warn when behavior.burst }\n',
        name="profile-unread",
    ),
    DiagnosticDoc(
        "W915",
        "a step that no call can match",
        "No block grants the agents of the profile, or anyone, an endpoint that matches this step. A run that comes to "
        "this step cannot follow the order any further, unless the step is `optional`. Usually the endpoint is "
        "misspelled.",
        _ORDERED + 'profile "p" for agent "bot*" { expect GET /a -> GET /b }\n',
        _ORDERED + 'profile "p" for agent "bot*" { expect GET /a -> GET /a }\n',
        name="step-unmatched",
    ),
    DiagnosticDoc(
        "W916",
        "an order that every sequence of calls follows",
        "Whichever granted calls an agent of the profile makes, and in whichever order, they follow the order after "
        "`expect`, so `behavior.sequence` is always true for these agents.",
        _ORDERED + 'profile "p" for agent "bot*" { expect GET /a repeated }\n',
        _ORDERED + 'profile "p" for agent "bot*" { expect GET /a -> GET /a }\n',
        name="order-without-effect",
    ),
    DiagnosticDoc(
        "W917",
        "`behavior.sequence` without a declared order",
        "`behavior.sequence` is true for agents without a declared order of calls, and no profile of this policy "
        "declares one, so the condition never depends on the calls. Declare the order in a profile, with `expect`.",
        _ORDERED,
        _ORDERED + 'profile "p" for agent "bot*" { expect GET /a -> GET /a }\n',
        name="sequence-undeclared",
    ),
    DiagnosticDoc(
        "W918",
        "an order of calls that no rule reads",
        "A profile declares an order of calls, but no guard, rate or budget reads `behavior.sequence`, so the order "
        "has no effect. A `warn when not behavior.sequence` is enough to see which calls leave the order.",
        _LEARNS + 'profile "p" for agent "bot*" { expect GET /a -> GET /a }\n',
        _LEARNS + 'profile "p" for agent "bot*" { learn 14d }\n',
        name="order-unread",
    ),
    DiagnosticDoc(
        "W919",
        "a floor without effect",
        "The `floor` of a rate is the least pace of a member of a group. Only a rate that counts by `cluster.id` "
        "divides its pace among the members of groups, so in any other rate a floor changes nothing.",
        _AGENT + 'rate "r" per agent.id on GET /a { 60/1m floor 6/1m }\n',
        _AGENT + 'rate "r" per cluster.id on GET /a { 60/1m floor 6/1m }\n',
        name="floor-unused",
    ),
    DiagnosticDoc(
        "W920",
        "a limit that one member of a group can use up",
        "All members of a group share one count of a rate per `cluster.id`. Without a `floor`, a member that sends "
        "many requests leaves nothing for the others, and the group may contain callers that are similar only by "
        "chance. With a `floor`, each member keeps at least that pace.",
        _AGENT + 'rate "r" per cluster.id on GET /a { 60/1m }\n',
        _AGENT + 'rate "r" per cluster.id on GET /a { 60/1m floor 6/1m }\n',
        name="no-floor",
    ),
    DiagnosticDoc(
        "W921",
        "a class of agents that is never ready",
        "The agents that have the same profile, or that the same agent block matches if they have no profile, are one "
        "class for each issuer. A class is ready only if it has at least three agents; instances of an agent do not "
        "count. With fewer, `behavior.ready` stays false, and every other learned fact keeps its neutral value: raises "
        "on `behavior.trust` never apply, and no burst, novelty or deviation is ever found. Write a profile for a "
        "pattern or a group that names all agents with the same work.",
        _ONE + _WARN,
        _AGENT + _WARN,
        name="class-never-ready",
    ),
)
