"""The public sets of the bench: found if they were fetched, left out if not, and read as data."""

import json

import pytest

from bench import public_sets, shape_traffic
from bench.behavior_traffic import public_runs

CORE_RULE_TEST = """
tests:
  - stages:
      - stage:
          input: {uri: "/get?a=%3Cscript%3E&b=2", data: "c=1'--"}
          output: {log_contains: id "941100"}
      - stage:
          input: {uri: "/get?usual=1"}
          output: {no_log_contains: id "941100"}
"""
TASK = """
class UserTask:
    def ground_truth(self):
        return [FunctionCall(function="get_balance", args={}), FunctionCall(function="send_money", args={})]
"""


@pytest.fixture
def sets(tmp_path, monkeypatch):
    monkeypatch.setattr(public_sets, "PYTHON", tmp_path)
    monkeypatch.setattr(shape_traffic, "WFUZZ", tmp_path / "wfuzz")
    monkeypatch.setattr(shape_traffic, "CORE_RULE_SET", tmp_path / "crs")
    return tmp_path


def write(file, text):
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_a_fetched_package_comes_before_an_installed_one(sets):
    assert public_sets.package_folder("pytest") not in (None, sets / "pytest")
    (sets / "pytest").mkdir()
    assert public_sets.package_folder("pytest") == sets / "pytest"
    assert public_sets.package_folder("no_such_package_xyz") is None


def test_sets_that_were_not_fetched_are_left_out(sets, monkeypatch):
    monkeypatch.setattr(public_sets, "find_spec", lambda _: None)
    assert list(shape_traffic.attack_lists()) == ["own"]
    assert not shape_traffic.public_records()
    assert not public_runs()


def test_attacks_are_the_payloads_that_a_rule_must_find(sets):
    write(sets / "fray/payloads/xss/a.json", json.dumps({"payloads": [{"payload": "<b>"}, "<i>", {"other": 1}]}))
    write(sets / "wfuzz/SQL.txt", "' or 1\n\n")
    write(sets / "crs/REQUEST-941-XSS/941100.yaml", CORE_RULE_TEST)
    found = shape_traffic.attack_lists()
    assert {name: found[name] for name in ("fray", "wfuzz", "crs")} == {
        "fray": ["<b>", "<i>"], "wfuzz": ["' or 1"], "crs": ["1'--", "2", "<script>"],
    }  # fmt: skip


def test_runs_are_the_calls_of_the_solutions(sets):
    write(sets / "agentdojo/default_suites/v1/banking/user_tasks.py", TASK)
    assert public_runs() == {"banking": [["get_balance", "send_money"]]}


def test_the_functions_of_a_multi_turn_task_are_one_run_of_the_suite_of_its_most_frequent_api(sets):
    folder = sets / "bfcl_eval/data/possible_answer"
    tasks = {
        "a": ["Files", "Tickets"],
        "b": ["Files"],
        "c": ["Files"],
        "d": ["Travel", "Tickets"],
        "e": ["Travel"],
        "f": ["Travel"],
    }
    calls = {"a": [["ls()", "cd(folder='(x)')"], ["ls()"]], **{name: [["go(1)"]] for name in "bcdef"}}
    name = "BFCL_v4_multi_turn_base.json"
    write(folder / name, lines([{"id": task, "ground_truth": turns} for task, turns in calls.items()]))
    (folder.parent / name).write_text(lines([{"id": task, "involved_classes": apis} for task, apis in tasks.items()]))
    assert public_runs() == {"BFCL Files": [["ls", "cd", "ls"], ["go"], ["go"]], "BFCL Travel": [["go"]] * 3}


def lines(objects):
    return "".join(json.dumps(each) + "\n" for each in objects)


def test_archives_of_packages_become_archives_of_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(public_sets, "SOURCES", tmp_path)
    (tmp_path / "debian.sources").write_text("Types: deb\nSuites: stable\n")
    (tmp_path / "other.sources").write_text("Types: deb\nSuites: ./\n")
    assert public_sets.source_entries() == "Types: deb-src\nSuites: stable\n"
