"""Why a runtime is not as it should be, and how it is put right."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from migrating import a_release
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.model.errors import UpstreamRejected, UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.release import ResourceClass
from opencode_lifecycle.model.staleness import Severity, staleness_of
from opencode_lifecycle.model.states import Desired, MigrationState, Phase, WhenStale
from opencode_lifecycle.ports.secrets import SecretSeen
from world import ADA, BACKEND, OPERATOR, SITE, World, content

IDLE_AT_ONCE = Limits(
    start=timedelta(seconds=60),
    stop=timedelta(seconds=60),
    poll=timedelta(milliseconds=50),
    idle_after=timedelta(0),
    idle_poll=timedelta(milliseconds=20),
)


@pytest.fixture
async def world(tmp_path):
    """One in which a stale runtime is shown and left alone."""
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        yield world


@pytest.fixture
async def idle(tmp_path):
    """One in which a stale runtime is put right when it is idle, which is every moment that no session works."""
    world = World(tmp_path, limits=IDLE_AT_ONCE)
    async with world.running():
        yield world


async def reasons(world: World) -> dict[Facet, tuple[str, str]]:
    view = await world.plane.provisioning.inspect(ADA)
    return {reason.facet: (reason.have, reason.want) for reason in view.staleness}


def public_url_told(world: World) -> str:
    """Return what a browser is sent to by Nomad's web interface."""
    return str(world.nomad.jobs[world.job_id()].specification["Variables"]["public_url"])


async def until_stale(world: World, facet: Facet) -> None:
    await world.until(lambda: facet in world.stack().status.stale)


async def test_a_secret_that_an_administrator_wrote_is_noticed(world):
    await world.ensure()
    world.vault.put(world.job_id(), {"password": "another", "env": {}})

    await until_stale(world, Facet.SECRET_VERSION)

    assert (await reasons(world)) == {Facet.SECRET_VERSION: ("1", "2")}
    assert world.stack().status.migration_state is MigrationState.STALE


async def test_a_secret_version_is_critical_and_needs_a_restart(world):
    await world.ensure()
    world.vault.put(world.job_id(), {"password": "another", "env": {}})
    await until_stale(world, Facet.SECRET_VERSION)

    (reason,) = (await world.plane.provisioning.inspect(ADA)).staleness

    assert (reason.severity, reason.restart) == (Severity.CRITICAL, True)


async def test_a_new_secret_is_rolled_in_when_the_runtime_is_idle(idle):
    await idle.ensure()
    before = idle.live_allocations()[0].id
    idle.vault.put(idle.job_id(), {"password": "another", "env": {}})

    await idle.until(lambda: idle.stack().status.secret_version == 2)
    await idle.until(lambda: [a.id for a in idle.live_allocations()] not in [[before], []])
    stack = await idle.phase(Phase.RUNNING)

    assert stack.status.facets.secret_version == 2
    await idle.until(lambda: idle.stack().status.migration_state is MigrationState.CURRENT)


async def test_an_agent_at_work_is_not_interrupted_for_a_new_secret(idle):
    idle.server_changes = {"busy": True, "changed_at": datetime.now(UTC)}
    await idle.ensure()
    before = idle.live_allocations()[0].id
    idle.vault.put(idle.job_id(), {"password": "another", "env": {}})

    await idle.until(lambda: "waits until it is idle" in idle.stack().status.message)

    assert [each.id for each in idle.live_allocations()] == [before]
    assert idle.stack().status.phase is Phase.RUNNING


async def test_a_runtime_whose_sessions_cannot_be_seen_counts_as_busy(idle):
    await idle.ensure()
    before = idle.live_allocations()[0].id
    (server,) = idle.prober.servers.values()
    server.hangs = True
    idle.vault.put(idle.job_id(), {"password": "another", "env": {}})

    await idle.until(lambda: "waits until it is idle" in idle.stack().status.message)

    assert [each.id for each in idle.live_allocations()] == [before]


