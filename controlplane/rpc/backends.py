"""`trainplane.v1.BackendService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import Struct

from controlplane.domain import spec
from trainplane import backends
from trainplane.v1 import backend_pb2, backend_service_pb2, backend_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from controlplane.domain.spec import Rules


class BackendService(backend_service_pb2_grpc.BackendServiceServicer):
    """Tells which training engines there are. They are fixed when the process starts, so the answer is made once."""

    def __init__(self, rules: Rules) -> None:
        self.listed = backend_service_pb2.ListBackendsResponse(
            backends=[
                _message(engine) for name in spec.backend_names(rules) if (engine := backends.find(name)) is not None
            ]
        )

    async def ListBackends(  # noqa: N802
        self,
        request: backend_service_pb2.ListBackendsRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> backend_service_pb2.ListBackendsResponse:
        """All of them, by name."""
        return self.listed


def _message(engine: backends.Backend) -> backend_pb2.Backend:
    schema = Struct()
    schema.update(spec.backend_schema(engine))
    return backend_pb2.Backend(name=engine.name, description=engine.description, schema=schema)
