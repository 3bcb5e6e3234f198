"""Decode an OTLP request with the messages that the OpenTelemetry project publishes: a program of its own environment.

Input: the JSON body of a request to `/v1/logs`. Output: the same as JSON of protobuf, with the names of the schema and
enumerators as numbers. An unknown member is an error. `xds-protos` contains older modules of the same names.
"""

from __future__ import annotations

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest


def main() -> None:
    tree = json.load(sys.stdin)
    for logs in tree["resourceLogs"]:
        for record in (record for scope in logs["scopeLogs"] for record in scope["logRecords"]):
            for name in ("traceId", "spanId"):  # hexadecimal in OTLP, where other JSON of protobuf has base64
                if name in record:
                    record[name] = base64.b64encode(bytes.fromhex(record[name])).decode()
    request = ExportLogsServiceRequest()
    json_format.ParseDict(tree, request, ignore_unknown_fields=False)
    found = json_format.MessageToDict(request, preserving_proto_field_name=True, use_integers_for_enums=True)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
