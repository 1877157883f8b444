"""How one stack is brought to another release: by the lightest way, through the gate, and back when that fails."""

from dataclasses import replace
from datetime import timedelta

import pytest

from fakes.opencode import FakeSession
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import ReleaseId, UserId
from opencode_lifecycle.model.migration import AtDeadline, MigrationOrder, OrderOutcome
from opencode_lifecycle.model.operation import OperationState
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.states import MigrationState, Phase, Reason, WhenStale
from opencode_lifecycle.ports.stores import Decision
from world import ADA, OPERATOR, World, content

QUICK = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=20),
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
    delivery=timedelta(seconds=60),
    delivery_poll=timedelta(milliseconds=20),
)
PAST = timedelta(seconds=-1)


@pytest.fixture
async def world(tmp_path):
    """One in which nothing stale is put right but by an order."""
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        yield world


async def a_release(world: World, **changes) -> ReleaseId:
    made = content(**changes)
    release = Release(
        id=made.id,
        number=0,
        created_at=utc_now(),
        **{name: getattr(made, name) for name in made.__dataclass_fields__},
    )
    await world.store.add_release(release)
    return release.id


async def order(world: World, release: ReleaseId | None = None, *, fresh: bool = False, **what) -> str:
    """Order that the stack be brought to *release*, as a rollout does."""
    generation = world.stack().intent.generation + 1
    asked = MigrationOrder(id=f"ro_test.{generation}", **what)

    def decide(situation):
        intent = replace(
            situation.stack.intent,
            generation=generation,
            order=asked,
            recovered=generation,
            wanted_release=release or situation.stack.intent.wanted_release,
            rotation=generation if asked.rotate else situation.stack.intent.rotation,
            fresh_start=generation if fresh else situation.stack.intent.fresh_start,
        )
        return Decision(stack=replace(situation.stack, intent=intent), wake=True)

    _, decision = await world.store.decide(ADA, decide)
    world.plane.fleet.put(decision.stack)
    world.plane.dispatcher.hint(ADA)
    return asked.id


async def until_outcome(world: World, order_id: str) -> OrderOutcome | None:
    await world.until(lambda: world.stack().status.order_done == order_id)
    return world.stack().status.order_outcome


async def until_state(world: World, state: MigrationState) -> None:
    await world.until(lambda: world.stack().status.migration_state is state)


def server_of(world: World):
    (allocation,) = world.live_allocations()
    return world.prober.servers[allocation.address.host, allocation.address.port]


def ids(world: World) -> list[str]:
    return [allocation.id for allocation in world.live_allocations()]


async def kinds_of_events(world: World) -> dict[str, dict]:
    page = await world.store.find_events(user_id=ADA, after=None, limit=200)
    return {event.kind: dict(event.data) for event in page.items}


# --- live


async def test_instructions_reach_the_same_process_and_count_when_they_are_there(world):
    before = ids(world)
    release = await a_release(world, instructions="Be brief.")

    outcome = await until_outcome(world, await order(world, release))

    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.DONE, MigrationState.CURRENT)
    assert (status.release, status.footing.release) == (release, release)
    assert ids(world) == before
    assert server_of(world).reloads == 0


async def test_instructions_that_did_not_arrive_yet_are_waited_for(world):
    world.nomad.files.deaf.add(world.job_id())
    order_id = await order(world, await a_release(world, instructions="Be brief."))
    await until_state(world, MigrationState.VERIFYING)
    assert world.stack().status.order_done != order_id

    world.nomad.files.deaf.clear()
    world.nomad.deliver(world.job_id())

    assert await until_outcome(world, order_id) is OrderOutcome.DONE


