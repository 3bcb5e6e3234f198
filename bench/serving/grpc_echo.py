"""The floor of ext_authz by gRPC in `doors`: threads that parse the same message and send the same answer each time.

python -m bench.serving.grpc_echo PORT ANSWER      where ANSWER is a file with a serialized `CheckResponse`
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc

MAX_THREADS = 40  # as our server


class EchoService(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # it has no types
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def Check(self, asked: Any, context: Any) -> Any:
        return self.answer


def main(port: str, answer: str) -> None:
    server = grpc.server(ThreadPoolExecutor(MAX_THREADS))
    response = external_auth_pb2.CheckResponse.FromString(Path(answer).read_bytes())
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(EchoService(response), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
