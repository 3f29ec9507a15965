"""The gRPC server: services, health, reflection; started, and stopped in four steps.

not ready ─► no new calls ─► calls in flight get their time ─► the rest is cut off
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from controlplane.rpc.errors import WRITE_SECONDS, Guard
from trainplane.v1 import (
    backend_service_pb2,
    backend_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trainplane.v1.backend_service_pb2_grpc import BackendServiceServicer
    from trainplane.v1.job_service_pb2_grpc import JobServiceServicer
    from trainplane.v1.node_service_pb2_grpc import NodeServiceServicer

#: grpc.health.v1's names: "" is "the process serves", this one is "it can accept jobs".
READINESS = "readiness"
GRACE_SECONDS = 5.0
_OPTIONS = [
    # The parser wants 256 KiB; a message far above is refused before it is read.
    ("grpc.max_receive_message_length", 1024 * 1024),
    # What the gateway lets through: 8 KiB of a client's headers, and its own.
    ("grpc.max_metadata_size", 16 * 1024),
    # A port that another process holds is an error, not a share of its calls.
    ("grpc.so_reuseport", 0),
    # Dead watchers are found out within a minute.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


class PortTaken(OSError):  # noqa: N818 - it says what happened
    """The gRPC port cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that listens."""

    address: str
    health: health.aio.HealthServicer

    async def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - it is the one thing that is said
        """Says whether jobs can be accepted now."""
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        await self.health.set(READINESS, serving if ready else not_serving)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long others are waited for."""

    grace_seconds: float = GRACE_SECONDS
    """For calls in flight when the server stops; then they are cut off."""
    write_seconds: float = WRITE_SECONDS
    """For a stream's reader."""


_USUAL = Patience()


@asynccontextmanager
async def served(
    address: str,
    *,
    jobs: JobServiceServicer,
    nodes: NodeServiceServicer,
    backends: BackendServiceServicer,
    reflect: bool,
    patience: Patience = _USUAL,
) -> AsyncIterator[Serving]:
    """Listens for the time of the context.

    Raises:
        PortTaken: the address cannot be listened on.
    """
    server = grpc.aio.server(options=_OPTIONS)
    guard = Guard(server, write_seconds=patience.write_seconds)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(jobs, guard)  # type: ignore[no-untyped-call]  # generated
    node_service_pb2_grpc.add_NodeServiceServicer_to_server(nodes, guard)  # type: ignore[no-untyped-call]  # likewise
    backend_service_pb2_grpc.add_BackendServiceServicer_to_server(backends, guard)  # type: ignore[no-untyped-call]  # likewise
    told = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    await told.set(READINESS, health_pb2.HealthCheckResponse.NOT_SERVING)
    if reflect:
        names = [
            job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name,
            backend_service_pb2.DESCRIPTOR.services_by_name["BackendService"].full_name,
            node_service_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PortTaken(f"cannot listen on {address}: another process holds it, or it is no address") from error
    await server.start()
    try:
        yield Serving(f"{address.rpartition(':')[0]}:{port}", told)
    finally:
        await told.enter_graceful_shutdown()
        await server.stop(patience.grace_seconds)
        # stop() may return before handlers that called abort() are done (grpc issue 37239).
        for _ in range(50):
            if not guard.in_flight:
                break
            await asyncio.sleep(0.02)
