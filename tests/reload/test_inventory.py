"""What is gone from one set of policies to the next: by package and name, whatever it is called then, and by file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from policyengine.compiler.bundle.file import decode_bundle, write_bundle
from policyengine.engine import Engine
from policyengine.entities.store import EntityStore, describe_lost_types
from policyengine.reload.policy_inventory import Loss, PolicyInventory, summarize_losses
from policyengine.runtime.entities import EntityData
from policyengine.typesystem import EntityRef

FILES = {
    "doors.policy": """language 1
package shop
entity user { roles: set<string> }
issuer acme { }
facts on POST /pay { body.amount: number }
scope all { GET /health   POST /pay }
user any { may all }
agent "bot" { issued by acme   acts for any user   may all }
""",
    "guards.policy": """language 1
package shop
guard "closed" on GET /health { deny when request.ip within 10.0.0.0/8   audit full }
guard "asked" on POST /pay { confirm by role finance within 15m }
""",
    "limits.policy": """language 1
package shop
rate "often" per user.id on POST /pay { 10/1m   at most 2 at once for 1m }
budget "much" per user.id on POST /pay { sum body.amount <= 100 within 1h   count <= 5 within 1h }
delegation { depth <= 2   lifetime <= 1h   no cycles }
""",
    "other.policy": """language 1
