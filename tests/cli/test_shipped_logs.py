"""Logs that a shipper wrote anew: every command reads them the same, or says with a line number what it leaves out."""

import gzip
import json
import shutil

import pytest

from policyengine.audit import DecisionLog
from policyengine.engine import Engine

POLICY = """language 1
package shop
issuer acme { url "https://x.example"   scopes none }
facts { body.amount: number? }
agent "bot" { issued by acme   acts alone   may GET /a, POST /pay }
guard "g" on POST /pay { deny when body.amount > 5 }
"""
BEFORE = []  # what the commands print of the original lines
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
VALUES = (None, 0, -1, 1.5, "x", "", [], {}, [1], {"a": 1}, True, [[]], [None], [{"rule": []}], [{"arguments": 1}])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two policies and the log of one."""
    folder = tmp_path_factory.mktemp("shop")
    BEFORE.clear()
    (folder / "p.policy").write_text(POLICY)
    (folder / "other.policy").write_text(POLICY.replace("> 5", "> 2"))
    log = DecisionLog(folder / "log.jsonl", seal=None)  # it covers the original lines
    engine = Engine.load(folder / "p.policy", log=log)
    for method, path, amount in (("POST", "/pay", 3.25), ("GET", "/stock", 1), ("POST", "/pay", 9)):
        engine.decide(
            {
                "request": {"method": method, "path": path},
                "agent": {"id": "bot", "issuer": "acme"},
                "body": {"amount": amount},
            }
        )
    log.close()
    return folder


@pytest.fixture
def lines(run, shop, tmp_path):
    shutil.copytree(shop, tmp_path, dirs_exist_ok=True)
    return (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)


def asked(id):
    return (
        ("why", id, "p.policy", "--log", "log.jsonl"),
        ("why", id, "--log", "log.jsonl", "--format", "json"),
        ("diff", "p.policy", "other.policy", "--log", "log.jsonl"),
        ("suggest", "p.policy", "--log", "log.jsonl"),
        ("record", "p.policy", "--log", "log.jsonl"),
    )


def reordered(tree):
    return {key: reordered(tree[key]) for key in reversed(tree)} if isinstance(tree, dict) else tree


def dumped(lines, change=lambda tree: tree, **how):
    return b"".join(json.dumps(change(json.loads(line)), **how).encode() + b"\n" for line in lines)


SHIPPED = {
    "spaces": dumped,
    "reordered": lambda lines: dumped(lines, reordered),
    "sorted": lambda lines: dumped(lines, sort_keys=True),
    "more members": lambda lines: dumped(lines, lambda tree: {"@timestamp": "x", "host": {}, **tree, "tags": []}),
    "line ends of Windows": lambda lines: b"".join(lines).replace(b"\n", b"\r\n"),
    "a byte order mark": lambda lines: BYTE_ORDER_MARK + b"".join(lines),
    "byte order marks": lambda lines: b"".join(BYTE_ORDER_MARK + line for line in lines),
    "compressed": lambda lines: gzip.compress(b"".join(lines)),
    "empty lines": lambda lines: b"\n\n" + b"\n \n\t\n".join(lines) + b"\n",
    "no last line end": lambda lines: b"".join(lines).rstrip(b"\n"),
}


@pytest.mark.parametrize("written", SHIPPED)
def test_commands_read_a_log_rewritten_by_a_shipper(run, tmp_path, lines, written):
    id = json.loads(lines[0])["decision"]["id"]
    if not BEFORE:
        BEFORE.extend(run(*words) for words in asked(id))
    (tmp_path / "log.jsonl").write_bytes(SHIPPED[written](lines))
    for words, then in zip(asked(id), BEFORE, strict=True):
        now = run(*words)
        if words[0] in ("why", "suggest"):  # which name lines
            assert (now.code, len(now.out.splitlines()), now.err) == (then.code, len(then.out.splitlines()), then.err)
        else:
            assert (now.code, now.out, now.err) == (then.code, then.out, then.err)


BROKEN = {
    "pretty printed": lambda lines: dumped(lines, indent=2),
    "one array": lambda lines: b"[" + b",".join(line.strip() for line in lines) + b"]\n",
    "cut off": lambda lines: b"".join(lines)[:-30],
    "versions": lambda lines: lines[0].replace(b'"v":2', b'"v":3', 1) + lines[1].replace(b'"v":2', b'"v":"2"', 1),
    "duplicate members": lambda lines: b"".join(line[:-2] + b',"request":{}}\n' for line in lines),
    "duplicate versions": lambda lines: b"".join(line.replace(b"{", b'{"v":2,', 1) for line in lines),
    "wrapped": lambda lines: b"".join(json.dumps({"log": line.decode()}).encode() + b"\n" for line in lines),
    "UTF-16": lambda lines: b"".join(lines).decode().encode("utf-16"),
    "no JSON": lambda lines: b"hello\n\x00\xff\n" + b"[" * 100_000 + b"\n" + b"".join(lines),
}


@pytest.mark.parametrize("written", BROKEN)
def test_commands_report_unreadable_log_lines_with_their_numbers(run, tmp_path, lines, written):
    (tmp_path / "log.jsonl").write_bytes(BROKEN[written](lines))
    for words in asked(json.loads(lines[-1])["decision"]["id"]):
        ended = run(*words)
        assert "internal error" not in ended.err
        assert "Invalid(" not in ended.err
        assert "log.jsonl:" in ended.err


@pytest.mark.parametrize("part", ["decision", "request"])
def test_a_log_member_of_a_wrong_type_causes_no_internal_error(run, tmp_path, lines, part):
    tree = json.loads(lines[-1])
    members = {*tree[part], "principal", "reasons", "remedies", "obligations", "rates", "unknown", "credential"}
    changed = [{**tree, name: value} for name in tree for value in VALUES]
    changed += [{**tree, part: {**tree[part], name: value}} for name in sorted(members) for value in VALUES]
    (tmp_path / "log.jsonl").write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in changed) + lines[0])
    for words in asked(json.loads(lines[0])["decision"]["id"]):
        ended = run(*words)
        assert "internal error" not in ended.err, words
