"""Draw the pictures of the documentation as SVG: boxes and arrows, readable on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TypeAlias, assert_never

WIDTH = 790
LINE = 16
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.strong { font-weight: 600 } .title { font-size: 14px; font-weight: 600 }
.quiet { fill: #59636e } .mono { font-family: ui-monospace, SFMono-Regular, Menlo, monospace; font-size: 11px }
.box { fill: #f6f8fa; stroke: #8c959f } .ours { fill: #ddf4ff; stroke: #0969da } .frame { fill: none; stroke: #d1d9e0 }
.good { fill: #dafbe1; stroke: #1a7f37 } .bad { fill: #ffebe9; stroke: #cf222e }
.wait { fill: #fff8c5; stroke: #9a6700 }
.arrow { fill: none; stroke: #59636e; stroke-width: 1.5 } .dashed { stroke-dasharray: 4 3 } .head { fill: #59636e }
@media (prefers-color-scheme: dark) {
 text { fill: #f0f6fc } .quiet { fill: #9198a1 } .box { fill: #151b23; stroke: #656c76 }
 .ours { fill: #121d2f; stroke: #4493f8 } .frame { stroke: #3d444d }
 .good { fill: #12261e; stroke: #3fb950 } .bad { fill: #25171c; stroke: #f85149 }
 .wait { fill: #272115; stroke: #d29922 } .arrow { stroke: #9198a1 } .head { fill: #9198a1 }
}
"""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with centered lines of text, the first of them strong. `kind` is a class of the style sheet."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    kind: str = "box"
    mono: bool = False

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


@dataclass(frozen=True, slots=True)
class Arrow:
    """A line through points, with a head at its end and, where `both`, at its start."""

    points: tuple[tuple[float, float], ...]
    both: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """A text beside boxes; `y` is its base line."""

    x: float
    y: float
    text: str
    kind: str = "quiet"
    anchor: str = "start"


Shape: TypeAlias = Box | Arrow | Label


def right_of(start: Box, end: Box) -> Arrow:
    """The horizontal arrow between two boxes in one row."""
    y = start.middle[1]
    return Arrow(((start.right, y), (end.x, y)))


def below(start: Box, end: Box, *, both: bool = False) -> Arrow:
    """The vertical arrow between two boxes in one column."""
    x = end.middle[0]
    return Arrow(((x, start.bottom), (x, end.y)), both=both)


# ── Pictures ──────────────────────────────────────────────────────────────────────────────────


def pipeline() -> list[Shape]:
    top, row = 40, 190
    text = Box(16, top, 118, 56, (".policy files", "what you write"))
    syntax = Box(184, top, 118, 56, ("syntax", "text → AST"), "ours")
    checker = Box(344, top, 144, 56, ("checker", "AST → kernel"), "ours")
    compiler = Box(530, top, 244, 56, ("compiler", "kernel → program"), "ours")
    request = Box(16, row, 118, 72, ("request", "HTTP, socket,", "MCP, Python"))
    identity = Box(184, row, 118, 72, ("identity", "credentials →", "proved facts"), "ours")
    engine = Box(530, row, 110, 72, ("engine", "the walker", "decides"), "ours")
    decision = Box(690, row, 84, 72, ("decision", "and log"), "good")
    facts = Box(344, row - 18, 144, 108, ("facts", "entities: who is who", "store: rates,", "history, approvals"))
    spec = Box(344, 124, 144, 36, ("specification",), "ours")
    return [
        Label(16, 22, "A policy, before the first request", "title"),
        *(right_of(*pair) for pair in pairwise((text, syntax, checker, compiler))),
        Label(16, row - 16, "Each request", "title"),
        *(right_of(*pair) for pair in pairwise((request, identity, facts, engine, decision))),
        Arrow(((585, compiler.bottom), (585, engine.y))),
        Arrow(((416, checker.bottom), (416, spec.y))),
        Arrow(((488, 142), (546, 142), (546, engine.y)), dashed=True),
        Label(600, 138, "tests compare both", "quiet"),
        Label(600, 154, "on generated requests", "quiet"),
        text, syntax, checker, compiler, request, identity, facts, engine, decision, spec,
    ]  # fmt: skip


