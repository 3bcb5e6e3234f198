"""Writes resources, prompts and log messages of an MCP server as policies: a condition that names them, the grants that
use it, and tests."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence

from policyengine.importers.model import OFFER_ENDPOINTS, McpOffers, OfferKind, ServerOffer
from policyengine.importers.policy_writer import FIXTURE, ImportRun, file_header, section_comment
from policyengine.importers.sanitize import safe_name
from policyengine.importers.uri_patterns import UriPattern
from policyengine.plurals import pluralize

FOLDER = "offers"
RESOURCES, PROMPTS, CLIENT = "mcp_resource", "mcp_prompt", "mcp_client"
VERBS = {RESOURCES: "read", PROMPTS: "get", CLIENT: ""}
SCOPES = {RESOURCES: "resources.read", PROMPTS: "prompts.get", CLIENT: "client.log"}
SCOPES_OF_KINDS = {
    OfferKind.RESOURCE: SCOPES[RESOURCES],
    OfferKind.TEMPLATE: SCOPES[RESOURCES],
    OfferKind.PROMPT: SCOPES[PROMPTS],
    OfferKind.LOGGING: SCOPES[CLIENT],
}
WORDS = {OfferKind.RESOURCE: "resource", OfferKind.TEMPLATE: "resource template", OfferKind.PROMPT: "prompt"}
ELSEWHERE = "another-server"
MAX_LEFT_OUT = 50  # comments about what is left out
UNLISTED = "policyengine:unlisted"
ASKS = (
    ("sample", "let the model of the client answer"),
    ("elicit", "ask the user, in a form or on a page"),
    ("list_roots", "see the folders of the client"),
)
CLIENT_FACTS = (  # as comments: facts that no rule reads would be findings
    "# If your conditions read what the server asks, declare it:",
    f"# facts on ACTION sample {CLIENT} {{ args.maxTokens: int }}",
    f"# facts on ACTION elicit {CLIENT} {{ args.mode: string   args.url: string?   context.text: string }}",
    f"# facts on ACTION log {CLIENT} {{ args.level: string }}",
)


def offer_files(offers: McpOffers, run: ImportRun, entities: Collection[str] = ()) -> dict[str, str]:
    """Return the texts of the files by path. `entities` are already declared."""
    files = {}
    mark = "" if run.first else f"_new_{run.number}"
    for entity, kinds in ((RESOURCES, (OfferKind.RESOURCE, OfferKind.TEMPLATE)), (PROMPTS, (OfferKind.PROMPT,))):
        listed = [one for one in offers.listed if one.kind in kinds]
        if listed:
            name = f"{FOLDER}/{'resources' if entity == RESOURCES else 'prompts'}{mark}"
            files[f"{name}.policy"] = "\n".join(_entity_lines(offers, run, entity, listed, entities)) + "\n"
            files[f"{name}_test.policy"] = "\n".join(_test_lines(offers, run, entity, listed)) + "\n"
    if run.first and offers.is_complete:
        files[f"{FOLDER}/client.policy"] = "\n".join(_client_lines(offers, run)) + "\n"
        files[f"{FOLDER}/client_test.policy"] = "\n".join(_client_test_lines(offers, run)) + "\n"
    return files


def offer_mays(offers: McpOffers, run: ImportRun) -> list[str]:
    """Return the grants of everything that a server offers besides tools."""
    kinds = {one.kind for one in offers.listed}
    mays = []
    if kinds & {OfferKind.RESOURCE, OfferKind.TEMPLATE}:
        mays.append(f"  may {SCOPES[RESOURCES]} when {condition_name(offers, run, RESOURCES)}")
    if OfferKind.PROMPT in kinds:
        mays.append(f"  may {SCOPES[PROMPTS]} when {condition_name(offers, run, PROMPTS)}")
    if OfferKind.LOGGING in kinds:
        mays.append(f"  may {SCOPES[CLIENT]} when resource.id == {quoted(offers.server)}")
    return mays


def offer_scopes(offers: McpOffers) -> list[str]:
    """Return the scopes of everything that a server offers besides tools."""
    return list(dict.fromkeys(SCOPES_OF_KINDS[one.kind] for one in offers.listed))


def count_offers(listed: Sequence[ServerOffer]) -> list[str]:
    """Return how many offers of each kind a server has: `2 resources`, `1 prompt`."""
    counts = [(sum(one.kind is kind for one in listed), word) for kind, word in WORDS.items()]
    return [pluralize(count, word) for count, word in counts if count]


def offer_request(offer: ServerOffer) -> dict[str, object]:
    """Return the endpoint of a sample request in the form of `/decide`."""
    _, verb, entity = OFFER_ENDPOINTS[offer.kind].split()
    resource = {"type": entity, "id": sample_ids(offer)[0]}
    return {"action": {"name": verb}, "resource": resource, "context": {"server": offer.server}}


def offer_endpoint(offers: McpOffers) -> str:
    """Return a sample endpoint as a test writes it; empty if the server offers only tools."""
    if not offers.listed:
        return ""
    offer = offers.listed[0]
    context = f"{{ context.server: {quoted(offer.server)} }}"
    facts = "" if offer.kind is OfferKind.LOGGING else f" {context}"
    return f"{OFFER_ENDPOINTS[offer.kind]} {quoted(sample_ids(offer)[0])}{facts}"


def condition_name(offers: McpOffers, run: ImportRun, entity: str) -> str:
    mark = "" if run.first else f"_new_{run.number}"
    return f"{safe_name(offers.server, 'server')}_{'resources' if entity == RESOURCES else 'prompts'}{mark}"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# ── Resources and prompts ─────────────────────────────────────────────────────────────────────


def _entity_lines(
    offers: McpOffers, run: ImportRun, entity: str, listed: Sequence[ServerOffer], entities: Collection[str]
) -> Iterator[str]:
    counted = ", ".join(count_offers(listed))
    yield from file_header(
        run,
        f"{counted}. This file is yours: later imports never change it.",
        "Names and URIs are claims of the server, which are not verified.",
    )
    kinds = (OfferKind.PROMPT,) if entity == PROMPTS else (OfferKind.RESOURCE, OfferKind.TEMPLATE)
    if run.first:
        left_out = [f"# Left out, and denied: the {kind} {why}" for kind, why in offers.left_out if kind in kinds]
        yield from left_out[:MAX_LEFT_OUT]
        if len(left_out) > MAX_LEFT_OUT:
            yield f"# Left out, and denied: {len(left_out) - MAX_LEFT_OUT} more"
    if entity not in entities:
        yield f"entity {entity} {{}}"
        yield f"scope {SCOPES[entity]} {{ ACTION {VERBS[entity]} {entity} }}"
    arguments = sorted({name for one in listed for name in one.arguments})
    yield f"facts on ACTION {VERBS[entity]} {entity} {{"
    yield from ("  context.server: string", *(f"  args.{name}: string?" for name in arguments), "}", "")
    name = condition_name(offers, run, entity)
    yield from (section_comment("The conditions that grants use"), f"define {name} = {_server_is(offers)} and (")
    yield from _alternatives(listed)
    yield ")"
    if not run.first:
        guard = new_guard(run, entity)
        message = f"this {'prompt' if entity == PROMPTS else 'resource'} is new, and no block grants it yet"
        yield from ("", "# Review what is new, grant it, and delete this guard.")
        yield f"guard {quoted(guard)} on ACTION {VERBS[entity]} {entity} {{{run.allowance(guard)}"
        yield from (f"  deny when {name} message {quoted(message)}", "}")


def new_guard(run: ImportRun, entity: str) -> str:
    return f"{'prompts' if entity == PROMPTS else 'resources'} new with import {run.number}"


def _server_is(offers: McpOffers) -> str:
    return f"context.server == {quoted(offers.server)}"


def _alternatives(listed: Sequence[ServerOffer]) -> Iterator[str]:
    """Yield the conditions of which one must hold: the exact names, then the patterns of templates."""
    exact = [one for one in listed if not one.patterns]
    if exact:
        yield "  resource.id in ["
        yield from (f"    {quoted(one.name)}{',' * (one is not exact[-1])}{_comment(one)}" for one in exact)
        yield "  ]"
    patterns = [(one, pattern) for one in listed for pattern in one.patterns]
    for number, (one, pattern) in enumerate(patterns):
        yield f"  {'or ' if exact or number else ''}{_pattern_condition(pattern)}{_comment(one)}"


def _comment(offer: ServerOffer) -> str:
    return f" # {offer.summary}" if offer.summary else ""


def _pattern_condition(pattern: UriPattern) -> str:
    if "*" not in pattern.text:
        return f"resource.id == {quoted(pattern.text)}"
    like = f"resource.id like {quoted(pattern.text)}"
    others = [f"resource.id like {quoted(one)}" for one in pattern.excluded]
    if not others:
        return like
    return f"({like} and not {others[0]})" if len(others) == 1 else f"({like} and not ({' or '.join(others)}))"


# ── Tests ─────────────────────────────────────────────────────────────────────────────────────


def _test_lines(offers: McpOffers, run: ImportRun, entity: str, listed: Sequence[ServerOffer]) -> Iterator[str]:
    what = "prompts" if entity == PROMPTS else "resources"
    yield from file_header(run, f"The outcome for each of the {what}, and for others.")
    yield f'test "{what} of {escaped_name(offers.server)}{"" if run.first else f", import {run.number}"}" {{'
    if run.fixture:
        yield f"  use {FIXTURE}"
    new = f"deny by {quoted(new_guard(run, entity))}" if run.fixture else "deny"
    expected = "allow" if run.first else new
    samples = list(dict.fromkeys(id for one in listed for id in sample_ids(one)))
    for id in samples:
        yield f"  {_asked(entity, id, offers.server)} => {expected}"
    denied = "deny by default" if run.first else "deny"
    for id in unlisted_ids(listed):
        yield f"  {_asked(entity, id, offers.server)} => {denied}"
    if run.first:
        yield f"  {_asked(entity, samples[0], ELSEWHERE)} => {denied}"
    yield "}"


def escaped_name(server: str) -> str:
    return quoted(server)[1:-1]


def _asked(entity: str, id: str, server: str) -> str:
    return f"ACTION {VERBS[entity]} {entity} {quoted(id)} {{ context.server: {quoted(server)} }}"


def sample_ids(offer: ServerOffer) -> list[str]:
    return [pattern.sample for pattern in offer.patterns] if offer.patterns else [offer.name]


def unlisted_ids(listed: Sequence[ServerOffer]) -> list[str]:
    """Return IDs that none of the offers covers: an unlisted one, and those with a slash in a variable."""
    longer = [pattern.longer for one in listed for pattern in one.patterns if pattern.longer]
    return [id for id in dict.fromkeys((UNLISTED, *longer)) if not any(covers(one, id) for one in listed)]


def covers(offer: ServerOffer, id: str) -> bool:
    return any(pattern.matches(id) for pattern in offer.patterns) if offer.patterns else offer.name == id


# ── What the server asks of its client ────────────────────────────────────────────────────────


def _client_lines(offers: McpOffers, run: ImportRun) -> Iterator[str]:
    yield from file_header(
        run,
        "What the server may ask of its client. No list says what a server will ask: `mcp-gateway` logs what it",
        "denies, with the `may` that would allow it. Copy what you need into the block of the agent and, if it",
        "acts for users, also into a user block:",
    )
    for verb, what in ASKS:
        yield f"# may ACTION {verb} {CLIENT} when resource.id == {quoted(offers.server)}   # {what}"
    yield "# If the tokens of your issuer have scopes, put the `ACTION` into a scope, and write `may SCOPE` instead."
    yield from CLIENT_FACTS
    yield f"entity {CLIENT} {{}}"
    if any(one.kind is OfferKind.LOGGING for one in offers.listed):
        yield f"scope {SCOPES[CLIENT]} {{ ACTION log {CLIENT} }}"


def _client_test_lines(offers: McpOffers, run: ImportRun) -> Iterator[str]:
    logs = any(one.kind is OfferKind.LOGGING for one in offers.listed)
    yield from file_header(run, "The server asks nothing of its client until a block allows it.")
    yield from (f'test "client of {escaped_name(offers.server)}" {{', f"  use {FIXTURE}")
    if logs:
        yield f"  ACTION log {CLIENT} {quoted(offers.server)} => allow"
        yield f"  ACTION log {CLIENT} {quoted(ELSEWHERE)} => deny by default"
    for verb, _ in ASKS:
        yield f"  ACTION {verb} {CLIENT} {quoted(offers.server)} => deny by default"
    yield "}"
