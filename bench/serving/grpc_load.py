"""Load by gRPC from a process of its own: threads, each with one call in flight."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import cycle
from time import perf_counter, perf_counter_ns
from typing import Any

from bench.child import Data
from bench.measure import percentile
from bench.serving.door_load import TIMEOUT, GrpcClient
from bench.serving.door_requests import ALLOW, write_envoy_grpc

CHECK_VARIANTS = 64  # distinct paths


def serialized_answer(port: int) -> bytes:
    """Return the answer of our server, for the echo."""
    with closing(GrpcClient(port, 1)) as client:
        answer: bytes = client.ask(write_envoy_grpc(ALLOW, 1)).SerializeToString()
        return answer


def measure(port: int, lanes: int, seconds: float) -> Data:
    """Return calls per second and percentiles in µs; runs in a child on another core."""
    messages = [write_envoy_grpc(ALLOW, number) for number in range(CHECK_VARIANTS)]
    with closing(GrpcClient(port, lanes)) as client, ThreadPoolExecutor(lanes) as pool:
        client.ask(messages[0])
        began = perf_counter()
        found = list(pool.map(lambda _: ask(client.check, messages, began + seconds), range(lanes)))
        took = perf_counter() - began
    times = sorted(time for lane, _ in found for time in lane)
    return {
        "rps": round(len(times) / took, 1),
        "p50_us": round(percentile(times, 0.5) / 1e3, 1),
        "p99_us": round(percentile(times, 0.99) / 1e3, 1),
        "requests": len(times),
        "failed": sum(failed for _, failed in found),
    }


def ask(check: Any, messages: Sequence[Any], end: float) -> tuple[list[int], int]:
    times, failed = [], 0
    for message in cycle(messages):
        began = perf_counter_ns()
        failed += check(message, timeout=TIMEOUT).status.code != 0
        times.append(perf_counter_ns() - began)
        if perf_counter() >= end:
            break
    return times, failed
