"""What a reload may take away, as an option, a variable or the project's file says it: the file is read each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyengine.cli.errors import CommandError
from policyengine.cli.reload_rules import reload_rules, settings_file
from policyengine.reload import ReloadRefusedError

REVISION = "sha256:" + "a" * 64


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "p.policy").write_text("anyone { may GET /health }\n")
    return tmp_path


def test_reload_rules_are_read_from_the_file_each_time(project: Path) -> None:
    current = reload_rules([Path("shop")], (), "none", 30)
    assert (current().allow, current().gate, current().seconds) == (frozenset(), False, 30)
    (project / "shop" / "policyengine.toml").write_text(f'[reload]\nallow = ["{REVISION}"]\n')
    assert current().allow == {REVISION}
    (project / "shop" / "policyengine.toml").unlink()
    assert current().allow == frozenset()


def test_reload_options_override_a_changed_file(project: Path) -> None:
    current = reload_rules([Path("shop")], ("removed-guards",), "diff", 5)
    (project / "shop" / "policyengine.toml").write_text(f'[reload]\nallow = ["{REVISION}"]\n')
    assert (current().allow, current().gate) == ({"removed-guards"}, True)


def test_a_reload_variable_overrides_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICYENGINE_RELOAD_ALLOW", "removed-files, removed-limits")
    file = project / "shop" / "policyengine.toml"
    file.write_text('[reload]\nallow = ["removed-files", "removed-limits"]\n')  # the same, as long as it says so
    current = reload_rules([Path("shop")], ("removed-files", "removed-limits"), "none", 30)
    file.write_text(f'[reload]\nallow = ["{REVISION}"]\n')
    assert current().allow == {"removed-files", "removed-limits"}


def test_an_unreadable_settings_file_refuses_the_reload_with_the_cause(project: Path) -> None:
    current = reload_rules([Path("shop")], (), "none", 30)
    (project / "shop" / "policyengine.toml").write_text("[reload]\nallow = [")
    with pytest.raises(ReloadRefusedError) as refused:
        current()
    assert refused.value.why == "cannot read which changes a reload may make"
    assert "policyengine.toml" in refused.value.findings[0]


def test_an_unknown_reload_rule_is_rejected_at_startup(project: Path) -> None:
    with pytest.raises(CommandError) as error:
        reload_rules([Path("shop")], ("removed-guard",), "none", 30)
    assert (error.value.code, error.value.hint) == (2, "did you mean `removed-guards`?")


@pytest.mark.parametrize(
    ("there", "found"),
    [(None, "shop/policyengine.toml"), (".", "policyengine.toml"), ("shop", "shop/policyengine.toml")],
)
def test_reload_rules_use_the_nearest_settings_file(project: Path, there: str | None, found: str) -> None:
    (project / ".policyroot").touch()
    if there is not None:
        (project / there / "policyengine.toml").write_text("")
    for path in (Path("shop"), Path("shop/p.policy")):
        assert settings_file([path]).absolute() == project / found