GATES = (
    ("malformed_path", "Is the path canonical, and does nothing name another method?", "deny", "bad"),
    ("halted", "Has no operator halted such requests?", "deny", "bad"),
    ("identity", "Does a block accept the caller, or is the endpoint open to anyone?", "deny", "bad"),
    ("default", "Does a block that accepts it grant the endpoint?", "deny", "bad"),
    ("user", "For an agent that acts for a user: does a user block grant it, too?", "deny", "bad"),
    ("chain", "Is each agent before it granted this, and does it delegate it?", "deny", "bad"),
    ("task", "Does the credential's task include this tool and this entity?", "deny", "bad"),
    ("guard", "Does no guard deny, and is everything approved that needs approval?", "deny or confirm", "wait"),
    ("rate", "Are there calls left?", "throttle or deny", "wait"),
    ("budget", "Is there budget left?", "throttle or deny", "wait"),
)


def gates() -> list[Shape]:
    shapes: list[Shape] = [Label(16, 22, "The gates of a decision: yes leads down, no or unknown stops", "title")]
    request = Box(16, 36, 140, 32, ("request",))
    rows = [Box(16, 88 + at * 46, 140, 32, (name,), "ours", mono=True) for at, (name, *_) in enumerate(GATES)]
    allow = Box(16, 88 + len(GATES) * 46, 140, 32, ("allow",), "good")
    shapes += [below(*pair) for pair in pairwise((request, *rows, allow))]
    for row, (_, question, outcome, kind) in zip(rows, GATES, strict=True):
        stop = Box(640, row.y, 134, 32, (outcome,), kind)
        line = row.middle[1]
        shapes += [Label(174, line + 4, question, "plain"), Arrow(((618, line), (640, line))), stop]
    last = allow.middle[1]
    shapes += [
        Label(174, last - 4, "Gates up to the guards are all evaluated, so that the answer has every reason."),
        Label(174, last + 12, "The strongest outcome stands: deny, then throttle, then confirm, then allow."),
    ]
    return [*shapes, request, *rows, allow]


