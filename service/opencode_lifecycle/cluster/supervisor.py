"""
The process in the background that starts the servers in order, sets them up, and keeps them running.

Consul, Vault (unsealed after each of its starts), Nomad, then the service. Whatever fails on the way up ends the whole
attempt with a reason in the state file; the next attempt goes on where this one stopped. Once all are up, a server that
ends is started again.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, Final

from opencode_lifecycle.cluster import (
    bootstrap_consul,
    bootstrap_nomad,
    bootstrap_vault,
    commands,
    configuration,
    loopback,
    shutdown,
    status,
)
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster import state as state_file
from opencode_lifecycle.cluster.errors import BootstrapFailed, ClusterError
from opencode_lifecycle.cluster.keeper import Keeper
from opencode_lifecycle.cluster.layout import Layout, write_json
from opencode_lifecycle.cluster.processes import identify
from opencode_lifecycle.model.errors import LifecycleError

PrepareService = Callable[[Layout, record_file.Record], Awaitable[None]]
"""Writes what the service needs before its first start: settings and API tokens."""

_PATIENCE: Final = timedelta(minutes=3)
"""For each condition on the way up; a busy machine needs most of a minute for a first Nomad node."""
_FAILURES_ON_THE_WAY_UP: Final = 3
_HOUSEKEEPING_SECONDS: Final = 60.0
_RENEWAL_SECONDS: Final = 3600.0


class Supervisor:
    """One run of one cluster, from start to stop."""

    def __init__(
        self, layout: Layout, record: record_file.Record, prepare_service: PrepareService | None
    ) -> None:
        self._layout = layout
        self._record = record
        self._secrets = record_file.load_or_make_secrets(layout)
        self._prepare_service = prepare_service
        self._state = state_file.State(supervisor=identify(os.getpid()))
        self._keepers: dict[str, Keeper] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> bool:
        """Bring the cluster up and keep it until asked to stop; tell whether it ever was up."""
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        work = asyncio.create_task(self._bring_up_and_keep(), name="bring up and keep")
        stop = asyncio.create_task(asked.wait(), name="asked to stop")
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        was_up = self._state.phase == state_file.RUNNING
        failure = work.exception() if work.done() and not work.cancelled() else None
        for task in (work, stop, *self._tasks):
            task.cancel()
        await asyncio.gather(work, stop, *self._tasks, return_exceptions=True)
        if failure is not None:
            self._state.error = _explain(failure)
        self._state.phase = state_file.STOPPING
        self._save()
        await asyncio.to_thread(shutdown.stop, self._layout, self._record)
        for keeper in self._keepers.values():
            await asyncio.to_thread(keeper.reap)
        self._state.phase = state_file.FAILED if failure is not None else "stopped"
        self._state.servers = {}
        self._state.supervisor = None
        self._save()
        return was_up and failure is None

    async def _bring_up_and_keep(self) -> None:
        await self._consul()
        await self._vault()
        await self._nomad()
        if self._prepare_service is not None:
            await self._service(self._prepare_service)
        self._state.phase = state_file.RUNNING
        self._say("")
        await self._keep_house()

    async def _consul(self) -> None:
        write_json(
            self._layout.configuration("consul"),
            configuration.consul(self._layout, self._record, self._secrets),
        )
        self._keep("consul")
        await self._until("Consul has a leader", lambda: self._works("consul"))
        await self._in_thread(
            "Consul: policies and tokens",
            bootstrap_consul.bootstrap,
            self._layout,
            self._record,
            self._secrets,
        )

    async def _vault(self) -> None:
        bootstrap_vault.discard_a_lost_initialisation(self._layout)
        write_json(self._layout.configuration("vault"), configuration.vault(self._layout, self._record))
        self._keep("vault", on_start=self._unseal)
        await self._until("Vault answers", lambda: self._seal_status() is not None)
        await self._in_thread("Vault: initialise", bootstrap_vault.initialise, self._layout, self._record)
        await self._until("Vault is unsealed and active", lambda: self._works("vault"))
        await self._in_thread(
            "Vault: audit log, mounts, policies", bootstrap_vault.bootstrap, self._layout, self._record
        )

    async def _nomad(self) -> None:
        write_json(
            self._layout.configuration("nomad"),
            configuration.nomad(self._layout, self._record, self._secrets),
        )
        self._keep("nomad", on_start=self._hasten_registration)
        await self._until("Nomad has a leader", self._nomad_has_a_leader)
        await self._in_thread(
            "Nomad: policies and tokens", bootstrap_nomad.bootstrap, self._layout, self._record, self._secrets
        )
        await self._in_thread(
            "Consul: trust Nomad's workloads", bootstrap_consul.trust_nomad, self._record, self._secrets
        )
        await self._in_thread(
            "Vault: trust Nomad's workloads", bootstrap_vault.trust_nomad, self._layout, self._record
        )
        await self._until("Nomad's node is ready", lambda: self._works("nomad"))

    async def _service(self, prepare: PrepareService) -> None:
        self._say("Service: settings and tokens")
        await prepare(self._layout, self._record)
        self._keep("service")
        await self._until("the service answers", lambda: self._works("service"))

    def _keep(self, server: str, on_start: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        keeper = Keeper(
            command=commands.command(server, self._layout, self._record),
            environment=commands.environment(self._record),
            log=self._layout.log(server),
            held=self._layout.held(server),
            on_start=on_start or _nothing,
            on_change=self._save,
        )
        self._keepers[server] = keeper
        self._state.servers[server] = keeper.state
        self._tasks.append(asyncio.create_task(keeper.run(), name=f"keep {server}"))

    async def _until(self, condition: str, holds: Callable[[], bool]) -> None:
        self._say(condition)
        end = time.monotonic() + _PATIENCE.total_seconds()
        while not await asyncio.to_thread(holds):
            for server, keeper in self._keepers.items():
                if keeper.state.restarts >= _FAILURES_ON_THE_WAY_UP:
                    raise BootstrapFailed(
                        f"{server} ends again and again ({keeper.state.last_exit}); see {self._layout.log(server)}"
                    )
            if time.monotonic() > end:
                raise BootstrapFailed(f"Waited {_PATIENCE.total_seconds():.0f} s in vain until {condition}.")
            await asyncio.sleep(0.1)

    async def _in_thread(self, step: str, function: Callable[..., None], *arguments: Any) -> None:
        """Run one step of the set-up, again for a while when a server that has just started is not quite ready."""
        self._say(step)
        end = time.monotonic() + _PATIENCE.total_seconds() / 3
        while True:
            try:
                return await asyncio.to_thread(function, *arguments)
            except BootstrapFailed:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(0.5)

    async def _unseal(self) -> None:
        """Unseal Vault once after each of its starts. One that an administrator seals afterwards stays sealed."""
        while True:
            with contextlib.suppress(BootstrapFailed):
                if await asyncio.to_thread(bootstrap_vault.unseal, self._layout, self._record):
                    return
            await asyncio.sleep(0.1)

    async def _hasten_registration(self) -> None:
        while not await asyncio.to_thread(bootstrap_nomad.is_registered, self._record, self._secrets):
            await asyncio.to_thread(bootstrap_nomad.hasten_registration, self._record, self._secrets)
            await asyncio.sleep(0.25)

    async def _keep_house(self) -> None:
        """Rotate logs and renew tokens, for ever."""
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            for keeper in self._keepers.values():
                await asyncio.to_thread(keeper.rotate_log)
            if time.monotonic() - renewed > _RENEWAL_SECONDS:
                renewed = time.monotonic()
                for policy in ("control-plane", "operator"):
                    with contextlib.suppress(BootstrapFailed):
                        await asyncio.to_thread(
                            bootstrap_vault.refresh_token, self._layout, self._record, policy
                        )

    def _works(self, server: str) -> bool:
        return status.works(server, self._layout, self._record)

    def _nomad_has_a_leader(self) -> bool:
        return bool(loopback.ask(self._record.ports["nomad_http"], "/v1/status/leader"))

    def _seal_status(self) -> Any:
        return loopback.ask(self._record.ports["vault_api"], "/v1/sys/seal-status")

    def _say(self, step: str) -> None:
        self._state.step = step
        self._save()

    def _save(self) -> None:
        self._state.save(self._layout)


async def _nothing() -> None:
    return


def _explain(failure: BaseException) -> str:
    if isinstance(failure, LifecycleError):
        return failure.message
    return f"{type(failure).__name__}: {failure}"


@contextlib.contextmanager
def _alone(layout: Layout) -> Iterator[bool]:
    """Hold the supervisor's lock, or yield False when another one holds it."""
    with layout.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def supervise(layout: Layout, prepare_service: PrepareService | None) -> bool:
    """Run the cluster of *layout* until asked to stop. A second supervisor of the same cluster ends at once."""
    record = record_file.load(layout)
    if record is None:
        raise ClusterError(f"There is no cluster in {layout.root}.")
    with _alone(layout) as alone:
        if not alone:
            return True
        shutdown.stop_servers(layout)
        return asyncio.run(Supervisor(layout, record, prepare_service).run())
