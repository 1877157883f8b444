"""Stacks, decisions and work as the store suites use them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.identifiers import (
    AllocationId,
    OperationId,
    ReleaseId,
    UserId,
    VolumeId,
    job_id_of,
    new_event_id,
    new_operation_id,
)
from opencode_lifecycle.model.migration import AtDeadline, Footing, MigrationOrder, OrderOutcome, Refusal
from opencode_lifecycle.model.operation import Event, Operation, OperationKind, OperationState
from opencode_lifecycle.model.release import Release, ResourceClass
from opencode_lifecycle.model.stack import Address, FieldEdit, Intent, Runtime, Stack, Status, Workspace
from opencode_lifecycle.model.states import Desired, Health, MigrationState, Phase, Reason
from opencode_lifecycle.ports.stores import Claimed, Decision, Progress, Situation

NOW = datetime(2026, 11, 24, 6, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
MUCH_LATER = NOW + timedelta(hours=1)
ADA = UserId("ada")
BOB = UserId("bob")
RELEASE = ReleaseId("rel_one")

WORKSPACE = Workspace(volume_id=VolumeId("vol-1"), node_id="node-1", path="/srv/volumes/vol-1")
FACETS = Facets(
    image="registry.example/opencode@sha256:aa",
    opencode_version="1.18.34",
    template="t1",
    environment="e1",
    resources="r1",
    secret_version=3,
    prompt="p1",
    config="c1",
    labels="l1",
    endpoints="n1",
)
RUNTIME = Runtime(
    allocation_id=AllocationId("alloc-1"),
    job_version=2,
    node="client-1",
    image="registry.example/opencode@sha256:aa",
    opencode_version="1.18.34",
    revision="abcdef",
    secret_version=3,
    release=RELEASE,
    restarts=1,
    started_at=NOW - timedelta(seconds=5),
    address=Address(host="127.0.0.1", port=24000),
    proven_at=NOW,
)


def a_release(name: str = RELEASE) -> Release:
    return Release(
        id=ReleaseId(name),
        number=0,
        image="registry.example/opencode",
        opencode_version="1.18.34",
        template='job "x" {}',
        instructions="Be kind — and brief.",
        managed_config='{"share": "disabled"}',
        environment={"TZ": "UTC"},
        resource_classes={"small": ResourceClass(cpu=200, memory=512, memory_max=2048)},
        created_at=NOW,
    )


def a_stack(user_id: str = ADA, *, status: Status | None = None, **intent: Any) -> Stack:
    wanted = {
        "generation": 1,
        "desired": Desired.RUNNING,
        "group": "default",
        "resources": "small",
        "labels": {},
        "environment": {},
        "wanted_release": RELEASE,
        **intent,
    }
    return Stack(
        user_id=UserId(user_id),
        job_id=job_id_of("main", UserId(user_id)),
        namespace="opencode",
        region="global",
        intent=Intent(**wanted),
        status=status or Status(phase_since=NOW),
        created_at=NOW,
        updated_at=NOW,
    )


def a_full_stack() -> Stack:
    """Return one in which every column says something."""
    status = Status(
        observed_generation=4,
        phase=Phase.RUNNING,
        phase_since=NOW,
        health=Health.HEALTHY,
        migration_state=MigrationState.STALE,
        reason=Reason.UNKNOWN,
        message="It runs — as far as can be seen.",
        facets=FACETS,
        release=RELEASE,
        secret_version=3,
        workspace=WORKSPACE,
        job_modify_index=2**40,
        fresh_start_done=2,
        rotation_done=1,
        runtime=RUNTIME,
        attempts=7,
        edits=(FieldEdit(field="Meta[image]", have="a", want="b"),),
        edits_restart=True,
        recycled_at=NOW,
        stale=frozenset({Facet.IMAGE, Facet.MISSING}),
        built=Footing(
            release=RELEASE,
            resources="small",
            environment={},
            facets=FACETS,
            restore="01SNAPSHOT",
            used=True,
            moved_data=True,
        ),
        footing=Footing(release=RELEASE, resources="small", environment={"LANG": "C"}, facets=FACETS),
        refused="of-what-failed",
        refused_in=4,
        refusal=Refusal(reason=Reason.DATA_NEWER, message="1 session — since then."),
        migrating_since=NOW,
        order_done="ro_1",
        order_outcome=OrderOutcome.SKIPPED,
    )
    stack = a_stack(
        "A.da@example+x|y~z=1:2",
        status=status,
        generation=5,
        group="team-a",
        labels={"team": "a", "cost_centre": 'x "y" ü'},
        environment={"LANG": "C"},
        pinned=True,
        held=True,
        fresh_start=3,
        rotation=2,
        order=MigrationOrder(
            id="ro_2", deadline=NOW, at_deadline=AtDeadline.FORCE, rotate=True, fresh=True, restore=True
        ),
        recovered=3,
        delete_workspace=True,
        last_operation=OperationId("op_1"),
    )
    return replace(stack, busy_until=NOW)


def an_operation(
    user_id: str = ADA, *, kind: OperationKind = OperationKind.ENSURE, generation: int = 1
) -> Operation:
    return Operation(
        id=new_operation_id(),
        kind=kind,
        user_id=UserId(user_id),
        generation=generation,
        state=OperationState.ACCEPTED,
        principal="backend",
        created_at=NOW,
    )


def an_event(user_id: str = ADA, *, kind: str = "ensure", **data: Any) -> Event:
    return Event(
        id=new_event_id(),
        user_id=UserId(user_id),
        kind=kind,
        actor="backend",
        at=NOW,
        generation=1,
        data=data,
    )


def inserting(stack: Stack, *, wake: bool = True) -> Callable[[Situation], Decision]:
    """Decide to insert *stack*, with an operation and an event, unless there is one of the user already."""

    def decide(situation: Situation) -> Decision:
        if situation.stack is not None:
            return Decision()
        operation = an_operation(stack.user_id, generation=stack.intent.generation)
        return Decision(
            stack=with_operation(stack, operation),
            operation=operation,
            events=[an_event(stack.user_id)],
            wake=wake,
        )

    return decide


def changing(*, wake: bool = True, **intent: Any) -> Callable[[Situation], Decision]:
    """Decide on the next generation of the stack that is there, with an operation."""

    def decide(situation: Situation) -> Decision:
        assert situation.stack is not None
        stack = situation.stack
        generation = stack.intent.generation + 1
        operation = an_operation(stack.user_id, generation=generation)
        changed = replace(stack, intent=replace(stack.intent, generation=generation, **intent))
        return Decision(stack=with_operation(changed, operation), operation=operation, wake=wake)

    return decide


def with_operation(stack: Stack, operation: Operation) -> Stack:
    return replace(stack, intent=replace(stack.intent, last_operation=operation.id))


async def put(database: Database, stack: Stack | str = ADA, *, wake: bool = True) -> Stack:
    """Insert a stack and return it as it is stored."""
    stack = a_stack(stack) if isinstance(stack, str) else stack
    _, decision = await database.decide(stack.user_id, inserting(stack, wake=wake))
    assert decision.stack is not None
    return decision.stack


async def take(database: Database, user_id: str = ADA, *, now: datetime = NOW) -> Claimed:
    [claimed] = await database.claim(
        limit=1, now=now, lapses_at=now + timedelta(seconds=60), hinted=[UserId(user_id)]
    )
    assert claimed.stack.user_id == user_id
    return claimed


def progress(claimed: Claimed, *, next_attempt_at: datetime | None = None, **status: Any) -> Progress:
    return Progress(status=replace(claimed.stack.status, **status), next_attempt_at=next_attempt_at)


async def due_at(database: Database, now: datetime) -> list[UserId]:
    """Return who may be claimed at *now*, and leave it so."""
    claimed = await database.claim(limit=100, now=now, lapses_at=now)
    return [one.stack.user_id for one in claimed]
