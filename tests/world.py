"""
A whole control plane over fakes of its neighbours and a real SQLite database.

The fakes live on virtual knobs: an allocation that starts to run brings up a fake OpenCode on its address, with the
password that the job's secret version holds, and registers it in the fake Consul, as the real ones do.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fakes.consul import FakeConsul
from fakes.nomad import FakeNomad
from fakes.opencode import FakeOpenCode, FakeProber
from fakes.vault import FakeVault
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.lifecycle.control_plane import ControlPlane, Neighbours, Parameters
from opencode_lifecycle.lifecycle.observing.fleet import Known
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.lifecycle.reconciling.wanted import Site
from opencode_lifecycle.lifecycle.releases import ReleaseContent
from opencode_lifecycle.model.identifiers import AllocationId, JobId, TokenId, UserId, job_id_of
from opencode_lifecycle.model.observation import AllocationSeen
from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.principal import Principal, Role
from opencode_lifecycle.model.release import ResourceClass
from opencode_lifecycle.model.stack import Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.model.view import EnsureAnswer, EnsureRequest
from opencode_lifecycle.shipped import shipped

BACKEND = Principal(token_id=TokenId("tok_backend"), name="backend", role=Role.BACKEND)
OPERATOR = Principal(token_id=TokenId("tok_operator"), name="operator", role=Role.OPERATOR)
ADA = UserId("ada")


def content(**changes) -> ReleaseContent:
    values = {
        "image": "",
        "opencode_version": "1.18.34",
        "template": shipped("nomad_jobs/opencode-raw-exec.nomad.hcl").read_text(),
        "instructions": "Be kind.",
        "managed_config": "{}",
        "environment": {},
        "resource_classes": {
            "small": ResourceClass(cpu=100, memory=256, memory_max=512),
            "large": ResourceClass(cpu=400, memory=1024, memory_max=2048),
        },
    }
    return ReleaseContent(**{**values, **changes})


SITE = Site(
    installation="main",
    node_pool="default",
    datacenters=("*",),
    vault_kv_mount="kv",
    vault_role="opencode",
    secret_environment=(),
    entrypoint=("python3", "entrypoint.py"),
    opencode_path="opencode",
)


@cache
def _empty_database() -> bytes:
    """Return a database with the schema and nothing in it, made once: making it takes longer than most tests."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "empty.db"
        schema.upgrade(f"sqlite:///{file}")
        return file.read_bytes()


