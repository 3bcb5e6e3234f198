"""The pin file `mcp-pins.json`: the reviewed definitions of tools, by server and tool. It is trusted like a policy, so
only its owner may be able to write it.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from policyengine.bounded_files import check_regular, read_stream
from policyengine.control_characters import one_line
from policyengine.diagnostics.model import format_location, source_excerpt
from policyengine.source import Source, Span
from policyengine.tool_pins.definitions import Definition, DefinitionError, hash_definition
from policyengine.tool_pins.look_alikes import look_alike_key
from policyengine.trusted_files import UntrustedPathError, open_trusted, write_problem

PIN_FILE: Final = "mcp-pins.json"
PIN_FORMAT: Final = 1
MAX_PIN_BYTES: Final = 32 * 1024 * 1024
MAX_PINS: Final = 20_000
MAX_DEFINITIONS: Final = 8  # of one tool: a server may list it differently in each version of the protocol
OTHERS_MAY_NOT_WRITE: Final = 0o644
RESTORE_HINT: Final = "restore the reviewed version of the file"
TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^\s{}\[\],:"]+')
FileStamp = tuple[int, int, int, int, int]
JsonPath = tuple[str, ...]


class PinFileError(Exception):
    """The error for a pin file that cannot be used; `detail` shows the place in the file."""

    def __init__(self, message: str, hint: str | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.message, self.hint, self.detail = message, hint, detail


@dataclass(frozen=True, slots=True)
class ToolPin:
    """The reviewed definitions of a tool, by hash, who reviewed them, and when."""

    definitions: Mapping[str, Definition]
    reviewed: str
    by: str

    @property
    def hashes(self) -> frozenset[str]:
        return frozenset(self.definitions)


@dataclass(frozen=True)
class PinSet:
    """All pins of a file: server → tool → pin."""

    servers: Mapping[str, Mapping[str, ToolPin]] = field(default_factory=dict)

    def pin(self, server: str, tool: str) -> ToolPin | None:
        return self.servers.get(server, {}).get(tool)

    def hashes(self, server: str, tool: str) -> frozenset[str]:
        pin = self.pin(server, tool)
        return frozenset() if pin is None else pin.hashes

    def shadowed(self, server: str, tool: str) -> str | None:
        """Return a reviewed tool, as `server/tool`, with which this other tool may be confused."""
        named = self._by_key.get(look_alike_key(tool), ())
        return next((one for one in named if one != f"{server}/{tool}"), None)

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for server, tools in self.servers.items():
            for tool in tools:
                found.setdefault(look_alike_key(tool), []).append(f"{server}/{tool}")
        return found

    def with_server(self, server: str, tools: Mapping[str, ToolPin]) -> PinSet:
        return PinSet({**self.servers, server: dict(tools)})


class PinFile:
    """A pin file that a process reads again when it changes; messages show its path as given. Threads may share it."""

    def __init__(self, path: Path | str) -> None:
        self.path, self.name = Path(path).absolute(), str(path)
        self._latest: tuple[FileStamp, PinSet | PinFileError] | None = None

    def read(self) -> PinSet:
        """Return the pins. Raises PinFileError."""
        latest = self._latest
        try:
            if latest is not None and latest[0] == stamp_of_file(os.stat(self.path)):
                return usable_pins(latest[1])
            self._latest = None
            with os.fdopen(open_trusted(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                check_regular((status := os.fstat(file.fileno())).st_mode)
                raw = read_stream(file, MAX_PIN_BYTES)
        except UntrustedPathError as error:
            raise PinFileError(f"{error.message}, so the pins are not trusted", error.hint) from None
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise PinFileError(f"the pin file `{self.name}` cannot be read: {why}", RESTORE_HINT) from None
        if (problem := write_problem(self.name, status)) is not None:
            raise PinFileError(f"{problem}, so the pins are not trusted", "review it, then `chmod go-w` it")
        pins: PinSet | PinFileError
        try:
            pins = parse_pins(raw, self.name)
        except PinFileError as error:
            pins = error
        self._latest = stamp_of_file(status), pins
        return usable_pins(pins)


def usable_pins(pins: PinSet | PinFileError) -> PinSet:
    """Return the pins, unless the file could not be parsed. Raises PinFileError."""
    if isinstance(pins, PinFileError):
        raise pins.with_traceback(None)
    return pins


def stamp_of_file(status: os.stat_result) -> FileStamp:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


# ── From text ─────────────────────────────────────────────────────────────────────────────────


def parse_pins(raw: bytes, name: str) -> PinSet:
    """Parse the content of a pin file. Raises PinFileError."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise PinFileError(f"`{name}` is not UTF-8", RESTORE_HINT) from None
    try:
        tree = json.loads(text, object_pairs_hook=unique_members, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        start = min(error.pos, max(len(text) - 1, 0))
        raise located_error(name, text, (start, start + 1), f"this is not JSON: {error.msg.lower()}") from None
    except (ValueError, RecursionError) as error:
        raise PinFileError(f"`{name}`: {error}", RESTORE_HINT) from None
    return PinReader(name, text).read(tree)


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the member `{twice[:80]}` is repeated in one object")
    return members


def refuse_constant(text: str) -> object:
    raise ValueError(f"`{text}` is not a JSON number")


@dataclass(frozen=True, slots=True)
class PinReader:
    """Reads the members of a pin file; `text` shows where a mistake is."""

    name: str
    text: str

    def read(self, tree: object) -> PinSet:
        """Return the pins of the parsed JSON. Raises PinFileError."""
        root = self._members(tree, (), ("format", "servers"))
        if root["format"] != PIN_FORMAT:
            raise self._error(("format",), "this format is not supported", "use a newer version of policyengine")
        servers = {
            server: self._object(tools, ("servers", server))
            for server, tools in self._object(root["servers"], ("servers",)).items()
        }
        if sum(map(len, servers.values())) > MAX_PINS:
            raise self._error(("servers",), f"there are more than {MAX_PINS:,} pins")
        return PinSet(
            {
                server: {tool: self._pin(pin, ("servers", server, tool)) for tool, pin in tools.items()}
                for server, tools in servers.items()
            }
        )

    def _pin(self, tree: object, path: JsonPath) -> ToolPin:
        members = self._members(tree, path, ("reviewed", "by", "definitions"))
        inner = *path, "definitions"
        definitions = self._object(members["definitions"], inner)
        if not 1 <= len(definitions) <= MAX_DEFINITIONS:
            raise self._error(inner, f"a pin has one to {MAX_DEFINITIONS} definitions")
        for hash, definition in definitions.items():
            self._check(hash, definition, path[-1], (*inner, hash))
        return ToolPin(definitions, self._text(members, "reviewed", path), self._text(members, "by", path))

    def _check(self, hash: str, definition: object, tool: str, path: JsonPath) -> None:
        """Check that a definition belongs to its tool and its hash. Raises PinFileError."""
        members = self._object(definition, path)
        if members.get("name") != tool:
            raise self._error(path, "this is the definition of another tool")
        try:
            actual = hash_definition(members)
        except DefinitionError as error:
            raise self._error(path, str(error)) from None
        if actual != hash:
            hint = "restore the file, or remove this pin and review the tool again"
            raise self._error(path, "the definition was changed after its review: its hash is another", hint)

    def _members(self, tree: object, path: JsonPath, names: Sequence[str]) -> Mapping[str, Any]:
        members = self._object(tree, path)
        if (missing := next((name for name in names if name not in members), None)) is not None:
            raise self._error(path, f"`{missing}` is missing")
        if (unknown := next((name for name in members if name not in names), None)) is not None:
            raise self._error((*path, unknown), "this member is not known")
        return members

    def _object(self, tree: object, path: JsonPath) -> Mapping[str, Any]:
        if not isinstance(tree, dict):
            raise self._error(path, "this must be an object")
        return tree

    def _text(self, members: Mapping[str, Any], name: str, path: JsonPath) -> str:
        if not isinstance(members[name], str):
            raise self._error((*path, name), "this must be a string")
        return str(members[name])

    def _error(self, path: JsonPath, message: str, hint: str = RESTORE_HINT) -> PinFileError:
        return located_error(self.name, self.text, member_place(self.text, path), message, hint)


def located_error(name: str, text: str, place: tuple[int, int], message: str, hint: str = RESTORE_HINT) -> PinFileError:
    span = Span(Source(name, text), *place)
    detail = "\n".join([one_line(f"{format_location(span)}: {message}"), *source_excerpt(span)])
    return PinFileError(f"`{name}`, line {span.line}: {message}", hint, detail)


def member_place(text: str, path: JsonPath) -> tuple[int, int]:
    """Return the position of the name of a member in JSON text, or of the beginning of the text."""
    return next((place for found, place in member_places(text) if found == path), (0, 1))


def member_places(text: str) -> Iterator[tuple[JsonPath, tuple[int, int]]]:
    """Yield each member below objects, with the position of its name."""
    names: list[str | None] = []  # the current member of each open object; None for a list
    is_name = False
    for token in TOKEN.finditer(text):
        match token[0]:
            case "{":
                names.append("")
                is_name = True
            case "[":
                names.append(None)
            case "}" | "]":
                names.pop()
                is_name = False
            case ",":
                is_name = bool(names) and names[-1] is not None
            case ":":
                is_name = False
            case written if is_name and written.startswith('"'):
                names[-1] = str(json.loads(written))
                if None not in names:
                    yield tuple(str(name) for name in names), token.span()


# ── To text ───────────────────────────────────────────────────────────────────────────────────


def format_pins(pins: PinSet) -> str:
    """Return the text of a pin file. It is ASCII, so that invisible characters are visible as escapes."""
    servers = {
        server: {
            tool: {"reviewed": pin.reviewed, "by": pin.by, "definitions": dict(sorted(pin.definitions.items()))}
            for tool, pin in sorted(tools.items())
        }
        for server, tools in sorted(pins.servers.items())
    }
    return json.dumps({"format": PIN_FORMAT, "servers": servers}, indent=2) + "\n"


def write_pins(path: Path, pins: PinSet) -> None:
    """Replace the file in one step, so that no process reads a part of it; others cannot write the new file. Raises
    OSError."""
    target = path.resolve()
    mode = target.stat().st_mode & OTHERS_MAY_NOT_WRITE if target.exists() else OTHERS_MAY_NOT_WRITE
    opened, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(opened, "wb") as file:
            file.write(format_pins(pins).encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
