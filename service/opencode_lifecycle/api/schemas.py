"""
What goes over the wire, exactly as the API contract says. Bodies that come in are strict and closed; each shape that goes
out is made from the domain by its `from_domain`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from opencode_lifecycle.api.parameters import LABEL_NAME, LONGEST_LABEL
from opencode_lifecycle.model.condition import Condition, ConditionKind
from opencode_lifecycle.model.errors import BodyFault, InvalidBody
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import GROUP_PATTERN, USER_ID_PATTERN, UserId
from opencode_lifecycle.model.operation import OperationKind, OperationState
from opencode_lifecycle.model.orphan import Orphan, OrphanKind
from opencode_lifecycle.model.principal import Role, ServiceToken
from opencode_lifecycle.model.stack import Runtime
from opencode_lifecycle.model.staleness import SEVERITY, Severity, StalenessSummary
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason
from opencode_lifecycle.model.view import (
    Credentials,
    EnsureRequest,
    OrphanPlan,
    Page,
    ReconcileReport,
    StackPlan,
    StackView,
)

MAX_LABELS: Final = 16
MAX_VARIABLES: Final = 64
MAX_VARIABLE_VALUE: Final = 4096

Item = TypeVar("Item", bound=BaseModel)
Source = TypeVar("Source")


class Incoming(BaseModel):
    """A body that is sent to us: no unknown field, no coercion."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Outgoing(BaseModel):
    model_config = ConfigDict(frozen=True)

    def json_bytes(self) -> bytes:
        return self.model_dump_json().encode()


