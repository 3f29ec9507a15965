"""The agent's composition root: the only place that names concrete adapters, and that decides when the process ends.

Opened in this order and closed strictly in reverse: data directory, link, senders, supervisor, sync. Ending the agent
never ends a trainer, unless the settings say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from agent import cgroups, failpoints, lock
from agent.checkpoints import Checkpoints
from agent.fetching import Fetching
from agent.journal import FileJournal
from agent.launch import Launcher, child_environment
from agent.link import Link, LinkSettings
from agent.logs import LogSender
from agent.loops import LoopDiedError, Loops
from agent.ports import SupersededError
from agent.probes import Probes
from agent.pushing import Pushing
from agent.reports import ReportSender
from agent.runners.local import LocalRunner
from agent.runners.warm import WarmTrainers
from agent.sealing import SealingKey
from agent.steps import Collaborators
from agent.storage.access import ambient
from agent.supervisor import Supervisor
from agent.sync import SyncLoop
from agent.uploader.child import Uploader
from agent.uploader.fetcher import Fetcher
from trainplane import backends

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.cgroups import Cgroups
    from agent.devices import Inventory
    from agent.settings import Settings

_log = structlog.get_logger()
_PRELOADING = "agent.trainer.preloading"
#: A smaller host needs the memory for training.
_WARM_FROM_BYTES = 8_000_000_000
#: What killing takes, and seeing that all are gone.
_LONGER_THAN_GRACE = timedelta(seconds=2)


async def run(settings: Settings) -> int:
    """Run the agent until it is told to end; the process' exit status.

    Raises:
        lock.DataDirHeldError: another agent uses the data directory.
    """
    with lock.held(settings.data_dir):
        async with _opened(settings) as (loops, supervisor):
            told = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, told.set)
            status = await _until_the_end(loops, told, node=settings.node)
            if told.is_set() and settings.end_trainers_on_exit:
                await supervisor.end_all(settings.grace + settings.checkpoint_grace + _LONGER_THAN_GRACE)
    _log.info("agent ended", node=settings.node, status=status)
    return status


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Loops, Supervisor]]:
    for each in backends.broken():
        _log.warning("backend skipped", entry_point=each.entry_point, distribution=each.distribution, why=each.why)
    inventory, journal = settings.inventory(), FileJournal(settings.data_dir)
    groups = cgroups.found()
    async with contextlib.AsyncExitStack() as stack:
        loops = Loops()
        environment = {**child_environment(), **failpoints.inherited()}
        fetcher = Fetcher(
            environment, settings.inputs(), settings.storage(), ambient(), settings.data_dir, _own_hub_token()
        )
        sealing_key = SealingKey()
        probes = Probes(fetcher, sealing_key)
        link_settings = LinkSettings(
            settings.nats,
            settings.node,
            settings.credentials,
            settings.answer_timeout,
            sealing_key.public,
            settings.rendezvous_address,
        )
        link = Link(link_settings, woken=lambda: sync.wake(), asked=probes.take)  # noqa: PLW0108  # made just below
        sync = SyncLoop(link, inventory=inventory, node=settings.node, bounds=_bounds(inventory, groups))
        stack.push_async_callback(link.close)
        uploader = Uploader(environment, settings.storage(), ambient())
        checkpoints = Checkpoints(journal, uploader)
        reports = ReportSender(link, withheld=checkpoints.owes)
        stack.callback(reports.close)
        logs = LogSender(link)
        warm = warm_trainers(settings, inventory)
        stack.push_async_callback(uploader.close)
        supervisor = Supervisor(
            Collaborators(
                journal=journal,
                runner=LocalRunner(groups, directory_of=journal.directory, warm=warm),
                control_plane=link,
                reports=reports,
                logs=logs,
                uploader=uploader,
                fetching=Fetching(journal, fetcher),
                pushing=Pushing(fetcher),
                checkpoints=checkpoints,
                launcher=Launcher(
                    settings.model_root,
                    bounds_enforced=not inventory.simulated,
                    interpreters={name: str(path) for name, path in settings.backend_python.items()},
                ),
                sealing_key=sealing_key,
                grace=settings.grace,
                simulated=inventory.simulated,
                storage_patience=settings.storage_patience,
                checkpoint_grace=settings.checkpoint_grace,
            ),
            loops,
            changed=sync.changed,
            deadline_grace=settings.deadline_grace + settings.checkpoint_grace,
            stall_timeout=settings.stall_timeout,
        )
        stack.push_async_callback(loops.close)
        supervisor.recover()
        loops.forever("supervisor", supervisor.run())
        loops.forever("reports", reports.run())
        loops.forever("logs", logs.run())
        loops.forever("probes", probes.run())
        if warm is not None:
            loops.forever("warm trainers", warm.run())
        loops.once("connect", link.connect())
        loops.forever("sync", sync.run(supervisor))
        yield loops, supervisor


def warm_trainers(settings: Settings, inventory: Inventory) -> WarmTrainers | None:
    """What forks trainers on this node; None: nothing does."""
    wanted = settings.warm_trainers
    if wanted is None:
        roomy = inventory.memory_bytes >= _WARM_FROM_BYTES
        wanted = roomy and not inventory.simulated and importlib.util.find_spec("torch") is not None
    return WarmTrainers(settings.data_dir, child_environment(), [_PRELOADING]) if wanted else None


def _bounds(inventory: Inventory, groups: Cgroups) -> str:
    """What jobs' bounds are enforced by, in words; a host that cannot is warned of."""
    if inventory.simulated:
        return "not enforced: the inventory is a stand-in"
    if groups.lacking:
        _log.warning("bounds not enforced", why=groups.lacking)
    return groups.shown()


def _own_hub_token() -> str:
    """The hub's token in the agent's own environment, as everybody names it there. No child's environment has it."""
    return os.environ.get("HF_TOKEN", "")


async def _until_the_end(loops: Loops, told: asyncio.Event, *, node: str) -> int:
    """Wait for the order to end (0), or for a loop that died (1)."""
    ending = asyncio.create_task(told.wait(), name="told to end")
    death = asyncio.create_task(loops.death(), name="death")
    try:
        await asyncio.wait([ending, death], return_when=asyncio.FIRST_COMPLETED)
        if not death.done():
            _log.info("agent told to end", node=node)
            return 0
        _tell_death(death.result(), node=node)
        return 1
    finally:
        ending.cancel()
        death.cancel()


def _tell_death(death: LoopDiedError, *, node: str) -> None:
    if isinstance(death.__cause__, SupersededError):
        _log.error(
            "agent superseded: a newer agent of this node exists; this one ends, its trainers live on",
            node=node,
        )
        return
    _log.error("loop died", loop=death.name, node=node, exc_info=death.__cause__ or death)
