"""Policies that capture path segments which are literals of other patterns, and requests for these literals in every
spelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from random import Random

from tests.generate.cases import kernel_of
from tests.generate.policies import File, Policy

LITERALS = ("ab", "is", "7a", "ss")
FOREIGN = {"i": "ıİ"}  # …, and `ß` for `ss`
CAPTURES = ("/{x}/{y}", "/{x}/{id: invoice}", "/ab/{y}", "/ab/{id: invoice}", "/{x}/is", "/a{x}/{y}", "/{x}/{y}b")
WITHS = (
    "body.label = params.{}",
    "resource = invoice(params.{})",
    "body.label = lower(params.{})",
    "context.zone = params.{}",
)
RELATIONS = ("==", "==", "==", "!=", "<", "in", "like", "lower", "size")


MOST_TRIES = 100


def spelled_pair(random: Random) -> tuple[Policy, Policy]:
    """Return a policy that checks, and the same policy with another rule or without a rule."""
    for _ in range(MOST_TRIES):
        old, new = _pair(random)
        kernels = kernel_of(old), kernel_of(new)
        if None not in kernels and kernels[0].revision != kernels[1].revision:  # type: ignore[union-attr]
            return old, new
    raise AssertionError(f"{MOST_TRIES} policies in a row do not check: the generator is out of step with the checker")


def _pair(random: Random) -> tuple[Policy, Policy]:
    pattern = random.choice(CAPTURES)
    names = [one.split("}")[0] for one in pattern.split("{")[1:]]
    captures = [one for one in names if ":" not in one]
    bound = random.choice(WITHS).format(random.choice(captures)) if captures and random.random() < 0.4 else ""
    facts = [f"params.{one}" for one in captures]
    facts += ["resource.id", "params.id.id"] if len(captures) < len(names) else []
    facts += [bound.split(" = ")[0].replace("resource", "resource.id")] * 2 if bound else []
    other = random.choice([one for one in (*CAPTURES, "", "") if one != pattern])
    head = [
        "entity invoice { tenant: string? }\nentity user { roles: set<string> }",
        "facts { context.zone: string?   body.label: string? }",
        f"scope s {{ POST {pattern}{' with ' if bound else ''}{bound} }}",
        *(["paths ignore case"] if random.random() < 0.2 else []),
        *([f"scope other {{ POST {other} }}"] if other else []),
        f"anyone {{ may {random.choice(['s', 's', 'POST /**'])}{_door(random, facts)} }}",
    ]
    kept = [_guard(random, number, facts) for number in range(random.choice([0, 0, 1]))]
    changed, by = (_guard(random, 9, facts) for _ in range(2))
    if random.random() < 0.6:
        place, _, _ = changed.partition("{")
        by = place + "{" + by.partition("{")[2]
    after = [by] if random.random() < 0.7 else []
    return _policy([*head, *kept, changed]), _policy([*head, *kept, *after])


def _policy(declarations: Sequence[str]) -> Policy:
    return Policy((File("language 1\npackage a", tuple(declarations)),))


def _door(random: Random, facts: Sequence[str]) -> str:
    return f" when {_relation(random, facts)}" if random.random() < 0.15 else ""


def _guard(random: Random, number: int, facts: Sequence[str]) -> str:
    first, second = (_spelled(random, random.choice(LITERALS)) for _ in range(2))
    place = random.choice([f"/{first}/{second}", f"/{first}/{second}", f"/*/{second}", f"/{first}/*"])
    act = random.choice(["deny when", "deny when", "require", "confirm by role boss when"])
    condition = random.choice([" and ", " or "]).join(_relation(random, facts) for _ in range(random.choice([1, 1, 2])))
    return f'guard "g{number}" on POST {place} {{ {act} {condition} }}'


def _relation(random: Random, facts: Sequence[str]) -> str:
    fact = random.choice(facts)
    text = _spelled(random, random.choice(LITERALS), 0.5)
    match random.choice(RELATIONS):
        case "in":
            return f'{fact} in ["{text}", "{_spelled(random, text.lower(), 0.5)}"]'
        case "like":
            return f'{fact} like "{text[:1]}*"'
        case "lower":
            return f'lower({fact}) == "{text}"'
        case "size":
            return f"size({fact}) < {random.choice([1, 2, 3])}"
        case relation:
            return f'{fact} {relation} "{text}"'


def _spelled(random: Random, literal: str, foreign: float = 0.0) -> str:
    if literal == "ss" and random.random() < foreign:
        return random.choice("ßẞ")
    return "".join(
        random.choice(FOREIGN.get(char) or char) if random.random() < foreign else random.choice([char, char.upper()])
        for char in literal
    )


def spelled_paths() -> Iterator[str]:
    """Yield the paths of two literals in every spelling, and a few others."""
    texts = [*(text for literal in LITERALS for text in _every(literal)), "x", "ax", "xb"]
    yield from (f"/{first}/{second}" for first, second in product(texts, texts))


def _every(literal: str) -> list[str]:
    choices = [sorted({char, char.upper(), *FOREIGN.get(char, "")}) for char in literal]
    return ["".join(chars) for chars in product(*choices)] + (["ß", "ẞ"] if literal == "ss" else [])