def chain() -> list[Shape]:
    y = 40
    alice = Box(16, y, 150, 72, ("user alice", "may notes.read,", "notes.write, mail.send"))
    planner = Box(206, y, 180, 72, ("agent planner", "may notes.read, mail.send", "may delegate notes.read"))
    reader = Box(426, y, 180, 72, ("agent reader", "may notes.read, files.read", "presents the credential"))
    api = Box(646, y, 128, 72, ("API", "GET /notes/7"))
    widths = ((16, 590, "alice: notes.read, notes.write, mail.send", "box"),
              (16, 420, "and planner: notes.read, mail.send", "box"),
              (16, 330, "and what planner delegates: notes.read", "box"),
              (16, 330, "and reader: notes.read", "box"),
              (16, 330, "and the credential's scopes: notes.read", "good"))  # fmt: skip
    bars = [Box(x, 160 + at * 36, width, 28, (text,), kind) for at, (x, width, text, kind) in enumerate(widths)]
    return [
        Label(16, 22, "A chain of delegation: authority only narrows", "title"),
        *(right_of(*pair) for pair in pairwise((alice, planner, reader, api))),
        alice, planner, reader, api, Label(16, 144, "What is left at each step", "plain strong"), *bars,
        Label(360, 324, "The request passes if its endpoint is in the last row,"),
        Label(360, 340, "no guard denies, and every limit of delegation holds."),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to enforce decisions: its place in the picture, its boxes, and the words between gateway and engine."""

    x: float
    y: float
    title: str
    client: tuple[str, ...]
    gateway: tuple[str, ...]
    server: tuple[str, ...]
    engine: tuple[str, ...]
    between: str

    def shapes(self) -> list[Shape]:
        x, y = self.x, self.y
        client = Box(x + 12, y + 36, 78, 52, self.client)
        gateway = Box(x + 116, y + 36, 142, 52, self.gateway)
        server = Box(x + 282, y + 36, 88, 52, self.server)
        engine = Box(x + 93, y + 132, 188, 44, self.engine, "ours")
        frame = Box(x, y, 380, 190, (), "frame")
        return [
            frame, Label(x + 12, y + 22, self.title, "title"),
            right_of(client, gateway), right_of(gateway, server), below(gateway, engine, both=True),
            Label(x + 196, y + 114, self.between), client, gateway, server, engine,
        ]  # fmt: skip


SETUPS = (
    Setup(
        8, 8, "Forward auth", ("agent",), ("your gateway", "nginx, Caddy, Traefik"), ("your API",),
        ("policyengine serve", "/forward-auth"), "headers",
    ),
    Setup(
        402, 8, "ext_authz", ("agent",), ("your gateway", "Envoy"), ("your API",),
        ("policyengine serve", "/envoy, or gRPC"), "headers and body",
    ),
    Setup(
        8, 212, "MCP proxy", ("agent", "MCP client"), ("mcp-gateway", "lists and calls"), ("MCP server",),
        ("engine", "in the same process"), "tool and arguments",
    ),
    Setup(
        402, 212, "In process", ("agent",), ("your application", "middleware"), ("handlers", "or tools"),
        ("engine", "in the same process"), "the whole request",
    ),
)  # fmt: skip


def doors() -> list[Shape]:
    return [shape for setup in SETUPS for shape in setup.shapes()]


PICTURES = {
    "pipeline": (pipeline, "A policy is parsed, checked and compiled; a request meets the result in the engine"),
    "gates": (gates, "The gates of a decision in order, what each asks, and the outcome when it stops a request"),
    "chain": (chain, "A user, two agents and an API: each step of a chain leaves fewer grants"),
    "doors": (doors, "Four set-ups: forward auth, ext_authz, an MCP proxy, and in process"),
}  # fmt: skip


# ── SVG ───────────────────────────────────────────────────────────────────────────────────────


def svg(name: str) -> str:
    draw, title = PICTURES[name]
    shapes = draw()
    height = max(shape.bottom for shape in shapes if isinstance(shape, Box)) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        'role="img" aria-labelledby="t">',
        f'<style>{STYLE}</style>\n<title id="t">{escape(title)}</title>',
        *(element(shape) for shape in shapes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def element(shape: Shape) -> str:
    match shape:
        case Box():
            return box(shape)
        case Arrow():
            return arrow(shape)
        case Label():
            return words(shape.x, shape.y, shape.text, shape.kind, shape.anchor)
    assert_never(shape)


def box(shape: Box) -> str:
    rect = (
        f'<rect class="{shape.kind}" x="{shape.x:g}" y="{shape.y:g}" width="{shape.width:g}" '
        f'height="{shape.height:g}" rx="6"/>'
    )
    x, y = shape.middle
    first = y + 4 - LINE * (len(shape.lines) - 1) / 2
    kinds = ["strong mono" if shape.mono else "strong", *["quiet"] * len(shape.lines)]
    lines = (
        words(x, first + at * LINE, text, kinds[at], "middle") for at, text in enumerate(shape.lines)
    )  # fmt: skip
    return "\n".join([rect, *lines])


def arrow(shape: Arrow) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in shape.points)
    line = f'<polyline class="arrow{" dashed" if shape.dashed else ""}" points="{points}"/>'
    heads = [head(*shape.points[-2:])]
    if shape.both:
        heads.append(head(shape.points[1], shape.points[0]))
    return "\n".join([line, *heads])


def head(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A triangle whose tip is the end of a horizontal or vertical line."""
    (x, y), across = end, start[1] == end[1]
    back = 7 if (start[0] < x if across else start[1] < y) else -7
    base = ((x - back, y - 4), (x - back, y + 4)) if across else ((x - 4, y - back), (x + 4, y - back))
    points = " ".join(f"{px:g},{py:g}" for px, py in ((x, y), *base))
    return f'<polygon class="head" points="{points}"/>'


def words(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
