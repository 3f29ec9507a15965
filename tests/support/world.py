"""The whole engine over a real SQLite store, with a bus in memory and endpoints of our own making."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from controlplane.blobs import FileBlobs
from controlplane.bus.memory import MemoryBus
from controlplane.domain.node import AttemptRef, AttemptStatus, Gpu, Inventory, Stage, Sync
from controlplane.domain.spec import Rules
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
from controlplane.engine.ports import Answer
from controlplane.engine.preflights import Preflights
from controlplane.engine.preparing import Asked, Preparer
from controlplane.engine.prober import Prober
from controlplane.engine.relay import Pace, Relay
from controlplane.engine.requests import (
    AttemptReports,
    ClaimAnswer,
    ClaimAsked,
    CommitAnswer,
    CommitAsked,
    Report,
    ReportAnswer,
    ReportBatch,
)
from controlplane.engine.signals import Hints, Recent
from controlplane.engine.submissions import Submissions, Submitted
from controlplane.engine.watches import Watches
from controlplane.loops import running
from controlplane.rpc.created import CreatedAnswer
from controlplane.store import SqliteOptions, open_store
from controlplane.vault import MasterVault
from tests.support.clock import LoopClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from controlplane.domain.news import AttemptNews
    from controlplane.domain.node import Wanted
    from controlplane.engine.ports import Store, Transaction
    from controlplane.engine.probing import Probed
    from controlplane.engine.requests import Output

T = TypeVar("T")

MASTER_KEY = b"k" * 32
PUBLIC_KEY = bytes(31) + b"\x09"


class WaywardStore:
    """A store that fails as told: `fails` before it does anything, `unanswered` after the commit was made."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.fails: Exception | None = None
        self.fails_writing: Exception | None = None
        self.unanswered: Exception | None = None
        self.twice = False
        """Every work is run twice, the first time in vain: as after a serialization failure."""
        self.reads = 0

    async def write(self, work: Callable[[Transaction], T]) -> T:
        if self.fails or self.fails_writing:
            raise self.fails or self.fails_writing  # type: ignore[misc]
        if self.twice:
            await self._in_vain(work)
        result = await self._inner.write(work)
        if self.unanswered:
            raise self.unanswered
        return result

    async def _in_vain(self, work: Callable[[Transaction], Any]) -> None:
        class RolledBackError(Exception):
            pass

        def undone(tx: Transaction) -> None:
            work(tx)
            raise RolledBackError

        with suppress(RolledBackError):
            await self._inner.write(undone)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        if self.fails:
            raise self.fails
        self.reads += 1
        return await self._inner.read(work)

    async def ping(self) -> None:
        if self.fails:
            raise self.fails
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()


