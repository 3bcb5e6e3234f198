"""Policies for `commands`, each growing along one axis."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, product

HEAD = """language 1
package bench.large
entity team in team
entity user { roles: set<string>   team: string?   level: int? } in team
facts { body.amount: int?   body.note: string? }
issuer acme { url "https://login.acme.example" }
"""
BOT = 'agent "bot" { issued by acme   acts alone   may %s }\n'
Text = Callable[[int], str]


def lines(pattern: str, count: int, head: str = HEAD) -> str:
    """Return the pattern repeated, with `@` replaced by 0, 1, 2, …"""
    return head + "\n".join(pattern.replace("@", str(number)) for number in range(count)) + "\n"


def joined(pattern: str, count: int, between: str = ", ") -> str:
    return between.join(pattern.replace("@", str(number)) for number in range(count))


# ── Policies ──────────────────────────────────────────────────────────────────────────────────


def scopes(count: int) -> str:
    return lines("scope s@ { GET /s@ }", count) + BOT % "s0"


def grants(count: int) -> str:
    return lines("scope s@ { GET /s@ }", count) + BOT % joined("s@", count)


def conditions(count: int) -> str:
    doors = joined("may s@ when body.amount == @", count, "\n")
    return lines("scope s@ { GET /s@ }", count) + f'agent "bot" {{ issued by acme   acts alone\n{doors} }}\n'


def one_door(count: int) -> str:
    """Return a policy with `count` conditions at one endpoint."""
    doors = joined("may s when body.amount == @", count, "\n")
    return f'{HEAD}scope s {{ GET /s }}\nagent "bot" {{ issued by acme   acts alone\n{doors} }}\n'


def agents(count: int) -> str:
    block = 'agent "a@" { issued by acme   acts alone   may s0 when body.amount > @ }'
    return lines("scope s@ { GET /s@ }", 1) + lines(block, count, "")


def agent_patterns(count: int) -> str:
    block = 'agent "a@-*" { issued by acme   acts alone   may s0 when body.amount > @ }'
    return lines("scope s@ { GET /s@ }", 1) + lines(block, count, "")


def users(count: int) -> str:
    block = 'user where user.team == "t@" { may s0 when body.amount > @ }'
    return lines("scope s@ { GET /s@ }", 1) + lines(block, count, "") + BOT % "s0"


def acting_for(count: int) -> str:
    block = 'agent "a@" { issued by acme   acts for users where user.team == "t@"   may s0 }'
    return lines("scope s@ { GET /s@ }", 1) + lines(block, count, "") + "user any { may s0 }\n"


def guards(count: int) -> str:
    """Return a policy with `count` guards, each at its own endpoint."""
    rule = 'scope s@ { GET /s@ }\nguard "g@" on s@ { deny when body.amount > @ }'
    return lines(rule, count) + BOT % joined("s@", count)


def guards_together(count: int) -> str:
    """Return a policy with `count` guards that all apply at every endpoint."""
    return lines('guard "g@" { deny when body.amount == @ }', count) + "scope s { GET /s }\n" + BOT % "s"


def guard_effects(count: int) -> str:
    return (
        f'{HEAD}scope s {{ GET /s }}\nguard "g" {{\n{joined("deny when body.amount == @", count, chr(10))} }}\n'
        + BOT % "s"
    )


def confirmations(count: int) -> str:
    rule = 'guard "g@" on s { confirm by role finance when body.amount > @ }'
    return lines(rule, count) + "scope s { GET /s }\n" + BOT % "s"


def rates(count: int) -> str:
    rule = 'rate "r@" per agent.id on s { 10@/1m }\nbudget "b@" per agent.id on s { sum body.amount <= 5@ within 24h }'
    return lines(rule, count) + "scope s { GET /s }\n" + BOT % "s"


def issuers(count: int) -> str:
    one = 'issuer i@ { url "https://i@.example" }\nagent "a@" { issued by i@   acts for any user   may s }'
    return lines(one, count) + "scope s { GET /s }\nuser any { may s }\n"


def issuers_of_users(count: int) -> str:
    one = 'issuer i@ { url "https://i@.example"   users like "*@i@.example" }'
    one += '\nagent "a@" { issued by i@   acts for any user   may s }'
    return lines(one, count) + "scope s { GET /s }\nuser any { may s }\n"


def issued_by_many(count: int) -> str:
    return lines('issuer i@ { url "https://i@.example" }', count) + (
        f'scope s {{ GET /s }}\nagent "bot" {{ issued by {joined("i@", count)}   acts alone   may s }}\n'
    )


def overlapping(count: int) -> list[str]:
    """Return paths in which each segment is a text or a capture, in `count` combinations."""
    segments = max(count - 1, 1).bit_length()
    every = product(*((f"s{place}", f"{{p{place}}}") for place in range(segments)))
    return ["/" + "/".join(parts) for parts in islice(every, count)]


def overlapping_paths(count: int) -> str:
    every = "\n".join(f"scope s{number} {{ GET {path} }}" for number, path in enumerate(overlapping(count)))
    return HEAD + every + "\n" + BOT % joined("s@", count)


def crossing_paths(count: int) -> str:
    """Return paths such as `/a1/{y}` and `/{x}/b1`: each of one half overlaps each of the other half."""
    half = "scope a@ { GET /a@/{y} }\nscope b@ { GET /{x}/b@ }"
    return lines(half, count // 2) + BOT % f"{joined('a@', count // 2)}, {joined('b@', count // 2)}"


def crossing_guards(count: int) -> str:
    half = (
        'guard "a@" on GET /a@/* { deny when body.amount > @ }\nguard "b@" on GET /*/b@ { deny when body.amount < -@ }'
    )
    return lines(half, count // 2) + "scope s { GET /** }\n" + BOT % "s"


def captures(count: int) -> str:
    return lines("scope s@ { GET /r@/{id}/x/{other} }", count) + BOT % joined("s@", count)


def prefixes(count: int) -> str:
    """Return the paths `/a0/**`, `/a0/a1/**` and so on, at most thirty segments deep."""
    every = [
        "/" + "/".join(f"t{number // 30}a{level}" for level in range(number % 30 + 1)) + "/**"
        for number in range(count)
    ]
    return (
        HEAD
        + "\n".join(f"scope s{i} {{ GET {path} }}" for i, path in enumerate(every))
        + "\n"
        + BOT % joined("s@", count)
    )


def includes(count: int) -> str:
    """Return scopes, each including the previous one."""
    chain = "\n".join(f"scope s{i} {{ include s{i - 1}   GET /s{i} }}" for i in range(1, count))
    return f"{HEAD}scope s0 {{ GET /s0 }}\n{chain}\n" + BOT % f"s{count - 1}"


def tools(count: int) -> str:
    return lines("scope s@ { TOOL srv/tool@ }", count) + BOT % joined("s@", count)


def tool_patterns(count: int) -> str:
    """Return tools, each guarded by its own pattern."""
    rule = 'scope s@ { TOOL srv/x@*y }\nguard "g@" on TOOL srv/x@z* { deny when args.amount > @ }'
    return lines(rule, count) + "facts { args.amount: int? }\n" + BOT % joined("s@", count)


def kinds(count: int) -> str:
    return lines("entity k@ { name: string }\nscope s@ { GET /k@/{id: k@} }", count) + BOT % joined(
        's@ when resource.name == "n"', count, "\nmay "
    )


def kinds_in_kinds(count: int) -> str:
    chain = "\n".join(f"entity k{i} in k{i - 1}" for i in range(1, count))
    return f"{HEAD}entity k0\n{chain}\nscope s {{ GET /s }}\n" + BOT % "s"


def attributes(count: int) -> str:
    return (
        f"{HEAD}entity thing {{ {joined('a@: string?', count, chr(10))} }}\nscope s {{ GET /x/{{id: thing}} }}\n"
        + BOT % "s"
    )


def facts(count: int) -> str:
    return (
        lines("facts { body.f@: int? }", count)
        + "scope s { GET /s }\n"
        + lines('guard "g@" on s { deny when body.f@ > @ }', count, "")
        + BOT % "s"
    )


def facts_by_place(count: int) -> str:
    """Return one fact declared for each of `count` tools, as an import of tools writes it."""
    rule = "scope s@ { TOOL srv/t@ }\nfacts on TOOL srv/t@ { args.path: string }"
    guard = 'guard "g@" on TOOL srv/t@ { deny when args.path == "/@" }'
    return lines(rule, count) + lines(guard, count, "") + BOT % joined("s@", count)


def enum_words(count: int) -> str:
    return f"{HEAD}enum plan = {joined('w@', count, ' < ')}\nfacts {{ body.plan: plan? }}\nscope s {{ GET /s }}\n" + (
        BOT % "s when body.plan >= w1"
    )


def constants(count: int) -> str:
    return (
        lines("let c@ = @", count)
        + lines('guard "g@" on s { deny when body.amount == c@ }', count, "")
        + ("scope s { GET /s }\n" + BOT % "s")
    )


def definitions(count: int) -> str:
    """Return definitions, each with twice the terms of the previous one, ten deep."""
    every = "\n".join(
        f"define d{i} = " + (f"d{i - 1} or body.amount == {i}" if i % 10 else f"body.amount == {i}")
        for i in range(count)
    )
    used = "\n".join(f'guard "g{i}" on s {{ deny when d{i} }}' for i in range(0, count, 10))
    return f"{HEAD}{every}\n{used}\nscope s {{ GET /s }}\n" + BOT % "s"


def long_list(count: int) -> str:
    words = joined('"w@"', count)
    return (
        f'{HEAD}let words = [{words}]\nscope s {{ GET /s }}\nguard "g" {{ deny when body.note in words }}\n' + BOT % "s"
    )


def lists(count: int) -> str:
    """Return two guards with two long lists that are nearly equal."""
    first, second = joined('"w@"', count), joined('"v@"', count)
    return (
        f'{HEAD}scope s {{ GET /s }}\nguard "g" {{ deny when body.note in [{first}] }}\n'
        f'guard "h" {{ deny when body.note in [{second}] }}\n' + BOT % "s"
    )


def alternatives(count: int) -> str:
    """Return one condition of `count` terms, eighty at each level of definitions."""
    parts = [joined(f"body.amount == {block}@", 80, " or ") for block in range(1, max(1, count // 80) + 1)]
    defined = "\n".join(f"define d{number} = {part}" for number, part in enumerate(parts))
    rule = " or ".join(f"d{number}" for number in range(len(parts)))
    return f'{HEAD}{defined}\nscope s {{ GET /s }}\nguard "g" {{ deny when {rule} }}\n' + BOT % "s"


def nested(count: int) -> str:
    """Return conditions nested thirty levels deep."""
    deep = "(" * 30 + "body.amount == @" + ' or body.note == "x")' * 30
    return lines(f'guard "g@" on s {{ deny when {deep} }}', count) + "scope s { GET /s }\n" + BOT % "s"


def long_text(count: int) -> str:
    rule = f'deny when body.note == "{"a b" * (count // 3)}" message "{"ä" * count}"'
    return f'{HEAD}scope s {{ GET /s }}\nguard "g" {{ {rule} }}\n' + BOT % "s"


def long_comment(count: int) -> str:
    return f"{HEAD}# {'a ' * (count // 2)}\nscope s {{ GET /s }}\n" + BOT % "s"


def comments(count: int) -> str:
    return lines("# comment @", count) + "scope s { GET /s }\n" + BOT % "s"


def allowances(count: int) -> str:
    return lines("# lint: allow laxer-twin because of @\nscope s@ { GET /s@ }", count) + BOT % joined("s@", count)


def long_name(count: int) -> str:
    return f"{HEAD}scope {'s' * count} {{ GET /s }}\n" + BOT % ("s" * count)


def look_alikes(count: int) -> str:
    return lines(
        "scope scope@ { GET /Path@ }\nscope scopе@ { GET /path@ }".replace("scopе", "scope_"), count // 2
    ) + BOT % joined("scope@", count // 2)


def misspelled(count: int) -> str:
    """Return rules that each name an unknown scope one letter away from a known scope."""
    return lines("scope invoices@ { GET /s@ }", count) + BOT % joined("invoice@s", count)


def broken(count: int) -> str:
    return lines('scope s@ { GET /s@ }\nguard "g@" on s@ { deny whn body.amount > @ }', count)


def unclosed(count: int) -> str:
    return lines('guard "g@" on s@ { deny when (body.amount > @', count)


def wrong_types(count: int) -> str:
    return lines('guard "g@" { deny when body.amount == "x@" }', count) + "scope s { GET /s }\n" + BOT % "s"


def doubles(count: int) -> str:
    return lines("scope s { GET /s@ }", count) + BOT % "s"


def hand_overs(count: int) -> str:
    """Return agents that may each delegate to the next."""
    blocks = "\n".join(
        f'agent "a{i}" {{ issued by acme   acts alone   may s   may delegate s to agent "a{i + 1}" }}'
        for i in range(count)
    )
    return HEAD.replace("acme {", "acme { records chains  ") + f"scope s {{ GET /s }}\n{blocks}\n"


TEST = 'test "t@" { given agent "bot" from acme   given credential { scopes: ["s@"] }   GET /s@ => allow }'


def tests(count: int) -> str:
    return lines("scope s@ { GET /s@ }", count) + BOT % joined("s@", count) + lines(TEST, count, "")


def one_test(rest: str) -> str:
    given = 'given agent "bot" from acme   given credential { scopes: ["s"] }'
    return f'{HEAD}scope s {{ GET /s }}\n{BOT % "s"}test "t" {{ {given}\n{rest} }}\n'


def test_lines(count: int) -> str:
    return one_test(joined("GET /s { body.amount: @ } => allow", count, "\n"))


def test_cases(count: int) -> str:
    return one_test("cases {\n| request | body.amount | => |\n" + joined("| GET /s | @ | allow |", count, "\n") + "\n}")


def test_entities(count: int) -> str:
    rows = joined('user "u@" { team: "t@" } in team "t@"', count, "\n")
    return one_test(f"given entities {{ {rows} }}\nGET /s => allow\nGET /s => allow")


def fixtures(count: int) -> str:
    """Return fixtures, each using the previous one, ten deep."""
    head = f"{HEAD}scope s {{ GET /s }}\n{BOT % 's'}"
    used = [f"use f{number - 1}" if number % 10 else "" for number in range(count)]
    every = "\n".join(
        f'fixture f{number} {{ {use}   given request {{ headers["x{number}"]: "1" }} }}'
        for number, use in enumerate(used)
    )
    return head + every + "\n"


def properties(count: int) -> str:
    rule = 'test "p@" { forall request where request.path == "/s@x" => deny }'
    return lines("scope s@ { GET /s@ }", count) + BOT % joined("s@", count) + lines(rule, count, "")


POLICIES: dict[str, Text] = {
    text.__name__: text
    for text in (
        scopes, grants, conditions, one_door, agents, agent_patterns, users, acting_for, guards, guards_together,
        guard_effects, confirmations, rates, issuers, issuers_of_users, issued_by_many, overlapping_paths,
        crossing_paths, crossing_guards, captures, prefixes, includes, tools, tool_patterns, kinds, kinds_in_kinds,
        attributes, facts, facts_by_place,
        enum_words, constants, definitions, long_list, lists, alternatives, nested, long_text,
        long_comment, comments, allowances, long_name, look_alikes, misspelled, broken, unclosed, wrong_types,
        doubles, hand_overs, tests, test_lines, test_cases, test_entities, fixtures, properties,
    )
}  # fmt: skip
