"""Let whoever sees to an orphan claim it, so that no two do it at once and no stack of its name is worked on meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    claimed = sa.text("claim_token IS NOT NULL")
    op.add_column("orphans", sa.Column("claim_token", IDENTIFIER, nullable=True))
    op.add_column("orphans", sa.Column("claim_lapses_at", INSTANT, nullable=True))
    op.create_index(
        op.f("ix_orphans_job_id"), "orphans", ["job_id"], sqlite_where=claimed, postgresql_where=claimed
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_orphans_job_id"), "orphans")
    op.drop_column("orphans", "claim_lapses_at")
    op.drop_column("orphans", "claim_token")
