"""Create the snapshots of what runtimes keep, as their entrypoints report them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("taken_at", INSTANT, nullable=False),
        sa.Column("opencode_version", sa.Text(), nullable=False),
        sa.Column("before_version", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("restored_at", INSTANT, nullable=True),
        sa.Column("observed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "id", name=op.f("pk_snapshots")),
    )


def downgrade() -> None:
    op.drop_table("snapshots")
