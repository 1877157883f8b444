"""Create the operations: what was asked, and what came of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("kind", IDENTIFIER, nullable=False),
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("state", IDENTIFIER, nullable=False),
        sa.Column("phases", DOCUMENT, nullable=False),
        sa.Column("reason", IDENTIFIER, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("receipt", DOCUMENT, nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
    )
    op.create_index(op.f("ix_operations_finished_at"), "operations", ["finished_at"])
    op.create_index(
        "ix_operations_unfinished",
        "operations",
        ["user_id"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("operations")
