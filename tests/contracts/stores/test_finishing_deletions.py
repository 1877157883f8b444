"""How a deletion ends: without a trace but its receipt, or with the next life of the stack."""

from dataclasses import replace

import pytest

from database_examples import (
    ADA,
    FACETS,
    MUCH_LATER,
    NOW,
    RELEASE,
    WORKSPACE,
    a_stack,
    an_event,
    an_operation,
    changing,
    due_at,
    inserting,
    progress,
    put,
    take,
    with_operation,
)
from opencode_lifecycle.model.errors import ClaimLost
from opencode_lifecycle.model.operation import OperationKind, OperationState
from opencode_lifecycle.model.stack import KeptWorkspace
from opencode_lifecycle.model.states import Desired
from opencode_lifecycle.ports.stores import Decision, OperationOutcome

SUCCEEDED = OperationOutcome(state=OperationState.SUCCEEDED)


async def deletion_of(database, user_id=ADA):
    """Have a stack deleted up to the last step, and return the claim on it and the operation."""
    await put(database, user_id)
    operation = an_operation(user_id, kind=OperationKind.DELETE, generation=2)

    def delete(situation):
        intent = replace(situation.stack.intent, desired=Desired.DELETED, generation=2)
        stack = with_operation(replace(situation.stack, intent=intent), operation)
        return Decision(stack=stack, operation=operation, wake=True)

    await database.decide(user_id, delete)
    return await take(database, user_id), operation


async def test_a_finished_deletion_removes_the_row_and_leaves_a_receipt(database):
    claimed, operation = await deletion_of(database)
    outcome = replace(SUCCEEDED, receipt={"job": "purged", "secret": "destroyed"})
    kept = KeptWorkspace(user_id=ADA, job_id=claimed.stack.job_id, workspace=WORKSPACE, kept_at=NOW)

    await database.finish_deletion(
        claimed, outcome=outcome, events=[an_event(kind="deleted")], kept=kept, successor=None
    )

    assert await database.get(ADA) is None
    assert (await database.get_operation(operation.id)).receipt == outcome.receipt
    assert await database.kept_workspaces() == [kept]
    last = (await database.find_events(user_id=ADA, after=None, limit=9)).items[-1]
    assert last.kind == "deleted"


async def test_a_workspace_that_is_kept_again_replaces_the_record(database):
    for node in ["node-1", "node-2"]:
        claimed, _ = await deletion_of(database)
        workspace = replace(WORKSPACE, node_id=node)
        kept = KeptWorkspace(user_id=ADA, job_id=claimed.stack.job_id, workspace=workspace, kept_at=NOW)
        await database.finish_deletion(claimed, outcome=SUCCEEDED, events=[], kept=kept, successor=None)

    assert [one.workspace.node_id for one in await database.kept_workspaces()] == ["node-2"]


async def test_a_finished_deletion_makes_room_for_the_successor(database):
    _, deletion = await deletion_of(database)
    superseded, asked = an_operation(generation=3), an_operation(generation=4)
    for operation in (superseded, asked):
        await database.decide(ADA, asking_again(operation))
    claimed = await take(database, now=MUCH_LATER)
    successor = with_operation(a_stack(generation=4, group="next"), asked)

    await database.finish_deletion(claimed, outcome=SUCCEEDED, events=[], kept=None, successor=successor)

    stored = await database.get(ADA)
    assert stored == successor
    assert stored.change_seq == await database.latest_change()
    states = [(await database.get_operation(one.id)).state for one in (deletion, superseded, asked)]
    assert states == [OperationState.SUCCEEDED, OperationState.SUPERSEDED, OperationState.ACCEPTED]
    assert await due_at(database, NOW) == [ADA]


def asking_again(operation):
    """Ask for the stack while it is being deleted, which leaves the deletion its operation."""

    def decide(situation):
        intent = replace(situation.stack.intent, generation=operation.generation)
        stack = with_operation(replace(situation.stack, intent=intent), operation)
        return Decision(stack=stack, operation=operation, supersede=False)

    return decide


async def test_a_deletion_is_not_finished_when_a_newer_generation_came(database):
    claimed, operation = await deletion_of(database)
    await database.decide(ADA, changing(wake=False))

    with pytest.raises(ClaimLost):
        await database.finish_deletion(claimed, outcome=SUCCEEDED, events=[], kept=None, successor=None)

    assert await database.get(ADA) is not None
    assert (await database.get_operation(operation.id)).state is OperationState.SUPERSEDED


async def test_a_deletion_is_not_finished_under_a_lost_claim(database):
    claimed, _ = await deletion_of(database)
    await take(database, now=claimed.lapses_at)

    with pytest.raises(ClaimLost):
        await database.finish_deletion(claimed, outcome=SUCCEEDED, events=[], kept=None, successor=None)

    assert await database.get(ADA) is not None


async def test_saving_what_was_deleted_meanwhile_is_refused(database):
    claimed, _ = await deletion_of(database)
    await database.finish_deletion(claimed, outcome=SUCCEEDED, events=[], kept=None, successor=None)
    await database.decide(ADA, inserting(a_stack()))

    with pytest.raises(ClaimLost):
        await database.save(claimed, progress(claimed, facets=FACETS, release=RELEASE))
