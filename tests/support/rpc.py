"""Services on a real channel."""

from __future__ import annotations

from contextlib import asynccontextmanager

import grpc

from controlplane.rpc.jobs import Doors, JobService, Readers
from controlplane.rpc.nodes import NodeService
from controlplane.rpc.server import Patience, served
from trainplane.v1 import backend_service_pb2_grpc, job_service_pb2_grpc, node_service_pb2_grpc


@asynccontextmanager
async def dialled(address, **options):
    """A channel as a C-core client makes it."""
    async with grpc.aio.insecure_channel(address, options=list(options.items())) as channel:
        yield channel


@asynccontextmanager
async def serving(jobs, nodes=None, *, backends=None, patience=None, address="127.0.0.1:0"):
    """Any servicer, behind the one guard; answers the listening server."""
    nodes = nodes or node_service_pb2_grpc.NodeServiceServicer()
    backends = backends or backend_service_pb2_grpc.BackendServiceServicer()
    async with served(
        address, jobs=jobs, nodes=nodes, backends=backends, reflect=False, patience=patience or Patience()
    ) as found:
        yield found


def job_service(world):
    """The real service of a world."""
    return JobService(
        world.jobs,
        doors=Doors(world.submissions, world.preflights),
        watches=world.watches,
        readers=Readers(world.log_reader, world.metrics),
        vault=world.vault,
    )


@asynccontextmanager
async def calling(world, *, patience=None):
    """The real services of a world, and a stub of each."""
    async with (
        world.loops("submissions"),
        serving(job_service(world), NodeService(world.nodes), patience=patience) as server,
        dialled(server.address) as channel,
    ):
        yield job_service_pb2_grpc.JobServiceStub(channel), node_service_pb2_grpc.NodeServiceStub(channel)
