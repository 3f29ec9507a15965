"""One Envoy and one canned control plane for each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.integration.gateway.canned import Canned, canned_control_plane
from tests.support.envoy import Gateway, run_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

ROUTE_TIMEOUT_SECONDS = 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def control_plane() -> AsyncIterator[Canned]:
    async with canned_control_plane() as canned:
        yield canned


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(control_plane: Canned, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    flags = ("--route-timeout", str(ROUTE_TIMEOUT_SECONDS))
    async with run_gateway(control_plane.address, data_dir=tmp_path_factory.mktemp("gateway"), flags=flags) as running:
        yield running
