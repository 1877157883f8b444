"""Create standing conditions, orphans and cluster marks, and what a stack's row needs to say why it is stale."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    stale = sa.text("stale <> 0")
    op.add_column("user_stacks", sa.Column("edits", DOCUMENT, nullable=False, server_default="[]"))
    op.add_column(
        "user_stacks", sa.Column("edits_restart", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("user_stacks", sa.Column("recycled_at", INSTANT, nullable=True))
    op.add_column("user_stacks", sa.Column("stale", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index(
        op.f("ix_user_stacks_user_id_stale"),
        "user_stacks",
        ["user_id", "stale"],
        sqlite_where=stale,
        postgresql_where=stale,
    )
    op.create_index(op.f("ix_user_stacks_health_user_id"), "user_stacks", ["health", "user_id"])
    op.create_index(op.f("ix_events_at"), "events", ["at"])
    op.create_table(
        "conditions",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("kind", IDENTIFIER, nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("details", DOCUMENT, nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("confirmed_at", INSTANT, nullable=True),
        sa.Column("confirmed_by", sa.Text(), nullable=True),
        sa.Column("cleared_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conditions")),
    )
    op.create_table(
        "orphans",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("kind", IDENTIFIER, nullable=False),
        sa.Column("job_id", IDENTIFIER, nullable=False),
        sa.Column("reference", IDENTIFIER, nullable=False),
        sa.Column("installation", IDENTIFIER, nullable=True),
        sa.Column("user_id", IDENTIFIER, nullable=True),
        sa.Column("details", DOCUMENT, nullable=False),
        sa.Column("proven", sa.Boolean(), nullable=False),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("confirmations", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orphans")),
    )
    op.create_table(
        "installations",
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("cluster_mark", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_installations")),
    )


def downgrade() -> None:
    op.drop_table("installations")
    op.drop_table("orphans")
    op.drop_table("conditions")
    op.drop_index(op.f("ix_events_at"), "events")
    op.drop_index(op.f("ix_user_stacks_health_user_id"), "user_stacks")
    op.drop_index(op.f("ix_user_stacks_user_id_stale"), "user_stacks")
    for name in ("stale", "recycled_at", "edits_restart", "edits"):
        op.drop_column("user_stacks", name)