async def test_under_now_even_a_busy_runtime_is_put_right(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        world.server_changes = {"busy": True}
        await world.ensure()
        before = world.live_allocations()[0].id
        world.vault.put(world.job_id(), {"password": "another", "env": {}})

        await world.until(lambda: [a.id for a in world.live_allocations()] not in [[before], []])
        await world.phase(Phase.RUNNING)


async def test_what_is_stale_while_the_service_is_down_is_marked_when_it_starts(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
    world.nomad.change_outside(world.job_id(), memory=999)
    async with world.running():
        await until_stale(world, Facet.EDITED_OUTSIDE)


async def test_another_public_address_is_told_in_place(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
    (before,) = world.live_allocations()
    told = public_url_told(world)
    world.parameters["site"] = replace(SITE, public_url_template="https://{job_id}.agents.example")
    async with world.running():
        await world.until(lambda: public_url_told(world) != told)
        await world.until(lambda: world.stack().status.facets.endpoints == "https://{job_id}.agents.example")

        assert told == ""
        assert public_url_told(world) == f"https://{world.job_id()}.agents.example"
        assert [each.id for each in world.live_allocations()] == [before.id]


async def test_what_a_neighbour_holds_up_is_shown_and_counted_as_stale_meanwhile(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
    world.parameters["site"] = replace(SITE, public_url_template="https://{job_id}.agents.example")
    world.nomad.faults.fail_next(
        "register", UpstreamUnavailable("nomad", "register", "it is away"), times=None
    )
    async with world.running():
        await until_stale(world, Facet.ENDPOINTS)
        [counted] = (await world.plane.oversight.staleness()).facets

        assert (counted.facet, counted.stacks) == (Facet.ENDPOINTS, 1)
        assert await reasons(world) == {Facet.ENDPOINTS: ("none", "https://{job_id}.agents.example")}


async def test_an_edit_from_outside_is_shown_field_by_field(world):
    await world.ensure()
    world.nomad.change_outside(world.job_id(), memory=999)

    await until_stale(world, Facet.EDITED_OUTSIDE)

    assert (await reasons(world))[Facet.EDITED_OUTSIDE] == (
        "Variables[memory] = 999",
        "Variables[memory] = 256",
    )


async def test_an_edit_from_outside_is_in_the_history(world):
    await world.ensure()
    world.nomad.change_outside(world.job_id(), memory=999)
    await until_stale(world, Facet.EDITED_OUTSIDE)

    events = await world.plane.provisioning.events(ADA, None, 100)

    (edited,) = [event for event in events.items if event.kind == "stack.edited_outside"]
    assert edited.data == {"fields": ["Variables[memory]"]}


async def test_an_edit_from_outside_is_taken_back_when_the_runtime_is_idle(idle):
    await idle.ensure()
    idle.nomad.change_outside(idle.job_id(), memory=999)

    await idle.until(lambda: idle.nomad.jobs[idle.job_id()].specification["Variables"]["memory"] == 256)
    await idle.phase(Phase.RUNNING)
    await idle.until(lambda: not idle.stack().status.stale)


async def test_an_edit_that_changes_in_place_is_taken_back_at_once_and_without_a_restart(idle):
    idle.server_changes = {"busy": True}
    await idle.ensure()
    before = idle.live_allocations()[0].id
    idle.nomad.change_outside(idle.job_id(), description="mine now")

    await idle.until(
        lambda: idle.nomad.jobs[idle.job_id()].specification["Variables"]["description"] != "mine now"
    )

    assert [each.id for each in idle.live_allocations()] == [before]


async def wants_a_release(world: World, **changes) -> None:
    """Have the stack want a release that differs in *changes*, and wait until it is stale for that."""
    release = await a_release(world, **changes)
    await world.plane.provisioning.pin(ADA, release, by=OPERATOR, if_match=None)
    await world.until(lambda: bool(world.stack().status.stale))


@pytest.fixture
async def set_up(tmp_path):
    """One whose release sets two variables."""
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    world.content = content(environment={"EDITOR": "value-of-editor", "TZ": "value-of-tz"})
    async with world.running():
        await world.ensure()
        yield world


async def test_of_variables_it_is_told_which_differ_and_never_what_they_hold(set_up):
    await wants_a_release(set_up, environment={"TZ": "another-value", "PAGER": "value-of-pager"})

    assert await reasons(set_up) == {
        Facet.ENVIRONMENT: (
            "EDITOR = set; PAGER = absent; TZ = set",
            "EDITOR = absent; PAGER = set; TZ = set otherwise",
        )
    }


async def test_of_a_resource_class_its_figures_are_told(world):
    await world.ensure()
    await wants_a_release(
        world, resource_classes={"small": ResourceClass(cpu=150, memory=256, memory_max=512)}
    )

    assert await reasons(world) == {
        Facet.RESOURCES: (
            "small: cpu 100, memory 256, memory_max 512",
            "small: cpu 150, memory 256, memory_max 512",
        )
    }


async def test_another_resource_class_is_told_by_its_name(world):
    await world.ensure()
    await world.ensure(resources="large", wait=None)
    await until_stale(world, Facet.RESOURCES)

    have, want = (await reasons(world))[Facet.RESOURCES]
    assert (have.partition(":")[0], want.partition(":")[0]) == ("small", "large")


async def test_a_dry_run_tells_what_differs_as_well(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.plane.dispatcher._workers = 0
        release = await a_release(world, environment={"TZ": "value-of-tz"})
        await world.plane.provisioning.pin(ADA, release, by=OPERATOR, if_match=None)

        (plan,) = (await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)).stacks

        assert [(each.have, each.want) for each in plan.staleness] == [("TZ = absent", "TZ = set")]


async def test_what_differs_is_told_after_a_restart_too(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        await wants_a_release(world, environment={"TZ": "value-of-tz"})
    async with world.running():
        await world.until(world.plane.dispatcher.compared.is_set)

        assert await reasons(world) == {Facet.ENVIRONMENT: ("TZ = absent", "TZ = set")}


async def test_digests_are_shown_of_a_job_of_which_nobody_knows_what_it_was_built_of(set_up):
    await wants_a_release(set_up, environment={})
    stack = set_up.stack()
    found = staleness_of(
        stack.status, replace(stack.status.facets, environment="wanted"), desired=Desired.RUNNING
    )
    of_nothing = replace(stack, status=replace(stack.status, built=None))
    edited = replace(
        stack, status=replace(stack.status, facets=replace(stack.status.facets, environment="edited"))
    )

    aims = set_up.plane.oversight._aims
    assert [aims.in_detail(found, each) for each in (of_nothing, edited)] == [found, found]
    assert aims.in_detail(found, stack) != found


async def test_registering_the_same_again_is_no_edit(world):
    await world.ensure()
    before = world.nomad.jobs[world.job_id()].seen.modify_index
    world.nomad.change_outside(world.job_id())

    await world.until(lambda: world.stack().status.job_modify_index > before)

    assert world.stack().status.edits == ()
    assert await reasons(world) == {}


async def test_an_image_that_somebody_put_into_the_job_is_shown_as_what_runs(world):
    await world.ensure()
    world.nomad.edit_outside(world.job_id(), image="mine:1")

    await until_stale(world, Facet.IMAGE)

    assert (await reasons(world))[Facet.IMAGE] == ("mine:1", "")


async def test_a_runtime_that_vanished_is_shown_as_missing_until_it_runs_again(world):
    await world.ensure()
    world.nomad.autorun = False

    world.nomad.purge_outside(world.job_id())
    await until_stale(world, Facet.MISSING)
    await world.until(lambda: len(world.live_allocations()) == 1)
    await world.phase(Phase.STARTING)
    assert Facet.MISSING in await reasons(world)

    world.nomad.run_allocation(world.job_id())
    await world.phase(Phase.RUNNING)
    assert await reasons(world) == {}


async def test_a_stack_that_is_stopped_is_not_stale(world):
    await world.ensure()
    world.vault.put(world.job_id(), {"password": "another", "env": {}})
    await until_stale(world, Facet.SECRET_VERSION)

    await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))

    assert world.stack().intent.desired is Desired.STOPPED
    assert await reasons(world) == {}
    assert world.stack().status.stale == frozenset()


async def test_new_instructions_of_the_settings_do_not_touch_a_stack_that_wants_its_release(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
    world.content = content(instructions="Be brief.")
    async with world.running():
        assert (await world.ensure()).ready
        assert await reasons(world) == {}


async def test_the_summary_of_the_fleet_says_the_same_as_each_stack(world):
    for user in ("ada", "bob"):
        await world.ensure(user)
    world.vault.put(world.job_id(), {"password": "another", "env": {}})
    await until_stale(world, Facet.SECRET_VERSION)

    summary = await world.plane.oversight.staleness()

    assert (summary.stacks, summary.stale) == (2, 1)
    assert [(count.facet, count.stacks) for count in summary.facets] == [(Facet.SECRET_VERSION, 1)]


async def test_a_dry_run_tells_how_an_edit_is_taken_back_and_takes_nothing_back(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.plane.dispatcher._workers = 0
        world.nomad.change_outside(world.job_id(), description="mine now")

        report = await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)

        (plan,) = report.stacks
        assert plan.steps == ["compare the job with what was registered", "register the job"]
        assert world.nomad.jobs[world.job_id()].specification["Variables"]["description"] == "mine now"


async def until_new_secret_is_seen(world: World) -> None:
    world.vault.put(world.job_id(), {"password": "new", "env": {}})
    await world.until(lambda: (world.plane.fleet.get(ADA).secret or SecretSeen(version=None)).version == 2)


async def test_a_dry_run_tells_that_a_runtime_is_started_anew_for_a_new_secret(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.plane.dispatcher._workers = 0
        await until_new_secret_is_seen(world)

        report = await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)

        (plan,) = report.stacks
        assert plan.steps == [
            "have Nomad check the job that is to follow",
            "call it stopping (stale)",
            "end the turns that are at work",
            "make its secret, or take the one there is",
            "make its workspace volume, or take the one there is",
            "publish its instructions and managed configuration",
            "register the job",
        ]
        assert [each.facet for each in plan.staleness] == [Facet.SECRET_VERSION]
        assert world.stack().status.secret_version == 1


@pytest.mark.parametrize("away", ["vault", "consul"])
async def test_a_reconcile_tells_of_every_stack_with_vault_or_consul_away(tmp_path, away):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    users = [UserId(f"user-{number}") for number in range(3)]
    async with world.running():
        for user in users:
            await world.ensure(user)
        world.plane.dispatcher._workers = 0
        for user in users:
            world.nomad.change_outside(world.job_id(user), memory=999)
        neighbour = {"vault": world.vault, "consul": world.consul}[away]
        neighbour.faults.fail_next("*", UpstreamUnavailable(away, "answer", "it is away"), times=None)

        report = await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)

        assert sorted(plan.user_id for plan in report.stacks) == users
        assert all(plan.steps for plan in report.stacks)
        assert "it is away" in report.orphans_unseen
        assert report.orphans == ()


async def test_a_reconcile_with_nomad_away_has_nothing_to_compare_with(world):
    await world.ensure()
    world.nomad.faults.fail_next(
        "list_all", UpstreamUnavailable("nomad", "list all", "it is away"), times=None
    )

    with pytest.raises(UpstreamUnavailable):
        await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)


async def test_a_dry_run_tells_of_all_that_a_runtime_is_stale_in(tmp_path):
    """Also of what it finds out on the way, and of what is past by the end of it."""
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.plane.dispatcher._workers = 0
        await until_new_secret_is_seen(world)
        world.nomad.change_outside(world.job_id(), description="mine now")

        (plan,) = (await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)).stacks

        assert [each.facet for each in plan.staleness] == [Facet.SECRET_VERSION, Facet.EDITED_OUTSIDE]


async def test_a_dry_run_tells_of_a_runtime_that_vanished_that_it_is_missing(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.plane.dispatcher._workers = 0
        await until_new_secret_is_seen(world)
        world.nomad.purge_outside(world.job_id())

        (plan,) = (await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)).stacks

        assert [each.facet for each in plan.staleness] == [Facet.MISSING]


async def test_a_dry_run_tells_that_a_runtime_is_left_as_it_is_for_a_job_that_nomad_refuses(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        world.plane.dispatcher._workers = 0
        await until_new_secret_is_seen(world)
        world.nomad.faults.fail_next("validate", UpstreamRejected("nomad", "validate", "no"))

        report = await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)

        (plan,) = report.stacks
        assert plan.steps == ["leave it as it is: nomad: validate: no"]
        assert [each.facet for each in plan.staleness] == [Facet.SECRET_VERSION]


async def test_a_dry_run_of_a_fleet_that_is_as_it_should_be_names_nothing(world):
    await world.ensure()

    report = await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)

    assert (report.compared, report.stacks, report.orphans) == (1, [], [])


