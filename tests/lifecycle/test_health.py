"""Health that means something: the wedge, the crash loop, the old and the large, and an address that is another's."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.states import Health, Phase, Reason
from opencode_lifecycle.ports.prober import Activity
from world import BACKEND, World, server_of

LIMITS = {
    "start": timedelta(seconds=60),
    "stop": timedelta(seconds=60),
    "poll": timedelta(milliseconds=50),
    "idle_after": timedelta(0),
    "idle_poll": timedelta(milliseconds=20),
}

OTHER_JOB, OTHER = JobId("oc-other-job"), AllocationId("other")
"""Of another installation, whose namespace we do not see."""


def a_world(path, **changes) -> World:
    parameters = {
        "liveness_interval": timedelta(milliseconds=20),
        "comparison_interval": timedelta(milliseconds=50),
    }
    limits = Limits(**{**LIMITS, **changes.pop("limits", {})})
    return World(path, **{**parameters, "limits": limits, **changes})


@pytest.fixture
async def world(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        yield world


async def test_a_runtime_that_takes_connections_and_answers_none_is_replaced(world):
    await world.ensure()
    before = world.live_allocations()[0].id

    server_of(world).hangs = True

    await world.until(lambda: [a.id for a in world.live_allocations()] not in [[before], []])
    await world.phase(Phase.RUNNING)
    events = (await world.plane.provisioning.events("ada", None, 100)).items
    assert [e.data["reason"] for e in events if e.kind == "phase.stopping"] == ["unresponsive"]


async def test_a_runtime_that_hangs_again_at_once_is_shown_and_not_replaced_again(world):
    await world.ensure()
    world.server_changes = {}
    server_of(world).hangs = True
    before = world.live_allocations()[0].id
    await world.until(lambda: [a.id for a in world.live_allocations()] not in [[before], []])
    await world.phase(Phase.RUNNING)
    again = world.live_allocations()[0].id

    server_of(world).hangs = True
    await world.until(lambda: world.plane.fleet.get("ada").silent_probes > 12)
    await world.until(lambda: world.stack().status.health is Health.UNRESPONSIVE)

    assert [each.id for each in world.live_allocations()] == [again]


async def test_the_history_has_after_how_many_probes_a_runtime_was_called_unresponsive_and_that_it_answers_again(
    tmp_path,
):
    world = a_world(tmp_path, limits={"wedged_probes": 1_000_000})
    async with world.running():
        await world.ensure()
        server_of(world).hangs = True
        await world.until(lambda: world.stack().status.health is Health.UNRESPONSIVE)
        server_of(world).hangs = False
        await world.until(lambda: world.stack().status.health is Health.HEALTHY)
        events = (await world.plane.provisioning.events("ada", None, 100)).items

    of_health = [(each.kind, each.data["unanswered_probes"]) for each in events if "health." in each.kind]
    assert [kind for kind, _ in of_health] == ["health.unresponsive", "health.healthy"]
    assert of_health[0][1] >= 3
    assert of_health[1][1] == 0


async def test_a_look_at_a_runtime_ends_before_the_next_one_is_due(tmp_path):
    """However long a neighbour may take: else a frozen runtime would miss every second look."""
    interval, given = timedelta(milliseconds=200), []
    world = a_world(tmp_path, liveness_interval=interval, upstream_timeout=timedelta(seconds=10))
    look = world.prober.liveness

    async def liveness(address, deadline):
        given.append(deadline.left())
        return await look(address, deadline)

    async with world.running():
        await world.ensure()
        world.prober.liveness = liveness
        await world.until(lambda: len(given) > 2)

    assert max(given) < interval.total_seconds()


async def test_a_runtime_that_was_seen_at_work_is_given_longer(tmp_path):
    world = a_world(tmp_path, limits={"patience_when_busy": 1000, "idle_after": timedelta(minutes=5)})
    async with world.running():
        world.server_changes = {"busy": True, "changed_at": datetime.now(UTC)}
        await world.ensure()
        before = world.live_allocations()[0].id
        world.plane.fleet.saw_activity(
            "ada",
            await world.prober.activity(
                address=world.live_allocations()[0].address,
                read_password=lambda: _password(world),
                deadline=_soon(),
            ),
            datetime.now(UTC),
        )

        server_of(world).hangs = True
        await world.until(lambda: world.plane.fleet.get("ada").silent_probes > 12)

        assert [each.id for each in world.live_allocations()] == [before]


async def test_an_agent_at_work_that_begins_to_be_slow_is_given_longer_although_its_stack_is_current(
    tmp_path,
):
    world = a_world(tmp_path, limits={"idle_after": timedelta(minutes=5)})
    async with world.running():
        await world.ensure()
        before = world.live_allocations()[0].id
        server = server_of(world)
        server.busy = True
        slow = world.prober.hold_next("liveness")  # until the look gives up
        await slow.reached.wait()
        await world.until(lambda: world.plane.fleet.get("ada").busy_at is not None)
        await world.until(lambda: world.plane.fleet.get("ada").silent_probes == 0)

        server.hangs = True
        await world.until(lambda: world.plane.fleet.get("ada").silent_probes >= 12)

        assert [each.id for each in world.live_allocations()] == [before]
        await world.until(lambda: [a.id for a in world.live_allocations()] not in [[before], []])


async def test_that_activity_cannot_be_seen_takes_nothing_back_of_what_was_seen(world):
    await world.ensure()
    seen = datetime.now(UTC)
    world.plane.fleet.saw_activity("ada", Activity(busy=True, changed_at=None), seen)

    world.plane.fleet.saw_activity("ada", None, datetime.now(UTC))

    assert world.plane.fleet.get("ada").busy_at == seen


async def test_when_many_fall_silent_at_once_none_is_replaced(world):
    users = ("ada", "bob", "cyd")
    for user in users:
        await world.ensure(user)
    before = {user: [a.id for a in world.live_allocations(user)] for user in users}

    for user in users:
        server_of(world, user).hangs = True
    await world.until(
        lambda: ConditionKind.MASS_SILENCE in {each.kind for each in world.plane.conditions.standing()}
    )
    await world.until(lambda: all(world.plane.fleet.get(user).silent_probes > 12 for user in users))

    assert {user: [a.id for a in world.live_allocations(user)] for user in users} == before
    for user in users:
        server_of(world, user).hangs = False
    await world.until(lambda: not world.plane.conditions.standing())


async def test_a_runtime_that_nearly_fills_its_memory_is_started_afresh_when_idle(tmp_path):
    world = a_world(tmp_path, usage_interval=timedelta(milliseconds=20))
    async with world.running():
        await world.ensure()
        before = world.live_allocations()[0].id

        world.nomad.memory[before] = 500 * 1024 * 1024

        await world.until(lambda: [a.id for a in world.live_allocations()] not in [[before], []])
        stack = await world.phase(Phase.RUNNING)
        assert stack.status.recycled_at is not None


async def test_a_large_runtime_that_works_is_left_alone(tmp_path):
    world = a_world(tmp_path, usage_interval=timedelta(milliseconds=20))
    async with world.running():
        world.server_changes = {"busy": True}
        await world.ensure()
        before = world.live_allocations()[0].id

        world.nomad.memory[before] = 500 * 1024 * 1024
        await world.until(lambda: "memory" in world.stack().status.message)

        assert [each.id for each in world.live_allocations()] == [before]


async def test_an_old_runtime_is_started_afresh_when_idle(tmp_path):
    world = a_world(tmp_path, limits={"recycle_age": timedelta(milliseconds=200)})
    async with world.running():
        await world.ensure()
        before = world.live_allocations()[0].id

        await world.until(lambda: [a.id for a in world.live_allocations()] not in [[before], []])


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (TaskTrouble.EXITED, Reason.DRIVER_FAILED),
        (TaskTrouble.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (TaskTrouble.DRIVER, Reason.DRIVER_FAILED),
        (TaskTrouble.DISK_FULL, Reason.DISK_FULL),
    ],
)
async def test_a_start_that_fails_is_shown_with_its_cause(world, trouble, reason):
    world.nomad.autorun = False
    await world.ensure(wait=None)
    await world.until(lambda: len(world.live_allocations()) == 1)

    world.nomad.trouble_allocation(world.job_id(), trouble, "exit code 137")

    await world.until(lambda: world.stack().status.reason is reason)
    assert world.stack().status.message == "exit code 137"


async def test_a_runtime_that_ran_and_exits_is_shown_as_a_crash_loop_with_its_exit_code(world):
    await world.ensure()
    world.prober.withdraw(world.live_allocations()[0].address)
    world.nomad.restart_task(world.job_id())

    world.nomad.trouble_allocation(world.job_id(), TaskTrouble.EXITED, "exit code 137")

    await world.until(lambda: world.stack().status.reason is Reason.CRASH_LOOP)
    assert world.stack().status.message == "exit code 137"


async def test_a_crash_is_told_until_the_next_run_is_proven(world):
    await world.ensure()
    address, server = world.live_allocations()[0].address, server_of(world)
    world.prober.withdraw(address)
    world.nomad.restart_task(world.job_id())
    world.nomad.trouble_allocation(world.job_id(), TaskTrouble.EXITED, "exit code 137")
    await world.until(lambda: world.stack().status.reason is Reason.CRASH_LOOP)

    world.nomad.restart_task(world.job_id())
    looks = world.prober.faults.calls["liveness"]
    await world.until(lambda: world.prober.faults.calls["liveness"] > looks + 2)
    await world.until(lambda: not world.plane.dispatcher.at_work)

    shown = world.stack().status
    assert world.live_allocations()[0].trouble is None
    assert (shown.phase, shown.reason, shown.message) == (
        Phase.STARTING,
        Reason.CRASH_LOOP,
        "exit code 137",
    )
    world.prober.serve(address, server)
    assert (await world.phase(Phase.RUNNING)).status.reason is None


async def test_a_crash_after_a_restart_of_the_service_is_told_as_one(tmp_path):
    world = a_world(tmp_path)
    async with world.running():
        await world.ensure()
    world.prober.withdraw(world.live_allocations()[0].address)
    async with world.running():
        world.nomad.restart_task(world.job_id())
        world.nomad.trouble_allocation(world.job_id(), TaskTrouble.EXITED, "exit code 137")

        await world.until(lambda: world.stack().status.message == "exit code 137")
        assert world.stack().status.reason is Reason.CRASH_LOOP


async def test_what_failed_and_is_tried_again_in_another_allocation_is_told_until_that_is_proven(world):
    world.nomad.autorun = False
    await world.ensure(wait=None)
    await world.until(lambda: len(world.live_allocations()) == 1)
    world.nomad.trouble_allocation(world.job_id(), TaskTrouble.DRIVER, "no such program")
    await world.until(lambda: world.stack().status.reason is Reason.DRIVER_FAILED)

    world.nomad.fail_allocation(world.job_id(), TaskTrouble.DRIVER, "no such program")
    await world.until(lambda: len(world.plane.fleet.observation(world.job_id()).allocations) == 2)
    await world.until(lambda: not world.plane.dispatcher.at_work)

    assert world.live_allocations()[0].trouble is None
    assert (world.stack().status.reason, world.stack().status.message) == (
        Reason.DRIVER_FAILED,
        "no such program",
    )


async def test_a_run_that_ended_is_shown_before_its_row_is_written(world, monkeypatch):
    await world.ensure()
    written = asyncio.Event()
    claim = type(world.store).claim

    async def late(*args, **kwargs):
        await written.wait()
        return await claim(*args, **kwargs)

    monkeypatch.setattr(type(world.store), "claim", late)
    world.nomad.end_allocation(world.job_id())

    await world.until(lambda: not world.plane.fleet.observation(world.job_id()).live)
    shown = (await world.plane.provisioning.inspect("ada")).stack.status
    row = await world.store.get("ada")
    written.set()

    assert (shown.health, shown.reason) == (Health.UNKNOWN, Reason.LOST)
    assert row.status.health is Health.HEALTHY


async def test_an_address_that_consul_lists_for_another_runtime_as_well_is_withdrawn(world):
    await world.ensure()
    address = world.live_allocations()[0].address

    world.consul.register(OTHER_JOB, OTHER, address, installation="another")

    await world.until(lambda: "oc-other-job" in world.stack().status.message)
    assert world.stack().status.phase is Phase.STARTING
    assert world.stack().status.runtime is None


async def test_no_password_is_sent_to_an_address_that_is_in_doubt(world):
    await world.ensure()
    server = server_of(world)
    address = world.live_allocations()[0].address
    world.consul.register(OTHER_JOB, OTHER, address, installation="another")
    await world.plane._catalog.compare_once()
    shown = len(server.tried)

    await world.until(lambda: "as well" in world.stack().status.message)

    assert len(server.tried) == shown


async def test_an_address_is_proven_anew_when_its_doubt_is_settled(world):
    await world.ensure()
    before = world.live_allocations()[0]
    world.consul.register(OTHER_JOB, OTHER, before.address, installation="another")
    await world.until(lambda: world.stack().status.phase is Phase.STARTING)

    world.consul.forget(OTHER_JOB, OTHER)

    stack = await world.phase(Phase.RUNNING)
    assert stack.status.runtime.allocation_id == before.id


async def test_a_leftover_of_an_allocation_that_ended_puts_no_address_in_doubt(world):
    await world.ensure("bob")
    old = world.live_allocations("bob")[0]
    await world.ensure("ada")
    address = world.live_allocations("ada")[0].address
    recreate = world.plane.provisioning.recreate
    await world.finished(await recreate("bob", by=BACKEND, if_match=None))

    world.consul.register(world.job_id("bob"), old.id, address)
    await world.plane._catalog.compare_once()

    assert world.plane.fleet.get("ada").doubt == ""


@pytest.mark.parametrize("of_a_job", ["that was deleted", "whose allocation was forgotten"])
async def test_a_leftover_that_nomad_does_not_know_any_more_puts_no_address_in_doubt(world, of_a_job):
    await world.ensure("ada")
    await world.ensure("bob")
    address = world.live_allocations("ada")[0].address
    forgotten = of_a_job != "that was deleted"
    job_id = world.job_id("bob") if forgotten else JobId("oc-gone-aaaaaaaaaaaaaaaaaaaa")

    world.consul.register(job_id, AllocationId("leftover"), address)
    await world.plane._catalog.compare_once()

    assert world.plane.fleet.get("ada").doubt == ""


@pytest.mark.parametrize("trouble", ["is away", "is not believed"])
async def test_where_nomad_cannot_be_asked_what_claims_an_address_may_be_there(world, trouble):
    for user in ("ada", "bob", "cyd"):
        await world.ensure(user)
    address = world.live_allocations("ada")[0].address
    if trouble == "is away":
        world.nomad.go_down()
    else:
        world.nomad.hide_from_listings()

    world.consul.register(JobId("oc-gone-aaaaaaaaaaaaaaaaaaaa"), AllocationId("leftover"), address)
    await world.plane._catalog.compare_once()

    assert "oc-gone" in world.plane.fleet.get("ada").doubt


async def test_a_critical_check_has_the_runtime_looked_at_at_once(tmp_path):
    world = a_world(tmp_path, liveness_interval=timedelta(hours=1))
    async with world.running():
        await world.ensure()
        server_of(world).password = ""

        world.consul.set_passing(world.job_id(), world.live_allocations()[0].id, passing=False)

        stack = await world.phase(Phase.FAILED)
        assert stack.status.reason is Reason.OPEN_WITHOUT_PASSWORD


async def _password(world: World):
    return await world.vault.read(world.job_id(), 1, _soon())


def _soon():
    from opencode_lifecycle.model.deadline import Deadline  # noqa: PLC0415

    return Deadline.after(5, "test")
