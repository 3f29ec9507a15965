"""Hosts of endpoints, who publishes where, and chunks of metrics."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
ACTIVE = sa.text("state = 'ACTIVE'")
LIVE_OUTPUT = sa.text("end_time_us = 0 AND output_place <> ''")


def upgrade() -> None:
    """Adds them; jobs from before hold no place."""
    for table, column in (("jobs", "output_place"), ("endpoints", "host"), ("pending_retries", "host")):
        op.add_column(table, sa.Column(column, KEY, nullable=False, server_default=""))
    op.create_index(
        "jobs_output",
        "jobs",
        ["project", "output_place"],
        sqlite_where=LIVE_OUTPUT,
        postgresql_where=LIVE_OUTPUT,
    )
    op.drop_index("endpoints_active", "endpoints")
    op.create_index(
        "endpoints_active",
        "endpoints",
        ["next_try_time_us", "job_uid", "kind"],
        sqlite_where=ACTIVE,
        postgresql_where=ACTIVE,
    )
    op.create_table(
        "metric_chunks",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.CheckConstraint("attempt > 0 AND sequence > 0 AND points > 0", name=op.f("ck_metric_chunks_numbers")),
        sa.CheckConstraint("0 <= first_step AND first_step <= last_step", name=op.f("ck_metric_chunks_steps")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_metric_chunks_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "attempt", "sequence", name=op.f("pk_metric_chunks")),
    )
