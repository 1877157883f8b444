"""Create rollouts, the stacks that each is to move, and the plans that they are bound to."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("state", IDENTIFIER, nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.Column("release", IDENTIFIER, nullable=True),
        sa.Column("target_before", IDENTIFIER, nullable=True),
        sa.Column("specification", DOCUMENT, nullable=False),
        sa.Column("progress", DOCUMENT, nullable=False),
        sa.Column("reason", IDENTIFIER, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("claim_token", IDENTIFIER, nullable=True),
        sa.Column("claim_lapses_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["release"], ["releases.id"], name=op.f("fk_rollouts_release_releases")),
        sa.ForeignKeyConstraint(
            ["target_before"], ["releases.id"], name=op.f("fk_rollouts_target_before_releases")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(
        "uq_rollouts_is_active",
        "rollouts",
        ["is_active"],
        unique=True,
        sqlite_where=sa.text("is_active"),
        postgresql_where=sa.text("is_active"),
    )
    op.create_table(
        "rollout_stacks",
        sa.Column("rollout_id", IDENTIFIER, nullable=False),
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("wave", sa.BigInteger(), nullable=False),
        sa.Column("state", IDENTIFIER, nullable=False),
        sa.Column("migration_class", IDENTIFIER, nullable=True),
        sa.Column("release_before", IDENTIFIER, nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("stack_created_at", INSTANT, nullable=False),
        sa.Column("orders", sa.BigInteger(), nullable=False),
        sa.Column("goes_back", sa.Boolean(), nullable=False),
        sa.Column("first_ordered_at", INSTANT, nullable=True),
        sa.Column("ordered_at", INSTANT, nullable=True),
        sa.Column("prompt", IDENTIFIER, nullable=True),
        sa.Column("reason", IDENTIFIER, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_rollout_stacks_rollout_id_rollouts")
        ),
        sa.PrimaryKeyConstraint("rollout_id", "user_id", name=op.f("pk_rollout_stacks")),
    )
    op.create_index(
        op.f("ix_rollout_stacks_rollout_id_wave_state"), "rollout_stacks", ["rollout_id", "wave", "state"]
    )
    op.create_table(
        "rollout_plans",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("specification", DOCUMENT, nullable=False),
        sa.Column("stacks", DOCUMENT, nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("lapses_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_plans")),
    )
    op.create_index(op.f("ix_rollout_plans_lapses_at"), "rollout_plans", ["lapses_at"])


def downgrade() -> None:
    for name in ("rollout_plans", "rollout_stacks", "rollouts"):
        op.drop_table(name)
