"""Let a stack keep why its change was refused, also while what ran before is started again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("user_stacks", sa.Column("refusal", DOCUMENT, nullable=True))


def downgrade() -> None:
    op.drop_column("user_stacks", "refusal")