async def test_instructions_that_do_not_arrive_in_time_are_taken_back_and_the_runtime_runs_on(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, delivery=timedelta(milliseconds=100)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        before, pointer = ids(world), dict(world.nomad.live_files.pointers[world.job_id()])
        world.nomad.files.deaf.add(world.job_id())

        outcome = await until_outcome(
            world, await order(world, await a_release(world, instructions="Be brief."))
        )

        await world.until(lambda: world.stack().status.migrating_since is None)
        status = world.stack().status
        assert (outcome, status.migration_state) == (OrderOutcome.FAILED, MigrationState.FAILED)
        assert status.reason is Reason.NOT_DELIVERED
        assert (ids(world), status.phase) == (before, Phase.RUNNING)
        assert dict(world.nomad.live_files.pointers[world.job_id()]) == pointer


async def test_a_restart_brings_what_was_not_delivered(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, delivery=timedelta(milliseconds=100)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        world.nomad.files.deaf.add(world.job_id())
        release = await a_release(world, instructions="Be brief.")
        await until_outcome(world, await order(world, release))

        await until_outcome(world, await order(world, release, fresh=True))

        assert world.stack().status.migration_state is MigrationState.CURRENT
        assert world.stack().status.release == release


# --- reload


async def test_managed_configuration_is_read_anew_by_the_same_process(world):
    before = ids(world)
    release = await a_release(world, managed_config='{"share": "disabled"}')

    outcome = await until_outcome(world, await order(world, release))

    assert outcome is OrderOutcome.DONE
    assert ids(world) == before
    assert server_of(world).reloads == 1


async def test_a_configuration_is_not_read_anew_while_the_agent_works(world):
    server_of(world).busy = True
    order_id = await order(world, await a_release(world, managed_config='{"share": "disabled"}'))
    await until_state(world, MigrationState.DRAINING)
    assert server_of(world).reloads == 0

    server_of(world).busy = False

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert server_of(world).reloads == 1


async def test_a_configuration_that_cannot_be_loaded_is_taken_back_by_a_restart(world):
    before = ids(world)
    first = world.stack().intent.wanted_release
    server_of(world).bad_config = True

    outcome = await until_outcome(
        world, await order(world, await a_release(world, managed_config='{"a": 1}'))
    )

    await world.until(lambda: world.stack().status.phase is Phase.RUNNING and ids(world) != before)
    await world.until(lambda: world.stack().status.reason is Reason.BAD_CONFIG)
    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.FAILED, MigrationState.FAILED)
    assert status.release == first


# --- restart


async def test_another_version_is_started_at_idle_and_is_what_the_stack_stands_on_then(world):
    before = ids(world)
    release = await a_release(world, opencode_version="1.18.35")

    outcome = await until_outcome(world, await order(world, release))

    status = world.stack().status
    assert (outcome, status.migration_state) == (OrderOutcome.DONE, MigrationState.CURRENT)
    assert status.runtime.opencode_version == "1.18.35"
    assert status.footing.release == release
    assert ids(world) != before


async def test_a_version_that_says_it_is_another_is_taken_back(world):
    first = world.stack().intent.wanted_release
    world.server_changes = {"version": "1.18.34"}

    outcome = await until_outcome(
        world, await order(world, await a_release(world, opencode_version="1.18.35"))
    )

    await world.phase(Phase.RUNNING)
    status = world.stack().status
    assert outcome is OrderOutcome.FAILED
    assert (status.release, status.runtime.opencode_version) == (first, "1.18.34")


async def test_what_was_taken_back_is_shown_stale_and_tried_again_only_when_somebody_says_so(world):
    world.server_changes = {"version": "1.18.34"}
    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))
    await world.phase(Phase.RUNNING)
    await until_state(world, MigrationState.FAILED)
    before = ids(world)
    world.server_changes = {}
    world.plane.dispatcher.hint(ADA)
    await world.ensure()
    assert ids(world) == before
    assert world.stack().status.stale

    await until_outcome(world, await order(world))

    assert world.stack().status.runtime.opencode_version == "1.18.35"
    assert world.stack().status.migration_state is MigrationState.CURRENT


async def test_a_recover_clears_the_mark_of_what_was_refused_and_goes_on_as_the_policy_says(world):
    world.server_changes = {"version": "1.18.34"}
    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))
    await until_state(world, MigrationState.FAILED)
    await world.phase(Phase.RUNNING)

    operation = await world.plane.provisioning.recover(ADA, by=OPERATOR, if_match=None)

    assert (await world.finished(operation)).state is OperationState.SUCCEEDED
    assert world.stack().status.migration_state is MigrationState.STALE