@dataclass
class Post:
    """One POST that reached an endpoint."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    seconds: float


@dataclass
class Endpoints:
    """`ports.Outbound`: each URL answers what it is told to, and 204 after that."""

    clock: LoopClock
    answers: dict[str, list[Any]] = field(default_factory=dict)
    """Status codes, Answers, or seconds (floats) to take before the next."""
    always: dict[str, int] = field(default_factory=dict)
    posts: list[Post] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], deadline: timedelta) -> Answer:
        self.posts.append(Post(url, body, headers, self.clock.monotonic()))
        turns = self.answers.get(url, [])
        while turns and isinstance(turns[0], float):
            await self.clock.sleep(turns.pop(0))
        answer = turns.pop(0) if turns else self.always.get(url, 204)
        if isinstance(answer, Answer):
            return answer
        return Answer(answer, None, "" if answer < 300 else f"answered {answer}", timedelta(0))

    async def reach(self, url: str, *, deadline: timedelta) -> Answer:
        self.reached.append(url)
        status = self.always.get(url, 405)
        return Answer(status, None, "" if status < 500 else f"answered {status}", timedelta(0))

    def ids(self, url: str) -> list[str]:
        """The `webhook-id` of every POST."""
        return [post.headers["webhook-id"] for post in self.posts if post.url == url]


@dataclass
class Probes:
    """`ports.ProbeBus`: each node answers what it is told to, after some seconds, or not at all."""

    clock: LoopClock
    answers: dict[str, Probed] = field(default_factory=dict)
    seconds: float = 1.0
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    async def probe(self, node: str, sealed: bytes, *, seconds: float) -> Probed | None:
        self.asked.append((node, sealed))
        answer = self.answers.get(node)
        await self.clock.sleep(seconds if answer is None else self.seconds)
        return answer


_unnamed = itertools.count(1)


def spec(job_id: str | None = None, **blocks: Any) -> dict[str, Any]:
    """A spec that this build can run, with the fake trainer."""
    usual: dict[str, Any] = {
        "backend": "mock",
        "base_model": {"provider": "local", "model_name": "/models/tiny"},
        "customization": {"method": "lora"},
        "datasets": [{"source": "file:///data/rows.jsonl"}],
        "artifacts": {"output_uri": f"file:///out/{job_id or next(_unnamed)}/"},
    }
    return usual | ({"job_id": job_id} if job_id else {}) | blocks


class World:
    """Every service, wired as `controlplane.app` wires them."""

    def __init__(
        self,
        store: Store,
        *,
        blobs: Path,
        grace_seconds: float = 30.0,
        sweep_seconds: float = 1.0,
        master_key: bytes = MASTER_KEY,
    ) -> None:
        self.clock = LoopClock()
        self.store = WaywardStore(store)
        self.vault = MasterVault(master_key)
        self.bus = MemoryBus()
        self.recent = Recent()
        self.outbound = Endpoints(self.clock)
        self.rules = Rules(dev_mode=True)
        self.announcer = Announcer(recent=self.recent, bus=self.bus)
        self.recorder = Recorder(self.store, vault=self.vault, clock=self.clock, announce=self.announcer)
        files = FileBlobs(blobs)
        preparer = Preparer(
            rules=self.rules, vault=self.vault, render=CreatedAnswer(self.vault), now_us=self.clock.now_us
        )
        self.jobs = Jobs(self.store, recorder=self.recorder, rules=self.rules)
        self.watches = Watches(self.store, recent=self.recent)
        self.log_hints = Hints()
        self.relay = Relay(
            self.store,
            bus=self.bus,
            clock=self.clock,
            recent=self.recent,
            pace=Pace(timedelta(milliseconds=10), retention=timedelta(days=7)),
        )
        self.deliveries = Deliveries(
            self.store, outbound=self.outbound, vault=self.vault, clock=self.clock, sweep_seconds=sweep_seconds
        )
        self.pace = NodePace(timedelta(seconds=3), node_grace=timedelta(seconds=grace_seconds))
        self.nodes = Nodes(self.recorder, store=self.store, clock=self.clock, pace=self.pace)
        self.probes = Probes(self.clock)
        self.prober = Prober(
            self.recorder, store=self.store, vault=self.vault, bus=self.probes, key_of=self.nodes.public_key
        )
        self.dispatcher = Dispatcher(self.recorder, rules=self.rules, prober=self.prober)
        self.submissions = Submissions(
            self.store,
            preparing=preparer,
            clock=self.clock,
            waits=self.dispatcher.waits,
            announce=self.announcer,
        )
        looks = Looks(vault=self.vault, bus=self.probes, key_of=self.nodes.public_key, outbound=self.outbound)
        self.preflights = Preflights(self.store, rules=self.rules, vault=self.vault, looks=looks)
        self.claims = Claims(self.recorder, vault=self.vault)
        self.intake = Intake(self.recorder)
        self.logs = Logs(self.store, blobs=files, hints=self.log_hints)
        self.log_reader = LogReader(self.store, blobs=files, hints=self.log_hints)
        self.metrics = Metrics(self.store)
        self.announcer.wire(
            dispatcher=self.dispatcher,
            relay=self.relay,
            watches=self.watches,
            deliveries=self.deliveries,
            prober=self.prober,
            log_hints=self.log_hints,
        )

    def loops(self, *names: str) -> Any:
        """Runs these loops for the time of the context."""
        made = {
            "submissions": self.submissions.run,
            "wakes": self.announcer.run,
            "relay": self.relay.run,
            "deliveries": self.deliveries.run,
            "old secrets": self.deliveries.erase,
            "watchdog": self.nodes.watch,
            "dispatcher": self.dispatcher.run,
            "prober": self.prober.run,
        }
        return running({name: made[name]() for name in names})

    async def submit(self, job_id: str | None = None, **blocks: Any) -> Submitted:
        """Stores a job."""
        async with self.loops("submissions"):
            return await self.submissions.submit(Asked(spec(job_id, **blocks), "default"))

    async def job(self, job_id: str) -> Any:
        """The job as it stands."""
        return (await self.jobs.get(job_id, project="default")).record.job

    async def types(self, job_id: str) -> list[str]:
        """The types of its events; they must be numbered without a gap."""
        events = await self.jobs.events(job_id, project="default", after=0, limit=10_000)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        return [event.type for event in events]

    async def attempt(self, ref: AttemptRef) -> Any:
        """The attempt as it stands."""
        return await self.store.read(lambda tx: tx.attempt(ref.job_uid, ref.number))

    async def placed(self, job_id: str, agent: Agent, **blocks: Any) -> AttemptRef:
        """Submits a job and has it placed on the agent's node, claimed and started."""
        made = await self.submit(job_id, **blocks)
        while await self.dispatcher.round():
            pass
        ref = AttemptRef(made.record.job.uid, 1)
        assert (await self.attempt(ref)).node == agent.node
        await agent.claim(ref)
        return ref