package other
anyone { may GET /other }
guard "elsewhere" on GET /other { deny }
""",
}


def inventory(folder: Path, files: dict[str, str]) -> PolicyInventory:
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return PolicyInventory.of(Engine.load(folder).kernel)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> PolicyInventory:
    return inventory(tmp_path_factory.mktemp("before") / "p", FILES)


def changed(*changes: tuple[str, str, str]) -> dict[str, str]:
    files = dict(FILES)
    for name, old, new in changes:
        assert old in files[name]
        files[name] = files[name].replace(old, new)
    return files


def without(*names: str) -> dict[str, str]:
    return {name: text for name, text in FILES.items() if name not in names}


def gone(losses: Iterable[Loss]) -> list[str]:
    return [f"{loss.kind}: {loss.words}" for loss in losses]


CLOSED = 'guard "closed" on GET /health { deny when request.ip within 10.0.0.0/8   audit full }\n'


@pytest.mark.parametrize(
    ("files", "losses"),
    [
        pytest.param(FILES, [], id="nothing"),
        pytest.param(
            changed(("guards.policy", CLOSED, "")),
            ['removed-guards: guard "closed" of shop, which was at guards.policy:3'],
            id="a guard",
        ),
        pytest.param(changed(("guards.policy", CLOSED, CLOSED.replace("closed", "shut"))), [], id="another name"),
        pytest.param(
            changed(("guards.policy", CLOSED, CLOSED.replace("closed", "shut").replace("10.", "11."))),
            ['removed-guards: guard "closed" of shop, which was at guards.policy:3'],
            id="another name and other words",
        ),
        pytest.param(changed(("guards.policy", "10.0.0.0/8", "10.0.0.0/9")), [], id="other words"),
        pytest.param(
            changed(("guards.policy", "deny when request.ip within 10.0.0.0/8", "")),
            ['removed-guards: `deny` in guard "closed" of shop, which was at guards.policy:3'],
            id="a deny",
        ),
        pytest.param(
            changed(("guards.policy", "confirm by role finance within 15m", "audit full")),
            ['removed-guards: `confirm` in guard "asked" of shop, which was at guards.policy:4'],
            id="a confirm",
        ),
        pytest.param(
            changed(("guards.policy", "confirm by role finance within 15m", "deny")), [], id="a deny for a confirm"
        ),
        pytest.param(
            changed(("limits.policy", "10/1m", "")),
            ['removed-limits: `pace` in rate "often" of shop, which was at limits.policy:3'],
            id="a pace",
        ),
        pytest.param(
            changed(("limits.policy", "sum body.amount <= 100 within 1h", "")),
            ['removed-limits: `sum` in budget "much" of shop, which was at limits.policy:4'],
            id="a quota",
        ),
        pytest.param(
            changed(("limits.policy", "depth <= 2", "")),
            ["removed-delegation-limits: delegation depth"],
            id="how deep chains may be",
        ),
        pytest.param(
            without("limits.policy"),
            [
                'removed-files: file `limits.policy`, and with it budget "much", rate "often", delegation',
                'removed-limits: budget "much" of shop, which was at limits.policy:4',
                'removed-limits: rate "often" of shop, which was at limits.policy:3',
                "removed-delegation-limits: delegation depth",
                "removed-delegation-limits: delegation lifetime",
                "removed-delegation-limits: delegation no cycles",
            ],
            id="a file",
        ),
        pytest.param(
            without("other.policy"),
            [
                'removed-files: file `other.policy`, and with it guard "elsewhere", block "anyone"',
                "removed-packages: package other",
                'removed-guards: guard "elsewhere" of other, which was at other.policy:4',
            ],
            id="a package",
        ),
        pytest.param(
            {**without("guards.policy"), "rules.policy": FILES["guards.policy"]}, [], id="a file of another name"
        ),
        pytest.param(
            {**without("guards.policy"), "doors.policy": FILES["doors.policy"] + FILES["guards.policy"][23:]},
            [],
            id="a file that went into another",
        ),
        pytest.param(
            {
                **without("other.policy"),
                "other.policy": FILES["other.policy"].replace("package other", "package another"),
            },
            ["removed-packages: package other"],
            id="a package of another name",
        ),
    ],
)
def test_losses_lists_everything_removed(
    before: PolicyInventory, tmp_path: Path, files: dict[str, str], losses: list[str]
) -> None:
    assert gone(before.losses(inventory(tmp_path / "p", files))) == losses


def test_a_removed_file_is_a_loss_even_when_another_file_has_the_same_block(
    before: PolicyInventory, tmp_path: Path
) -> None:
    more = {**FILES, "more.policy": "language 1\npackage other\nanyone { may GET /more }\n"}
    found = inventory(tmp_path / "more", more).losses(before)
    assert gone(found) == ['removed-files: file `more.policy`, and with it block "anyone"']


def test_a_file_that_lost_only_its_rules_is_not_said_to_be_gone(before: PolicyInventory, tmp_path: Path) -> None:
    found = inventory(tmp_path / "p", without("other.policy"))
    emptied = replace(found, texts={"other.policy": "language 1\npackage other\nscope all { GET /other }\n"})
    [file, *_] = gone(before.losses(emptied))
    assert file == (
        'removed-files: file `other.policy`, which no longer declares rules: its guard "elsewhere", block "anyone"'
    )


def test_the_inventory_of_a_bundle_equals_that_of_its_files(before: PolicyInventory, tmp_path: Path) -> None:
    inventory(tmp_path / "p", FILES)
    kernel = decode_bundle(write_bundle(Engine.load(tmp_path / "p").kernel, "test")).kernel
    there = PolicyInventory.of(kernel)
    assert list(before.losses(there)) == list(there.losses(before)) == []


def test_an_added_rule_is_not_a_loss(before: PolicyInventory, tmp_path: Path) -> None:
    less = inventory(tmp_path / "p", changed(("guards.policy", CLOSED, "")))
    assert list(less.losses(before)) == []


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["removed-guards"], "1 guard is gone"),
        (["removed-guards"] * 2, "2 guards are gone"),
        (["removed-limits", "removed-guards", "removed-files"], "1 file, 1 guard and 1 limit are gone"),
        (["removed-delegation-limits"], "1 delegation limit is gone"),
        (["removed-entities"] * 2, "rows of 2 entity types are gone"),
    ],
)
def test_losses_are_summarized_by_kind_and_number(kinds: list[str], words: str) -> None:
    assert summarize_losses([Loss(kind, "x") for kind in kinds]) == words


def test_an_entity_type_without_rows_is_lost() -> None:
    def rows(*named: str) -> EntityStore:
        return EntityStore(EntityData(EntityRef(*name.split()), {}, ()) for name in named)

    before = rows("user alice", "user bob", "team red")
    assert describe_lost_types(before, rows("user carol")) == ["every row of `team`"]
    assert describe_lost_types(before, rows()) == ["every row of `team`", "every row of `user`"]
    assert describe_lost_types(rows(), rows()) == []


@pytest.mark.parametrize(("before", "after", "lost"), [
    (50, 24, True), (50, 25, False), (50, 1, True), (19, 9, True), (10, 1, False), (3, 1, False), (50, 60, False),
])  # fmt: skip
def test_an_entity_type_that_lost_most_rows_is_reported(before: int, after: int, lost: bool) -> None:
    def docs(number: int) -> EntityStore:
        return EntityStore(EntityData(EntityRef("doc", str(one)), {}, ()) for one in range(number))

    found = describe_lost_types(docs(before), docs(after))
    assert found == ([f"{before - after} of {before} rows of `doc`"] if lost else [])
