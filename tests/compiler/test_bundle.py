"""Bundles: what comes out is what went in, and it decides alike; what is not ours or not whole is refused."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from random import Random
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyengine import kernel as k
from policyengine.compiler.bundle import file
from policyengine.compiler.bundle.file import BundleError, decode_bundle, read_bundle, write_bundle
from policyengine.compiler.bundle.payload import bundle_schema, read_everything
from policyengine.compiler.lazy_sequence import LazySequence
from policyengine.compiler.tree import Tree, tree_of
from policyengine.diagnostics.model import PolicyError
from policyengine.engine import Engine
from policyengine.kernel.fingerprint import compute_revision
from tests.compiler.hostile import bundled, members_of
from tests.depth import examples, scaled
from tests.generate import Case, cases, checked_policy, directory, kernel_of
from tests.trusting import TRUSTING

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
SEEDS = st.integers(0, 2**32 - 1)
SMALL = 'issuer idp {}\nscope see { GET /a }\nagent "x" { issued by idp  acts alone  may see }\n'


def kernel_from(text: str) -> k.Kernel:
    return Engine.from_text(text).kernel


@pytest.fixture(scope="module")
def small() -> bytes:
    return write_bundle(kernel_from(SMALL), "0.1.0")


def refused(data: bytes, **options: Any) -> BundleError:
    with pytest.raises(BundleError) as found:
        decode_bundle(data, "some.policybundle", **options)
    return found.value


# ── The same policy ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_holds_the_kernel_and_its_tree(name: str) -> None:
    kernel = Engine.load(EXAMPLES / name).kernel
    found = decode_bundle(write_bundle(kernel, "0.1.0"))
    assert read_everything(found.kernel) == kernel
    assert found.tree == tree_of(kernel)


@scaled
@settings(max_examples=examples(12, 100))
@given(SEEDS)
def test_every_construct_comes_back_as_it_was(seed: int) -> None:
    kernel = kernel_of(checked_policy(Random(seed)))
    assert kernel is not None
    found = decode_bundle(write_bundle(kernel, "0.1.0"))
    read = read_everything(found.kernel)
    assert (read, found.tree) == (kernel, tree_of(kernel))
    assert compute_revision(read) == found.kernel.revision == kernel.revision


def test_a_loop_within_another_may_call_its_variable_by_the_same_name() -> None:
    """As where a name for a condition that loops stands in a loop."""
    text = """
    facts { context.rows: list<{ n: number }>   context.samples: list<string>  }
    define short = all x in context.samples: x == "a"
    anyone { may GET /x when any x in context.rows: (x.n > 1 and short and x.n < 9) }
    """
    kernel = Engine.from_text(text).kernel
    assert decode_bundle(write_bundle(kernel, "0.1.0")).kernel.anyones == kernel.anyones


@scaled
@settings(max_examples=examples(8, 60))
@given(SEEDS)
def test_a_bundle_decides_and_explains_as_its_policy_does(seed: int) -> None:
    for case in cases(seed, questions=4):
        found = decode_bundle(write_bundle(case.kernel, "0.1.0"))
        there, here = engine_from(found.kernel, case, found.tree), engine_from(case.kernel, case)
        assert there.evaluate(case.request).to_dict() == here.evaluate(case.request).to_dict()
        assert there.explain(case.request).to_dict() == here.explain(case.request).to_dict()
        assert there.failures == 0


def engine_from(kernel: k.Kernel, case: Case, tree: Tree | None = None) -> Engine:
    return Engine(
        kernel,
        tree=tree,
        directory=directory(case.rows),
        clock=lambda: case.now,
        ids=lambda _: "one",
        approvals=TRUSTING,
    )


def test_places_and_texts_come_back_too() -> None:
    guard = Engine.load(EXAMPLES / "payments").kernel.guards[0]
    read = decode_bundle(write_bundle(Engine.load(EXAMPLES / "payments").kernel, "0.1.0")).kernel.guards[0]
    assert (read.span.at, read.span.text) == (guard.span.at, guard.span.text)
    assert read.effects[0].span.text == guard.effects[0].span.text


def test_an_expression_as_deep_as_the_checker_allows_is_read() -> None:
    kernel = deepest_policy()
    assert decode_bundle(write_bundle(kernel, "0.1.0")).kernel.anyones == kernel.anyones


def deepest_policy() -> k.Kernel:
    """Definitions within definitions, one more of which would be refused."""
    for count in range(60, 0, -1):
        names = [f"define d{n} = true not in [{f'd{n - 1}' if n else 'context.n == 1'}]" for n in range(count)]
        text = "\n".join(["facts { context.n: int }", *names, f"anyone {{ may GET /a when d{count - 1} }}"])
        try:
            return kernel_from(text)
        except PolicyError:
            continue
    raise AssertionError("no depth is allowed")


# ── The same bytes ────────────────────────────────────────────────────────────────────────────


def test_where_policies_lie_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EXAMPLES / "payments", tmp_path / "elsewhere")
    here, there = Engine.load(EXAMPLES / "payments"), Engine.load("elsewhere")
    assert write_bundle(here.kernel, "0.1.0") == write_bundle(there.kernel, "0.1.0")


def test_writing_what_was_read_gives_the_same_bytes() -> None:
    engine = Engine.load(EXAMPLES / "multi-tenant")
    data = write_bundle(engine.kernel, "0.1.0", sources=engine.sources)
    found = decode_bundle(data)
    assert write_bundle(found.kernel, "0.1.0", sources=found.sources) == data


def test_a_bundle_tells_nothing_of_the_machine_that_made_it(tmp_path: Path) -> None:
    (tmp_path / "secret-folder").mkdir()
    (tmp_path / "secret-folder" / "a.policy").write_text(SMALL)
    assert b"secret-folder" not in write_bundle(Engine.load(tmp_path / "secret-folder").kernel, "0.1.0")


def test_another_policy_has_another_digest(small: bytes) -> None:
    other = write_bundle(kernel_from(SMALL.replace("/a", "/b")), "0.1.0")
    assert decode_bundle(other).digest != decode_bundle(small).digest


# ── Read when needed ──────────────────────────────────────────────────────────────────────────


def test_parts_are_read_when_they_are_first_needed(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[type] = []
    original = bundle_schema().read
    monkeypatch.setattr(bundle_schema(), "read", lambda kind, *rest: read.append(kind) or original(kind, *rest))
    kernel = decode_bundle(small).kernel
    assert k.AgentBlock not in read
    assert kernel.agents[0] is kernel.agents[0]
    assert read.count(k.AgentBlock) == 1


def test_parts_behave_as_a_tuple_does() -> None:
    parts = LazySequence([b"a", b"b", b"c"], lambda index, data: (index, data))
    as_tuple = ((0, b"a"), (1, b"b"), (2, b"c"))
    assert parts == as_tuple
    assert (parts[-1], parts[1:], len(parts)) == (as_tuple[-1], as_tuple[1:], 3)
    assert hash(parts) == hash(as_tuple)
    assert repr(parts) == repr(as_tuple)
    with pytest.raises(IndexError):
        parts[3]


def test_threads_that_ask_at_once_get_the_same_part() -> None:
    start, found = threading.Barrier(8), []

    def ask() -> None:
        start.wait()
        found.append(parts[0])

    parts = LazySequence([b"x"], lambda index, data: [data])  # a list: each one made is another
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1


def test_a_part_that_is_wrong_denies_when_it_is_needed(tmp_path: Path) -> None:
    members = members_of(write_bundle(kernel_from(SMALL), "0.1.0"))
    grants = bundle_schema().classes[k.AgentBlock].names.index("grants") + 1
    when = bundle_schema().classes[k.Grant].names.index("when") + 1
    members["agents"][0][grants][0][when] = "nonsense"
    (tmp_path / "broken.policybundle").write_bytes(bundled(members))
    engine = Engine.from_bundle(tmp_path / "broken.policybundle")
    decision = engine.decide({"request": {"method": "GET", "path": "/a"}, "agent": {"id": "x", "issuer": "idp"}})
    assert (str(decision.outcome), str(decision.gate), engine.failures) == ("deny", "failure", 1)


HISTORY = """
issuer idp { scopes none }
agent "x" {
  issued by idp  acts alone  may POST /a/{id}
  may GET /a/{id} when after (POST /a/{id} where past.params.id == params.id) within 1h
}
"""


def test_a_grant_of_a_bundle_reads_the_history(tmp_path: Path) -> None:
    (tmp_path / "x.policybundle").write_bytes(write_bundle(kernel_from(HISTORY), "0.1.0"))
    engine = Engine.from_bundle(tmp_path / "x.policybundle")
    caller = {"agent": {"id": "x", "issuer": "idp"}, "credential": {"scopes": []}}
    outcomes = [
        str(engine.decide({"request": {"method": method, "path": path}, **caller}).outcome)
        for method, path in (("GET", "/a/1"), ("POST", "/a/1"), ("GET", "/a/1"), ("GET", "/a/2"))
    ]
    assert outcomes == ["deny", "allow", "allow", "deny"]


def test_questions_decode_only_the_blocks_that_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditional = 'acts for users where user.id != "u"'
    blocks = [f'agent "a{number}" {{ issued by idp  {conditional}  may see }}' for number in range(9)]
    blocks += [f'agent "b{number}" {{ issued by idp  acts alone  may see }}' for number in range(9)]
    head = "users unrestricted\nissuer idp { records chains }\nscope see { GET /a }\nscope other { GET /b }"
    text = "\n".join([head, *blocks, 'agent "z" { issued by idp  acts alone  may other }'])
    (tmp_path / "x.policybundle").write_bytes(write_bundle(kernel_from(text), "0.1.0"))
    engine = Engine.from_bundle(tmp_path / "x.policybundle")
    read: list[type] = []
    original = bundle_schema().read
    monkeypatch.setattr(bundle_schema(), "read", lambda kind, *rest: read.append(kind) or original(kind, *rest))
    question = {"request": {"method": "GET", "path": "/b"}, "agent": {"id": "z", "issuer": "idp"}}
    for chain in ({}, {"chain": {"hops": [{"agent": "z", "issuer": "idp"}]}}):
        engine.decide({**question, **chain})
        assert read.count(k.AgentBlock) == 1  # of the others, the limit of steps needs only the requirements


def test_the_head_of_a_block_is_decoded_without_its_grants() -> None:
    kernel = kernel_from("""
    issuer idp { scopes none }
    user any { may GET /a }
    agent where agent.id == "x" { issued by idp  acts for users where user.id != "u"  may GET /a }
    """)
    agents = decode_bundle(write_bundle(kernel, "0.1.0")).kernel.agents
    assert isinstance(agents, LazySequence)
    head = agents.head(0)
    assert (head.who, head.requirements) == (kernel.agents[0].who, kernel.agents[0].requirements)
    assert head.grants == ()
    assert agents[0].grants == kernel.agents[0].grants
    assert agents.head(0) is agents[0]


# ── What is refused ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a bundle", SMALL.encode(), b"\x93\x01\x02\x03", b"\xc1" * 99])
def test_data_that_is_not_a_bundle_is_refused(data: bytes) -> None:
    assert refused(data).code == "E160"


def test_a_bundle_that_is_cut_off_is_refused_wherever_that_is(small: bytes) -> None:
    codes = {refused(small[:length]).code for length in range(len(small))}
    assert codes == {"E160", "E162"}
    assert refused(small[:-1]).code == "E162"


def test_a_bundle_with_more_behind_it_is_refused(small: bytes) -> None:
    assert refused(small + b"\x00").code == "E162"


def test_a_bundle_with_any_byte_changed_is_refused(small: bytes) -> None:
    for place in range(len(small)):
        for change in (0x01, 0x20, 0x80, 0xFF):
            data = bytearray(small)
            data[place] ^= change
            assert refused(bytes(data)).code in ("E160", "E161", "E162", "E165")


def test_a_newer_format_names_the_version_that_writes_it(small: bytes) -> None:
    newer = msgpack.packb([file.MAGIC, 3, "7.5.1", {"all": "else"}])
    error = refused(newer)
    assert error.code == "E161"
    assert "format 3, from policyengine 7.5.1; this version reads 2" in error.message
    assert error.hint


def test_a_bundle_of_the_first_format_is_refused_with_a_hint_to_compile_again() -> None:
    error = refused(msgpack.packb([file.MAGIC, 1, "0.1.0", "0123456789abcdef", b"\0" * 32, b"", []]))
    assert error.code == "E161"
    assert error.message == "this bundle has format 1, from policyengine 0.1.0; this version reads 2"
    assert str(error.hint).startswith("compile the policy again with this version of policyengine")


def test_a_bundle_with_rules_stored_otherwise_names_the_version_that_wrote_it() -> None:
    shape, inner = "0123456789abcdef", msgpack.packb({})
    digest = file.digest_of(file.FORMAT, "9.9.9", shape, inner)
    error = refused(msgpack.packb([file.MAGIC, file.FORMAT, "9.9.9", shape, digest, inner, []]))
    assert error.code == "E161"
    assert "9.9.9" in error.message


def test_a_version_that_is_none_is_not_shown(small: bytes) -> None:
    error = refused(msgpack.packb([file.MAGIC, 3, "\x1b[31m evil"]))
    assert "evil" not in error.message


def test_what_is_stored_alike_has_one_shape_on_every_python() -> None:
    """Another shape makes bundles of before unreadable: then this changes with it, knowingly."""
    shapes = {one.kind.__name__: one.shape.partition(" ")[2] for one in bundle_schema().classes.values()}
    assert shapes["Relation"].startswith("Relation(span: place, operator: str, left: Constant | Fact | ")
    assert shapes["ValidityPeriod"] == "ValidityPeriod(span: place, start: None | time, end: None | time)"
    assert shapes["Daily"] == "Daily(days: None | {int}, start_minute: int, end_minute: int, zone: zone)"
    assert shapes["GrantTarget"] == "GrantTarget(span: place, pattern: pattern, carriers: (str, …))"


# ── Files ─────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_read(small: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.policybundle").write_bytes(small)
    assert read_bundle(tmp_path / "a.policybundle").digest == decode_bundle(small).digest


@pytest.mark.parametrize(
    ("name", "code"), [("nowhere", "E151"), (".", "E152"), ("a\0b", "E152"), ("/dev/null", "E152"), ("text", "E160")]
)
def test_a_file_that_is_not_a_bundle_is_refused(name: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError) as found:
        read_bundle(f"{tmp_path}/{name}" if name[0] != "/" else name)
    assert found.value.code == code


def test_a_file_that_is_too_large_is_refused(small: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.policybundle").write_bytes(small)
    monkeypatch.setattr(file, "MAX_BUNDLE_BYTES", 10)
    with pytest.raises(BundleError, match="the limit is 10") as found:
        read_bundle(tmp_path / "a.policybundle")
    assert found.value.code == "E166"


def test_who_expects_errors_of_policies_gets_this_one() -> None:
    error = refused(b"")
    assert isinstance(error, PolicyError)
    assert str(error).startswith("some.policybundle:1:1: E160 this is not a bundle")
    assert [diagnostic.code for diagnostic in error.diagnostics] == ["E160"]