async def test_an_environment_that_keeps_a_runtime_from_starting_is_taken_back_with_its_reason(tmp_path):
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.server_changes = {"version": "0.0.1"}
        registered = world.nomad.faults.calls["register"]
        answer = await world.ensure(environment={"LANG": "xx"}, wait=None)
        await world.until(lambda: world.nomad.faults.calls["register"] > registered)
        way_back = world.nomad.faults.hold_next("register")
        await way_back.reached.wait()
        world.server_changes = {}
        way_back.release()

        operation = await world.finished(await world.plane.provisioning.operation(answer.operation))

        assert (operation.state, operation.reason) == (OperationState.FAILED, Reason.TAKEN_BACK)
        variables = world.nomad.jobs[world.job_id()].specification["Variables"]
        assert (variables["environment"], world.stack().status.phase) == ({}, Phase.RUNNING)


async def test_a_password_that_was_rotated_away_is_never_gone_back_to(tmp_path):
    world = World(tmp_path, limits=QUICK)
    async with world.running():
        await world.ensure()
        world.server_changes = {"version": "0.0.1"}
        operation = await world.plane.provisioning.rotate_password(ADA, by=OPERATOR, if_match=None)
        failed = await world.finished(operation)
        world.server_changes = {}
        await world.phase(Phase.RUNNING)

        assert failed.reason is Reason.WRONG_VERSION
        assert world.stack().status.runtime.secret_version == 2


