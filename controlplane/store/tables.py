"""Every table, with the rows that cannot be forbidden by name, type and CHECK.

One schema for SQLite and PostgreSQL. Times are BIGINT microseconds since the epoch (0: not yet), lists and objects are
JSON in TEXT, enumerations are their words. `migrations/` builds the same schema step by step, and a test compares them.

    jobs ──┬── job_specs (1:1)   what was sent: kilobytes that news never change, so an UPDATE of `jobs` rewrites little
           ├── job_labels        for filters
           ├── events            numbered per job
           ├── attempts ──┬── attempt_members  a gang's further nodes
           │              ├── attempt_nodes    nonce and watermark per (attempt, node)
           │              └── device_charges   a device is promised once, or the insert fails
           ├── endpoints ──── deliveries, pending_retries
           ├── metric_chunks     a trainer's dense series, some hundred steps a row
           ├── checkpoints       those that a trainer keeps on its node
           └── artifacts, logs
    nodes, installation
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import postgresql

from controlplane.domain.attempt import AttemptState
from controlplane.domain.delivery import EndpointState, Outcome
from controlplane.domain.job import TERMINAL, State
from controlplane.domain.node import NodeState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

    from sqlalchemy import TextClause
    from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

#: Compared byte by byte on both databases, whatever a server's locale: the order of uids is the order of time.
Key = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")


def _words(column: str, words: Iterable[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(word.value) for word in words)})"


def _one_of(column: str, words: Iterable[StrEnum]) -> CheckConstraint:
    return CheckConstraint(_words(column, words), name=column)


def _given(name: str, kind: type[TypeEngine[Any]] | TypeEngine[Any]) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _later(name: str) -> Column[Any]:
    """A word that a later migration added: rows from before have the empty one."""
    return Column(name, Key, nullable=False, server_default="")


def _partial(name: str, *columns: str | TextClause, where: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


def _job_uid(name: str = "job_uid") -> Column[Any]:
    return Column(name, Key, ForeignKey("jobs.uid"), nullable=False)


jobs = Table(
    "jobs",
    metadata,
    Column("uid", Key, primary_key=True),
    _given("project", Key),
    _given("job_id", Key),
    _given("state", Text),
    _given("phase", Text),
    _given("reason", Text),
    _given("message", Text),
    _given("attempt", Integer),
    _given("failures", Integer),
    _given("losses", Integer),
    _given("max_attempts", Integer),
    _given("granted", Boolean),
    _given("pause_wanted", Boolean),
    _given("not_before_us", BigInteger),
    _given("last_sequence", BigInteger),
    Column("progress", Text),
    _given("start_time_us", BigInteger),
    _given("update_time_us", BigInteger),
    _given("end_time_us", BigInteger),
    _given("published_sequence", BigInteger),
    _given("priority", Integer),
    _given("create_time_us", BigInteger),
    _given("pending_reason", Text),
    _given("endpoint_owed", Boolean),
    _given("secrets_held", Boolean),
    _later("output_place"),
    UniqueConstraint("project", "job_id"),
    _one_of("state", State),
    CheckConstraint(f"({_words('state', sorted(TERMINAL))}) = (end_time_us > 0)", name="end_time"),
    CheckConstraint("state NOT IN ('STARTING', 'RUNNING', 'PAUSING') OR attempt > 0", name="attempt"),
    CheckConstraint("attempt >= 0 AND failures >= 0 AND losses >= 0", name="counts"),
    CheckConstraint("0 <= published_sequence AND published_sequence <= last_sequence", name="published"),
    CheckConstraint("pending_reason = '' OR state = 'QUEUED'", name="pending_reason"),
    CheckConstraint("0 <= priority AND priority <= 100", name="priority"),
    # A list of any states merges one range per state, newest first: no second index for a list of all.
    Index("jobs_by_state", "project", "state", "uid"),
    _partial("jobs_waiting", text("priority DESC"), "uid", where="state = 'QUEUED'"),
    _partial("jobs_unseen", text("priority DESC"), "uid", where="state = 'QUEUED' AND pending_reason = ''"),
    _partial("jobs_recovering", "not_before_us", where="state = 'RECOVERING'"),
    _partial("jobs_unpublished", "uid", where="published_sequence < last_sequence"),
    _partial("jobs_endpoint_owed", "uid", where="endpoint_owed"),
    _partial("jobs_old_secrets", "end_time_us", where="secrets_held AND end_time_us > 0"),
    # Live jobs by where they publish: who else does is found by the neighbours.
    _partial("jobs_output", "project", "output_place", where="end_time_us = 0 AND output_place <> ''"),
)

job_specs = Table(
    "job_specs",
    metadata,
    Column("uid", Key, ForeignKey("jobs.uid"), primary_key=True),
    _given("sent", Text),
    _given("requirement", Text),
    _given("labels", Text),
    _given("warnings", Text),
    _given("secret_macs", Text),
    _given("webhook", Boolean),
    _given("output_uri", Text),
    _given("base_model_commit", Text),
    _given("retry_of", Text),
    _given("effective_spec", Text),
    _given("sealed_secrets", LargeBinary),
)

job_labels = Table(
    "job_labels",
    metadata,
    _given("project", Key),
    _given("key", Key),
    _given("value", Key),
    _job_uid(),
    PrimaryKeyConstraint("project", "key", "value", "job_uid"),
    sqlite_with_rowid=False,
)

# With a rowid on SQLite: events of many jobs arrive together, and appending them dirties fewer pages than a leaf
# per job would (10 us an event against 30, with 250 jobs in a batch).
events = Table(
    "events",
    metadata,
    _job_uid(),
    _given("sequence", BigInteger),
    _given("type", Text),
    _given("time_us", BigInteger),
    _given("json", Text),
    PrimaryKeyConstraint("job_uid", "sequence"),
    CheckConstraint("sequence > 0", name="sequence"),
)

attempts = Table(
    "attempts",
    metadata,
    _job_uid(),
    _given("number", Integer),
    _given("node", Key),
    _given("devices", Text),
    _given("cpus", Integer),
    _given("memory_bytes", BigInteger),
    _given("state", Text),
    _given("assign_time_us", BigInteger),
    _given("claim_time_us", BigInteger),
    _given("start_time_us", BigInteger),
    _given("end_time_us", BigInteger),
    _given("reason", Text),
    _given("manifest_digest", Text),
    _later("others"),
    _later("meeting"),
    PrimaryKeyConstraint("job_uid", "number"),
    _one_of("state", AttemptState),
    CheckConstraint("number > 0", name="number"),
    _partial("attempts_charged", "node", "job_uid", "number", where="state <> 'ENDED'"),
    # Invariant 4: at most one attempt of a job is ever granted the commit.
    _partial("attempts_granted", "job_uid", unique=True, where="manifest_digest <> ''"),
)

# A gang's nodes but for the first, which is the attempt's own row: each is charged until it says that it is gone.
attempt_members = Table(
    "attempt_members",
    metadata,
    _given("job_uid", Key),
    _given("number", Integer),
    _given("node", Key),
    _given("place", Integer),
    _given("devices", Text),
    _given("cpus", Integer),
    _given("memory_bytes", BigInteger),
    _given("state", Text),
    _given("assign_time_us", BigInteger),
    _given("claim_time_us", BigInteger),
    _given("start_time_us", BigInteger),
    _given("end_time_us", BigInteger),
    _given("reason", Text),
    PrimaryKeyConstraint("job_uid", "number", "node"),
    UniqueConstraint("job_uid", "number", "place"),
    ForeignKeyConstraint(["job_uid", "number"], ["attempts.job_uid", "attempts.number"]),
    _one_of("state", AttemptState),
    CheckConstraint("place > 0", name="place"),
    _partial("attempt_members_charged", "node", "job_uid", "number", where="state <> 'ENDED'"),
)

attempt_nodes = Table(
    "attempt_nodes",
    metadata,
    _given("job_uid", Key),
    _given("number", Integer),
    _given("node", Key),
    _given("claim_nonce", LargeBinary),
    _given("applied", BigInteger),
    PrimaryKeyConstraint("job_uid", "number", "node"),
    ForeignKeyConstraint(["job_uid", "number"], ["attempts.job_uid", "attempts.number"]),
    CheckConstraint("applied >= 0", name="applied"),
    sqlite_with_rowid=False,
)

# Invariant 6: a node's devices are never promised twice. A row lives as long as its attempt is charged.
device_charges = Table(
    "device_charges",
    metadata,
    _given("node", Key),
    _given("device", Integer),
    _given("job_uid", Key),
    _given("number", Integer),
    PrimaryKeyConstraint("node", "device"),
    ForeignKeyConstraint(["job_uid", "number"], ["attempts.job_uid", "attempts.number"]),
    Index("device_charges_by_attempt", "job_uid", "number"),
    sqlite_with_rowid=False,
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Key, primary_key=True),
    _given("state", Text),
    _given("reason", Text),
    _given("inventory", Text),
    _given("agent_version", Text),
    _given("host_boot_id", Text),
    _given("incarnation", BigInteger),
    _given("counter", BigInteger),
    _given("generation", BigInteger),
    _given("last_sync_time_us", BigInteger),
    _one_of("state", NodeState),
)

artifacts = Table(
    "artifacts",
    metadata,
    _job_uid(),
    _given("path", Key),
    _given("uri", Text),
    _given("size_bytes", BigInteger),
    _given("sha256", Text),
    PrimaryKeyConstraint("job_uid", "path"),
    CheckConstraint("size_bytes >= 0", name="size"),
)

logs = Table(
    "logs",
    metadata,
    _job_uid(),
    _given("attempt", Integer),
    _given("rank", Integer),
    _given("size_bytes", BigInteger),
    PrimaryKeyConstraint("job_uid", "attempt", "rank"),
    CheckConstraint("size_bytes >= 0", name="size"),
    sqlite_with_rowid=False,
)

endpoints = Table(
    "endpoints",
    metadata,
    _job_uid(),
    _given("kind", Key),
    _given("url", Text),
    _given("types", Text),
    _given("state", Text),
    _given("cursor", BigInteger),
    _given("tries", Integer),
    _given("next_try_time_us", BigInteger),
    _given("first_failure_time_us", BigInteger),
    _later("host"),
    PrimaryKeyConstraint("job_uid", "kind"),
    _one_of("state", EndpointState),
    CheckConstraint("cursor >= 0 AND tries >= 0", name="counts"),
    # In the order of the query, so that a round reads no more than it takes, however many are due.
    _partial("endpoints_active", "next_try_time_us", "job_uid", "kind", where="state = 'ACTIVE'"),
)

deliveries = Table(
    "deliveries",
    metadata,
    _job_uid(),
    _given("kind", Key),
    _given("sequence", BigInteger),
    _given("number", Integer),
    _given("time_us", BigInteger),
    _given("outcome", Text),
    _given("status_code", Integer),
    _given("detail", Text),
    _given("duration_seconds", Double),
    PrimaryKeyConstraint("job_uid", "kind", "sequence", "number"),
    _one_of("outcome", Outcome),
    CheckConstraint("sequence > 0 AND number > 0", name="numbers"),
)

pending_retries = Table(
    "pending_retries",
    metadata,
    _given("job_uid", Key),
    _given("kind", Key),
    _given("sequence", BigInteger),
    _given("tries", Integer),
    _given("next_try_time_us", BigInteger),
    _later("host"),
    PrimaryKeyConstraint("job_uid", "kind", "sequence"),
    ForeignKeyConstraint(["job_uid", "kind"], ["endpoints.job_uid", "endpoints.kind"]),
    CheckConstraint("sequence > 0 AND tries > 0", name="numbers"),
    Index("pending_retries_by_time", "next_try_time_us"),
    sqlite_with_rowid=False,
)

# `sequence` is the report's, so a chunk is stored once however often it is sent.
metric_chunks = Table(
    "metric_chunks",
    metadata,
    _job_uid(),
    _given("attempt", Integer),
    _given("sequence", BigInteger),
    _given("first_step", BigInteger),
    _given("last_step", BigInteger),
    _given("points", Integer),
    _given("series", Text),
    PrimaryKeyConstraint("job_uid", "attempt", "sequence"),
    CheckConstraint("attempt > 0 AND sequence > 0 AND points > 0", name="numbers"),
    CheckConstraint("0 <= first_step AND first_step <= last_step", name="steps"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    _job_uid(),
    _given("attempt", Integer),
    _given("step", BigInteger),
    _given("node", Key),
    _given("size_bytes", BigInteger),
    _given("manifest_digest", Text),
    _given("create_time_us", BigInteger),
    PrimaryKeyConstraint("job_uid", "attempt", "step"),
    CheckConstraint("attempt > 0 AND step > 0 AND size_bytes >= 0", name="numbers"),
    sqlite_with_rowid=False,
)

installation = Table(
    "installation",
    metadata,
    Column("key", Key, primary_key=True),
    _given("value", Text),
)
