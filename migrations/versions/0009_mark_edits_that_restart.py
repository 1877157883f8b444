"""Mark among the stale which edits from outside need a restart to take back, so that a fleet is counted without its rows."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

EDITED_OUTSIDE = 1 << 10
EDITS_RESTART = 1 << 30


def upgrade() -> None:
    op.execute(
        f"UPDATE user_stacks SET stale = stale + {EDITS_RESTART} "  # noqa: S608 - made of constants
        f"WHERE edits_restart AND (stale & {EDITED_OUTSIDE}) <> 0"
    )


def downgrade() -> None:
    op.execute(
        f"UPDATE user_stacks SET stale = stale - {EDITS_RESTART} "  # noqa: S608 - made of constants
        f"WHERE (stale & {EDITS_RESTART}) <> 0"
    )
