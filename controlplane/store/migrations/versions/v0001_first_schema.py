"""The first schema; what each table is for stands in `controlplane/store/tables.py`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Makes every table, those that others refer to first."""
    _installation()
    _jobs()
    _nodes()
    _artifacts()
    _attempts()
    _deliveries()
    _endpoints()
    _events()
    _job_labels()
    _job_specs()
    _logs()
    _attempt_nodes()
    _device_charges()
    _pending_retries()


def _installation() -> None:
    op.create_table(
        "installation",
        sa.Column("key", KEY, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_installation")),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("uid", KEY, nullable=False),
        sa.Column("project", KEY, nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("granted", sa.Boolean(), nullable=False),
        sa.Column("pause_wanted", sa.Boolean(), nullable=False),
        sa.Column("not_before_us", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("start_time_us", sa.BigInteger(), nullable=False),
        sa.Column("update_time_us", sa.BigInteger(), nullable=False),
        sa.Column("end_time_us", sa.BigInteger(), nullable=False),
        sa.Column("published_sequence", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.Column("pending_reason", sa.Text(), nullable=False),
        sa.Column("endpoint_owed", sa.Boolean(), nullable=False),
        sa.Column("secrets_held", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "(state IN ('CANCELLED', 'FAILED', 'SUCCEEDED')) = (end_time_us > 0)", name=op.f("ck_jobs_end_time")
        ),
        sa.CheckConstraint("pending_reason = '' OR state = 'QUEUED'", name=op.f("ck_jobs_pending_reason")),
        sa.CheckConstraint(
            "state IN ('QUEUED', 'STARTING', 'RUNNING', 'PAUSING', 'PAUSED', "
            "'RECOVERING', 'CANCELLING', 'SUCCEEDED', 'FAILED', 'CANCELLED')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('STARTING', 'RUNNING', 'PAUSING') OR attempt > 0", name=op.f("ck_jobs_attempt")
        ),
        sa.CheckConstraint("0 <= priority AND priority <= 100", name=op.f("ck_jobs_priority")),
        sa.CheckConstraint(
            "0 <= published_sequence AND published_sequence <= last_sequence", name=op.f("ck_jobs_published")
        ),
        sa.CheckConstraint("attempt >= 0 AND failures >= 0 AND losses >= 0", name=op.f("ck_jobs_counts")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_jobs")),
        sa.UniqueConstraint("project", "job_id", name=op.f("uq_jobs_project_job_id")),
    )
    op.create_index("jobs_by_state", "jobs", ["project", "state", "uid"])
    op.create_index(
        "jobs_endpoint_owed",
        "jobs",
        ["uid"],
        sqlite_where=sa.text("endpoint_owed"),
        postgresql_where=sa.text("endpoint_owed"),
    )
    op.create_index(
        "jobs_old_secrets",
        "jobs",
        ["end_time_us"],
        sqlite_where=sa.text("secrets_held AND end_time_us > 0"),
        postgresql_where=sa.text("secrets_held AND end_time_us > 0"),
    )
    op.create_index(
        "jobs_recovering",
        "jobs",
        ["not_before_us"],
        sqlite_where=sa.text("state = 'RECOVERING'"),
        postgresql_where=sa.text("state = 'RECOVERING'"),
    )
    op.create_index(
        "jobs_unseen",
        "jobs",
        [sa.text("priority DESC"), "uid"],
        sqlite_where=sa.text("state = 'QUEUED' AND pending_reason = ''"),
        postgresql_where=sa.text("state = 'QUEUED' AND pending_reason = ''"),
    )
    op.create_index(
        "jobs_waiting",
        "jobs",
        [sa.text("priority DESC"), "uid"],
        sqlite_where=sa.text("state = 'QUEUED'"),
        postgresql_where=sa.text("state = 'QUEUED'"),
    )
    op.create_index(
        "jobs_unpublished",
        "jobs",
        ["uid"],
        sqlite_where=sa.text("published_sequence < last_sequence"),
        postgresql_where=sa.text("published_sequence < last_sequence"),
    )


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("name", KEY, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("inventory", sa.Text(), nullable=False),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("host_boot_id", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("last_sync_time_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('READY', 'NOT_READY', 'DRAINING')", name=op.f("ck_nodes_state")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("path", KEY, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_artifacts_size")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_artifacts_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "path", name=op.f("pk_artifacts")),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node", KEY, nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("assign_time_us", sa.BigInteger(), nullable=False),
        sa.Column("claim_time_us", sa.BigInteger(), nullable=False),
        sa.Column("start_time_us", sa.BigInteger(), nullable=False),
        sa.Column("end_time_us", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("manifest_digest", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('ASSIGNED', 'CLAIMED', 'ENDED', 'LOST')", name=op.f("ck_attempts_state")),
        sa.CheckConstraint("number > 0", name=op.f("ck_attempts_number")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_attempts_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "number", name=op.f("pk_attempts")),
    )
    op.create_index(
        "attempts_charged",
        "attempts",
        ["node", "job_uid", "number"],
        sqlite_where=sa.text("state <> 'ENDED'"),
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "attempts_granted",
        "attempts",
        ["job_uid"],
        unique=True,
        sqlite_where=sa.text("manifest_digest <> ''"),
        postgresql_where=sa.text("manifest_digest <> ''"),
    )


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('DELIVERED', 'FAILED', 'DEAD', 'DISABLED')", name=op.f("ck_deliveries_outcome")
        ),
        sa.CheckConstraint("sequence > 0 AND number > 0", name=op.f("ck_deliveries_numbers")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_deliveries_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "kind", "sequence", "number", name=op.f("pk_deliveries")),
    )


def _endpoints() -> None:
    op.create_table(
        "endpoints",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("types", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_time_us", sa.BigInteger(), nullable=False),
        sa.Column("first_failure_time_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('ACTIVE', 'SETTLED', 'DISABLED')", name=op.f("ck_endpoints_state")),
        sa.CheckConstraint("cursor >= 0 AND tries >= 0", name=op.f("ck_endpoints_counts")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_endpoints_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "kind", name=op.f("pk_endpoints")),
    )
    op.create_index(
        "endpoints_active",
        "endpoints",
        ["next_try_time_us"],
        sqlite_where=sa.text("state = 'ACTIVE'"),
        postgresql_where=sa.text("state = 'ACTIVE'"),
    )


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.CheckConstraint("sequence > 0", name=op.f("ck_events_sequence")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_events_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "sequence", name=op.f("pk_events")),
    )


def _job_labels() -> None:
    op.create_table(
        "job_labels",
        sa.Column("project", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("value", KEY, nullable=False),
        sa.Column("job_uid", KEY, nullable=False),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_job_labels_job_uid")),
        sa.PrimaryKeyConstraint("project", "key", "value", "job_uid", name=op.f("pk_job_labels")),
        sqlite_with_rowid=False,
    )


def _job_specs() -> None:
    op.create_table(
        "job_specs",
        sa.Column("uid", KEY, nullable=False),
        sa.Column("sent", sa.Text(), nullable=False),
        sa.Column("requirement", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("warnings", sa.Text(), nullable=False),
        sa.Column("secret_macs", sa.Text(), nullable=False),
        sa.Column("webhook", sa.Boolean(), nullable=False),
        sa.Column("output_uri", sa.Text(), nullable=False),
        sa.Column("base_model_commit", sa.Text(), nullable=False),
        sa.Column("retry_of", sa.Text(), nullable=False),
        sa.Column("effective_spec", sa.Text(), nullable=False),
        sa.Column("sealed_secrets", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["uid"], ["jobs.uid"], name=op.f("fk_job_specs_uid")),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_job_specs")),
    )


def _logs() -> None:
    op.create_table(
        "logs",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_logs_size")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_logs_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "attempt", "rank", name=op.f("pk_logs")),
        sqlite_with_rowid=False,
    )


def _attempt_nodes() -> None:
    op.create_table(
        "attempt_nodes",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node", KEY, nullable=False),
        sa.Column("claim_nonce", sa.LargeBinary(), nullable=False),
        sa.Column("applied", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("applied >= 0", name=op.f("ck_attempt_nodes_applied")),
        sa.ForeignKeyConstraint(
            ["job_uid", "number"], ["attempts.job_uid", "attempts.number"], name=op.f("fk_attempt_nodes_job_uid")
        ),
        sa.PrimaryKeyConstraint("job_uid", "number", "node", name=op.f("pk_attempt_nodes")),
        sqlite_with_rowid=False,
    )


def _device_charges() -> None:
    op.create_table(
        "device_charges",
        sa.Column("node", KEY, nullable=False),
        sa.Column("device", sa.Integer(), nullable=False),
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_uid", "number"], ["attempts.job_uid", "attempts.number"], name=op.f("fk_device_charges_job_uid")
        ),
        sa.PrimaryKeyConstraint("node", "device", name=op.f("pk_device_charges")),
        sqlite_with_rowid=False,
    )
    op.create_index("device_charges_by_attempt", "device_charges", ["job_uid", "number"])


def _pending_retries() -> None:
    op.create_table(
        "pending_retries",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_time_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("sequence > 0 AND tries > 0", name=op.f("ck_pending_retries_numbers")),
        sa.ForeignKeyConstraint(
            ["job_uid", "kind"], ["endpoints.job_uid", "endpoints.kind"], name=op.f("fk_pending_retries_job_uid")
        ),
        sa.PrimaryKeyConstraint("job_uid", "kind", "sequence", name=op.f("pk_pending_retries")),
        sqlite_with_rowid=False,
    )
    op.create_index("pending_retries_by_time", "pending_retries", ["next_try_time_us"])
