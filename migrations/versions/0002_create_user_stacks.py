"""Create the stacks, what is left of removed ones, and the numbers of their changes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String().with_variant(sa.String(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "user_stacks",
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("job_id", IDENTIFIER, nullable=False),
        sa.Column("namespace", IDENTIFIER, nullable=False),
        sa.Column("region", IDENTIFIER, nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("desired", IDENTIFIER, nullable=False),
        sa.Column("group", IDENTIFIER, nullable=False),
        sa.Column("resources", IDENTIFIER, nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.Column("environment", DOCUMENT, nullable=False),
        sa.Column("wanted_release", IDENTIFIER, nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("fresh_start", sa.BigInteger(), nullable=False),
        sa.Column("rotation", sa.BigInteger(), nullable=False),
        sa.Column("delete_workspace", sa.Boolean(), nullable=False),
        sa.Column("successor", DOCUMENT, nullable=True),
        sa.Column("last_operation", IDENTIFIER, nullable=True),
        sa.Column("observed_generation", sa.BigInteger(), nullable=False),
        sa.Column("phase", IDENTIFIER, nullable=False),
        sa.Column("phase_since", INSTANT, nullable=False),
        sa.Column("health", IDENTIFIER, nullable=False),
        sa.Column("migration_state", IDENTIFIER, nullable=False),
        sa.Column("reason", IDENTIFIER, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("release", IDENTIFIER, nullable=True),
        sa.Column("secret_version", sa.BigInteger(), nullable=True),
        sa.Column("job_modify_index", sa.BigInteger(), nullable=True),
        sa.Column("fresh_start_done", sa.BigInteger(), nullable=False),
        sa.Column("rotation_done", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("facet_image", sa.Text(), nullable=True),
        sa.Column("facet_opencode_version", sa.Text(), nullable=True),
        sa.Column("facet_template", sa.Text(), nullable=True),
        sa.Column("facet_environment", sa.Text(), nullable=True),
        sa.Column("facet_resources", sa.Text(), nullable=True),
        sa.Column("facet_secret_version", sa.BigInteger(), nullable=True),
        sa.Column("facet_prompt", sa.Text(), nullable=True),
        sa.Column("facet_config", sa.Text(), nullable=True),
        sa.Column("facet_labels", sa.Text(), nullable=True),
        sa.Column("facet_endpoints", sa.Text(), nullable=True),
        sa.Column("workspace_volume_id", IDENTIFIER, nullable=True),
        sa.Column("workspace_node_id", IDENTIFIER, nullable=True),
        sa.Column("workspace_path", sa.Text(), nullable=True),
        sa.Column("runtime_allocation_id", IDENTIFIER, nullable=True),
        sa.Column("runtime_job_version", sa.BigInteger(), nullable=True),
        sa.Column("runtime_node", sa.Text(), nullable=True),
        sa.Column("runtime_image", sa.Text(), nullable=True),
        sa.Column("runtime_opencode_version", sa.Text(), nullable=True),
        sa.Column("runtime_revision", sa.Text(), nullable=True),
        sa.Column("runtime_secret_version", sa.BigInteger(), nullable=True),
        sa.Column("runtime_release", IDENTIFIER, nullable=True),
        sa.Column("runtime_restarts", sa.BigInteger(), nullable=True),
        sa.Column("runtime_started_at", INSTANT, nullable=True),
        sa.Column("runtime_host", sa.Text(), nullable=True),
        sa.Column("runtime_port", sa.BigInteger(), nullable=True),
        sa.Column("runtime_proven_at", INSTANT, nullable=True),
        sa.Column("claim_token", IDENTIFIER, nullable=True),
        sa.Column("claim_lapses_at", INSTANT, nullable=True),
        sa.Column("next_attempt_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["release"], ["releases.id"], name=op.f("fk_user_stacks_release_releases")),
        sa.ForeignKeyConstraint(
            ["wanted_release"], ["releases.id"], name=op.f("fk_user_stacks_wanted_release_releases")
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_user_stacks")),
        sa.UniqueConstraint("job_id", name=op.f("uq_user_stacks_job_id")),
    )
    op.create_index(op.f("ix_user_stacks_change_seq"), "user_stacks", ["change_seq"], unique=True)
    op.create_index(op.f("ix_user_stacks_group_user_id"), "user_stacks", ["group", "user_id"])
    op.create_index(
        op.f("ix_user_stacks_migration_state_user_id"), "user_stacks", ["migration_state", "user_id"]
    )
    op.create_index(
        op.f("ix_user_stacks_next_attempt_at"),
        "user_stacks",
        ["next_attempt_at"],
        sqlite_where=sa.text("next_attempt_at IS NOT NULL"),
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    )
    op.create_index(op.f("ix_user_stacks_phase_user_id"), "user_stacks", ["phase", "user_id"])
    op.create_index(op.f("ix_user_stacks_reason_user_id"), "user_stacks", ["reason", "user_id"])
    op.create_index(op.f("ix_user_stacks_release_user_id"), "user_stacks", ["release", "user_id"])
    op.create_index(op.f("ix_user_stacks_wanted_release"), "user_stacks", ["wanted_release"])

    op.create_table(
        "removed_stacks",
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("change_seq", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_removed_stacks")),
    )
    op.create_index(op.f("ix_removed_stacks_change_seq"), "removed_stacks", ["change_seq"], unique=True)

    op.create_table(
        "workspaces",
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("job_id", IDENTIFIER, nullable=False),
        sa.Column("volume_id", IDENTIFIER, nullable=False),
        sa.Column("node_id", IDENTIFIER, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("kept_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_workspaces")),
    )

    op.create_table(
        "sequences",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_sequences_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sequences")),
    )
    op.execute("INSERT INTO sequences (id, changes, events) VALUES (1, 0, 0)")


def downgrade() -> None:
    op.drop_table("sequences")
    op.drop_table("workspaces")
    op.drop_table("removed_stacks")
    op.drop_table("user_stacks")