class World:
    """What a test acts on. Nothing in it waits for real time: a test waits for what it expects to become true."""

    def __init__(self, path: Path, **parameters) -> None:
        self.path = path
        self.url = f"sqlite:///{path / 'world.db'}"
        self.nomad = FakeNomad()
        self.vault = FakeVault()
        self.consul = FakeConsul()
        self.prober = FakeProber()
        self.server_changes: dict[str, object] = {}
        """What the next fake OpenCode is like, when not sound."""
        self.nomad.on_run = self._on_run
        self.content = content()
        self.parameters = {
            "site": SITE,
            "limits": Limits(
                start=timedelta(seconds=60), stop=timedelta(seconds=60), poll=timedelta(milliseconds=50)
            ),
            "namespace": "opencode",
            "region": "global",
            "default_resources": "small",
            "resync_interval": timedelta(milliseconds=200),
            "liveness_interval": timedelta(milliseconds=100),
            "secret_sweep_interval": timedelta(milliseconds=100),
            "upstream_timeout": timedelta(seconds=2),
            **parameters,
        }
        self.store: Database
        self.plane: ControlPlane

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        """Run a control plane on what there is; may be called again, as after a restart."""
        file = self.path / "world.db"
        if not file.exists():
            file.write_bytes(await asyncio.to_thread(_empty_database))
        self.store = Database(url=self.url, exclusive=True)
        await self.store.open()
        self.plane = ControlPlane(
            Neighbours(
                store=self.store,
                orchestrator=self.nomad,
                workspaces=self.nomad.workspaces,
                live_files=self.nomad.live_files,
                cluster_mark=self.nomad.cluster_mark,
                passwords=self.vault,
                catalog=self.consul,
                prober=self.prober,
                events=self.prober,
            ),
            Parameters(**self.parameters),
        )
        try:
            async with self.plane.running(self.content):
                yield self
        finally:
            await self.store.close()

    async def begin(self, plane: ControlPlane) -> None:
        """Have *plane* know what there is now, and leave it at that: nothing of it goes on."""
        await plane._load(self.content)
        await plane._nomad.list_once()
        await plane._begin()

    def another_plane(self) -> ControlPlane:
        """Return a second replica on the same database and neighbours."""
        return ControlPlane(self.plane._neighbours, Parameters(**self.parameters))

    def _on_run(self, job_id: JobId, allocation: AllocationSeen) -> None:
        if allocation.address is None or "secret_version" not in self.nomad.jobs[job_id].seen.meta:
            return
        version = int(self.nomad.jobs[job_id].seen.meta["secret_version"])
        changes = {
            "password": str(self.vault.stored(job_id, version)["password"]),
            "version": self.nomad.jobs[job_id].seen.meta["opencode_version"],
            **self.server_changes,
        }
        self.prober.serve(allocation.address, FakeOpenCode(**changes))
        self.consul.register(job_id, allocation.id, allocation.address)

    # --- what a test asks

    async def ensure(self, user: str = ADA, *, wait: float | None = 10, **wish) -> EnsureAnswer:
        return await self.plane.provisioning.ensure(
            UserId(user), EnsureRequest(**wish), by=BACKEND, wait=wait, if_match=None
        )

    def stack(self, user: str = ADA) -> Stack:
        known = self.plane.fleet.get(UserId(user))
        assert known is not None, f"there is no stack of {user}"
        return known.stack

    def job_id(self, user: str = ADA) -> JobId:
        return job_id_of("main", UserId(user))

    def live_allocations(self, user: str = ADA) -> list[AllocationSeen]:
        return [
            a for a in self.nomad.allocations.get(self.job_id(user), []) if not a.client_status.is_terminal
        ]

    async def finished(self, operation: Operation) -> Operation:
        """
        Wait until the operation has an outcome, and memory the row that was written with it.

        1. The outcome is committed together with the row of the stack.
        2. A test reads the outcome and looks at the stack in memory, which follows just after the commit.
        """
        async with asyncio.timeout(10):
            while True:
                found = await self.plane.provisioning.operation(operation.id)
                if found.state.is_finished:
                    break
                await asyncio.sleep(0.01)
        row = await self.store.get(found.user_id)
        await self.until(lambda: self._has_followed(found.user_id, row))
        return found

    def _has_followed(self, user_id: UserId, row: Stack | None) -> bool:
        known = self.plane.fleet.get(user_id)
        return known is None or (row is not None and known.stack.change_seq >= row.change_seq)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until *is_so*."""
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110 - what is waited for is any condition of a test
                await asyncio.sleep(0.01)

    async def phase(self, phase: Phase, user: str = ADA) -> Stack:
        await self.until(lambda: self._known(user) is not None and self.stack(user).status.phase is phase)
        return self.stack(user)

    async def gone(self, user: str = ADA) -> None:
        await self.until(lambda: self._known(user) is None)

    def _known(self, user: str) -> Known | None:
        return self.plane.fleet.get(UserId(user))


def server_of(world: World, user: str = ADA) -> FakeOpenCode:
    """Return what answers for the one live allocation of *user*."""
    (allocation,) = world.live_allocations(user)
    return world.prober.servers[allocation.address.host, allocation.address.port]


def ids(world: World) -> list[AllocationId]:
    """Return the allocations that live, of `ADA`'s stack."""
    return [allocation.id for allocation in world.live_allocations()]
