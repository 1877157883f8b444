"""Let a release carry the prompts of agents and say who made it, and a group have a release and an idle stop of its own."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("releases", sa.Column("agent_prompts", DOCUMENT, nullable=False, server_default="{}"))
    op.add_column("releases", sa.Column("note", sa.Text(), nullable=False, server_default=""))
    op.add_column("releases", sa.Column("created_by", sa.Text(), nullable=False, server_default=""))
    op.add_column(
        "releases", sa.Column("is_of_settings", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    # Until now it was the settings alone that made one current.
    op.execute("UPDATE releases SET is_of_settings = is_current")
    op.create_table(
        "groups",
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("pin", IDENTIFIER, nullable=True),
        sa.Column("idle_stop_after", sa.BigInteger(), nullable=True),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["pin"], ["releases.id"], name=op.f("fk_groups_pin_releases")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_groups")),
    )


def downgrade() -> None:
    op.drop_table("groups")
    for name in ("is_of_settings", "created_by", "note", "agent_prompts"):
        op.drop_column("releases", name)