async def test_a_start_that_fails_says_nothing_of_what_is_wanted_by_then(tmp_path):
    world = World(tmp_path, limits=replace(QUICK, start=timedelta(seconds=1)), when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.server_changes = {"healthy": False}
        await order(world, await a_release(world, environment={"LANG": "bad"}))
        await world.phase(Phase.STARTING)
        world.server_changes = {}
        good = await a_release(world, environment={"LANG": "good"})

        outcome = await until_outcome(world, await order(world, good))

        assert outcome is OrderOutcome.DONE
        assert (world.stack().status.release, world.stack().status.refused) == (good, None)


async def test_a_start_that_fails_is_replaced_also_where_only_live_files_are_wanted_otherwise_by_then(
    tmp_path,
):
    world = World(tmp_path, limits=replace(QUICK, start=timedelta(seconds=1)), when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.server_changes = {"healthy": False}
        await world.plane.provisioning.recreate(ADA, by=OPERATOR, if_match=None)
        await world.phase(Phase.STARTING)
        await world.until(lambda: world.prober.servers and not server_of(world).healthy)
        world.server_changes = {}
        brief = await a_release(world, instructions="Be brief.")

        outcome = await until_outcome(world, await order(world, brief))

        assert (outcome, world.stack().status.release) == (OrderOutcome.DONE, brief)


async def test_what_is_gone_back_to_is_called_by_its_own_release_also_when_nomads_answer_is_lost(tmp_path):
    world = World(tmp_path, limits=QUICK, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        before = world.stack().status.release
        world.server_changes = {"version": "0.0.1"}
        registered = world.nomad.faults.calls["register"]
        ordered = await order(world, await a_release(world, environment={"LANG": "bad"}))
        await world.until(lambda: world.nomad.faults.calls["register"] > registered)
        world.nomad.faults.fail_next("register", UpstreamUnavailable("nomad", "register"), after_commit=True)
        way_back = world.nomad.faults.hold_next("register")
        await way_back.reached.wait()
        world.server_changes = {}
        way_back.release()

        assert await until_outcome(world, ordered) is OrderOutcome.FAILED
        await world.phase(Phase.RUNNING)

        assert (world.stack().status.release, world.stack().status.footing.release) == (before, before)


async def test_a_first_start_that_fails_has_nothing_to_go_back_to(tmp_path):
    world = World(tmp_path, limits=replace(QUICK, start=timedelta(milliseconds=300)))
    world.server_changes = {"healthy": False}
    async with world.running():
        await world.ensure(wait=None)

        stack = await world.phase(Phase.FAILED)

        assert (stack.status.reason, stack.status.refused) == (Reason.NEVER_HEALTHY, None)


@pytest.mark.parametrize("what", [{"fresh": True}, {"rotate": True}], ids=["fresh", "rotate"])
async def test_an_order_that_changes_nothing_to_go_back_to_ends_when_its_start_fails(world, what):
    world.server_changes = {"version": "1.18.30"}

    order_id = await order(world, **what)

    assert await until_outcome(world, order_id) is OrderOutcome.FAILED
    status = world.stack().status
    assert (status.phase, status.reason) == (Phase.FAILED, Reason.WRONG_VERSION)


@pytest.mark.parametrize("fresh", [False, True])
async def test_an_order_ends_when_nomad_will_never_take_its_job_and_what_runs_is_left_alone(world, fresh):
    before = ids(world)
    world.nomad.faults.fail_next("compare", UpstreamRejected("nomad", "compare", "no"))
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, fresh=fresh)

    assert await until_outcome(world, order_id) is OrderOutcome.FAILED
    assert world.stack().status.reason is Reason.JOB_REJECTED
    server_of(world).busy = True
    await world.ensure(labels={"team": "a"}, wait=None)
    await world.until(lambda: world.stack().is_settled and not world.plane.dispatcher.at_work)
    assert ids(world) == before


async def test_an_order_outlasts_an_outage_that_holds_its_start_up(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, start=timedelta(milliseconds=400)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        world.nomad.faults.fail_next(
            "register", UpstreamUnavailable("nomad", "register", "no leader"), times=None
        )

        order_id = await order(world, await a_release(world, opencode_version="1.18.35"))
        await world.phase(Phase.FAILED)
        world.nomad.faults.heal()

        assert await until_outcome(world, order_id) is OrderOutcome.DONE


async def test_a_start_that_cannot_load_its_configuration_is_taken_back_with_that_reason(tmp_path):
    world = World(
        tmp_path, limits=replace(QUICK, start=timedelta(milliseconds=400)), when_stale=WhenStale.REPORT
    )
    async with world.running():
        await world.ensure()
        world.server_changes = {"broken": {None}}
        release = await a_release(world, opencode_version="1.18.35")

        outcome = await until_outcome(world, await order(world, release))

        world.server_changes = {}
        refusal = world.stack().status.refusal
        assert (outcome, refusal.reason) == (OrderOutcome.FAILED, Reason.BAD_CONFIG)
        assert "cannot load its configuration" in refusal.message


# --- the gate


@pytest.mark.parametrize(
    ("at_deadline", "outcome", "state"),
    [
        (AtDeadline.SKIP, OrderOutcome.SKIPPED, MigrationState.STALE),
        (AtDeadline.HOLD, OrderOutcome.HELD, MigrationState.HELD),
    ],
)
async def test_an_agent_that_works_until_the_deadline_is_left_alone(world, at_deadline, outcome, state):
    before = ids(world)
    server_of(world).busy = True
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, deadline=utc_now() + PAST, at_deadline=at_deadline)

    assert await until_outcome(world, order_id) is outcome
    await until_state(world, state)
    assert ids(world) == before


async def test_a_runtime_of_which_nothing_is_known_at_its_deadline_is_looked_at_and_moved_if_it_is_idle(
    world,
):
    release = await a_release(world, opencode_version="1.18.35")

    assert (
        await until_outcome(world, await order(world, release, deadline=utc_now() + PAST))
        is OrderOutcome.DONE
    )


@pytest.mark.parametrize("at_deadline", [AtDeadline.SKIP, AtDeadline.HOLD])
async def test_an_agent_that_works_until_the_deadline_of_a_fresh_start_is_left_alone_after_it_too(
    world, at_deadline
):
    before = ids(world)
    server_of(world).busy = True
    await until_outcome(
        world, await order(world, fresh=True, deadline=utc_now() + PAST, at_deadline=at_deadline)
    )

    await world.ensure(labels={"team": "a"}, wait=None)
    await world.until(lambda: world.stack().is_settled and not world.plane.dispatcher.at_work)

    assert ids(world) == before
    assert world.stack().status.phase is Phase.RUNNING


async def test_an_agent_that_is_stopped_by_force_has_its_turns_aborted_first_and_named(world):
    server = server_of(world)
    server.sessions.append(FakeSession(id="ses_1", changed_at=utc_now(), at_work=True))
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, deadline=utc_now() + PAST, at_deadline=AtDeadline.FORCE)

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert server.sessions[0].was_aborted
    events = await kinds_of_events(world)
    assert [turn["session"] for turn in events["stack.turns_aborted"]["turns"]] == ["ses_1"]


async def test_a_lease_keeps_a_runtime_from_being_stopped_for_as_long_as_it_lasts(world):
    before = ids(world)
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    order_id = await order(world, await a_release(world, opencode_version="1.18.35"))
    await until_state(world, MigrationState.DRAINING)

    assert (world.stack().status.order_done, ids(world)) != (order_id, [])
    assert ids(world) == before


async def test_a_lease_that_comes_before_the_stop_is_committed_prevents_it(world):
    """It is granted between the last look and the commit: the commit itself finds it."""
    before = ids(world)
    hold = world.prober.hold_next("activity", after_commit=True)
    await order(world, await a_release(world, opencode_version="1.18.35"))
    await hold.reached.wait()
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    hold.release()
    await until_state(world, MigrationState.DRAINING)

    assert ids(world) == before


async def test_an_order_to_force_ends_a_lease_at_its_deadline(world):
    before = ids(world)
    await world.store.extend_lease(UserId(ADA), utc_now() + timedelta(minutes=10))
    release = await a_release(world, opencode_version="1.18.35")

    order_id = await order(world, release, deadline=utc_now() + PAST, at_deadline=AtDeadline.FORCE)

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert ids(world) != before


async def test_an_order_for_what_is_there_already_is_done_at_once(world):
    before = ids(world)

    assert await until_outcome(world, await order(world)) is OrderOutcome.DONE
    assert ids(world) == before


async def test_an_order_to_rotate_makes_the_password_first_and_waits_for_the_agent(world):
    server_of(world).busy = True
    order_id = await order(world, rotate=True)
    await until_state(world, MigrationState.DRAINING)
    assert (world.stack().status.secret_version, world.stack().status.runtime.secret_version) == (2, 1)

    server_of(world).busy = False

    assert await until_outcome(world, order_id) is OrderOutcome.DONE
    assert world.stack().status.runtime.secret_version == 2


async def test_turns_that_a_restart_has_cut_off_are_told(world):
    world.server_changes = {
        "sessions": [FakeSession(id="ses_9", changed_at=utc_now(), was_cut=True)],
    }

    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))

    events = await kinds_of_events(world)
    assert [turn["session"] for turn in events["stack.turns_cut_off"]["turns"]] == ["ses_9"]


