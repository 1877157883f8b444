"""Let a condition say which replica answers for it and until when, and how much of it was confirmed."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("conditions", sa.Column("reported_by", IDENTIFIER, nullable=True))
    op.add_column("conditions", sa.Column("reported_until", INSTANT, nullable=True))
    op.add_column("conditions", sa.Column("confirmed_extent", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("confirmed_extent", "reported_until", "reported_by"):
        op.drop_column("conditions", name)
