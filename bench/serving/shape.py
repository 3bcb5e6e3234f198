"""The question as types that both floors decode a body into."""

from __future__ import annotations

import msgspec


class RequestLine(msgspec.Struct):
    method: str
    path: str


class Agent(msgspec.Struct):
    id: str
    issuer: str
    groups: list[str]


class Credential(msgspec.Struct):
    scopes: list[str]


class Context(msgspec.Struct):
    depth: int
    tenant: str
    hour: int
    risk: int


class Attestation(msgspec.Struct):
    verified: bool


class QuestionShape(msgspec.Struct):
    request: RequestLine
    agent: Agent
    credential: Credential
    context: Context
    attestation: Attestation
