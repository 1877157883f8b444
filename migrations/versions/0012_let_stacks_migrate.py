"""Let a stack say by whose order it moves, until when it is at work, and what it goes back to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("user_stacks", sa.Column("migration_order", DOCUMENT, nullable=True))
    op.add_column("user_stacks", sa.Column("recovered", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("user_stacks", sa.Column("busy_until", INSTANT, nullable=True))
    op.add_column("user_stacks", sa.Column("built", DOCUMENT, nullable=True))
    op.add_column("user_stacks", sa.Column("footing", DOCUMENT, nullable=True))
    op.add_column("user_stacks", sa.Column("refused", sa.Text(), nullable=True))
    op.add_column("user_stacks", sa.Column("refused_in", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("user_stacks", sa.Column("migrating_since", INSTANT, nullable=True))
    op.add_column("user_stacks", sa.Column("order_done", IDENTIFIER, nullable=True))
    op.add_column("user_stacks", sa.Column("order_outcome", IDENTIFIER, nullable=True))


def downgrade() -> None:
    for name in (
        "order_outcome",
        "order_done",
        "migrating_since",
        "refused_in",
        "refused",
        "footing",
        "built",
        "busy_until",
        "recovered",
        "migration_order",
    ):
        op.drop_column("user_stacks", name)
