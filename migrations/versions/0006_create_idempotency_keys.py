"""Create the answers kept for requests that are repeated."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("principal", IDENTIFIER, nullable=False),
        sa.Column("route", IDENTIFIER, nullable=False),
        sa.Column("key", IDENTIFIER, nullable=False),
        sa.Column("request_hash", IDENTIFIER, nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("operation_id", IDENTIFIER, nullable=True),
        sa.Column("lapses_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("principal", "route", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_lapses_at"), "idempotency_keys", ["lapses_at"])


def downgrade() -> None:
    op.drop_table("idempotency_keys")
