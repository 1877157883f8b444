"""The composition root: settings, then adapters, then the control plane, then the HTTP server."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from opencode_lifecycle import entrypoint, telemetry
from opencode_lifecycle.adapters.allocator import give_back_what_is_freed
from opencode_lifecycle.adapters.blocking import BlockingCalls
from opencode_lifecycle.adapters.consul.service_catalog import ConsulServiceCatalog
from opencode_lifecycle.adapters.database import schema
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.adapters.opencode.config_check import OpenCodeConfigCheck
from opencode_lifecycle.adapters.opencode.event_stream import OpenCodeEvents
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.adapters.vault.password_store import VaultPasswordStore
from opencode_lifecycle.api.server import Runner, build_app
from opencode_lifecycle.lifecycle.control_plane import ControlPlane
from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.orphans.judgement import OrphanLimits
from opencode_lifecycle.lifecycle.parameters import Parameters
from opencode_lifecycle.lifecycle.reconciling.steps import Limits
from opencode_lifecycle.lifecycle.reconciling.wanted import Site
from opencode_lifecycle.lifecycle.releases import ReleaseContent
from opencode_lifecycle.lifecycle.requests.access import new_token
from opencode_lifecycle.lifecycle.requests.rate_limits import RateClass, RatePolicy
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.model.release import ResourceClass
from opencode_lifecycle.ports.config_check import ConfigCheck, NoConfigCheck
from opencode_lifecycle.settings import Rate, Settings, describe
from opencode_lifecycle.shipped import shipped

log = structlog.get_logger(__name__)

_TEMPLATES = {
    "docker": "nomad_jobs/opencode-docker.nomad.hcl",
    "raw_exec": "nomad_jobs/opencode-raw-exec.nomad.hcl",
}
_DEFAULTS = Path(__file__).parent / "release_defaults"


async def serve(settings: Settings) -> None:
    """
    Run the service until SIGTERM or SIGINT, then finish what was begun.

    Raises `InvalidSettings` when it cannot start as it is set up.
    """
    telemetry.configure_logging(form=settings.log_format, level=settings.log_level)
    log.info("starting", **describe(settings))
    await migrate(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with running(settings) as address:
        log.info("listening", address=address)
        await stopping.wait()
        log.info("stopping")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """Run the whole service and yield its base URL. The database must have the current schema."""
    give_back_what_is_freed()
    async with AsyncExitStack() as stack:
        neighbours = await _neighbours(settings, stack)
        # A whole fleet is read into memory now and stays there: looking through it for garbage again and again is in vain.
        gc.disable()
        try:
            address = await stack.enter_async_context(serving(settings, neighbours))
        finally:
            gc.enable()
        gc.freeze()
        yield address


@asynccontextmanager
async def serving(settings: Settings, neighbours: Neighbours) -> AsyncIterator[str]:
    """Run control plane and HTTP server on *neighbours* that are open, and yield the base URL."""
    async with AsyncExitStack() as stack:
        plane = ControlPlane(neighbours, _parameters(settings))
        await stack.enter_async_context(plane.running(release_content(settings)))
        registry = CollectorRegistry()
        registry.register(telemetry.FleetCollector(plane))
        app = build_app(
            provisioning=plane.provisioning,
            leases=plane.leases,
            oversight=plane.oversight,
            access=plane.access,
            readiness=plane.readiness,
            releasing=plane.releasing,
            groups=plane.groups,
            snapshots=plane.snapshots,
            rollouts=plane.rollouts,
            idempotency=neighbours.store,
            registry=registry,
            allowed_environment=settings.allowed_environment,
            max_body_bytes=settings.max_body_bytes,
            rates={RateClass(name): _policy(getattr(settings.rates, name)) for name in RateClass},
        )
        runner = Runner(app, shutdown_seconds=settings.shutdown_grace.total_seconds())
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        stack.callback(plane.provisioning.stop_waiting)
        site = web.TCPSite(runner, settings.listen_host, settings.listen_port, backlog=1024)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"


async def migrate(settings: Settings) -> None:
    """Bring the database to the schema of this version."""
    await asyncio.to_thread(schema.upgrade, settings.database_url)


async def issue_token(settings: Settings, *, name: str, role: Role, subject: UserId | None) -> str:
    """
    Write a token straight to the database and return its secret: for the first one, when nobody may call yet.

    The service does not notice it before its next start when it serves on SQLite, so this is for before the first.
    """
    await migrate(settings)
    database = Database(url=settings.database_url, exclusive=True)
    await database.open()
    try:
        token, secret = new_token(name, role, subject, by="settings", now=utc_now)
        await database.add_token(token)
    finally:
        await database.close()
    return secret


def release_content(settings: Settings) -> ReleaseContent:
    """Read the first release from the settings and the files they name."""
    template = settings.job_template or shipped(_TEMPLATES[settings.driver])
    instructions = settings.instructions_file or _DEFAULTS / "AGENTS.md"
    managed = settings.managed_config_file or _DEFAULTS / "opencode.json"
    return ReleaseContent(
        image=settings.image,
        opencode_version=settings.opencode_version,
        template=template.read_text(),
        instructions=instructions.read_text(),
        managed_config=managed.read_text(),
        environment=settings.runtime_environment,
        resource_classes={
            name: ResourceClass(cpu=each.cpu, memory=each.memory, memory_max=each.memory_max)
            for name, each in settings.resource_classes.items()
        },
    )


async def _neighbours(settings: Settings, stack: AsyncExitStack) -> Neighbours:
    """Open everything outside. What was opened is closed in the opposite order, also when a later step fails."""
    database = Database(url=settings.database_url, exclusive=True)
    stack.push_async_callback(database.close)
    await database.open()
    nomad = Nomad(
        address=settings.nomad_address,
        token_file=settings.nomad_token_file,
        ca_file=settings.nomad_ca_file,
        namespace=settings.nomad_namespace,
        region=settings.nomad_region,
        node_pool=settings.nomad_node_pool,
        threads=settings.threads,
    )
    stack.push_async_callback(nomad.close)
    calls = BlockingCalls(threads=settings.threads, name="vault")
    vault = VaultPasswordStore(
        calls=calls,
        address=settings.vault_address,
        token_file=settings.vault_token_file,
        mount=settings.vault_kv_mount,
        ca_file=settings.vault_ca_file,
    )
    stack.callback(vault.close)
    # Closed before the connections that its threads use.
    stack.callback(calls.close)
    renewal = asyncio.create_task(vault.keep_token_alive(), name="vault token renewal")
    stack.callback(renewal.cancel)
    consul = ConsulServiceCatalog(
        address=settings.consul_address,
        token_file=settings.consul_token_file,
        ca_file=settings.consul_ca_file,
    )
    stack.push_async_callback(consul.close)
    return Neighbours(
        store=database,
        orchestrator=nomad,
        workspaces=nomad.workspaces,
        live_files=nomad.live_files,
        cluster_mark=nomad.cluster_mark,
        passwords=vault,
        catalog=consul,
        prober=OpenCodeProber(),
        events=OpenCodeEvents(),
        config_check=_config_check(settings),
    )


def _config_check(settings: Settings) -> ConfigCheck:
    own = settings.config_check_path
    if own is not None:
        return OpenCodeConfigCheck(str(own), starts_runtimes=False)
    if settings.driver == "raw_exec" and settings.opencode_path is not None:
        return OpenCodeConfigCheck(str(settings.opencode_path), starts_runtimes=True)
    return NoConfigCheck()


def _parameters(settings: Settings) -> Parameters:
    return Parameters(
        site=Site(
            installation=settings.installation,
            node_pool=settings.nomad_node_pool,
            datacenters=settings.nomad_datacenters,
            vault_kv_mount=settings.vault_kv_mount,
            vault_role=settings.vault_workload_role,
            secret_environment=settings.secret_environment,
            entrypoint=_entrypoint(settings),
            opencode_path=str(settings.opencode_path or "opencode"),
            public_url_template=settings.public_url_template,
        ),
        limits=Limits(
            start=settings.start_deadline,
            stop=settings.stop_deadline,
            idle_after=settings.idle_after,
            recycle_age=settings.recycle_age,
            recycle_memory=settings.recycle_memory,
        ),
        namespace=settings.nomad_namespace,
        region=settings.nomad_region,
        default_resources=settings.default_resources,
        allowed_environment=frozenset({*settings.allowed_environment, *settings.runtime_environment}),
        opencode_floor=settings.opencode_floor,
        observation_max_age=settings.observation_max_age,
        resync_interval=settings.resync_interval,
        liveness_interval=settings.liveness_interval,
        secret_sweep_interval=settings.secret_sweep_interval,
        usage_interval=settings.comparison_interval,
        comparison_interval=settings.comparison_interval,
        orphan_limits=OrphanLimits(grace=settings.orphan_grace),
        when_stale=settings.when_stale,
        events_kept=settings.events_kept,
        claim_lifetime=settings.claim_lifetime,
        workers=settings.workers,
        upstream_timeout=settings.upstream_timeout,
        shutdown_grace=settings.shutdown_grace,
        shares_database=not settings.database_url.startswith("sqlite"),
    )


def _entrypoint(settings: Settings) -> tuple[str, ...]:
    """Return what runs our entrypoint: in an image it has its place, on the host it is our own."""
    if settings.driver == "docker":
        return ("/usr/local/bin/opencode-entrypoint",)
    return (sys.executable, "-I", "-S", str(Path(entrypoint.__file__).resolve()))


def _policy(rate: Rate) -> RatePolicy:
    return RatePolicy(per_second=rate.per_second, burst=rate.burst)
