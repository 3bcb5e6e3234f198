"""Large specifications: work that follows their size, or one message."""

import json
import time
from itertools import product

import pytest

from policyengine.importers.documents import read_document
from policyengine.importers.errors import ApiImportError
from policyengine.importers.model import HttpTemplate
from policyengine.importers.path_overlaps import PathIndex


def steps_of(paths: list[str]) -> int:
    index = PathIndex()
    for path in paths:
        endpoint = HttpTemplate.of_key(f"GET {path}")
        index.meeting(endpoint.method, endpoint.segments)
        index.add(endpoint)
    return index._steps


def test_disjoint_paths_are_indexed_in_linear_time():
    few, many = (steps_of([f"/r{i}/{{}}" for i in range(count)]) for count in (500, 1_000))
    assert many < 2.1 * few


def test_the_path_index_finds_overlapping_templates():
    index = PathIndex.of(HttpTemplate.of_key(f"GET {path}") for path in ("/a/{}", "/{}/b", "/c/d", "/{}", "/a/x-{}"))
    for path, met in (("/a/b", [0, 1]), ("/c/d", [2]), ("/{}/{}", [0, 1, 2, 4]), ("/a/x-{}", [0, 4]), ("/q", [3])):
        assert index.meeting("GET", HttpTemplate.of_key(f"GET {path}").segments) == met
    assert index.meeting("PUT", HttpTemplate.of_key("PUT /a/b").segments) == []


def specification(folder, paths: list[str]):
    file = folder / "api.json"
    operations = {path: {"get": {}} for path in paths}
    file.write_text(json.dumps({"openapi": "3.0.0", "info": {"title": "x", "version": "1"}, "paths": operations}))
    return file


def overlapping(segments: int) -> list[str]:
    """Each segment a text or a capture, in every combination."""
    every = product(*([f"s{i}", f"{{p{i}}}"] for i in range(segments)))
    return ["/" + "/".join(parts) for parts in every]


@pytest.mark.parametrize(("segments", "apart"), [(9, False), (10, True)])
def test_too_many_overlapping_paths_are_rejected_in_one_message(tmp_path, segments, apart):
    from policyengine.importers.openapi import read_openapi
    from policyengine.importers.reconcile_overlaps import reconcile

    paths = [f"{path}/x{i}" if apart else path for i, path in enumerate(overlapping(segments))]
    with pytest.raises(ApiImportError, match=r"more than [0-9,]+ (pairs|steps)"):
        reconcile(read_openapi(str(specification(tmp_path, paths))).operations)


def test_a_duplicate_key_among_many_is_found_in_bounded_time():
    text = "{" + ",".join(f'"k{i}":1' for i in range(40_000)) + ',"k39999":2}'
    begun = time.process_time()
    with pytest.raises(ApiImportError, match="contains the key `k39999` twice"):
        read_document("api.json", text.encode())
    assert time.process_time() - begun < 3  # it took 15 s when each key was counted
