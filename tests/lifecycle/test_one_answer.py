"""
The same answer everywhere: in which facet a stack is stale, how severe that is, and whether putting it right restarts it.

The API, the command line as tables and as JSON, the summary of the fleet and the metrics, each asked over HTTP of one
service whose stack is stale in one facet, for every facet. The service is started anew between, so none tells what only
the life before knew.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from click.testing import CliRunner
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from migrating import a_release
from opencode_lifecycle.api.server import Runner, build_app
from opencode_lifecycle.cli.main import main
from opencode_lifecycle.model.errors import UpstreamUnavailable
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.model.release import ResourceClass
from opencode_lifecycle.model.states import Reason, WhenStale
from opencode_lifecycle.telemetry import FleetCollector
from world import ADA, BACKEND, OPERATOR, SITE, World, content

TEMPLATE = content().template
AWAY = UpstreamUnavailable("nomad", "register", "it is away")
Make = Callable[[World], Awaitable[object]]


def wants(**changes: Any) -> Make:
    """Have the stack want a release that differs in *changes*."""

    async def pin(world: World) -> None:
        release = await a_release(world, **changes)
        await world.plane.provisioning.pin(ADA, release, by=OPERATOR, if_match=None)

    return pin


async def another_secret(world: World) -> None:
    world.vault.put(world.job_id(), {"password": "another", "env": {}})


async def other_labels(world: World) -> None:
    world.nomad.faults.fail_next("register", AWAY, times=None)
    await world.ensure(labels={"team": "blue"}, wait=None)


async def other_public_addresses(world: World) -> None:
    world.nomad.faults.fail_next("register", AWAY, times=None)
    world.parameters["site"] = replace(SITE, public_url_template="https://{job_id}.agents.example")


async def an_edit_that_restarts(world: World) -> None:
    world.nomad.change_outside(world.job_id(), memory=999)


async def an_edit_in_place(world: World) -> None:
    world.nomad.change_outside(world.job_id(), description="mine now")


async def vanished(world: World) -> None:
    world.nomad.refuse_placement("no node has the memory")
    world.nomad.purge_outside(world.job_id())
    await world.until(lambda: world.stack().status.reason is Reason.NO_CAPACITY)


@dataclass(frozen=True, slots=True)
class Stale:
    """A stack that is stale in *facet* once *make* was done to it."""

    facet: Facet
    severity: str
    restart: bool
    make: Make

    def __str__(self) -> str:
        return (
            f"{self.facet}, {self.make.__name__}" if self.facet is Facet.EDITED_OUTSIDE else str(self.facet)
        )


STALE = [
    Stale(Facet.IMAGE, "warning", True, wants(image="opencode:2")),
    Stale(Facet.OPENCODE_VERSION, "warning", True, wants(opencode_version="1.18.35")),
    Stale(Facet.TEMPLATE, "info", True, wants(template=f"{TEMPLATE}\n# another")),
    Stale(Facet.ENVIRONMENT, "info", True, wants(environment={"EDITOR": "vi"})),
    Stale(
        Facet.RESOURCES,
        "info",
        True,
        wants(resource_classes={"small": ResourceClass(cpu=101, memory=256, memory_max=512)}),
    ),
    Stale(Facet.SECRET_VERSION, "critical", True, another_secret),
    Stale(Facet.PROMPT, "info", False, wants(instructions="Be brief.")),
    Stale(Facet.CONFIG, "info", False, wants(managed_config='{"share": "disabled"}')),
    Stale(Facet.LABELS, "info", False, other_labels),
    Stale(Facet.ENDPOINTS, "info", False, other_public_addresses),
    Stale(Facet.EDITED_OUTSIDE, "warning", True, an_edit_that_restarts),
    Stale(Facet.EDITED_OUTSIDE, "warning", False, an_edit_in_place),
    Stale(Facet.MISSING, "critical", True, vanished),
]


@dataclass(frozen=True)
class Service:
    url: str
    token_file: Path

    async def get(self, path: str) -> str:
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as session:
            return await (await session.get(self.url + path)).text()

    async def cli(self, *arguments: str) -> str:
        where = ("--url", self.url, "--token-file", str(self.token_file))
        result = await asyncio.to_thread(CliRunner().invoke, main, [*where, *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout


@asynccontextmanager
async def served(world: World) -> AsyncIterator[Service]:
    """Put the API before the control plane of *world*, as the application does."""
    plane, registry = world.plane, CollectorRegistry()
    registry.register(FleetCollector(plane))
    app = build_app(
        provisioning=plane.provisioning,
        leases=plane.leases,
        oversight=plane.oversight,
        rollouts=plane.rollouts,
        access=plane.access,
        readiness=plane.readiness,
        releasing=plane.releasing,
        groups=plane.groups,
        snapshots=plane.snapshots,
        idempotency=world.store,
        registry=registry,
    )
    _, secret = await plane.access.issue("operator", Role.OPERATOR, None, by=OPERATOR)
    token_file = world.path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(secret)
    runner = Runner(app, shutdown_seconds=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Service(f"http://127.0.0.1:{runner.addresses[0][1]}", token_file)
    finally:
        await runner.cleanup()


def told(metrics: str) -> list[tuple[dict[str, str], float]]:
    """Return the samples that count any stale stack."""
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(metrics)
        if family.name == "opencode_lifecycle_stale_stacks"
        for sample in family.samples
        if sample.value
    ]


def row_of(facet: Facet, shown: str) -> list[str]:
    """Return the cells of the one row about *facet* in the table of facets that is among what is *shown*."""
    rows = shown[re.search("^FACET ", shown, re.MULTILINE).start() :].splitlines()
    (line,) = (line for line in rows if line.startswith(f"{facet}  "))
    return re.split(r" {2,}", line.strip())


@pytest.fixture(autouse=True)
def silence():
    """Keep what the service logs apart from what the command line says: here they are one process."""
    with structlog.testing.capture_logs():
        yield


def test_there_is_a_stale_stack_of_every_facet():
    assert {stale.facet for stale in STALE} == set(Facet)


@pytest.mark.parametrize("stale", STALE, ids=str)
async def test_whoever_is_asked_says_the_same_of_a_stale_stack(tmp_path, stale):
    world = World(tmp_path, when_stale=WhenStale.REPORT)
    async with world.running():
        await world.ensure()
        await world.ensure("bob")
        await world.finished(
            await world.plane.provisioning.stop(UserId("bob"), by=BACKEND, hold=False, if_match=None)
        )
        await stale.make(world)
    async with world.running(), served(world) as service:
        await world.until(lambda: stale.facet in world.stack().status.stale)
        why = {"facet": stale.facet.value, "severity": stale.severity, "restart": stale.restart}
        of_the_fleet = {"stacks": 2, "stale": 1, "items": [{**why, "stacks": 1}], "next_cursor": None}
        restarts = "yes" if stale.restart else "no"

        shown = json.loads(await service.get(f"/v1/stacks/{ADA}"))
        (reason,) = shown["staleness"]
        assert reason == {**why, "have": reason["have"], "want": reason["want"]}
        assert reason["have"] != reason["want"]
        for query in ("true", stale.facet):
            listed = json.loads(await service.get(f"/v1/stacks?stale={query}"))["items"]
            assert [each["staleness"] for each in listed] == [[reason]]

        assert json.loads(await service.get("/v1/staleness")) == of_the_fleet
        assert told(await service.get("/metrics")) == [({**why, "restart": str(stale.restart).lower()}, 1)]

        assert json.loads(await service.cli("show", ADA, "--json"))["staleness"] == [reason]
        assert json.loads(await service.cli("staleness", "--json")) == of_the_fleet
        facet, _, _, severity, restart = row_of(stale.facet, await service.cli("show", ADA))
        assert (facet, severity, restart) == (stale.facet, stale.severity, restarts)
        facet, stacks, *_, severity, restart = row_of(stale.facet, await service.cli("staleness"))
        assert (facet, stacks, severity, restart) == (stale.facet, "1", stale.severity, restarts)
        assert [ADA in line for line in (await service.cli("list", "--stale", stale.facet)).splitlines()] == [
            False,
            True,
        ]
