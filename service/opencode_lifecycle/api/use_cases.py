"""What the handlers need of the service behind them. The lifecycle layer provides it; tests bring their own."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.identifiers import (
    ConditionId,
    OperationId,
    OrphanId,
    ReleaseId,
    TokenId,
    UserId,
)
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.operation import Event, Operation
from opencode_lifecycle.model.orphan import Orphan
from opencode_lifecycle.model.principal import Principal, Role, ServiceToken
from opencode_lifecycle.model.snapshot import SnapshotsSeen
from opencode_lifecycle.model.staleness import StalenessSummary
from opencode_lifecycle.model.view import (
    AddressView,
    Credentials,
    EnsureAnswer,
    EnsureRequest,
    NextLook,
    Page,
    ReconcileReport,
    StackView,
)
from opencode_lifecycle.ports.stores import StackQuery


class Provisioning(Protocol):
    """Every refusal and failure is an error of `model.errors`."""

    def hot(self, user_id: UserId, request: EnsureRequest) -> StackView | None:
        """
        Return the stack when *request* can be answered with 200 from memory, without waiting for anything.

        The same object is returned as long as nothing of it changed.
        """
        ...

    async def ensure(
        self,
        user_id: UserId,
        request: EnsureRequest,
        *,
        by: Principal,
        wait: float | None,
        if_match: int | None,
    ) -> EnsureAnswer: ...

    async def inspect(self, user_id: UserId) -> StackView: ...

    async def find(self, query: StackQuery) -> Page[StackView]: ...

    async def address(self, user_id: UserId, audience: str) -> AddressView: ...

    async def credentials(
        self, user_id: UserId, *, by: Principal, wrap_seconds: int | None
    ) -> Credentials: ...

    async def start(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation: ...

    async def stop(
        self, user_id: UserId, *, by: Principal, hold: bool, if_match: int | None
    ) -> Operation: ...

    async def recreate(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation: ...

    async def rotate_password(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation: ...

    async def recover(
        self, user_id: UserId, *, by: Principal, if_match: int | None, data: DataPolicy = DataPolicy.KEEP
    ) -> Operation: ...

    async def pin(
        self, user_id: UserId, release_id: ReleaseId, *, by: Principal, if_match: int | None
    ) -> Operation: ...

    async def unpin(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation: ...

    async def delete(
        self, user_id: UserId, *, by: Principal, delete_workspace: bool, if_match: int | None
    ) -> Operation: ...

    async def operation(self, operation_id: OperationId) -> Operation: ...

    def log(self, user_id: UserId, *, kind: str, tail: int, follow: bool) -> AsyncIterator[bytes]:
        """Refuse, if at all, with the first item that is asked for."""
        ...

    async def events(self, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]: ...


class Leases(Protocol):
    async def extend(self, user_id: UserId, ttl: timedelta) -> datetime:
        """
        Say that somebody is at work with the runtime for *ttl*, and return until when that holds.

        Never shortens what was said before. `StackNotFound`, or `StackDraining` once a stop is committed.
        """
        ...


class Snapshots(Protocol):
    async def of(self, user_id: UserId) -> SnapshotsSeen:
        """Return the snapshots of the stack's data, as they are or were last seen. Else `StackNotFound`."""
        ...


class Oversight(Protocol):
    """What operators ask of the whole. Every refusal and failure is an error of `model.errors`."""

    async def staleness(self) -> StalenessSummary: ...

    async def reconcile(self, *, dry_run: bool, by: Principal) -> ReconcileReport:
        """List Nomad now and compare every stack; unless *dry_run*, have what is needed done in the background."""
        ...

    async def next_look(self, user_id: UserId) -> NextLook:
        """Say when a stack is taken up next, and what is done then if all is as it is now; or `StackNotFound`."""
        ...

    async def conditions(
        self, *, standing: bool, after: ConditionId | None, limit: int
    ) -> Page[Condition]: ...

    async def confirm_condition(self, condition_id: ConditionId, *, by: Principal) -> Condition:
        """Take what Nomad shows for the truth. Confirming twice keeps the first. `ConditionNotFound` for no such one."""
        ...

    async def orphans(self, *, after: OrphanId | None, limit: int) -> Page[Orphan]: ...

    async def adopt_orphan(self, orphan_id: OrphanId, *, by: Principal) -> StackView:
        """Make the row that the orphan lacks. `OrphanNotFound`, or `OrphanNotProven` when it may be somebody else's."""
        ...

    async def delete_orphan(self, orphan_id: OrphanId, *, by: Principal) -> None:
        """Delete it now, after finding once more that it is one. Raises as `adopt_orphan` does."""
        ...


class Access(Protocol):
    def authenticate(self, secret: str) -> Principal | None:
        """Return who holds *secret*, from memory and in a time that does not depend on it."""
        ...

    async def issue(
        self, name: str, role: Role, subject: UserId | None, *, by: Principal
    ) -> tuple[ServiceToken, str]: ...

    async def find(self, after: TokenId | None, limit: int) -> Page[ServiceToken]: ...

    async def revoke(self, token_id: TokenId, *, by: Principal) -> None: ...


class DependencyReport(Protocol):
    """What is known of one neighbour; `age_seconds` is how old that knowledge is, None when there is none."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...
    @property
    def age_seconds(self) -> float | None: ...


class WatchReport(Protocol):
    """How old what one watch saw is, None when it saw nothing yet; from `limit_seconds` on that is not `ok`."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def age_seconds(self) -> float | None: ...
    @property
    def limit_seconds(self) -> float: ...


class Readiness(Protocol):
    async def report(self) -> Sequence[DependencyReport]: ...

    def watches(self) -> Sequence[WatchReport]:
        """What is too old here does not keep a replica from being ready."""
        ...