class Agent:
    """A node's agent, by hand."""

    def __init__(self, world: World, node: str = "gpu-01", *, gpus: int = 0, cpus: int = 8) -> None:
        self.world = world
        self.node = node
        self.incarnation = 0
        self.counter = 0
        self.public_key = PUBLIC_KEY
        self.inventory = Inventory(
            gpus=tuple(Gpu(index, "NVIDIA L4", 24 << 30) for index in range(gpus)),
            cpus=cpus,
            memory_bytes=64 << 30,
            simulated=True,
            rendezvous_address=f"{node}.internal" if gpus else "",
        )
        self.rendezvous_port = 4000

    async def sync(self, *attempts: AttemptStatus, **changed: Any) -> Wanted:
        """Says what is so."""
        self.counter += 1
        said = {"incarnation": self.incarnation, "counter": self.counter, "host_boot_id": "boot"} | changed
        wanted = await self.world.nodes.sync(
            Sync(
                node=self.node,
                agent_version="1",
                inventory=self.inventory,
                attempts=attempts,
                public_key=self.public_key,
                **said,
            )
        )
        if wanted.outcome == "APPLIED":
            self.incarnation = wanted.incarnation
        return wanted

    async def claim(self, ref: AttemptRef, nonce: bytes = b"n" * 16, public_key: bytes = PUBLIC_KEY) -> ClaimAnswer:
        """Asks for an attempt."""
        asked = ClaimAsked(self.node, self.incarnation, ref, nonce, public_key, self.rendezvous_port)
        return await self.world.claims.claim(asked)

    async def commit(self, ref: AttemptRef, digest: str = "d1") -> CommitAnswer:
        """Asks to publish."""
        return await self.world.claims.commit(CommitAsked(self.node, self.incarnation, ref, digest))

    async def report(
        self, ref: AttemptRef, first: int, *news: AttemptNews | None, output: Output | None = None
    ) -> ReportAnswer:
        """Reports, numbered from `first`."""
        rows = AttemptReports(ref, first, [Report(0, each, output) for each in news])
        return await self.world.intake.report(ReportBatch(self.node, self.incarnation, [rows]))


def alive(ref: AttemptRef, stage: Stage = Stage.RUNNING, *, reports: int = 0) -> AttemptStatus:
    """What a sync says of an attempt."""
    return AttemptStatus(ref, stage, pid=1, reports=reports)


_migrated: list[bytes] = []
"""An empty database's file, made once a process: migrations take half a second."""


async def opened(file: Path) -> Store:
    """A store over this file, made where it is missing."""
    url = f"sqlite:///{file}"
    if not _migrated:
        await (await open_store(url)).close()
        _migrated.append(file.read_bytes())
    elif not file.exists():
        file.write_bytes(_migrated[0])
    return await open_store(url, sqlite=SqliteOptions(commit_on="loop"))


@asynccontextmanager
async def world(directory: Path, **settings: Any) -> AsyncIterator[World]:
    """A world over the database in this directory."""
    store = await opened(directory / "store.db")
    try:
        yield World(store, blobs=directory / "blobs", **settings)
    finally:
        await store.close()


async def settle(rounds: int = 50) -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(rounds):
        await asyncio.sleep(0)
