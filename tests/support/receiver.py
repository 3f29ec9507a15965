"""A receiver of webhooks and status streams over real HTTP, on a free port of loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[tuple[str, list]]:
    """A receiver that answers these statuses in turn, then 204; and what reached it."""
    got: list[tuple[dict, bytes]] = []
    turns = list(statuses)

    async def take(request: web.Request) -> web.Response:
        got.append((dict(request.headers), await request.read()))
        return web.Response(status=turns.pop(0) if turns else 204, headers={"location": "http://127.0.0.1:1/"})

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", got
    finally:
        await runner.cleanup()