class Mirror(Outgoing):
    """A shape whose every field is an attribute of the domain object that it shows. What is no field is not shown."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    @classmethod
    def from_domain(cls, source: object) -> Self:
        return cls.model_validate(source)


def _inert(text: str) -> str:
    """Refuse what Nomad or consul-template would interpolate, and what they cannot carry."""
    if "${" in text or "{{" in text:
        raise PydanticCustomError("interpolation", "must not contain ${ or {{")
    if "\0" in text:
        raise PydanticCustomError("nul", "must not contain NUL")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("printable", "must be printable characters")
    return text


def _no_default(schema: dict[str, Any]) -> None:
    """Leave the default out of the description: an absent field means unchanged, not this value."""
    schema.pop("default", None)


LabelName = Annotated[str, Field(pattern=f"^{LABEL_NAME}$")]
LabelValue = Annotated[
    str, Field(max_length=LONGEST_LABEL), AfterValidator(_printable), AfterValidator(_inert)
]
VariableName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,63}$")]
VariableValue = Annotated[str, Field(max_length=MAX_VARIABLE_VALUE), AfterValidator(_inert)]


class EnsureBody(Incoming):
    """What a stack should be. A field that is absent stays as it is; on a new stack it has its default."""

    group: Annotated[
        str, Field(pattern=GROUP_PATTERN, examples=["default"], json_schema_extra=_no_default)
    ] = ""
    resources: Annotated[
        str,
        Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", examples=["small"], json_schema_extra=_no_default),
    ] = ""
    labels: Annotated[
        dict[LabelName, LabelValue], Field(max_length=MAX_LABELS, json_schema_extra=_no_default)
    ] = {}
    environment: Annotated[
        dict[VariableName, VariableValue],
        Field(max_length=MAX_VARIABLES, json_schema_extra=_no_default),
    ] = {}

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


class NothingBody(Incoming):
    """A call that takes no content: no body at all, or `{}`."""


class TokenBody(Incoming):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["backend-1"])]
    role: Annotated[Role, Field(strict=False)]
    subject: Annotated[str, Field(pattern=USER_ID_PATTERN)] | None = None

    @model_validator(mode="after")
    def _subject_belongs_to_users(self) -> Self:
        if (self.role is Role.USER) != (self.subject is not None):
            raise PydanticCustomError(
                "subject", "a subject is needed for the role user, and for no other", {"pointer": "/subject"}
            )
        return self

    def subject_id(self) -> UserId | None:
        return UserId(self.subject) if self.subject is not None else None


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
    runtime: RuntimeShape | None
    staleness: Sequence[StalenessShape]
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
            runtime=RuntimeShape.from_domain(runtime, intent.labels, view.public_url) if runtime else None,
            staleness=[StalenessShape.from_domain(reason) for reason in view.staleness],
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


class PhaseShape(Mirror):
    phase: Phase
    at: datetime


class OperationShape(Mirror):
    id: str
    kind: OperationKind
    user_id: str
    state: OperationState
    phases: Sequence[PhaseShape]
    reason: Reason | None
    message: str
    receipt: Mapping[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


class EventShape(Mirror):
    id: str
    user_id: str
    kind: str
    actor: str
    at: datetime
    generation: int
    data: Mapping[str, Any]


class TokenShape(Mirror):
    id: str
    name: str
    role: Role
    subject: str | None
    created_at: datetime
    created_by: str
    revoked_at: datetime | None


class IssuedTokenShape(TokenShape):
    """A token with its secret, which is shown this once; null when a request is repeated with its Idempotency-Key."""

    secret: str | None = Field(repr=False)

    @classmethod
    def issued(cls, token: ServiceToken, secret: str | None) -> Self:
        return cls(**TokenShape.from_domain(token).model_dump(), secret=secret)


class ListShape(Outgoing, Generic[Item]):
    items: Sequence[Item]
    next_cursor: str | None

    @classmethod
    def from_domain(
        cls, page: Page[Source], shape: Callable[[Source], Item], seal: Callable[[str], str]
    ) -> Self:
        cursor = page.next_cursor
        return cls(
            items=[shape(item) for item in page.items],
            next_cursor=seal(cursor) if cursor is not None else None,
        )


class StaleCountShape(Outgoing):
    """`restart` says that putting at least one of these stacks right restarts its runtime."""

    facet: Facet
    stacks: int
    severity: Severity
    restart: bool


class StalenessSummaryShape(Outgoing):
    """The fleet by reason, the most frequent first: of `stacks` in all, `stale` have at least one."""

    stacks: int
    stale: int
    items: Sequence[StaleCountShape]
    next_cursor: None = None

    @classmethod
    def from_domain(cls, summary: StalenessSummary) -> Self:
        return cls(
            stacks=summary.stacks,
            stale=summary.stale,
            items=[
                StaleCountShape(
                    facet=count.facet,
                    stacks=count.stacks,
                    severity=SEVERITY.get(count.facet, Severity.INFO),
                    restart=count.restart,
                )
                for count in summary.facets
            ],
        )


class ConditionShape(Outgoing):
    """`freezes` says whether work that rests on absence is held back by it now."""

    id: str
    kind: ConditionKind
    status: Literal["standing", "confirmed", "cleared"]
    freezes: bool
    message: str
    details: Mapping[str, Any]
    since: datetime
    confirmed_at: datetime | None
    confirmed_by: str | None
    cleared_at: datetime | None

    @classmethod
    def from_domain(cls, condition: Condition) -> Self:
        status: Literal["standing", "confirmed", "cleared"] = "standing"
        if condition.cleared_at is not None:
            status = "cleared"
        elif condition.confirmed_at is not None:
            status = "confirmed"
        return cls(
            id=condition.id,
            kind=condition.kind,
            status=status,
            freezes=condition.freezes,
            message=condition.message,
            details=condition.details,
            since=condition.since,
            confirmed_at=condition.confirmed_at,
            confirmed_by=condition.confirmed_by,
            cleared_at=condition.cleared_at,
        )


class OrphanShape(Outgoing):
    """What bears our names and has no row. What is not `proven` ours is never touched."""

    id: str
    kind: OrphanKind
    job_id: str
    reference: str
    installation: str | None
    user_id: str | None
    proven: bool
    confirmations: int
    first_seen_at: datetime
    last_seen_at: datetime
    details: Mapping[str, Any]

    @classmethod
    def from_domain(cls, orphan: Orphan) -> Self:
        find = orphan.find
        return cls(
            id=orphan.id,
            kind=find.kind,
            job_id=find.job_id,
            reference=find.reference,
            installation=find.installation,
            user_id=find.user_id,
            proven=orphan.proven,
            confirmations=orphan.confirmations,
            first_seen_at=orphan.first_seen_at,
            last_seen_at=orphan.last_seen_at,
            details=find.details,
        )


class StackPlanShape(Outgoing):
    user_id: str
    job_id: str
    phase: Phase
    reason: Reason | None
    steps: Sequence[str]
    message: str
    staleness: Sequence[StalenessShape]

    @classmethod
    def from_domain(cls, plan: StackPlan) -> Self:
        return cls(
            user_id=plan.user_id,
            job_id=plan.job_id,
            phase=plan.phase,
            reason=plan.reason,
            steps=plan.steps,
            message=plan.message,
            staleness=[StalenessShape.from_domain(reason) for reason in plan.staleness],
        )


class OrphanPlanShape(Outgoing):
    orphan: OrphanShape
    action: str
    message: str

    @classmethod
    def from_domain(cls, plan: OrphanPlan) -> Self:
        return cls(orphan=OrphanShape.from_domain(plan.orphan), action=plan.action, message=plan.message)


class ReconcileShape(Outgoing):
    """`compared` stacks were held against Nomad at `index`. `stacks` and `orphans` are those that need something."""

    dry_run: bool
    at: datetime
    index: int
    compared: int
    frozen: bool
    conditions: Sequence[ConditionShape]
    stacks: Sequence[StackPlanShape]
    not_shown: int
    orphans: Sequence[OrphanPlanShape]

    @classmethod
    def from_domain(cls, report: ReconcileReport) -> Self:
        return cls(
            dry_run=report.dry_run,
            at=report.at,
            index=report.index,
            compared=report.compared,
            frozen=report.frozen,
            conditions=[ConditionShape.from_domain(condition) for condition in report.conditions],
            stacks=[StackPlanShape.from_domain(plan) for plan in report.stacks],
            not_shown=report.not_shown,
            orphans=[OrphanPlanShape.from_domain(plan) for plan in report.orphans],
        )


class FaultShape(Outgoing):
    pointer: str
    detail: str


class ProblemShape(Outgoing):
    """RFC 9457. `code` is stable and for machines; `detail` is for people. `errors` comes with `invalid-body`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: Sequence[FaultShape] | None = None
    facts: Mapping[str, Any] | None = None


class DependencyShape(Outgoing):
    name: str
    ok: bool
    detail: str
    age_seconds: float | None


class WatchShape(Mirror):
    name: str
    ok: bool
    age_seconds: float | None
    limit_seconds: float


class ReadinessShape(Outgoing):
    """`watches` say how old what is known is, from `limit_seconds` on too old; the status does not depend on them."""

    status: Literal["ready", "not ready"]
    dependencies: Sequence[DependencyShape]
    watches: Sequence[WatchShape]


class LivenessShape(Outgoing):
    status: Literal["alive"] = "alive"
