"""A protoc plugin that writes `*_pb2_grpc.py`: buf speaks to it, and it asks grpcio-tools.

grpcio-tools compiles its gRPC generator in and offers no plugin program, which is what buf wants. So the descriptors
that buf sends are written to a file and given to `grpc_tools.protoc --descriptor_set_in`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2
from grpc_tools import protoc


def generate(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Answers a `_pb2_grpc.py` for each asked-for file that has a service."""
    response = plugin_pb2.CodeGeneratorResponse()
    response.supported_features = plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    with_service = [f.name for f in request.proto_file if f.service and f.name in set(request.file_to_generate)]
    if not with_service:
        return response
    with tempfile.TemporaryDirectory() as folder:
        descriptors = Path(folder, "descriptors.pb")
        descriptors.write_bytes(descriptor_pb2.FileDescriptorSet(file=request.proto_file).SerializeToString())
        status = protoc.main(
            ["protoc", f"--descriptor_set_in={descriptors}", f"--grpc_python_out={folder}", *with_service]
        )
        if status:
            response.error = f"grpc_tools.protoc ended with status {status}"
            return response
        for path in sorted(Path(folder).rglob("*_pb2_grpc.py")):
            response.file.add(name=str(path.relative_to(folder)), content=path.read_text())
    return response


if __name__ == "__main__":
    asked = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(asked).SerializeToString())
