"""The composition root: the only file that names concrete adapters.

store ─► bus ─► services and loops ─► gRPC server; closed strictly in reverse.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog

from controlplane.blobs import FileBlobs
from controlplane.bus.connection import NatsAddress, connected
from controlplane.bus.nats import NatsBus
from controlplane.bus.probes import NatsProbes
from controlplane.bus.server import NodeServer
from controlplane.clock import SystemClock
from controlplane.engine.agents import Agents
from controlplane.engine.announcer import Announcer
from controlplane.engine.changes import Recorder
from controlplane.engine.claims import Claims
from controlplane.engine.deliveries import Deliveries
from controlplane.engine.dispatcher import Dispatcher
from controlplane.engine.intake import Intake
from controlplane.engine.jobs import Jobs
from controlplane.engine.log_reading import LogReader
from controlplane.engine.logs import Logs
from controlplane.engine.looks import Looks
from controlplane.engine.metrics import Metrics
from controlplane.engine.nodes import NodePace, Nodes
from controlplane.engine.ports import BusUnavailable, StoreUnavailable
from controlplane.engine.preflights import Preflights
from controlplane.engine.preparing import Preparer
from controlplane.engine.prober import Prober
from controlplane.engine.relay import Pace, Relay
from controlplane.engine.signals import Hints, Recent
from controlplane.engine.submissions import Submissions
from controlplane.engine.watches import Watches
from controlplane.http.outbound import GuardedClient
from controlplane.loops import LoopDied, running
from controlplane.preparers import CrowdPreparer
from controlplane.rpc.backends import BackendService
from controlplane.rpc.created import CreatedAnswer
from controlplane.rpc.jobs import Doors, JobService, Readers
from controlplane.rpc.nodes import NodeService
from controlplane.rpc.server import Serving, served
from controlplane.store import open_store
from controlplane.vault import MasterVault, read_master_key
from trainplane import backends
from trainplane.wire import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from controlplane.bus.connection import Connection
    from controlplane.engine.ports import Outbound, Store
    from controlplane.settings import Settings

#: Events committed within so long are published in one batch.
_RELAY_LINGER = timedelta(milliseconds=10)
_READINESS_SECONDS = 0.5
_log = structlog.get_logger()


class _Services:
    """Everything between the adapters, wired."""

    def __init__(self, settings: Settings, *, store: Store, connection: Connection, outbound: Outbound) -> None:
        clock, recent, bus = SystemClock(), Recent(), NatsBus(connection)
        rules = settings.rules()
        self.store = store
        self.connection = connection
        master_key = read_master_key(settings.master_key_path)
        self.vault = MasterVault(master_key)
        self.announcer = Announcer(recent=recent, bus=bus)
        recorder = Recorder(store, vault=self.vault, clock=clock, announce=self.announcer)
        blobs = FileBlobs(settings.data_dir / "blobs")
        in_place = Preparer(rules=rules, vault=self.vault, render=CreatedAnswer(self.vault), now_us=clock.now_us)
        self.preparing = CrowdPreparer(in_place, setup=(rules, master_key))
        self.jobs = Jobs(store, recorder=recorder, rules=rules)
        self.watches = Watches(store, recent=recent)
        log_hints = Hints()
        self.log_reader = LogReader(store, blobs=blobs, hints=log_hints)
        self.metrics = Metrics(store)
        self.relay = Relay(
            store, bus=bus, clock=clock, recent=recent, pace=Pace(_RELAY_LINGER, retention=streams.EVENTS.max_age)
        )
        self.deliveries = Deliveries(store, outbound=outbound, vault=self.vault, clock=clock)
        pace = NodePace(settings.sync_interval, node_grace=settings.grace)
        self.nodes = Nodes(
            recorder, store=store, clock=clock, pace=pace, listening=lambda: connection.client.is_connected
        )
        self.prober = Prober(
            recorder, store=store, vault=self.vault, bus=NatsProbes(connection), key_of=self.nodes.public_key
        )
        self.dispatcher = Dispatcher(recorder, rules=rules, prober=self.prober)
        self.submissions = Submissions(
            store,
            preparing=self.preparing,
            clock=clock,
            waits=self.dispatcher.waits,
            announce=self.announcer,
        )
        looks = Looks(vault=self.vault, bus=NatsProbes(connection), key_of=self.nodes.public_key, outbound=outbound)
        self.preflights = Preflights(store, rules=rules, vault=self.vault, looks=looks)
        self.agents = Agents(
            nodes=self.nodes,
            claims=Claims(recorder, vault=self.vault),
            intake=Intake(recorder),
            logs=Logs(store, blobs=blobs, hints=log_hints),
        )
        self.announcer.wire(
            dispatcher=self.dispatcher,
            relay=self.relay,
            watches=self.watches,
            deliveries=self.deliveries,
            prober=self.prober,
            log_hints=log_hints,
        )
        connection.on_reconnect(self.relay.reconnected)

    def loops(self) -> dict[str, Coroutine[None, None, None]]:
        """Every loop of the process."""
        return {
            "preparing": self.preparing.run(),
            "submissions": self.submissions.run(),
            "wakes": self.announcer.run(),
            "relay": self.relay.run(),
            "deliveries": self.deliveries.run(),
            "old secrets": self.deliveries.erase(),
            "watchdog": self.nodes.watch(),
            "agents": NodeServer(self.connection).serve(self.agents),
            "dispatcher": self.dispatcher.run(),
            "prober": self.prober.run(),
        }

    async def can_accept(self, *, with_node: bool) -> bool:
        """Whether a job could be accepted, and with `with_node` also placed, now."""
        try:
            await self.store.ping()
            if not with_node:
                return True
            return self.connection.client.is_connected and await self.nodes.any_ready()
        except StoreUnavailable:
            return False


async def run(settings: Settings, *, ready: Callable[[str], None]) -> int:
    """Runs a control plane until SIGTERM or SIGINT; answers the exit status.

    Raises:
        StoreUnavailable, BusUnavailable, PortTaken, MasterKeyError: it cannot start; each says what to do.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    for each in backends.broken():
        _log.warning("backend skipped", entry_point=each.entry_point, distribution=each.distribution, why=each.why)
    async with AsyncExitStack() as opened:
        store = await open_store(settings.database_url)
        opened.push_async_callback(store.close)
        outbound = GuardedClient(settings.outbound(), tls=settings.outbound_tls())
        opened.push_async_callback(outbound.close)
        address = NatsAddress(settings.nats, _credentials(settings.nats_credentials))
        connection = await opened.enter_async_context(connected(address))
        services = _Services(settings, store=store, connection=connection, outbound=outbound)
        died = await opened.enter_async_context(running(services.loops()))
        serving = await opened.enter_async_context(
            served(
                f"{settings.grpc_host}:{settings.grpc_port}",
                jobs=JobService(
                    services.jobs,
                    doors=Doors(services.submissions, services.preflights),
                    watches=services.watches,
                    readers=Readers(services.log_reader, services.metrics),
                    vault=services.vault,
                ),
                nodes=NodeService(services.nodes),
                backends=BackendService(settings.rules()),
                reflect=settings.dev,
            )
        )
        ready(serving.address)
        return await _until_told(stop, died, serving, services, with_node=settings.ready_with_node)


def _credentials(file: Path | None) -> str:
    """The text of a `.creds` file; empty without one.

    Raises:
        BusUnavailable: it is none, which the client library would tell in riddles.
    """
    if file is None:
        return ""
    text = file.read_text(errors="replace")
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise BusUnavailable(f"{file} holds no NATS credentials: a user's JWT and seed, as in a .creds file")
    return text


async def _until_told(
    stop: asyncio.Event, died: asyncio.Future[LoopDied], serving: Serving, services: _Services, *, with_node: bool
) -> int:
    """Keeps `readiness` true to life until told to stop, or until a loop dies."""
    told = asyncio.ensure_future(stop.wait())
    was = False
    while not told.done() and not died.done():
        is_ready = await services.can_accept(with_node=with_node)
        if is_ready != was:
            _log.info("ready" if is_ready else "not ready")
            await serving.set_ready(is_ready)
            was = is_ready
        waited: list[asyncio.Future[Any]] = [told, died]
        await asyncio.wait(waited, timeout=_READINESS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if died.done():
        death = died.result()
        _log.error("loop died", loop=str(death), exc_info=death.__cause__)
        return 1
    return 0
