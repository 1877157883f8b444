"""
The control plane as one running thing: every part of the lifecycle, wired to its neighbours.

Starting it brings memory up to date before anything is decided; from then on the loops keep it so.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from secrets import token_hex
from typing import Final

import structlog

from opencode_lifecycle.lifecycle.background import keep_going
from opencode_lifecycle.lifecycle.backoff import Backoff
from opencode_lifecycle.lifecycle.braking.conditions import Conditions
from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.observing.busy_watch import waits_until_idle
from opencode_lifecycle.lifecycle.observing.data_reports import DataReports
from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.observing.observers import observers_among
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.observing.vouching import Vouching
from opencode_lifecycle.lifecycle.observing.watch_ages import Periods, watches_of
from opencode_lifecycle.lifecycle.orphans.sweep import OrphanSweep, Places
from opencode_lifecycle.lifecycle.parameters import Parameters
from opencode_lifecycle.lifecycle.readiness import Readiness
from opencode_lifecycle.lifecycle.reconciling.workshop import workshop_among
from opencode_lifecycle.lifecycle.releases import ReleaseContent, Releases, release_of_settings
from opencode_lifecycle.lifecycle.requests.access import Access
from opencode_lifecycle.lifecycle.requests.groups import Groups
from opencode_lifecycle.lifecycle.requests.inspection import Inspection
from opencode_lifecycle.lifecycle.requests.leases import Leases
from opencode_lifecycle.lifecycle.requests.oversight import Oversight
from opencode_lifecycle.lifecycle.requests.provisioning import Provisioning
from opencode_lifecycle.lifecycle.requests.releasing import releasing_among
from opencode_lifecycle.lifecycle.requests.snapshots import Snapshots
from opencode_lifecycle.lifecycle.requests.views import Views
from opencode_lifecycle.lifecycle.retention import Retention
from opencode_lifecycle.lifecycle.rollouts.asking import rolling_out
from opencode_lifecycle.model.condition import Condition
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.stack import Stack

log = structlog.get_logger(__name__)

_PATIENCE_WITH_COMPARISON: Final = timedelta(minutes=1)
_FIRST_SWEEP_AFTER: Final = timedelta(seconds=1)


def _loop_time() -> float:
    """Return the time of the clock that all waiting goes by, which nobody sets."""
    return asyncio.get_running_loop().time()


class ControlPlane:
    """Use `running()`; what it yields to is a control plane that knows what there was when it started."""

    def __init__(self, neighbours: Neighbours, parameters: Parameters) -> None:
        self._neighbours = neighbours
        self._parameters = parameters
        now, p = parameters.clock, parameters
        self._accepting: set[asyncio.Task[None]] = set()
        self.releases = Releases(neighbours.store)
        self.groups = Groups(store=neighbours.store, releases=self.releases, now=now)
        self.releasing = releasing_among(neighbours, p, self.releases)
        self.fleet = Fleet(now=now, max_age=p.observation_max_age, monotonic=_loop_time)
        self.conditions = Conditions(
            store=neighbours.store,
            fleet=self.fleet,
            on_confirmation=self._on_confirmation,
            now=now,
            replica=token_hex(8) if p.shares_database else None,
        )
        passwords = RecentPasswords(neighbours.passwords, now=_loop_time)
        vouching = Vouching(
            fleet=self.fleet,
            prober=neighbours.prober,
            passwords=passwords,
            catalog=neighbours.catalog,
        )
        reports = DataReports(
            store=neighbours.store,
            orchestrator=neighbours.orchestrator,
            fleet=self.fleet,
            now=now,
            upstream_timeout=p.upstream_timeout,
        )
        observers = self._observers = observers_among(
            neighbours,
            p,
            fleet=self.fleet,
            conditions=self.conditions,
            vouching=vouching,
            passwords=passwords,
            load_releases=self._load_releases,
        )
        self._nomad, self._catalog, self._changes = observers.nomad, observers.catalog, observers.changes
        self._secrets, self._usage, self.busy_watch = observers.secrets, observers.usage, observers.busy
        workshop = workshop_among(
            neighbours,
            p,
            fleet=self.fleet,
            releases=self.releases,
            vouching=vouching,
            recent_passwords=passwords,
            idle_stop_after=self._idle_stop_after,
            reports=reports,
        )
        self._aims, self.dispatcher = workshop.aims, workshop.dispatcher
        self.access = Access(tokens=neighbours.store, now=now)
        views = Views(fleet=self.fleet, releases=self.releases, site=p.site)
        inspection = Inspection(
            stacks=neighbours.store,
            operations=neighbours.store,
            events=neighbours.store,
            orchestrator=neighbours.orchestrator,
            passwords=neighbours.passwords,
            prober=neighbours.prober,
            fleet=self.fleet,
            views=views,
            load_releases=self._load_releases,
            is_behind=self._changes.is_behind,
            now=now,
            upstream_timeout=p.upstream_timeout,
        )
        self.provisioning = Provisioning(
            stacks=neighbours.store,
            releases=self.releases,
            groups=self.groups,
            fleet=self.fleet,
            views=views,
            inspection=inspection,
            dispatcher=self.dispatcher,
            site=p.site,
            now=now,
            namespace=p.namespace,
            region=p.region,
            default_resources=p.default_resources,
            observation_max_age=p.observation_max_age,
        )
        self.rollouts, self._rollout_driver = rolling_out(
            neighbours=neighbours,
            parameters=p,
            fleet=self.fleet,
            releases=self.releases,
            groups=self.groups,
            vouching=vouching,
            hint=self.dispatcher.hint,
            catch_up=self._changes.catch_up,
        )
        self.leases = Leases(stacks=neighbours.store, fleet=self.fleet, now=now)
        self.snapshots = Snapshots(store=neighbours.store, reports=reports, known=inspection.known)
        self._orphans = OrphanSweep(
            places=Places.among(neighbours),
            stacks=neighbours.store,
            orphans=neighbours.store,
            events=neighbours.store,
            fleet=self.fleet,
            list_once=self._nomad.list_once,
            catch_up=self._changes.catch_up,
            adopt=self.provisioning.adopt,
            installation=p.site.installation,
            limits=p.orphan_limits,
            interval=p.comparison_interval,
            timeout=p.observation_max_age,
            now=now,
        )
        self._retention = Retention(store=neighbours.store, events_kept=p.events_kept, now=now)
        ages = watches_of(
            fleet=self.fleet,
            nomad=self._nomad,
            nodes=observers.nodes,
            catalog=self._catalog,
            secrets=self._secrets,
            probes=observers.probes,
            usage=self._usage,
            orphans=self._orphans,
            periods=Periods(
                observation_max_age=p.observation_max_age,
                liveness=p.liveness_interval,
                secrets=p.secret_sweep_interval,
                usage=p.usage_interval,
                comparison=p.comparison_interval,
            ),
        )
        self.oversight = Oversight(
            stacks=neighbours.store,
            orphans=neighbours.store,
            conditions=self.conditions,
            sweep=self._orphans,
            fleet=self.fleet,
            aims=workshop.aims,
            effects=workshop.effects,
            dispatcher=self.dispatcher,
            desk=workshop.desk,
            limits=p.limits,
            inspect=inspection.inspect,
            watch_ages=ages.ages,
            list_once=self._nomad.list_once,
            now=now,
        )
        self.readiness = Readiness(
            pings={
                "database": neighbours.store.ping,
                "nomad": neighbours.orchestrator.ping,
                "vault": neighbours.passwords.ping,
                "consul": neighbours.catalog.ping,
            },
            fleet=self.fleet,
            worker_pulse=self.dispatcher.pulse,
            has_compared=self.dispatcher.compared.is_set,
            watches=ages,
            max_age=p.observation_max_age.total_seconds(),
            timeout=min(3.0, p.upstream_timeout.total_seconds()),
        )

    @asynccontextmanager
    async def running(self, content: ReleaseContent) -> AsyncIterator[None]:
        """
        Bring memory up to date, then keep everything going until the body ends.

        A Nomad that cannot be reached does not keep the service down: it starts, knows that it sees nothing, and acts
        as soon as it does.
        """
        await self._load(content)
        tasks = [self._keeping_going("nomad events", self._nomad.follow_once)]
        try:
            await self._begin()
            tasks.append(asyncio.create_task(self.dispatcher.run(), name="dispatcher"))
            tasks += [self._keeping_going(name, once) for name, once in self._loops().items()]
            yield
        finally:
            self.fleet.on_change = self.fleet.on_idle = None
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=self._parameters.shutdown_grace.total_seconds())
            await self._observers.close()
            await self._hand_over()

    def _keeping_going(self, name: str, once: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        backoff, random = Backoff(first=0.2, most=5), self._parameters.random
        return asyncio.create_task(keep_going(name, once, backoff=backoff, random=random), name=name)

    async def _load(self, content: ReleaseContent) -> None:
        """Bring the rows into memory, and what belongs to them."""
        now = self._parameters.clock()
        release = await release_of_settings(content, self._neighbours.store, now=now)
        self.releases.current = release
        self.releases.remember(release)
        await self.groups.refresh()
        await self.access.refresh()
        if not self._parameters.shares_database:
            # Those of a process that died. On a shared database they may be another replica's, and lapse by themselves.
            await self._neighbours.store.void_claims()
        await self._changes.catch_up()
        await self.conditions.load()

    async def _load_releases(self, stack: Stack) -> None:
        """Have in memory what the stack may be brought to, before its row is: it is judged at once."""
        await self._aims.load(stack)

    async def _begin(self) -> None:
        """Have what is there seen, and every stack judged by it."""
        self.fleet.on_removal = self._on_removal
        self.fleet.on_idle = self._on_idle
        await self._nomad.looked.wait()
        is_seen = self.fleet.listing_pulse.age() is not None
        if is_seen:
            await self._list_nodes()
        # Only now: every stack is judged below, and once is enough.
        self.fleet.on_change = self._on_change
        for known in self.fleet:
            self._on_change(known)
        log.info("memory is up to date", stacks=len(self.fleet), nomad_is_seen=is_seen)

    async def _list_nodes(self) -> None:
        try:
            await self._observers.nodes.list_once()
        except (UpstreamError, DeadlineExceeded) as error:
            log.warning("the nodes cannot be seen yet", error=error.message)

    async def _hand_over(self) -> None:
        """Leave what this replica suspects to the others; a database that is away keeps nobody from ending."""
        try:
            async with asyncio.timeout(self._parameters.upstream_timeout.total_seconds()):
                await self.conditions.hand_over()
        except TimeoutError:
            log.warning("conditions are not handed over", error="the database does not answer")

    def _idle_stop_after(self, group: str) -> timedelta | None:
        return self.groups.idle_stop_after(group)

    def _on_change(self, known: Known) -> None:
        try:
            self._observers.consider(known)
            self._rollout_driver.notice(known.stack.user_id)
            self.dispatcher.attend(known)
        except Exception:
            # A defect with one stack must not end the watch that all others depend on.
            log.exception("cannot judge a stack", job_id=known.stack.job_id)

    def _on_removal(self, user_id: UserId) -> None:
        self._observers.forget(user_id)
        self._rollout_driver.notice(user_id)

    def _on_idle(self, known: Known) -> None:
        """Have what waited for the agent to finish seen to now, not when it is looked at the next time."""
        if waits_until_idle(known.stack):
            self.dispatcher.hint(known.stack.user_id)

    def _on_confirmation(self, condition: Condition) -> None:
        """Have what was confirmed acted on at once, not at the next period."""
        task = asyncio.create_task(self._accept(condition), name=f"accept {condition.kind}")
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _accept(self, condition: Condition) -> None:
        deadline = Deadline.after(self._parameters.upstream_timeout.total_seconds(), "act on a confirmation")
        try:
            await self._observers.admission.accept(condition, deadline)
            await self._nomad.list_once()
        except (UpstreamError, DeadlineExceeded) as error:
            log.warning("a confirmed condition is acted on later", kind=condition.kind, error=error.message)

    def _loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            **self._observers.loops(),
            "orphans": self._sweep_orphans,
            "retention": self._retention.round,
            "rollouts": self._rollout_driver.once,
        }
        if self._parameters.shares_database:
            loops["database changes"] = self._changes.follow_once
            loops["tokens"] = self._refresh_tokens
            loops["targets"] = self._refresh_targets
        return loops

    async def _sweep_orphans(self) -> None:
        """
        Look for what nobody owns. At a start every stack comes first, and then whoever waits for the service.

        With a Nomad that cannot be seen, or is not believed, that comparison is not over; who is to look at what there is
        sees the orphans all the same.
        """
        if self._orphans.pulse.age() is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_WITH_COMPARISON.total_seconds()):
                    await self.dispatcher.compared.wait()
            await asyncio.sleep(min(_FIRST_SWEEP_AFTER, self._parameters.comparison_interval).total_seconds())
        await self._orphans.sweep_periodically()

    async def _refresh_tokens(self) -> None:
        await asyncio.sleep(0.5)
        await self.access.refresh()

    async def _refresh_targets(self) -> None:
        await asyncio.sleep(0.5)
        await self.releases.refresh()
        await self.groups.refresh()