async def test_a_reconcile_has_done_what_its_dry_run_said(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
        ours = described(world)
        world.plane.dispatcher._workers, workers = 0, world.plane.dispatcher._workers
        world.nomad.change_outside(world.job_id(), description="mine now")
        before = Counter(world.nomad.faults.calls)

        (said,) = (await world.plane.oversight.reconcile(dry_run=True, by=BACKEND)).stacks
        world.plane.dispatcher._workers = workers
        await world.plane.oversight.reconcile(dry_run=False, by=BACKEND)
        await world.until(lambda: described(world) == ours)

        done = Counter(world.nomad.faults.calls) - before
        assert said.steps == ["compare the job with what was registered", "register the job"]
        assert [done[effect] for effect in ("register", "deregister")] == [1, 0]


def described(world: World) -> object:
    return world.nomad.jobs[world.job_id()].specification["Variables"].get("description")


async def test_a_rotation_is_not_taken_for_the_work_of_an_administrator(tmp_path):
    world = World(tmp_path, limits=IDLE_AT_ONCE, secret_sweep_interval=timedelta(hours=1))
    async with world.running():
        await world.ensure()
        rotate = world.plane.provisioning.rotate_password
        await world.finished(await rotate(ADA, by=BACKEND, if_match=None))
        rotated = world.live_allocations()[0].id

        await world.plane._nomad.list_once()

        assert world.stack().status.secret_version == 2
        assert [each.id for each in world.live_allocations()] == [rotated]
        assert await reasons(world) == {}


async def one_that_was_edited_while_nobody_looked(tmp_path, **parameters) -> World:
    world = World(tmp_path, when_stale=WhenStale.REPORT, **parameters)
    async with world.running():
        await world.ensure()
    world.nomad.change_outside(world.job_id(), labels={"team": "blue"})
    return world


async def test_the_service_is_ready_only_when_every_stack_was_compared(tmp_path):
    world = await one_that_was_edited_while_nobody_looked(tmp_path)
    hold = world.nomad.faults.hold_next("compare")
    async with world.running():
        await hold.reached.wait()
        before = {line.name: line.ok for line in await world.plane.readiness.report()}
        hold.release()
        await world.until(world.plane.dispatcher.compared.is_set)
        after = {line.name: line.ok for line in await world.plane.readiness.report()}

        assert (before["comparison"], after["comparison"]) == (False, True)
        assert Facet.EDITED_OUTSIDE in world.stack().status.stale


async def test_the_service_is_ready_when_every_stack_was_compared_whatever_else_is_under_way(tmp_path):
    world = await one_that_was_edited_while_nobody_looked(tmp_path)
    comparing, registering = (world.nomad.faults.hold_next(call) for call in ("compare", "register"))
    async with world.running():
        await comparing.reached.wait()
        starting = asyncio.create_task(world.ensure("bob"))
        await registering.reached.wait()
        comparing.release()

        await world.until(world.plane.dispatcher.compared.is_set)

        assert UserId("bob") in world.plane.dispatcher._at_work
        registering.release()
        await starting


async def test_orphans_are_looked_for_when_every_stack_was_compared(tmp_path):
    world = await one_that_was_edited_while_nobody_looked(
        tmp_path, comparison_interval=timedelta(milliseconds=1)
    )
    hold = world.nomad.faults.hold_next("compare")
    async with world.running():
        await hold.reached.wait()
        await world.ensure("bob")
        before = world.plane._orphans.pulse.age()
        hold.release()

        await world.until(lambda: world.plane._orphans.pulse.age() is not None)

        assert before is None
