"""`trainplane.v1.NodeService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlplane.rpc import convert
from trainplane.v1 import node_service_pb2, node_service_pb2_grpc

if TYPE_CHECKING:
    import grpc

    from controlplane.engine.nodes import Nodes


class NodeService(node_service_pb2_grpc.NodeServiceServicer):
    """Tells which machines there are."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def ListNodes(  # noqa: N802
        self,
        request: node_service_pb2.ListNodesRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> node_service_pb2.ListNodesResponse:
        """Every node that ever joined, by name."""
        return node_service_pb2.ListNodesResponse(nodes=map(convert.node_message, await self._nodes.page()))
