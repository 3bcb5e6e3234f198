"""Secrets pasted into a policy: keys and tokens of known formats, and texts that look random."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import log2

from policyengine.diagnostics.model import Diagnostic
from policyengine.source import Source, Span
from policyengine.syntax import nodes as ast

# Formats that vendors document and that no other text matches.
SECRET_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")),
    ("a token", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*")),
    ("an AWS key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("a Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{16,}")),
    ("a Google API key", re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])")),
    (
        "an API key",
        re.compile(r"\bsk[-_](?:[a-z]+[-_])*(?=[A-Za-z0-9_-]*[0-9])(?=[A-Za-z0-9_-]*[A-Za-z])[A-Za-z0-9_-]{20,}"),
    ),
    ("a Vault token", re.compile(r"\bhv[sb]\.[A-Za-z0-9_-]{20,}")),
    ("a credential", re.compile(r"\b[Bb]earer +(?=[A-Za-z0-9._~+/-]*[0-9])[A-Za-z0-9._~+/-]{24,}=*")),
    ("a password", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/@:\"]+:[^\s/@\"]{3,}@")),
)
QUOTED = re.compile(r'(?<=")[A-Za-z0-9+/_-]{32,}={0,2}(?=")')
# Digests, UUIDs, names.
NOT_A_SECRET = re.compile(r"[0-9A-Fa-f-]+|[A-Za-z]+(?:[-_/][A-Za-z]+)*|(?:[a-z0-9]+[-_/])+[a-z0-9]+")
MIN_ENTROPY_BITS = 4.0  # minimum entropy in bits per character; words have less
HINT = "remove it and rotate the secret: anyone who has seen the file has it"


def pasted_secrets(modules: Sequence[ast.Module]) -> Iterator[Diagnostic]:
    """Yield a W265 for each secret. Its source text is masked with stars, because findings are logged."""
    for source in dict.fromkeys(module.span.source for module in modules):
        found = sorted(secrets_in(source.text), key=lambda one: one[1])
        hidden = Source(source.name, mask_spans(source.text, [(start, end) for _, start, end in found]), source.label)
        for what, start, end in found:
            yield Diagnostic("W265", f"this looks like {what}", Span(hidden, start, end), HINT)


def secrets_in(text: str) -> list[tuple[str, int, int]]:
    """Return the kind, start and end of each secret; no two secrets overlap."""
    found: list[tuple[str, int, int]] = []
    for what, shape in SECRET_SHAPES:
        found += [(what, *match.span()) for match in shape.finditer(text)]
    found += [("a secret", *match.span()) for match in QUOTED.finditer(text) if is_random(match[0])]
    apart: list[tuple[str, int, int]] = []
    for candidate in found:
        if all(candidate[2] <= start or candidate[1] >= end for _, start, end in apart):
            apart.append(candidate)
    return apart


def is_random(text: str) -> bool:
    """Return whether a text has letters of both cases and digits with high entropy, and is not a name, a digest or a
    path.
    """
    if NOT_A_SECRET.fullmatch(text) or not all(re.search(kind, text) for kind in ("[a-z]", "[A-Z]", "[0-9]")):
        return False
    return sum(-many / len(text) * log2(many / len(text)) for many in Counter(text).values()) >= MIN_ENTROPY_BITS


def mask_spans(text: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in spans:
        hidden = "".join(one if one == "\n" else "*" for one in text[start:end])
        text = text[:start] + hidden + text[end:]
    return text
