"""Small use cases in memory, enough to hold the HTTP layer to its contract."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from opencode_lifecycle.model.errors import (
    NoPublicAddress,
    OperationNotFound,
    PreconditionFailed,
    Refusal,
    ReleaseNotFound,
    RuntimeNotReady,
    StackNotFound,
)
from opencode_lifecycle.model.identifiers import (
    AllocationId,
    OperationId,
    ReleaseId,
    UserId,
    job_id_of,
    new_event_id,
    new_operation_id,
)
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.operation import Event, Operation, OperationKind, OperationState
from opencode_lifecycle.model.password import Password, WrappedPassword
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.snapshot import SnapshotsSeen
from opencode_lifecycle.model.stack import Address, Intent, Runtime, Stack, Status
from opencode_lifecycle.model.states import Desired, Health, Phase
from opencode_lifecycle.model.view import (
    AddressView,
    Credentials,
    EnsureAnswer,
    EnsureRequest,
    Page,
    StackView,
)
from opencode_lifecycle.ports.stores import StackQuery

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ALLOCATION = AllocationId("5e6f0d0e-0000-4000-8000-000000000001")
RELEASE = ReleaseId("rel_01JABCDEFGHJKMNPQRSTVWXYZ0")
UNCHANGED = EnsureRequest()
PASSWORD = "planted-password-6d1c"


def a_view(user_id: str, *, generation: int = 1, phase: Phase = Phase.RUNNING, **intent: object) -> StackView:
    runtime = Runtime(
        allocation_id=ALLOCATION,
        job_version=3,
        node="node-1",
        image="opencode:1.18.34",
        opencode_version="1.18.34",
        revision="0123456789abcdef",
        secret_version=1,
        release=RELEASE,
        restarts=0,
        started_at=NOW,
        address=Address(host="10.0.0.7", port=21234),
        proven_at=NOW,
    )
    wanted = Intent(
        **{
            "generation": generation,
            "desired": Desired.RUNNING,
            "group": "default",
            "resources": "small",
            "labels": {},
            "environment": {},
            "wanted_release": RELEASE,
            **intent,
        }
    )
    is_running = phase is Phase.RUNNING
    status = Status(
        observed_generation=generation if is_running else generation - 1,
        phase=phase,
        phase_since=NOW,
        health=Health.HEALTHY if is_running else Health.UNKNOWN,
        release=RELEASE if is_running else None,
        runtime=runtime if is_running else None,
    )
    stack = Stack(
        user_id=UserId(user_id),
        job_id=job_id_of("main", UserId(user_id)),
        namespace="opencode",
        region="global",
        intent=wanted,
        status=status,
        created_at=NOW,
        updated_at=NOW,
    )
    return StackView(stack=stack, staleness=(), observed_at=NOW)


@dataclass
class MemoryLeases:
    """Renews what it is asked to, unless it is to refuse. `calls` are the users and times that reached it."""

    now: Callable[[], datetime]
    calls: list[tuple[str, timedelta]] = field(default_factory=list)
    refuses_with: Refusal | None = None

    async def extend(self, user_id: UserId, ttl: timedelta) -> datetime:
        self.calls.append((user_id, ttl))
        if self.refuses_with is not None:
            raise self.refuses_with
        return self.now() + ttl


@dataclass
class MemoryProvisioning:
    """Accepts what it is asked; `make_ready` does what the reconciler would. `calls` counts what reached it."""

    views: dict[str, StackView] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    recorded: list[Event] = field(default_factory=list)
    chunks: Sequence[bytes] = (b"first line\n", b"second line\n")
    follows: bool = False
    calls: list[str] = field(default_factory=list)
    queries: list[StackQuery] = field(default_factory=list)
    fails_with: Exception | None = None
    gate: asyncio.Event | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    public_url: str | None = None

    def given(self, user_id: str, **state: object) -> StackView:
        self.views[user_id] = a_view(user_id, **state)
        return self.views[user_id]

    def make_ready(self, user_id: str) -> None:
        intent = self.views[user_id].stack.intent
        self.given(
            user_id,
            generation=intent.generation,
            group=intent.group,
            resources=intent.resources,
            labels=intent.labels,
            environment=intent.environment,
        )

    async def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        if self.fails_with is not None:
            raise self.fails_with
        self.finished.set()

    def _view(self, user_id: str) -> StackView:
        if user_id not in self.views:
            raise StackNotFound(f"There is no stack for the user {user_id}.", user_id=user_id)
        return self.views[user_id]

    def hot(self, user_id: UserId, request: EnsureRequest) -> StackView | None:
        view = self.views.get(user_id)
        if view is None or view.stack.status.phase is not Phase.RUNNING or not view.stack.is_settled:
            return None
        if request == UNCHANGED or _changed(view.stack.intent, request) == view.stack.intent:
            return view
        return None

    async def ensure(
        self,
        user_id: UserId,
        request: EnsureRequest,
        *,
        by: Principal,
        wait: float | None,
        if_match: int | None,
    ) -> EnsureAnswer:
        await self._enter("ensure")
        known = self.views.get(user_id)
        self._check(user_id, if_match)
        generation = known.stack.intent.generation + 1 if known is not None else 1
        base = known if known is not None else a_view(user_id, generation=1, phase=Phase.PENDING)
        operation = self._record(user_id, OperationKind.ENSURE, by, generation)
        intent = replace(
            _changed(base.stack.intent, request), generation=generation, last_operation=operation.id
        )
        self.views[user_id] = replace(base, stack=replace(base.stack, intent=intent))
        if wait:
            self.make_ready(user_id)
            return EnsureAnswer(view=self.views[user_id], ready=True, operation=operation.id)
        return EnsureAnswer(view=self.views[user_id], ready=False, operation=operation.id)

    async def inspect(self, user_id: UserId) -> StackView:
        await self._enter("inspect")
        return self._view(user_id)

    async def find(self, query: StackQuery) -> Page[StackView]:
        await self._enter("find")
        self.queries.append(query)
        ids = sorted(user_id for user_id in self.views if query.after is None or user_id > query.after)
        found = [
            self.views[user_id]
            for user_id in ids
            if query.phase in {None, self.views[user_id].stack.status.phase}
            and query.labels.items() <= self.views[user_id].stack.intent.labels.items()
        ]
        page = found[: query.limit]
        return Page(items=page, next_cursor=page[-1].stack.user_id if len(found) > len(page) else None)

    async def address(self, user_id: UserId, audience: str) -> AddressView:
        await self._enter("address")
        runtime = self._view(user_id).stack.status.runtime
        if audience == "public" and self.public_url is None:
            raise NoPublicAddress
        if runtime is None or runtime.address is None:
            raise RuntimeNotReady(retry_after=2)
        return AddressView(
            url=self.public_url if audience == "public" else runtime.address.url,
            host=runtime.address.host,
            port=runtime.address.port,
            audience=audience,
            allocation_id=runtime.allocation_id,
            generation=self._view(user_id).stack.intent.generation,
            proven_at=runtime.proven_at,
        )

    async def credentials(self, user_id: UserId, *, by: Principal, wrap_seconds: int | None) -> Credentials:
        await self._enter("credentials")
        runtime = self._view(user_id).stack.status.runtime
        if runtime is None:
            raise RuntimeNotReady(retry_after=2)
        wrapped = WrappedPassword(token=Password("hvs.wrapped"), ttl_seconds=wrap_seconds or 0)
        return Credentials(
            username="opencode",
            secret_version=runtime.secret_version,
            allocation_id=runtime.allocation_id,
            password=None if wrap_seconds else Password(PASSWORD),
            wrapped=wrapped if wrap_seconds else None,
        )

    async def start(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._accept(user_id, OperationKind.START, by, if_match)

    async def stop(self, user_id: UserId, *, by: Principal, hold: bool, if_match: int | None) -> Operation:
        return await self._accept(user_id, OperationKind.STOP, by, if_match)

    async def recreate(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._accept(user_id, OperationKind.RECREATE, by, if_match)

    async def rotate_password(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._accept(user_id, OperationKind.ROTATE_PASSWORD, by, if_match)

    async def recover(
        self, user_id: UserId, *, by: Principal, if_match: int | None, data: DataPolicy = DataPolicy.KEEP
    ) -> Operation:
        self.recovered_with = data
        return await self._accept(user_id, OperationKind.RECOVER, by, if_match)

    async def pin(
        self, user_id: UserId, release_id: ReleaseId, *, by: Principal, if_match: int | None
    ) -> Operation:
        if release_id != RELEASE:
            raise ReleaseNotFound
        return await self._accept(user_id, OperationKind.PIN, by, if_match)

    async def unpin(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._accept(user_id, OperationKind.UNPIN, by, if_match)

    async def delete(
        self, user_id: UserId, *, by: Principal, delete_workspace: bool, if_match: int | None
    ) -> Operation:
        return await self._accept(user_id, OperationKind.DELETE, by, if_match)

    async def operation(self, operation_id: OperationId) -> Operation:
        await self._enter("operation")
        if operation_id not in self.operations:
            raise OperationNotFound
        return self.operations[operation_id]

    async def log(self, user_id: UserId, *, kind: str, tail: int, follow: bool) -> AsyncIterator[bytes]:
        await self._enter("log")
        self._view(user_id)
        for chunk in self.chunks:
            yield chunk
        if follow:
            await asyncio.Event().wait()

    async def events(self, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]:
        await self._enter("events")
        known = [event for event in self.recorded if user_id in {None, event.user_id}]
        start = next((i + 1 for i, event in enumerate(known) if event.id == after), 0)
        items = known[start : start + limit]
        return Page(items=items, next_cursor=items[-1].id if start + limit < len(known) else None)

    def _check(self, user_id: str, if_match: int | None) -> None:
        known = self.views.get(user_id)
        if if_match is not None and (known is None or known.stack.intent.generation != if_match):
            raise PreconditionFailed

    async def _accept(
        self, user_id: UserId, kind: OperationKind, by: Principal, if_match: int | None
    ) -> Operation:
        await self._enter(kind)
        view = self._view(user_id)
        self._check(user_id, if_match)
        return self._record(user_id, kind, by, view.stack.intent.generation)

    def _record(self, user_id: UserId, kind: OperationKind, by: Principal, generation: int) -> Operation:
        operation = Operation(
            id=new_operation_id(),
            kind=kind,
            user_id=user_id,
            generation=generation,
            state=OperationState.ACCEPTED,
            principal=by.name,
            created_at=NOW,
        )
        self.operations[operation.id] = operation
        self.record_event(user_id, f"{kind}_accepted", by.name)
        return operation

    def record_event(self, user_id: str, kind: str, actor: str = "service") -> Event:
        event = Event(
            id=new_event_id(), user_id=UserId(user_id), kind=kind, actor=actor, at=NOW, generation=1
        )
        self.recorded.append(event)
        return event


def _changed(intent: Intent, request: EnsureRequest) -> Intent:
    asked = {
        name: getattr(request, name)
        for name in ("group", "resources", "labels", "environment")
        if getattr(request, name) is not None
    }
    return replace(intent, **asked)


@dataclass
class MemorySnapshots:
    """Knows of the stacks that there are what a test has put into `seen`."""

    provisioning: MemoryProvisioning
    seen: dict[str, SnapshotsSeen] = field(default_factory=dict)

    async def of(self, user_id: UserId) -> SnapshotsSeen:
        await self.provisioning.inspect(user_id)
        return self.seen.get(user_id, SnapshotsSeen())
