"""Shared parts of the import tests: specifications as data, projects on disk, and the properties of a new project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policyengine.check import CheckResult, lint
from policyengine.importers import Api, ImportResult, import_policies, read_openapi
from policyengine.policy_files import load_sources
from policyengine.syntax.format import format_module
from policyengine.syntax.parse import parse
from policyengine.testing import collect, run

OAUTH = {"components": {"securitySchemes": {"oauth": {"type": "oauth2", "flows": {}}}}}


def spec(paths: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "Shop"}, "paths": paths, **OAUTH, **more}


def asking(*scopes: str) -> list[dict[str, list[str]]]:
    return [{"oauth": list(scopes)}]


def saved(folder: Path, document: Any, name: str = "api.json") -> str:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return str(folder / name)


def api_of(folder: Path, paths: dict[str, Any], **more: Any) -> Api:
    return read_openapi(saved(folder, spec(paths, **more)))


def brought(folder: Path, paths: dict[str, Any], *, check: bool = False, **more: Any) -> ImportResult:
    """Import into the folder `shop` next to the specification."""
    return import_policies(folder / "shop", api_of(folder, paths, **more), "policyengine init", check=check)


def read(folder: Path) -> CheckResult:
    """Read the project with the opinions of the linter, except the one that its settings exclude."""
    sources, problems = load_sources([folder])
    modules = []
    for source in sources:
        module, found = parse(source)
        assert module is not None
        modules.append(module)
        problems += found
    return lint(modules, problems)


def findings(folder: Path) -> list[str]:
    return [found.render() for found in read(folder).diagnostics if found.code != "W262"]


def assert_sound(folder: Path) -> None:
    """Assert that the project checks without findings, is in canonical form, and passes its tests."""
    assert findings(folder) == []
    for source in load_sources([folder])[0]:
        assert format_module(source) == source.text, source.name
    assert_tests_pass(folder)


def assert_tests_pass(folder: Path) -> None:
    policy = read(folder)
    assert policy.kernel is not None
    report = run(collect(policy), policy.kernel)
    assert report.results
    assert report.ok, report.render()


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def opened(folder: Path) -> None:
    """Grant access as an author of a new project does."""
    doors = folder / "doors.policy"
    kept = [line for line in doors.read_text().splitlines() if "valid until" not in line]
    doors.write_text("\n".join(kept) + "\n")
    tests = folder / "doors_test.policy"
    tests.write_text(tests.read_text().partition('test "nothing is allowed today"')[0])
