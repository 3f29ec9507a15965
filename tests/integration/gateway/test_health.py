"""/healthz and /readyz say what the control plane says, not what Envoy hopes."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.integration.gateway.canned import NOT_SERVING, SERVING, canned_control_plane
from tests.integration.gateway.wire import assert_error, call
from tests.support.envoy import run_gateway
from tests.support.eventually import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNAVAILABLE = 14


async def _status(gateway, path: str) -> int:
    return (await call(gateway, "GET", path)).status


async def _answers(gateway, healthz: int, readyz: int) -> None:
    async def both() -> bool:
        return (await _status(gateway, "/healthz"), await _status(gateway, "/readyz")) == (healthz, readyz)

    await eventually(both)


async def test_both_say_serving_when_the_control_plane_does(gateway):
    for path in ("/healthz", "/readyz", "/healthz?verbose"):
        answer = await call(gateway, "GET", path)
        assert (answer.status, answer.json) == (200, {"status": "SERVING"})
        assert answer.headers["content-type"] == "application/json"


async def test_readiness_follows_its_own_name_and_liveness_stays(gateway, control_plane):
    await _answers(gateway, 200, 200)
    await control_plane.health.set("readiness", NOT_SERVING)
    await _answers(gateway, 200, 503)
    assert_error(await call(gateway, "GET", "/readyz"), 503, UNAVAILABLE, "NOT_SERVING")
    await control_plane.health.set("readiness", SERVING)
    await _answers(gateway, 200, 200)


async def test_liveness_follows_the_servers_own_name(gateway, control_plane):
    await control_plane.health.set("", NOT_SERVING)
    await _answers(gateway, 503, 200)
    await control_plane.health.set("", SERVING)
    await _answers(gateway, 200, 200)


async def test_neither_outlives_the_control_plane_and_both_come_back_with_it(tmp_path):
    async with AsyncExitStack() as gateways:
        async with canned_control_plane() as first:
            gateway = await gateways.enter_async_context(run_gateway(first.address, data_dir=tmp_path))
            await _answers(gateway, 200, 200)
        await _answers(gateway, 503, 503)
        assert await _status(gateway, "/train/abc") == 503
        async with canned_control_plane(port=int(first.address.rsplit(":", 1)[1])):
            # Calls are served at once, whatever the last health check said.
            assert await _status(gateway, "/train/abc") == 200
            await _answers(gateway, 200, 200)
