"""Attempts on several nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")
CHARGED = sa.text("state <> 'ENDED'")


def upgrade() -> None:
    """Adds them; attempts from before have one node."""
    for column in ("others", "meeting"):
        op.add_column("attempts", sa.Column(column, KEY, nullable=False, server_default=""))
    op.create_table(
        "attempt_members",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node", KEY, nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("devices", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("assign_time_us", sa.BigInteger(), nullable=False),
        sa.Column("claim_time_us", sa.BigInteger(), nullable=False),
        sa.Column("start_time_us", sa.BigInteger(), nullable=False),
        sa.Column("end_time_us", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("state IN ('ASSIGNED', 'CLAIMED', 'ENDED', 'LOST')", name=op.f("ck_attempt_members_state")),
        sa.CheckConstraint("place > 0", name=op.f("ck_attempt_members_place")),
        sa.ForeignKeyConstraint(
            ["job_uid", "number"], ["attempts.job_uid", "attempts.number"], name=op.f("fk_attempt_members_job_uid")
        ),
        sa.PrimaryKeyConstraint("job_uid", "number", "node", name=op.f("pk_attempt_members")),
        sa.UniqueConstraint("job_uid", "number", "place", name=op.f("uq_attempt_members_job_uid_number_place")),
    )
    op.create_index(
        "attempt_members_charged",
        "attempt_members",
        ["node", "job_uid", "number"],
        sqlite_where=CHARGED,
        postgresql_where=CHARGED,
    )
