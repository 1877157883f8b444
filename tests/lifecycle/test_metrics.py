"""What Prometheus is told of the fleet and of the whole."""

from datetime import timedelta

import pytest

from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.states import Reason, WhenStale
from opencode_lifecycle.telemetry import FleetCollector
from world import World


@pytest.fixture
async def world(tmp_path):
    world = World(tmp_path, when_stale=WhenStale.REPORT, comparison_interval=timedelta(milliseconds=50))
    async with world.running():
        yield world


def told(world: World, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of the metric by the values of their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in FleetCollector(world.plane).collect()
        if metric.name == name
        for sample in metric.samples
    }


async def test_stale_stacks_are_counted_by_facet(world):
    await world.ensure()
    world.vault.put(world.job_id(), {"password": "another", "env": {}})
    await world.until(lambda: Facet.SECRET_VERSION in world.stack().status.stale)

    counts = told(world, "opencode_lifecycle_stale_stacks")

    assert counts["secret_version", "critical", "true"] == 1
    assert counts["image", "warning", "true"] == 0


async def test_every_series_of_the_stale_is_there_from_the_start(world):
    """What is missing while nothing is stale could not be told from what is not watched."""
    counts = told(world, "opencode_lifecycle_stale_stacks")

    of_edits = {labels for labels in counts if labels[0] == Facet.EDITED_OUTSIDE}
    assert {labels[0] for labels in counts} == set(Facet)
    assert of_edits == {("edited_outside", "warning", "false"), ("edited_outside", "warning", "true")}
    assert len(counts) == len(Facet) + 1
    assert set(counts.values()) == {0}


async def test_a_standing_condition_shows_as_one(world):
    for user in ("ada", "bob", "cyd", "dan"):
        await world.ensure(user)
    world.nomad.hide_from_listings()
    await world.until(lambda: bool(world.plane.fleet.frozen))

    assert told(world, "opencode_lifecycle_condition")[("mass_disappearance",)] == 1


async def test_orphans_are_counted_by_kind_and_proof(world):
    world.nomad.plant_job("oc-eve", managed_by="opencode-lifecycle", installation="main", user="eve")

    await world.until(lambda: told(world, "opencode_lifecycle_orphans") == {("job", "false"): 1})


async def test_every_watch_tells_its_age(world):
    await world.until(lambda: min(told(world, "opencode_lifecycle_watch_age_seconds").values()) >= -1)

    watches = {labels[0] for labels in told(world, "opencode_lifecycle_watch_age_seconds")}

    assert watches == {
        "nomad_events",
        "nomad_listing",
        "nomad_nodes",
        "consul_checks",
        "consul_comparison",
        "vault_versions",
        "probes",
        "usage",
        "orphans",
    }


async def test_stacks_are_counted_by_the_reason_why_they_are_as_they_are(world):
    world.server_changes = {"password": ""}
    await world.ensure()

    counts = told(world, "opencode_lifecycle_stacks_by_reason")

    assert {labels for labels, count in counts.items() if count} == {("open_without_password",)}
    assert {reason for (reason,) in counts} == set(Reason)
