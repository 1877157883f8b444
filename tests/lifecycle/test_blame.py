"""What we changed ourselves is shown as that, and never as the work of somebody else."""

from dataclasses import fields, replace

import pytest

from opencode_lifecycle.lifecycle.reconciling.wanted import Site, job_variables, wanted_facets
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet, Facets
from opencode_lifecycle.model.states import MigrationState, Phase, WhenStale
from world import ADA, BACKEND, SITE, World, content

OTHER_SETTINGS = replace(SITE, vault_role="opencode-2", entrypoint=("other",))


async def touched(world: World) -> None:
    """An operator registers the very same job again, as Nomad makes a new version of it for another token."""
    world.nomad.edit_outside(world.job_id())
    await world.until(
        lambda: world.stack().status.job_modify_index == world.nomad.jobs[world.job_id()].seen.modify_index
    )


async def stale_in(world: World) -> set[Facet]:
    return {reason.facet for reason in (await world.plane.provisioning.inspect(ADA)).staleness}


async def test_a_changed_group_is_brought_in_without_a_restart_and_is_not_called_an_edit(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        (before,) = world.live_allocations()
        await world.ensure(group="team-b")
        await touched(world)

        assert world.stack().status.edits == ()
        assert "team-b" in world.nomad.jobs[world.job_id()].specification["Variables"]["description"]
        assert [each.id for each in world.live_allocations()] == [before.id]


async def test_a_changed_setting_of_ours_is_stale_as_a_template_and_not_as_an_edit(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
    world.parameters["site"] = OTHER_SETTINGS
    async with world.running():
        assert await stale_in(world) == {Facet.TEMPLATE}
        await touched(world)

        assert await stale_in(world) == {Facet.TEMPLATE}
        assert world.stack().status.edits == ()


async def test_a_changed_setting_of_ours_is_brought_in_by_a_restart(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.NOW)
    async with world.running():
        await world.ensure()
    world.parameters["site"] = OTHER_SETTINGS
    async with world.running():
        await world.until(
            lambda: world.nomad.jobs[world.job_id()].specification["Variables"]["vault_role"] == "opencode-2"
        )
        await world.phase(Phase.RUNNING)
        await world.until(lambda: world.stack().status.migration_state is MigrationState.CURRENT)


async def test_an_environment_that_waits_to_be_brought_in_is_not_called_an_edit_from_outside(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        await world.ensure(environment={"TEAM": "blue"})
        await touched(world)

        assert await stale_in(world) == {Facet.ENVIRONMENT}


async def test_an_edit_that_was_known_stays_known_when_a_setting_of_ours_changes(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        world.nomad.change_outside(world.job_id(), memory=999)
        await world.until(lambda: world.stack().status.edits != ())
    world.parameters["site"] = OTHER_SETTINGS
    async with world.running():
        await touched(world)

        assert await stale_in(world) == {Facet.TEMPLATE, Facet.EDITED_OUTSIDE}


async def test_a_registration_on_a_newer_release_whose_reply_was_lost_is_nobody_elses(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        await world.finished(await world.plane.provisioning.stop(ADA, by=BACKEND, hold=False, if_match=None))
    world.content = content(opencode_version="1.18.35")
    async with world.running():
        lost = UpstreamUnavailable("nomad", "register", "connection reset")
        world.nomad.faults.fail_next("register", lost, after_commit=True)
        await world.ensure()

        assert world.stack().status.edits == ()
        assert await stale_in(world) == set()


async def test_a_runtime_that_was_registered_before_settings_counted_is_not_stale_for_that(tmp_path):
    """It has the bare digest of its template; an upgrade of the service restarts nothing by itself."""
    world = World(tmp_path)
    async with world.running():
        await world.ensure()
        stack, release = world.stack(), world.plane.releases.current
        bare = replace(stack.status.facets, template=release.template_digest)
        old = replace(stack, status=replace(stack.status, facets=bare))

        assert wanted_facets(old, release, SITE, secret_version=1) == bare
        started_anew = replace(old, status=replace(old.status, phase=Phase.PENDING))
        assert wanted_facets(started_anew, release, SITE, secret_version=1) == stack.status.facets


@pytest.mark.parametrize(
    "name", sorted({each.name for each in fields(Site)} - {"installation", "secret_environment"})
)
async def test_every_setting_that_goes_into_a_job_is_a_facet_of_it(world, name):
    """But what names the installation, which never changes; and the secret environment counts as environment."""
    await world.ensure()
    stack, release = world.stack(), world.plane.releases.current
    site = replace(SITE, public_url_template="https://{job_id}.agents.example")
    now = getattr(site, name)
    other = replace(site, **{name: f"{now}-2" if isinstance(now, str) else (*now, "other")})

    before = wanted_facets(stack, release, site, secret_version=1)
    after = wanted_facets(stack, release, other, secret_version=1)
    changed = {
        each.name for each in fields(Facets) if getattr(after, each.name) != getattr(before, each.name)
    }

    assert job_variables(stack, release, site, before) != job_variables(stack, release, other, before)
    assert changed == {"endpoints" if name == "public_url_template" else "template"}
