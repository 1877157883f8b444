"""When a lease is given, by where a stack is and by what was asked for: the whole table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from opencode_lifecycle.model.errors import StackDraining
from opencode_lifecycle.model.identifiers import ReleaseId, UserId, job_id_of
from opencode_lifecycle.model.lease import check_may_be_leased, is_leased, leased
from opencode_lifecycle.model.migration import MigrationOrder
from opencode_lifecycle.model.stack import Intent, Stack, Status
from opencode_lifecycle.model.states import Desired, MigrationState, Phase, Reason

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=60)
GENERATION = 7


def a_stack(
    phase: Phase,
    *,
    desired: Desired = Desired.RUNNING,
    settled: bool = True,
    fresh_start: int = 0,
    migration_state: MigrationState = MigrationState.CURRENT,
) -> Stack:
    return Stack(
        user_id=UserId("ada"),
        job_id=job_id_of("main", UserId("ada")),
        namespace="opencode",
        region="global",
        intent=Intent(
            generation=GENERATION,
            desired=desired,
            group="default",
            resources="small",
            labels={},
            environment={},
            wanted_release=ReleaseId("rel_1"),
            fresh_start=fresh_start,
        ),
        status=Status(
            observed_generation=GENERATION if settled else GENERATION - 1,
            phase=phase,
            phase_since=NOW,
            migration_state=migration_state,
        ),
        created_at=NOW,
        updated_at=NOW,
    )


def is_given(stack: Stack) -> bool:
    try:
        check_may_be_leased(stack)
    except StackDraining:
        return False
    return True


BY_PHASE = {
    # phase: given when settled, given when something newer was asked for
    Phase.PENDING: (True, True),
    Phase.STARTING: (True, True),
    Phase.RUNNING: (True, True),
    Phase.STOPPING: (False, False),
    Phase.STOPPED: (False, True),
    Phase.FAILED: (False, True),
    Phase.DELETING: (False, False),
}


def test_every_phase_is_in_the_table():
    assert set(BY_PHASE) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_of_a_stack_that_should_run_a_lease_is_given_where_its_runtime_runs_or_is_waited_for(phase):
    settled, unsettled = BY_PHASE[phase]

    assert is_given(a_stack(phase)) is settled
    assert is_given(a_stack(phase, settled=False)) is unsettled


@pytest.mark.parametrize(
    ("phase", "desired", "settled"),
    list(product(Phase, [Desired.STOPPED, Desired.DELETED], [True, False])),
    ids=str,
)
def test_of_a_stack_that_should_not_run_no_lease_is_given_wherever_it_is(phase, desired, settled):
    assert not is_given(a_stack(phase, desired=desired, settled=settled))


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING])
@pytest.mark.parametrize("settled", [True, False])
def test_no_lease_is_given_of_a_runtime_in_whose_place_a_fresh_one_was_asked_for(phase, settled):
    assert not is_given(a_stack(phase, settled=settled, fresh_start=GENERATION))


def test_a_runtime_in_whose_place_an_order_asks_for_a_fresh_one_is_waited_for_and_may_be_leased():
    asked = a_stack(Phase.RUNNING, settled=False, fresh_start=GENERATION)
    order = MigrationOrder(id="ro_1", fresh=True)
    by_order = replace(asked, intent=replace(asked.intent, order=order))
    after_it = replace(by_order, status=replace(by_order.status, order_done="ro_1"))

    assert is_given(by_order)
    assert not is_given(after_it)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.STOPPED])
def test_a_fresh_runtime_that_is_about_to_start_may_be_waited_for(phase):
    assert is_given(a_stack(phase, settled=False, fresh_start=GENERATION))


def test_a_runtime_whose_replacement_was_refused_runs_on_and_may_be_leased():
    stack = a_stack(Phase.RUNNING, fresh_start=GENERATION, migration_state=MigrationState.FAILED)

    assert is_given(stack)
    assert not is_given(replace(stack, status=replace(stack.status, observed_generation=GENERATION - 1))), (
        "asked for anew, it is tried anew"
    )


@pytest.mark.parametrize("reason", [None, Reason.STALE])
@pytest.mark.parametrize("state", MigrationState)
def test_a_runtime_may_be_leased_until_its_migration_begins_to_disturb_it(state, reason):
    stack = a_stack(Phase.RUNNING, migration_state=state)
    stack = replace(stack, status=replace(stack.status, reason=reason))

    is_reloading = state is MigrationState.REPLACING and reason is Reason.STALE
    assert is_given(stack) is not is_reloading


@pytest.mark.parametrize("state", MigrationState)
def test_what_is_started_in_place_of_another_may_be_waited_for(state):
    assert is_given(a_stack(Phase.PENDING, migration_state=state))
    assert is_given(a_stack(Phase.STARTING, migration_state=state))


def refusal(stack: Stack) -> StackDraining:
    with pytest.raises(StackDraining) as refused:
        leased(stack, SOON)
    return refused.value


def test_who_is_refused_is_told_to_come_back_sooner_where_it_goes_on_by_itself():
    comes_back = refusal(a_stack(Phase.STOPPING))
    stays_down = refusal(a_stack(Phase.STOPPED))

    assert 0 < comes_back.retry_after < stays_down.retry_after
    assert "ensure" in stays_down.message


def test_a_lease_is_never_shortened():
    stack = leased(a_stack(Phase.RUNNING), SOON)

    assert stack.busy_until == SOON
    assert leased(stack, NOW) == stack
    assert leased(stack, SOON + timedelta(seconds=1)).busy_until == SOON + timedelta(seconds=1)


def test_a_lease_holds_until_its_end_and_not_at_it():
    stack = leased(a_stack(Phase.RUNNING), SOON)

    assert is_leased(stack, SOON - timedelta(microseconds=1))
    assert not is_leased(stack, SOON)
    assert not is_leased(a_stack(Phase.RUNNING), NOW)
