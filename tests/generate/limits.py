"""Rates and budgets of every form, over the facts that exist at their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from tests.generate.expressions import Writer, atoms_at

PACES = ("1/1s", "2/1m", "5/1m burst 2", "100/1m", "3/1h", "7/90s burst 3")
FASTER = ("200/1m", "10/1s")
SLOWER = ("1/1h", "1/1d")
WITHIN = ("1m", "1h", "24h")
KINDS_OF_KEYS = ("string", "int", "number", "plan", "ip", "user", "invoice", "bool")
USUAL_KEYS = ("agent.id", "user.id", "request.ip", "address(request.ip)", "(user.tenant, agent.id)",
              "(user.id, request.method)")  # fmt: skip
CHANCE = 0.4  # share of the policies with limits


def limits(random: Random, places: dict[str, tuple[str, ...]], plain: bool = False) -> Iterator[str]:
    """Return limits; `plain`: of a few shapes, as at gateways."""
    if random.random() >= CHANCE:
        return
    for number in range(random.choice([1, 1, 2, 3])):
        place, groups = random.choice(sorted(places.items()))
        yield _limit(random, number, place, groups, plain)


def _limit(random: Random, number: int, place: str, groups: Sequence[str], plain: bool) -> str:
    keys = _keys(random, groups)
    on = f" on {place}" if place else ""
    when = f" when {_condition(random, groups)}" if random.random() < 0.4 else ""
    budget = not plain and random.random() < 0.35
    items = _budget(random, groups) if budget else _rate(random, groups, plain)
    if random.random() < 0.2:
        items.append(f"on store failure {random.choice(['deny', 'local', 'allow'])}")
    lines = "".join(f"  {item}\n" for item in items)
    return f'{"budget" if budget else "rate"} "l{number}" per {keys}{on}{when} {{\n{lines}}}'


def _keys(random: Random, groups: Sequence[str]) -> str:
    """Return keys: usually the agent or the user, sometimes any fact."""
    usual = random.choice(USUAL_KEYS)
    if random.random() < 0.7:
        return usual
    atoms = atoms_at(groups)
    names = [atom.text for kind in KINDS_OF_KEYS for atom in atoms.get(kind, ()) if _is_name(atom.text)]
    chosen = random.sample(names, random.choice([1, 1, 2]))
    return chosen[0] if len(chosen) == 1 else f"({', '.join(chosen)})"


def _is_name(text: str) -> bool:
    return text.replace(".", "").replace("_", "").isalnum()


def _numbers(groups: Sequence[str]) -> list[str]:
    atoms = atoms_at(groups)
    return [atom.text for kind in ("int", "number") for atom in atoms.get(kind, ()) if _is_name(atom.text)]


def _condition(random: Random, groups: Sequence[str]) -> str:
    return Writer(random, atoms_at(groups), None, random.choice([0, 1, 2])).condition()


def _rate(random: Random, groups: Sequence[str], plain: bool) -> list[str]:
    if not plain and random.random() < 0.15:
        return [_at_once(random)]
    by_fact = not plain and random.random() < 0.15
    items = [f"{random.choice(_numbers(groups))}/1h" if by_fact else random.choice(PACES)]
    if plain:
        return items
    if random.random() < 0.25:
        items.append(f"cost {random.choice(_numbers(groups))}")
    if random.random() < 0.25:
        factor = random.choice(["x2", "x1.5", "x10"])
        items.append(f"raise {factor} at most {random.choice(FASTER)} when {_condition(random, groups)}")
    if random.random() < 0.25:
        lasting = random.choice(["", " for 10m", " for 1d"])
        items.append(f"clamp {random.choice(SLOWER)}{lasting} when {_condition(random, groups)}")
    items += ["counting denials"] if random.random() < 0.2 else []
    items += [_at_once(random)] if random.random() < 0.15 else []
    return items


def _at_once(random: Random) -> str:
    return f"at most {random.choice([1, 2, 5])} at once{random.choice(['', ' for 5m'])}"


def _budget(random: Random, groups: Sequence[str]) -> list[str]:
    numbers = _numbers(groups)
    forms = [
        "count <= {bound} within {within}",
        f"sum {random.choice(numbers)} <= {{bound}} within {{within}}",
        f"distinct {random.choice(['user.id', 'request.path', 'agent.id', *numbers])} <= {{bound}} within {{within}}",
    ]
    bounds = ["1", "3", "500", "10.5", random.choice(numbers)]
    return [
        random.choice(forms).format(bound=random.choice(bounds), within=random.choice(WITHIN))
        for _ in range(random.choice([1, 1, 2]))
    ]
