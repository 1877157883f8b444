"""A fleet at rest: what Nomad shows of it, and the rows that the service has of it. Both are worked out from a number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from itertools import islice
from typing import Final

from sqlalchemy import Insert, insert, update

from bench.neighbours import VERSION
from bench.replay import NODE, allocation_id_of, volume_id_of
from opencode_lifecycle import application
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.database.stack_rows import values_of
from opencode_lifecycle.adapters.database.tables import releases, sequences, user_stacks
from opencode_lifecycle.lifecycle.control_plane import Parameters
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.lifecycle.reconciling.wanted import Site, wanted_facets
from opencode_lifecycle.lifecycle.releases import release_of_settings
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import (
    AllocationId,
    OperationId,
    ReleaseId,
    UserId,
    VolumeId,
    job_id_of,
)
from opencode_lifecycle.model.migration import Footing
from opencode_lifecycle.model.release import Release, ResourceClass
from opencode_lifecycle.model.stack import Address, Intent, Runtime, Stack, Status, Workspace
from opencode_lifecycle.model.states import Desired, Health, Phase
from opencode_lifecycle.settings import Settings

_FIRST_HOST: Final = IPv4Address("127.1.0.1")
_SINCE: Final = datetime(2026, 11, 1, 6, tzinfo=UTC)
_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One stack of the fleet."""

    number: int
    user_id: UserId
    job_id: str
    host: str
    job_modify_index: int


def members(count: int, *, installation: str) -> Iterator[Member]:
    for number in range(count):
        user_id = UserId(f"user-{number:06}@example.org")
        yield Member(
            number=number,
            user_id=user_id,
            job_id=job_id_of(installation, user_id),
            host=str(_FIRST_HOST + number),
            job_modify_index=1000 + 4 * (number + 1),
        )


def meta_of(member: Member, facets: Mapping[str, str], *, installation: str) -> Mapping[str, str]:
    """Return the meta of the member's job, as our template writes it."""
    return {
        **facets,
        "user": member.user_id,
        "installation": installation,
        "managed_by": "opencode-lifecycle",
    }


async def seed(settings: Settings, count: int, *, port: int, node_id: str, mark: str) -> Mapping[str, str]:
    """Write the rows of *count* stacks that run and are current, and return what the meta of their jobs says."""
    await application.migrate(settings)
    database = Database(url=settings.database_url, exclusive=True)
    await database.open()
    try:
        release = await release_of_settings(application.release_content(settings), database, now=utc_now())
        parameters = application._parameters(settings)
        await database.put_cluster_mark(settings.installation, mark)
        facets = _facets(release, parameters)
        fleet = members(count, installation=settings.installation)
        while some := list(islice(fleet, _AT_ONCE)):
            rows = [_row(each, release, facets, parameters, port=port, node_id=node_id) for each in some]
            await database._write("seed", lambda work, rows=rows: work.write(insert(user_stacks), rows))
        last = update(sequences).values(changes=count)
        await database._write("seed", lambda work: work.write(last, {}))
    finally:
        await database.close()
    return facets.meta()


def _facets(release: Release, parameters: Parameters) -> Facets:
    stack = _stack(
        next(members(1, installation=parameters.site.installation)),
        release,
        None,
        parameters,
        port=1,
        node_id="",
    )
    return wanted_facets(stack, release, parameters.site, secret_version=1)


def _row(
    member: Member, release: Release, facets: Facets, parameters: Parameters, *, port: int, node_id: str
) -> Mapping[str, object]:
    return values_of(_stack(member, release, facets, parameters, port=port, node_id=node_id))


def _stack(
    member: Member,
    release: Release,
    facets: Facets | None,
    parameters: Parameters,
    *,
    port: int,
    node_id: str,
) -> Stack:
    allocation_id = AllocationId(allocation_id_of(member.job_id))
    volume_id = volume_id_of(member.job_id)
    runtime = Runtime(
        allocation_id=allocation_id,
        job_version=0,
        node=NODE,
        image=release.image,
        opencode_version=VERSION,
        revision=facets.revision if facets is not None else "",
        secret_version=1,
        release=release.id,
        restarts=0,
        started_at=_SINCE,
        address=Address(host=member.host, port=port),
        proven_at=_SINCE,
    )
    built = facets and Footing(
        release=release.id,
        resources=parameters.default_resources,
        environment={},
        facets=facets,
        used=True,
    )
    return Stack(
        user_id=member.user_id,
        job_id=job_id_of(parameters.site.installation, member.user_id),
        namespace=parameters.namespace,
        region=parameters.region,
        intent=Intent(
            generation=1,
            desired=Desired.RUNNING,
            group="default",
            resources=parameters.default_resources,
            labels={},
            environment={},
            wanted_release=release.id,
            last_operation=OperationId(f"op_{member.number:026}"),
        ),
        status=Status(
            observed_generation=1,
            phase=Phase.RUNNING,
            phase_since=_SINCE,
            health=Health.HEALTHY,
            facets=facets,
            release=release.id,
            secret_version=1,
            workspace=Workspace(
                volume_id=VolumeId(volume_id), node_id=node_id, path=f"/srv/cluster/workspaces/{volume_id}"
            ),
            job_modify_index=member.job_modify_index,
            runtime=runtime,
            built=built,
            footing=built,
        ),
        created_at=_SINCE,
        updated_at=_SINCE,
        change_seq=member.number + 1,
    )


def stack_for_lists() -> tuple[Insert, Stack]:
    """Return the statement that stores a release, and one running stack of it that is like any other."""
    release = Release(
        id=ReleaseId("rel_of_the_bench"),
        number=1,
        image="registry.example/opencode@sha256:0123456789abcdef",
        opencode_version=VERSION,
        template="",
        instructions="",
        managed_config="{}",
        environment={},
        resource_classes={"small": ResourceClass(cpu=200, memory=512, memory_max=2048)},
        created_at=_SINCE,
    )
    [member] = members(1, installation="bench")
    site = Site(
        installation="bench",
        node_pool="default",
        datacenters=("*",),
        vault_kv_mount="kv",
        vault_role="opencode",
        secret_environment=(),
        entrypoint=(),
        opencode_path="",
    )
    limits = Limits(start=timedelta(minutes=3), stop=timedelta(minutes=2))
    parameters = Parameters(
        site=site, limits=limits, namespace="opencode", region="global", default_resources="small"
    )
    bare = _stack(member, release, None, parameters, port=4096, node_id=NODE)
    facets = wanted_facets(bare, release, site, secret_version=1)
    stack = _stack(member, release, facets, parameters, port=4096, node_id=NODE)
    row = {
        "id": release.id,
        "number": release.number,
        "image": release.image,
        "opencode_version": release.opencode_version,
        "template": release.template,
        "instructions": release.instructions,
        "managed_config": release.managed_config,
        "environment": {},
        "resource_classes": {},
        "created_at": _SINCE,
        "is_current": True,
    }
    return insert(releases).values(row), stack
