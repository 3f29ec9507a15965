"""What the engine needs from outside: SQL, the bus, a blob store, an outbound client, a clock.

The store runs *synchronous* functions over a `Transaction`: SQLite runs them in place, PostgreSQL through SQLAlchemy's
greenlet bridge, and neither needs a twin of any query (docs/adr/0006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import timedelta

    from controlplane.domain.artifact import Artifact, Log
    from controlplane.domain.attempt import Attempt, AttemptNode
    from controlplane.domain.checkpoint import Checkpoint
    from controlplane.domain.delivery import Delivery, Endpoint, PendingRetry
    from controlplane.domain.event import StoredEvent
    from controlplane.domain.job import Job, JobRecord, NewJob, State, WaitingJob
    from controlplane.domain.metrics import MetricChunk
    from controlplane.domain.node import AttemptRef, Node

T = TypeVar("T")


class StoreUnavailable(Exception):  # noqa: N818 - it says what happened
    """The database cannot be reached, or refuses (disk full). Nothing was stored; try again."""


class OutcomeUnknown(Exception):  # noqa: N818 - likewise
    """A commit was sent and not answered: read back before concluding anything."""


class BusUnavailable(Exception):  # noqa: N818 - likewise
    """NATS or JetStream did not answer. What was sent may have arrived; try again, repeats are dropped."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a list shows."""

    project: str
    states: Sequence[State] = ()
    labels: Mapping[str, str] | None = None
    before_uid: str = ""
    """Only jobs older than this one; uids sort by time."""


@dataclass(frozen=True, slots=True)
class Unpublished:
    """A job whose events the relay owes to JetStream."""

    uid: str
    published_sequence: int
    last_sequence: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A job's sealed secrets with what opening them needs."""

    uid: str
    sealed: bytes
    webhook: bool


