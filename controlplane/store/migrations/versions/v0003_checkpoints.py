"""The checkpoints that trainers keep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")


def upgrade() -> None:
    """Adds them; those of jobs from before are not known."""
    op.create_table(
        "checkpoints",
        sa.Column("job_uid", KEY, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("node", KEY, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest_digest", sa.Text(), nullable=False),
        sa.Column("create_time_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("attempt > 0 AND step > 0 AND size_bytes >= 0", name=op.f("ck_checkpoints_numbers")),
        sa.ForeignKeyConstraint(["job_uid"], ["jobs.uid"], name=op.f("fk_checkpoints_job_uid")),
        sa.PrimaryKeyConstraint("job_uid", "attempt", "step", name=op.f("pk_checkpoints")),
        sqlite_with_rowid=False,
    )
