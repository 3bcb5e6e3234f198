"""E911 to E914, W905 and W911 to W914: profiles, and conditions on learned facts."""

from policyengine.diagnostics.catalog.entry import DiagnosticDoc

_AGENT = 'issuer idp {}\nscope see { GET /a }\nagent "bot" { issued by idp   acts alone   may see }\n'
_LEARNS = _AGENT + 'guard "g" on GET /a { warn when behavior.burst }\n'
_RATE = _AGENT + 'rate "r" per agent.id on GET /a {\n  60/1m\n'

CODES: tuple[DiagnosticDoc, ...] = (
    DiagnosticDoc(
        "W905",
        "an order of calls that this version cannot learn yet",
        "The steps of `expect` are checked, but no version learns the order of calls yet: `behavior.sequence` is true "
        "for every caller.",
        _LEARNS + 'profile "p" for agent "bot" { learn 14d   expect GET /a -> POST /b }\n',
        _LEARNS + 'profile "p" for agent "bot" { learn 14d }\n',
        name="order-not-learned",
    ),
    DiagnosticDoc(
        "E911",
        "an invalid profile",
        "A profile states at least one item, and each at most once. `learn` takes 1 to 28 days, `ready` 1 to 1,000 "
        "runs and 1 to 28 days but no more days than `learn`, `burst once in` 1 to 1,000 days, and `run "
        "within` 1 second to 24 hours.",
        _LEARNS + 'profile "p" for agent "bot" { learn 60d }\n',
        _LEARNS + 'profile "p" for agent "bot" { learn 28d }\n',
    ),
    DiagnosticDoc(
        "E912",
        "a key of a profile that is not a string fact of the request",
        "`run by` and `version by` take a fact of type `string` that belongs to the credential, the attestation, the "
        "task or the request. Other facts are unknown when requests are counted, or are themselves learned.",
        _LEARNS + 'profile "p" for agent "bot" { run by user.id }\n',
        _LEARNS + 'profile "p" for agent "bot" { run by task.id }\n',
    ),
    DiagnosticDoc(
        "E913",
        "two profiles for one agent",
        "At most one profile applies to an agent: one with its exact name, else one with a pattern that matches the "
        "name, else one for a group of the agent. Two profiles of the same rank that may both apply to one agent are "
        "an error.",
        _LEARNS + 'profile "p" for agent "b*" { learn 14d }\nprofile "q" for agent "*t" { learn 7d }\n',
        _LEARNS + 'profile "p" for agent "b*" { learn 14d }\nprofile "q" for agent "bot" { learn 7d }\n',
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
        "W911",
        "a profile that matches no agent block",
        "No agent block names an agent of this profile, so the profile has no effect. Usually the name is misspelled.",
        _LEARNS + 'profile "p" for agent "bat" { learn 14d }\n',
        _LEARNS + 'profile "p" for agent "bot" { learn 14d }\n',
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
        _AGENT + 'profile "p" for agent "bot" { learn 14d }\n',
        _AGENT + 'profile "p" for agent "bot" { learn 14d }\nguard "g" on GET /a { warn when behavior.burst }\n',
        name="profile-unread",
    ),
)
