"""The tables. The migrations build exactly this; a test compares the two."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    false,
    text,
)

from opencode_lifecycle.adapters.database.columns import document, identifier, instant, number, prose

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_UNFINISHED = text("finished_at IS NULL")
_DUE = text("next_attempt_at IS NOT NULL")
_CURRENT = text("is_current")
_STALE = text("stale <> 0")
_ACTIVE = text("is_active")
_CLAIMED = text("claim_token IS NOT NULL")

releases: Final = Table(
    "releases",
    metadata,
    identifier("id", primary_key=True),
    Column("number", Integer(), nullable=False, unique=True),
    prose("image"),
    prose("opencode_version"),
    prose("template"),
    prose("instructions"),
    prose("managed_config"),
    document("environment"),
    document("resource_classes"),
    instant("created_at"),
    document("agent_prompts", server_default="{}"),
    prose("note", server_default=""),
    prose("created_by", server_default=""),
    Column("is_of_settings", Boolean(), nullable=False, server_default=false()),
    Column("is_current", Boolean(), nullable=False),
    Index(
        "uq_releases_is_current", "is_current", unique=True, sqlite_where=_CURRENT, postgresql_where=_CURRENT
    ),
)

user_stacks: Final = Table(
    "user_stacks",
    metadata,
    identifier("user_id", primary_key=True),
    identifier("job_id", unique=True),
    identifier("namespace"),
    identifier("region"),
    # Intent: written by accepted requests
    number("generation"),
    identifier("desired"),
    identifier("group"),
    identifier("resources"),
    document("labels"),
    document("environment"),
    identifier("wanted_release", ForeignKey("releases.id")),
    Column("pinned", Boolean(), nullable=False),
    Column("held", Boolean(), nullable=False),
    number("fresh_start"),
    number("rotation"),
    Column("delete_workspace", Boolean(), nullable=False),
    document("successor", nullable=True),
    identifier("last_operation", nullable=True),
    document("migration_order", nullable=True),
    number("recovered", server_default="0"),
    # Lease: written by backends that are at work with it
    instant("busy_until", nullable=True),
    # Status: written by whoever holds the claim
    number("observed_generation"),
    identifier("phase"),
    instant("phase_since"),
    identifier("health"),
    identifier("migration_state"),
    identifier("reason", nullable=True),
    prose("message"),
    identifier("release", ForeignKey("releases.id"), nullable=True),
    number("secret_version", nullable=True),
    number("job_modify_index", nullable=True),
    number("fresh_start_done"),
    number("rotation_done"),
    number("attempts"),
    # Status: the facets that the job was last registered with
    prose("facet_image", nullable=True),
    prose("facet_opencode_version", nullable=True),
    prose("facet_template", nullable=True),
    prose("facet_environment", nullable=True),
    prose("facet_resources", nullable=True),
    number("facet_secret_version", nullable=True),
    prose("facet_prompt", nullable=True),
    prose("facet_config", nullable=True),
    prose("facet_labels", nullable=True),
    prose("facet_endpoints", nullable=True),
    # Status: the workspace volume
    identifier("workspace_volume_id", nullable=True),
    identifier("workspace_node_id", nullable=True),
    prose("workspace_path", nullable=True),
    # Status: the runtime as it was last proven
    identifier("runtime_allocation_id", nullable=True),
    number("runtime_job_version", nullable=True),
    prose("runtime_node", nullable=True),
    prose("runtime_image", nullable=True),
    prose("runtime_opencode_version", nullable=True),
    prose("runtime_revision", nullable=True),
    number("runtime_secret_version", nullable=True),
    identifier("runtime_release", nullable=True),
    number("runtime_restarts", nullable=True),
    instant("runtime_started_at", nullable=True),
    prose("runtime_host", nullable=True),
    number("runtime_port", nullable=True),
    instant("runtime_proven_at", nullable=True),
    # Whose turn it is
    identifier("claim_token", nullable=True),
    instant("claim_lapses_at", nullable=True),
    instant("next_attempt_at", nullable=True),
    instant("created_at"),
    instant("updated_at"),
    number("change_seq"),
    # Status: why it is not as it should be
    document("edits", server_default="[]"),
    Column("edits_restart", Boolean(), nullable=False, server_default=false()),
    instant("recycled_at", nullable=True),
    number("stale", server_default="0"),
    document("built", nullable=True),
    document("footing", nullable=True),
    prose("refused", nullable=True),
    number("refused_in", server_default="0"),
    instant("migrating_since", nullable=True),
    identifier("order_done", nullable=True),
    identifier("order_outcome", nullable=True),
    document("refusal", nullable=True),
    # One index for both: pages in the order of users, and counting by the mask without a look at the rows.
    Index(None, "user_id", "stale", sqlite_where=_STALE, postgresql_where=_STALE),
    Index(None, "change_seq", unique=True),
    Index(None, "next_attempt_at", sqlite_where=_DUE, postgresql_where=_DUE),
    Index(None, "phase", "user_id"),
    Index(None, "health", "user_id"),
    Index(None, "migration_state", "user_id"),
    Index(None, "release", "user_id"),
    Index(None, "reason", "user_id"),
    Index(None, "group", "user_id"),
    Index(None, "wanted_release"),
)

removed_stacks: Final = Table(
    "removed_stacks",
    metadata,
    identifier("user_id", primary_key=True),
    number("change_seq"),
    instant("removed_at"),
    Index(None, "change_seq", unique=True),
)

workspaces: Final = Table(
    "workspaces",
    metadata,
    identifier("user_id", primary_key=True),
    identifier("job_id"),
    identifier("volume_id"),
    identifier("node_id"),
    prose("path"),
    instant("kept_at"),
)

sequences: Final = Table(
    "sequences",
    metadata,
    Column("id", Integer(), primary_key=True, autoincrement=False),
    number("changes"),
    number("events"),
    CheckConstraint("id = 1", name="one_row"),
)
"""One row: the last number given to a change of a stack, and to an event."""

operations: Final = Table(
    "operations",
    metadata,
    identifier("id", primary_key=True),
    identifier("kind"),
    identifier("user_id"),
    number("generation"),
    identifier("state"),
    document("phases"),
    identifier("reason", nullable=True),
    prose("message"),
    document("receipt", nullable=True),
    prose("principal"),
    instant("created_at"),
    instant("finished_at", nullable=True),
    Index("ix_operations_unfinished", "user_id", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    Index(None, "finished_at"),
)

events: Final = Table(
    "events",
    metadata,
    Column("seq", BigInteger(), primary_key=True, autoincrement=False),
    identifier("id", unique=True),
    identifier("user_id"),
    identifier("kind"),
    prose("actor"),
    instant("at"),
    number("generation"),
    document("data"),
    Index(None, "user_id", "seq"),
    # What is old is found without a look at all the rest, while writes wait.
    Index(None, "at"),
)

service_tokens: Final = Table(
    "service_tokens",
    metadata,
    identifier("id", primary_key=True),
    prose("name"),
    identifier("role"),
    identifier("subject", nullable=True),
    identifier("secret_hash", unique=True),
    instant("created_at"),
    prose("created_by"),
    instant("revoked_at", nullable=True),
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    identifier("principal", primary_key=True),
    identifier("route", primary_key=True),
    identifier("key", primary_key=True),
    identifier("request_hash"),
    Column("status", Integer(), nullable=True),
    prose("location", nullable=True),
    identifier("operation_id", nullable=True),
    instant("lapses_at"),
    Index(None, "lapses_at"),
)

conditions: Final = Table(
    "conditions",
    metadata,
    identifier("id", primary_key=True),
    identifier("kind"),
    prose("message"),
    document("details"),
    instant("since"),
    instant("confirmed_at", nullable=True),
    prose("confirmed_by", nullable=True),
    instant("cleared_at", nullable=True),
    identifier("reported_by", nullable=True),
    instant("reported_until", nullable=True),
    number("confirmed_extent", nullable=True),
)

orphans: Final = Table(
    "orphans",
    metadata,
    identifier("id", primary_key=True),
    identifier("kind"),
    identifier("job_id"),
    identifier("reference"),
    identifier("installation", nullable=True),
    identifier("user_id", nullable=True),
    document("details"),
    Column("proven", Boolean(), nullable=False),
    instant("first_seen_at"),
    instant("last_seen_at"),
    number("confirmations"),
    # Who is seeing to it
    identifier("claim_token", nullable=True),
    instant("claim_lapses_at", nullable=True),
    Index(None, "job_id", sqlite_where=_CLAIMED, postgresql_where=_CLAIMED),
)

groups: Final = Table(
    "groups",
    metadata,
    identifier("name", primary_key=True),
    identifier("pin", ForeignKey("releases.id"), nullable=True),
    number("idle_stop_after", nullable=True),
    instant("changed_at"),
    prose("changed_by"),
)
"""Groups that differ from the default in anything. `idle_stop_after` is in seconds."""

snapshots: Final = Table(
    "snapshots",
    metadata,
    identifier("user_id", primary_key=True),
    identifier("id", primary_key=True),
    instant("taken_at"),
    prose("opencode_version"),
    prose("before_version"),
    number("bytes"),
    document("data"),
    instant("restored_at", nullable=True),
    instant("observed_at"),
)
"""What was last read of each workspace: `observed_at` is the same in all rows of a user."""

rollouts: Final = Table(
    "rollouts",
    metadata,
    identifier("id", primary_key=True),
    identifier("state"),
    Column("is_active", Boolean(), nullable=False),
    identifier("release", ForeignKey("releases.id"), nullable=True),
    identifier("target_before", ForeignKey("releases.id"), nullable=True),
    document("specification"),
    document("progress"),
    identifier("reason", nullable=True),
    prose("message"),
    number("version"),
    prose("created_by"),
    instant("created_at"),
    instant("updated_at"),
    instant("finished_at", nullable=True),
    # Which replica drives it
    identifier("claim_token", nullable=True),
    instant("claim_lapses_at", nullable=True),
    Index("uq_rollouts_is_active", "is_active", unique=True, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE),
)

rollout_stacks: Final = Table(
    "rollout_stacks",
    metadata,
    identifier("rollout_id", ForeignKey("rollouts.id"), primary_key=True),
    identifier("user_id", primary_key=True),
    number("wave"),
    identifier("state"),
    identifier("migration_class", nullable=True),
    identifier("release_before", nullable=True),
    number("generation"),
    instant("stack_created_at"),
    number("orders"),
    Column("goes_back", Boolean(), nullable=False),
    instant("first_ordered_at", nullable=True),
    instant("ordered_at", nullable=True),
    identifier("prompt", nullable=True),
    identifier("reason", nullable=True),
    prose("message"),
    instant("changed_at"),
    Index(None, "rollout_id", "wave", "state"),
)

rollout_plans: Final = Table(
    "rollout_plans",
    metadata,
    identifier("id", primary_key=True),
    document("specification"),
    document("stacks"),
    prose("created_by"),
    instant("created_at"),
    instant("lapses_at"),
    Index(None, "lapses_at"),
)

installations: Final = Table(
    "installations",
    metadata,
    identifier("name", primary_key=True),
    identifier("cluster_mark"),
)
"""By what each installation knows its cluster again."""
