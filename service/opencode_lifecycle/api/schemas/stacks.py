"""A stack, its address and its credentials, and what an ensure asks for."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field

from opencode_lifecycle.api.schemas.shapes import (
    Incoming,
    LabelName,
    LabelValue,
    Mirror,
    Outgoing,
    inert,
    no_default,
)
from opencode_lifecycle.model.errors import BodyFault, InvalidBody
from opencode_lifecycle.model.identifiers import GROUP_PATTERN
from opencode_lifecycle.model.migration import AtDeadline, MigrationClass
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.stack import Runtime
from opencode_lifecycle.model.staleness import class_of
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason
from opencode_lifecycle.model.view import Credentials, EnsureRequest, StackView

MAX_LABELS: Final = 16
MAX_VARIABLES: Final = 64
MAX_VARIABLE_VALUE: Final = 4096

VariableName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
VariableValue = Annotated[str, Field(max_length=MAX_VARIABLE_VALUE), AfterValidator(inert)]


class EnsureBody(Incoming):
    """What a stack should be. A field that is absent stays as it is; on a new stack it has its default."""

    group: Annotated[
        str, Field(pattern=GROUP_PATTERN, examples=["default"], json_schema_extra=no_default)
    ] = ""
    resources: Annotated[
        str,
        Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", examples=["small"], json_schema_extra=no_default),
    ] = ""
    labels: Annotated[
        dict[LabelName, LabelValue], Field(max_length=MAX_LABELS, json_schema_extra=no_default)
    ] = Field(default_factory=dict)
    environment: Annotated[
        dict[VariableName, VariableValue],
        Field(max_length=MAX_VARIABLES, json_schema_extra=no_default),
    ] = Field(default_factory=dict)

    def to_domain(self, allowed_environment: Collection[str]) -> EnsureRequest:
        """Convert, refusing names of variables that the operator has not allowed."""
        faults = [
            BodyFault(f"/environment/{name}", "the operator does not allow this name")
            for name in self.environment
            if name not in allowed_environment
        ]
        if faults:
            raise InvalidBody(faults)
        given = self.model_fields_set
        return EnsureRequest(
            group=self.group if "group" in given else None,
            resources=self.resources if "resources" in given else None,
            labels=self.labels if "labels" in given else None,
            environment=self.environment if "environment" in given else None,
        )


class StalenessShape(Mirror):
    facet: str
    have: str
    want: str
    severity: str
    restart: bool


class AddressesShape(Outgoing):
    internal: str | None
    public: str | None


class RuntimeShape(Outgoing):
    job_version: int
    allocation_id: str
    node: str
    image: str
    opencode_version: str
    labels: Mapping[str, str]
    revision: str
    restarts: int
    started_at: datetime | None
    addresses: AddressesShape

    @classmethod
    def from_domain(cls, runtime: Runtime, labels: Mapping[str, str], public_url: str | None) -> Self:
        return cls(
            job_version=runtime.job_version,
            allocation_id=runtime.allocation_id,
            node=runtime.node,
            image=runtime.image,
            opencode_version=runtime.opencode_version,
            labels=labels,
            revision=runtime.revision,
            restarts=runtime.restarts,
            started_at=runtime.started_at,
            addresses=AddressesShape(
                internal=runtime.address.url if runtime.address is not None else None,
                public=public_url if runtime.address is not None else None,
            ),
        )


class OrderShape(Mirror):
    """By whose order it is migrated: the id of a rollout or an operation. `deadline` is until when an agent is waited for."""

    id: str
    deadline: datetime | None
    at_deadline: AtDeadline


class ClosedNodeShape(Outgoing):
    """
    A node that takes nothing new. While it is `draining`, a runtime on it is stopped when it is idle, at `forced_at` also
    when it is not; what is left at `deadline` is ended by Nomad. Both are null for a drain that waits for ever.
    """

    name: str
    draining: bool
    forced_at: datetime | None
    deadline: datetime | None

    @classmethod
    def from_domain(cls, node: ClosedNode) -> Self:
        drain = node.drain
        return cls(
            name=node.name,
            draining=drain is not None,
            forced_at=drain.forced_at if drain is not None else None,
            deadline=drain.deadline if drain is not None else None,
        )


class MigrationShape(Outgoing):
    """
    How far it is on the way from what runs to what it should be, and what it goes back to when that fails.

    `class` is how much what is left to do disturbs: `live` and `reload` keep the process. `refused` is the digest of what
    was tried and taken back; as long as that is what is asked for, it stays on `footing_release`. `node` is the one that it
    leaves, or waits for.
    """

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    state: MigrationState
    migration_class: MigrationClass | None = Field(alias="class")
    order: OrderShape | None
    since: datetime | None
    busy_until: datetime | None
    refused: str | None
    footing_release: str | None
    node: ClosedNodeShape | None

    @classmethod
    def from_domain(cls, view: StackView) -> Self | None:
        """Return None for a stack that is as it should be and waits for nothing."""
        stack, status = view.stack, view.stack.status
        order, footing = stack.standing_order, status.footing
        node = _node_of(view)
        is_at_rest = status.migration_state is MigrationState.CURRENT and not view.staleness and node is None
        if is_at_rest and order is None and stack.busy_until is None and status.refused is None:
            return None
        return cls(
            state=status.migration_state,
            migration_class=class_of(view.staleness),
            order=OrderShape.from_domain(order) if order is not None else None,
            since=status.migrating_since,
            busy_until=stack.busy_until,
            refused=status.refused,
            footing_release=footing.release if footing is not None else None,
            node=ClosedNodeShape.from_domain(node) if node is not None else None,
        )


def _node_of(view: StackView) -> ClosedNode | None:
    """Return the node that the stack leaves or waits for. One that is only closed says nothing of what runs on it."""
    node, status = view.closed_node, view.stack.status
    leaves = node is not None and node.drain is not None and status.runtime is not None
    return node if leaves or status.reason is Reason.NODE_DRAINING else None


class StackShape(Outgoing):
    user_id: str
    job_id: str
    namespace: str
    region: str
    group: str
    labels: Mapping[str, str]
    resources: str
    generation: int
    observed_generation: int
    desired: Desired
    phase: Phase
    health: Health
    migration_state: MigrationState
    reason: Reason | None
    message: str
    release: str | None
    wanted_release: str
    pinned: bool
    runtime: RuntimeShape | None
    staleness: Sequence[StalenessShape]
    migration: MigrationShape | None
    observed_at: datetime | None
    last_operation: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_domain(cls, view: StackView) -> Self:
        stack, intent, status = view.stack, view.stack.intent, view.stack.status
        runtime = status.runtime
        return cls(
            user_id=stack.user_id,
            job_id=stack.job_id,
            namespace=stack.namespace,
            region=stack.region,
            group=intent.group,
            labels=intent.labels,
            resources=intent.resources,
            generation=intent.generation,
            observed_generation=status.observed_generation,
            desired=intent.desired,
            phase=status.phase,
            health=status.health,
            migration_state=status.migration_state,
            reason=status.reason,
            message=status.message,
            release=status.release,
            wanted_release=intent.wanted_release,
            pinned=intent.pinned,
            runtime=RuntimeShape.from_domain(runtime, intent.labels, view.public_url) if runtime else None,
            staleness=[StalenessShape.from_domain(reason) for reason in view.staleness],
            migration=MigrationShape.from_domain(view),
            observed_at=view.observed_at,
            last_operation=intent.last_operation,
            created_at=stack.created_at,
            updated_at=stack.updated_at,
        )


class AddressShape(Mirror):
    url: str
    host: str
    port: int
    audience: Literal["internal", "public"]
    allocation_id: str
    generation: int
    proven_at: datetime


class CredentialsShape(Outgoing):
    """The password itself. It is shown to its caller alone and kept nowhere."""

    username: str
    password: str = Field(repr=False)
    secret_version: int
    allocation_id: str


class WrappedCredentialsShape(Outgoing):
    """A Vault token that opens once, to `{"username", "password"}`."""

    wrapping_token: str = Field(repr=False)
    ttl_seconds: int


def credentials_from_domain(credentials: Credentials) -> CredentialsShape | WrappedCredentialsShape:
    if credentials.wrapped is not None:
        return WrappedCredentialsShape(
            wrapping_token=credentials.wrapped.token.reveal(), ttl_seconds=credentials.wrapped.ttl_seconds
        )
    if credentials.password is None:
        raise AssertionError("credentials hold a password or a wrapping token")
    return CredentialsShape(
        username=credentials.username,
        password=credentials.password.reveal(),
        secret_version=credentials.secret_version,
        allocation_id=credentials.allocation_id,
    )