class Transaction(Protocol):
    """One database transaction, synchronous. All reads see its writes; all of it commits, or nothing.

    What is read with a lock stays so to the end; locks are taken in the order job, attempt, node, each by key.
    """

    # jobs
    def insert_jobs(self, jobs: Sequence[NewJob], *, pending: Mapping[str, str] = ...) -> frozenset[str]:
        """Stores jobs whose (project, job_id) is free; answers the uids that were stored.

        Args:
            jobs: new ones, QUEUED.
            pending: uid -> pending reason, of those whose is known already.
        """
        ...

    def job(self, uid: str) -> Job | None:
        """The job, locked."""
        ...

    def jobs(self, uids: Collection[str]) -> dict[str, Job]:
        """The jobs that exist, locked in the order of their uids."""
        ...

    def find_job(self, project: str, job_id: str) -> Job | None:
        """The job of that name, locked."""
        ...

    def record(self, project: str, job_id: str) -> JobRecord | None:
        """All of a job, with its attempts, not locked."""
        ...

    def records(self, chosen: JobFilter, *, limit: int) -> list[JobRecord]:
        """Newest first, with their attempts."""
        ...

    def outputs_beside(self, project: str, places: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """For each of these places the live jobs' places next to it: the last up to it, and the first from it on."""
        ...

    def output_holder(self, project: str, place: str) -> Job | None:
        """The live job that publishes exactly there, locked."""
        ...

    def save_jobs(self, jobs: Sequence[Job]) -> None:
        """Writes every field of `Job` but its names; a job that leaves QUEUED loses its pending reason."""
        ...

    def waiting_jobs(self, *, limit: int, after: tuple[int, str] | None = None) -> list[WaitingJob]:
        """QUEUED jobs, highest priority first, then oldest; `after` = (priority, uid) of the page before's last."""
        ...

    def unseen_jobs(self, *, limit: int) -> list[WaitingJob]:
        """The same, only those that the dispatcher has not looked at: without a pending reason."""
        ...

    def queue_position(self, uid: str, *, priority: int) -> int:
        """1 + the number of QUEUED jobs before it."""
        ...

    def recovering_jobs(self, *, due_us: int) -> list[Job]:
        """RECOVERING jobs whose `not_before_us` has passed, locked."""
        ...

    def set_pending(self, reasons: Mapping[str, str]) -> None:
        """Writes uid -> pending reason, where still QUEUED."""
        ...

    def sealed_secrets(self, uid: str) -> Sealed | None:
        """What the job's secrets are sealed in; `sealed` is empty where there are none (any more)."""
        ...

    def set_sealed_secrets(self, uid: str, sealed: bytes) -> None:
        """Overwrites the job's sealed secrets; empty erases them."""
        ...

    def old_secrets(self, *, ended_before_us: int, limit: int) -> list[str]:
        """Uids of jobs that ended before, whose webhooks are settled, and that still have sealed secrets."""
        ...

    def effective_spec(self, uid: str) -> str:
        """What `set_effective_spec` stored; empty before."""
        ...

    def set_effective_spec(self, uid: str, effective: str) -> None:
        """Fixes what the job really runs with, at its first placement."""
        ...

    def set_base_model_commit(self, uid: str, commit: str) -> None:
        """Records which commit of its base model the job's newest attempt trains."""
        ...

    # events
    def append_events(self, events: Sequence[StoredEvent]) -> None:
        """Stores events; a number that is taken is a bug and raises."""
        ...

    def events_after(self, uid: str, sequence: int, *, limit: int) -> list[StoredEvent]:
        """In order."""
        ...

    def unpublished(self, *, limit: int) -> list[Unpublished]:
        """Jobs with events that are not in JetStream yet."""
        ...

    def mark_published(self, sequences: Mapping[str, int]) -> None:
        """Uid -> every event up to this sequence is in JetStream. Never moves back."""
        ...

    def unpublish_since(self, time_us: int) -> int:
        """After a wiped stream: marks all events of jobs updated since then as not published; answers how many jobs."""
        ...

    # attempts
    def insert_attempt(self, attempt: Attempt) -> None:
        """Stores an attempt and its (attempt, node) row; a gang's nodes one by one, the first first."""
        ...

    def attempt(self, job_uid: str, number: int) -> Attempt | None:
        """The attempt, locked; of a gang its first node."""
        ...

    def attempts_on(self, node: str, refs: Collection[AttemptRef]) -> dict[AttemptRef, Attempt]:
        """Those of them that this node has a part in, locked: of a gang, this node's part."""
        ...

    def parts(self, job_uid: str, number: int) -> list[Attempt]:
        """The attempt as it is on each of its nodes, the first first, locked."""
        ...

    def claimants(self, job_uid: str, number: int) -> frozenset[str]:
        """The nodes that have asked for their part."""
        ...

    def incomplete_gangs(self, *, before_us: int) -> list[Attempt]:
        """The first nodes of gangs that were assigned before and are not claimed, by all, yet."""
        ...

    def charged_attempts(self) -> list[Attempt]:
        """Every attempt whose devices count as taken (any state but ENDED), of all nodes, a gang's each by itself."""
        ...

    def charged_on(self, node: str) -> list[Attempt]:
        """The same of one node."""
        ...

    def save_attempt(self, attempt: Attempt) -> None:
        """Writes everything of it but its names and devices."""
        ...

    def attempt_nodes(self, refs: Collection[AttemptRef], node: str) -> dict[AttemptRef, AttemptNode]:
        """Nonces and watermarks of these attempts on this node, locked."""
        ...

    def set_nonce(self, job_uid: str, number: int, *, node: str, nonce: bytes) -> None:
        """Records who claimed."""
        ...

    def advance_watermark(self, job_uid: str, number: int, *, node: str, applied: int, to: int) -> bool:
        """Moves `applied` to `to` if it still is `applied`; False: someone else did, stop."""
        ...

    # nodes
    def node(self, name: str) -> Node | None:
        """The node, locked."""
        ...

    def nodes(self) -> list[Node]:
        """By name."""
        ...

    def save_node(self, node: Node) -> None:
        """Inserts or replaces."""
        ...

    # artifacts, logs and checkpoints
    def insert_artifacts(self, artifacts: Sequence[Artifact]) -> None:
        """Stores them; repeats change nothing."""
        ...

    def artifacts(self, job_uid: str) -> list[Artifact]:
        """By path."""
        ...

    def log(self, job_uid: str, *, attempt: int, rank: int) -> Log | None:
        """One log's size."""
        ...

    def save_log(self, log: Log) -> None:
        """Inserts or replaces."""
        ...

    def logs(self, job_uid: str) -> list[Log]:
        """By attempt and rank."""
        ...

    def save_checkpoint(self, checkpoint: Checkpoint, *, oldest_step: int) -> None:
        """Inserts or replaces it, and forgets those of the job, of any attempt, of steps before `oldest_step`."""
        ...

    def checkpoints(self, job_uid: str, *, limit: int) -> list[Checkpoint]:
        """The newest attempt's first, then by step, the greatest first."""
        ...

    # metrics
    def insert_metric_chunks(self, chunks: Sequence[MetricChunk]) -> None:
        """Stores them; repeats change nothing."""
        ...

    def first_measured_steps(self, job_uid: str) -> dict[int, int]:
        """The first step of each attempt that measured something."""
        ...

    def metric_chunks(self, job_uid: str, *, after: tuple[int, int], limit: int) -> list[MetricChunk]:
        """By attempt and sequence, those that follow (attempt, sequence)."""
        ...

    # endpoints and deliveries
    def jobs_without_endpoint(self, *, limit: int) -> list[tuple[str, str]]:
        """Jobs that owe endpoints, as a former version stored them: (uid, spec as sent)."""
        ...

    def owe_no_endpoint(self, uids: Sequence[str]) -> None:
        """They have theirs now."""
        ...

    def endpoint(self, job_uid: str, kind: str) -> Endpoint | None:
        """The endpoint, locked."""
        ...

    def insert_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """Stores them; repeats change nothing."""
        ...

    def due_endpoints(self, *, now_us: int, limit: int, full_hosts: Collection[str] = ()) -> list[Endpoint]:
        """ACTIVE ones with events behind the cursor whose next try is due, but for those of hosts that are full."""
        ...

    def save_endpoint(self, endpoint: Endpoint) -> None:
        """Writes state, cursor, tries and times."""
        ...

    def next_try_time_us(self) -> int:
        """The earliest next try of any endpoint or retry; 0: none."""
        ...

    def insert_delivery(self, delivery: Delivery) -> None:
        """Records a try."""
        ...

    def deliveries(self, job_uid: str) -> list[Delivery]:
        """By time."""
        ...

    def due_retries(self, *, now_us: int, limit: int, full_hosts: Collection[str] = ()) -> list[PendingRetry]:
        """Events that were overtaken and are due again, but for those of hosts that are full."""
        ...

    def save_retry(self, retry: PendingRetry) -> None:
        """Inserts or replaces."""
        ...

    def delete_retry(self, retry: PendingRetry) -> None:
        """It is delivered, or dead."""
        ...

    # the installation
    def meta(self, key: str) -> str:
        """A fact about the installation; empty: unknown."""
        ...

    def set_meta(self, key: str, value: str) -> None:
        """Writes it."""
        ...


class Store(Protocol):
    """Runs functions in transactions."""

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction and commits it durably before answering.

        `work` must be free of other effects: it is run again after a serialization failure, and several may share one
        commit. What it raises comes back, and nothing of it is stored.

        Raises:
            StoreUnavailable: the database cannot be reached, or refused (disk full); nothing is stored.
            OutcomeUnknown: the commit was sent and not answered; read back.
        """
        ...

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a read-only snapshot that sees every acknowledged write."""
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailable unless a trivial read works."""
        ...

    async def close(self) -> None:
        """Ends what runs and releases the database."""
        ...


@dataclass(frozen=True, slots=True)
class StreamState:
    """Which events stream there is: `identity` changes when the stream was made anew."""

    identity: str
    made: bool


class Bus(Protocol):
    """NATS, as the engine sees it."""

    async def wake(self, node: str) -> None:
        """Asks a node to sync now. May be lost; never raises for a broken connection."""
        ...

    async def ensure_stream(self) -> StreamState:
        """Makes the events stream where it is missing, or brings it up to date.

        Raises:
            BusUnavailable: no connection, or JetStream does not answer.
        """
        ...

    async def publish(self, events: Sequence[StoredEvent]) -> None:
        """Publishes in order and returns when JetStream has all of them durably; repeats are dropped there.

        Raises:
            BusUnavailable: it may have some of them; publish all again later.
        """
        ...


class BlobStore(Protocol):
    """Where logs lie."""

    async def put(self, key: str, data: bytes, *, offset_bytes: int) -> None:
        """Writes at an offset, durably enough to survive the process; repeats are harmless."""
        ...

    async def get(self, key: str, *, offset_bytes: int, size_bytes: int) -> bytes:
        """Reads up to so many bytes; empty: nothing there."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered."""

    status_code: int
    """0: no HTTP answer."""
    retry_after: timedelta | None
    detail: str
    """Why there was none, for people."""
    duration: timedelta
    reached: bool = True
    """False: there was no connection. Others at this host would fare alike just now."""


class Outbound(Protocol):
    """The guarded HTTP client: public or allowed addresses only, no redirects, no proxy, bounded."""

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str], deadline: timedelta) -> Answer:
        """Posts and never raises for what the other side does."""
        ...

    async def reach(self, url: str, *, deadline: timedelta) -> Answer:
        """Asks for nothing (HEAD), without any header of the caller's; never raises for what the other side does."""
        ...


class Vault(Protocol):
    """Seals secrets at rest under the master key, and to a node's key in transit."""

    def seal(self, secrets: Mapping[str, str], *, uid: str) -> bytes:
        """Seals for storing; bound to the job's uid. Empty for no secrets."""
        ...

    def open(self, sealed: bytes, *, uid: str) -> dict[str, str]:
        """Opens what `seal` made for this uid.

        Raises:
            ValueError: altered, another job's, or another key's.
        """
        ...

    def seal_to(self, public_key: bytes, secrets: Mapping[str, str]) -> bytes:
        """Seals to a node's X25519 key (NaCl sealed box of JSON). Empty for no secrets."""
        ...

    def mac_key(self) -> bytes:
        """The key of the secrets' HMACs."""
        ...

    def signing_secret(self, uid: str) -> str:
        """The job's `whsec_…` webhook secret, derived from the master key: nothing to store."""
        ...


class Clock(Protocol):
    """Time, as an argument."""

    def now_us(self) -> int:
        """Wall time: microseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        ...