async def test_a_turn_is_told_by_the_restart_that_cut_it_off_and_by_no_later_one(world):
    old = FakeSession(id="ses_9", changed_at=utc_now(), was_cut=True)
    world.server_changes = {"sessions": [old]}
    await until_outcome(world, await order(world, await a_release(world, opencode_version="1.18.35")))
    went_on = replace(old, id="ses_8"), replace(old, changed_at=old.changed_at + timedelta(seconds=1))

    for sessions in ([old], [old, went_on[0]], [went_on[1], went_on[0]]):
        world.server_changes = {"sessions": sessions}
        await until_outcome(world, await order(world, fresh=True))

    told = await world.store.latest_events(ADA, "stack.turns_cut_off", limit=10)
    assert [[turn["session"] for turn in event.data["turns"]] for event in reversed(told)] == [
        ["ses_9"],
        ["ses_8"],
        ["ses_9"],
    ]


async def test_what_nomad_would_refuse_is_found_before_anything_is_stopped(world):

    before = ids(world)
    world.nomad.faults.fail_next("compare", UpstreamRejected("nomad", "compare", "1 error occurred"))

    await order(world, await a_release(world, opencode_version="1.18.35"))
    await until_state(world, MigrationState.FAILED)

    assert (ids(world), world.stack().status.reason) == (before, Reason.JOB_REJECTED)
