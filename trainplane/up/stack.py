"""All of trainplane on this machine, as a context: `up` and `demo` are this and a reason to stay in it.

hold the data directory ─► end leftovers ─► hold three ports ─► nats-server ─► control plane ─► agent ─► gateway
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from trainplane.up import leftovers, record
from trainplane.up.holders import held_directory, held_port
from trainplane.up.layout import Layout
from trainplane.up.programs import AGENT_STOP
from trainplane.up.record import Addresses
from trainplane.up.settings import HOST, Ports, UpSettings
from trainplane.up.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

    from trainplane.up.children import Program

T = TypeVar("T")


class Preparing(Protocol):
    """Makes the programs, in the order of their start, and what they need; `ports` has no zeros."""

    def __call__(self, settings: UpSettings, layout: Layout, ports: Ports) -> Sequence[Program]:
        """See `trainplane.up.programs.prepare`."""
        ...


@dataclass(frozen=True, slots=True)
class Running:
    """Everything is ready."""

    addresses: Addresses
    supervisor: Supervisor

    async def failed(self) -> None:
        """Wait for a child's failure for good; never returns without one.

        Raises:
            ChildFailed: one failed.
        """
        await self.supervisor.failed()

    async def alongside(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` as long as no child fails for good; it is cancelled, and awaited, if one does.

        Raises:
            ChildFailed: one failed.
        """
        working = asyncio.create_task(work, name="alongside")
        failing = asyncio.create_task(self.failed(), name="a child fails")
        try:
            await asyncio.wait({working, failing}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                failing.result()
            return await working
        finally:
            working.cancel()
            failing.cancel()
            await asyncio.gather(working, failing, return_exceptions=True)


def fresh(data_dir: Path, *, tell: Callable[[str], None]) -> None:
    """Empty a data directory, after ending what a killed `up` left there. Blocks.

    Raises:
        Taken: an `up` runs there.
        OSError: it cannot be emptied.
    """
    layout = Layout(data_dir)
    with held_directory(layout.lock):
        leftovers.end_children(layout, within=AGENT_STOP, tell=tell)
        leftovers.end_trainers(layout)
        shutil.rmtree(data_dir)


@contextlib.asynccontextmanager
async def running(
    settings: UpSettings,
    *,
    tell: Callable[[str], None],
    hurry: asyncio.Event,
    prepared: Preparing,
) -> AsyncIterator[Running]:
    """Start everything; ready when entered, ended when left, however it is left.

    Args:
        settings: what to run.
        tell: gets lines for the user.
        hurry: when set, stopping kills at once instead of asking first.
        prepared: makes the programs of settings, paths and ports.

    Raises:
        UpError: it cannot run; the message says what to do.
        OSError: the data directory cannot be used.
    """
    layout = Layout(settings.data_dir)
    with contextlib.ExitStack() as held:
        held.enter_context(held_directory(layout.lock))
        layout.up_json.unlink(missing_ok=True)  # a killed one's
        await asyncio.to_thread(leftovers.end_children, layout, within=AGENT_STOP, tell=tell)
        ports = _hold(settings.ports, held)
        addresses = Addresses(
            http=f"http://{HOST}:{ports.http}", grpc=f"{HOST}:{ports.grpc}", nats=f"nats://{HOST}:{ports.nats}"
        )
        programs = prepared(settings, layout, ports)
        everything_ready = False

        def spawned() -> None:
            children = record.recorded(supervisor.pids)
            record.write_children(layout.children_json, children)
            if everything_ready:
                record.write_up(layout.up_json, addresses, children)

        supervisor = Supervisor(tell=tell, hurry=hurry, spawned=spawned)
        try:
            async with supervisor:
                for program in programs:
                    await supervisor.start(program)
                everything_ready = True
                spawned()
                yield Running(addresses, supervisor)
        finally:
            layout.up_json.unlink(missing_ok=True)
            leftovers.end_trainers(layout)
            layout.children_json.unlink(missing_ok=True)


def _hold(wanted: Ports, held: contextlib.ExitStack) -> Ports:
    """Hold the three ports for as long as `held` lasts; zeros become numbers."""

    def hold(port: int, name: str) -> int:
        return held.enter_context(held_port(HOST, port, name=name, variable=f"TRAINPLANE_{name}_PORT"))

    return Ports(http=hold(wanted.http, "HTTP"), grpc=hold(wanted.grpc, "GRPC"), nats=hold(wanted.nats, "NATS"))
