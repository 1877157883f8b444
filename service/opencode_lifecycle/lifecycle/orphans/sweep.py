"""Finds what has no row, in every neighbour, and sees to it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Self

import structlog

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.orphans.adoption import Found
from opencode_lifecycle.lifecycle.orphans.judgement import (
    OrphanAction,
    OrphanLimits,
    action_for,
    as_it_started,
    is_in_use,
    job_in,
    jobs_in,
    orphans_among,
    services_in,
    without_row,
)
from opencode_lifecycle.lifecycle.orphans.owners import Owners
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.condition import ConditionKind
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    ClaimLost,
    DeadlineExceeded,
    OrphanNotFound,
    OrphanNotProven,
    UpstreamError,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import JobId, OrphanId, UserId, VolumeId, job_id_of, new_event_id
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.model.operation import Event
from opencode_lifecycle.model.orphan import Find, Orphan, OrphanKind
from opencode_lifecycle.model.view import OrphanPlan
from opencode_lifecycle.ports.orchestrator import Listing, LiveFiles, Orchestrator, Workspaces
from opencode_lifecycle.ports.secrets import PasswordStore
from opencode_lifecycle.ports.service_catalog import ServiceCatalog
from opencode_lifecycle.ports.stores import ClaimedOrphan, EventStore, OrphanStore, StackStore

log = structlog.get_logger(__name__)

_SAY_NOT_WHOSE: Final = frozenset({OrphanKind.SERVICE, OrphanKind.VOLUME})

Adopt = Callable[[UserId, Found, str], Awaitable[None]]
"""Make the row of a user, as what was found of it, in somebody's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things of ours may lie."""

    orchestrator: Orchestrator
    workspaces: Workspaces
    live_files: LiveFiles
    passwords: PasswordStore
    catalog: ServiceCatalog

    @classmethod
    def among(cls, neighbours: Neighbours) -> Self:
        return cls(
            orchestrator=neighbours.orchestrator,
            workspaces=neighbours.workspaces,
            live_files=neighbours.live_files,
            passwords=neighbours.passwords,
            catalog=neighbours.catalog,
        )


class OrphanSweep:
    """
    Compares every neighbour with the rows now and then.

    The neighbours are read first and the rows after them: a stack that is made meanwhile has its row before anything
    else. One that is deleted meanwhile is an orphan once and never again, which is why nothing is done at once.
    """

    def __init__(
        self,
        *,
        places: Places,
        stacks: StackStore,
        orphans: OrphanStore,
        events: EventStore,
        fleet: Fleet,
        list_once: Callable[[], Awaitable[Listing]],
        catch_up: Callable[[], Awaitable[None]],
        adopt: Adopt,
        installation: str,
        limits: OrphanLimits,
        interval: timedelta,
        timeout: timedelta,
        now: Clock,
    ) -> None:
        self._places = places
        self._owners = Owners(passwords=places.passwords, live_files=places.live_files, timeout=timeout)
        self._stacks = stacks
        self._orphans = orphans
        self._events = events
        self._fleet = fleet
        self._list_once = list_once
        self._catch_up = catch_up
        self._adopt = adopt
        self._installation = installation
        self._limits = limits
        self._interval = interval.total_seconds()
        self._apart = interval if limits.apart is None else limits.apart
        self._timeout = timeout.total_seconds()
        self._now = now
        self._comparing = asyncio.Lock()
        self.last: Sequence[Orphan] = ()
        """What the last comparison found."""
        self.pulse = Pulse()

    async def sweep_periodically(self) -> None:
        """Compare, see to what is ripe, and wait a period."""
        await self.sweep_once()
        await asyncio.sleep(self._interval)

    async def sweep_once(self) -> tuple[Listing, Sequence[OrphanPlan]]:
        """Compare once, and adopt or delete what is ripe for it."""
        async with self._comparing:
            listing, plans = await self.compare(counts=True)
            self.pulse.beat()
            return listing, [await self._see_to(self._held_back(plan)) for plan in plans]

    async def compare(self, *, counts: bool = False) -> tuple[Listing, Sequence[OrphanPlan]]:
        """
        Find all orphans there are now, and say what becomes of each.

        With *counts* the comparison is written down and confirms what the one before it found; else nothing changes.
        """
        # Before the look: what another replica counts while we look is its confirmation, and ours is the same one.
        earlier = {orphan.id: orphan for orphan in (await self._orphans.find_orphans(limit=None)).items}
        listing, finds = await self._find()
        await self._catch_up()
        rows = {known.stack.job_id for known in self._fleet}
        kept = {each.job_id for each in await self._stacks.kept_workspaces()}
        lone = await self._owners.say_of(without_row(finds, rows, kept), earlier)
        now = self._now()
        orphans: Sequence[Orphan] = orphans_among(
            lone,
            earlier,
            installation=self._installation,
            apart=self._apart,
            now=now,
            removed=await self._removed_among(lone),
        )
        if counts:
            orphans = await self._orphans.put_orphans(orphans, earlier=earlier, now=now)
            self.last = orphans
        seen = listing.stacks
        used = {
            job_id
            for job_id in {orphan.find.job_id for orphan in orphans} & seen.keys()
            if is_in_use(seen[job_id])
        }
        return listing, [await self._plan(orphan, is_used=orphan.find.job_id in used) for orphan in orphans]

    async def _find(self) -> tuple[Listing, list[Find]]:
        deadline = Deadline.after(self._timeout, "compare everything with the rows")
        places = self._places
        listing = await self._list_once()
        # What has a row now is no orphan now: it is forgotten as soon as it is read, or a whole fleet lay here five times.
        jobs = self._lone(jobs_in(listing))
        secrets = [
            Find(kind=OrphanKind.SECRET, job_id=job_id, reference=job_id)
            for job_id in await places.passwords.list_all(deadline)
            if self._fleet.user_of(job_id) is None
        ]
        services = self._lone(services_in(await places.catalog.list_all(deadline)))
        volumes = self._lone(await places.workspaces.list_all(deadline))
        pointers = self._lone(await places.live_files.list_all(deadline))
        return listing, [*jobs, *secrets, *services, *volumes, *pointers]

    async def _removed_among(self, finds: Sequence[Find]) -> Mapping[JobId, UserId]:
        """Return whose the stacks were that bore the names of *finds* and were deleted, where those cannot say it themselves."""
        unsaid = {find.job_id for find in finds if find.kind in _SAY_NOT_WHOSE}
        if not unsaid:
            return {}
        users = await self._stacks.removed_users()
        named = {job_id_of(self._installation, user_id): user_id for user_id in users}
        return {job_id: named[job_id] for job_id in unsaid & named.keys()}

    def _lone(self, finds: Sequence[Find]) -> list[Find]:
        return [find for find in finds if self._fleet.user_of(find.job_id) is None]

    async def _plan(self, orphan: Orphan, *, is_used: bool) -> OrphanPlan:
        user_id = orphan.find.user_id
        deleted_at = await self._stacks.deleted_at(user_id) if user_id is not None else None
        action, message = action_for(
            orphan,
            deleted_at=deleted_at,
            is_used=is_used,
            now=self._now(),
            limits=self._limits,
        )
        return self._held_back(OrphanPlan(orphan=orphan, action=action.value, message=message))

    def _held_back(self, plan: OrphanPlan) -> OrphanPlan:
        """Return *plan* as it is now: a condition that was raised since it was made holds it back, too."""
        if not self._fleet.frozen or plan.action == OrphanAction.REPORT:
            return plan
        return replace(plan, action=OrphanAction.REPORT.value, message="held back while a condition stands")

    async def _see_to(self, plan: OrphanPlan) -> OrphanPlan:
        """Do what is planned, unless somebody or something is in the way, and return the plan."""
        try:
            if plan.action == OrphanAction.ADOPT:
                await self.adopt(plan.orphan.id, by="service")
            elif plan.action == OrphanAction.DELETE and await self._is_left_behind_still(plan.orphan):
                await self.delete(plan.orphan.id, by="service")
        except (UpstreamError, DeadlineExceeded, OrphanNotFound, ClaimLost) as error:
            log.warning("orphan left for now", orphan=plan.orphan.id, error=error.message)
        return plan

    async def _is_left_behind_still(self, orphan: Orphan) -> bool:
        """Return whether what is to be deleted still is what a deletion left behind: since it was found, time has passed."""
        deadline = Deadline.after(self._timeout, f"look at the orphaned {orphan.find.kind} once more")
        seen = await self._places.orchestrator.observe(orphan.find.job_id, deadline)
        find: Find | None
        if orphan.find.kind is OrphanKind.JOB:
            find = job_in(seen)
        else:
            find = await self._owners.ask(orphan.find, deadline)
        if find is None or find.installation not in {None, self._installation}:
            return False
        again = replace(orphan, find=as_it_started(replace(find, user_id=orphan.find.user_id), orphan.find))
        return (await self._plan(again, is_used=is_in_use(seen))).action == OrphanAction.DELETE

    # --- one orphan

    async def adopt(self, orphan_id: OrphanId, *, by: str) -> UserId:
        """
        Make the row that the orphan lacks, and return whose it is.

        Whatever part it is that is adopted, the stack goes on as it is: what runs runs on. Where Nomad cannot say what
        that is, nothing is adopted.
        """
        claimed, user_id = await self._claim(orphan_id)
        try:
            found = await self._look_now(claimed.orphan.find.job_id)
        except (UpstreamError, DeadlineExceeded):
            # Nothing was done yet that somebody else would have to wait for.
            await self._orphans.release_orphan(claimed, gone=False)
            raise
        await self._adopt(user_id, found, by)
        await self._orphans.release_orphan(claimed, gone=True)
        await self._note(claimed.orphan, "orphan.adopted", by)
        return user_id

    async def _look_now(self, job_id: JobId) -> Found:
        """
        Return the job of ours of that name, as Nomad says it now and not as it was found.

        1. A comparison finds a stopped job without a row.
        2. An operator starts it with Nomad's own tools.
        3. A row that says `stopped` would stop it.
        """
        if ConditionKind.OTHER_CLUSTER in self._fleet.frozen:
            raise UpstreamUnavailable(
                "nomad", "see what runs", "it may be another cluster; see the conditions"
            )
        deadline = Deadline.after(self._timeout, f"see whether {job_id} runs")
        seen = await self._places.orchestrator.observe(job_id, deadline)
        self._fleet.see(job_id, seen)
        job = seen.job
        if not isinstance(job, JobSeen) or not job.belongs_to(self._installation):
            return Found(job=None, variables=None)
        return Found(job=job, variables=await self._places.orchestrator.submitted(job, deadline))

    async def delete(self, orphan_id: OrphanId, *, by: str) -> None:
        """Delete the orphan, if it still is one: a row that came meanwhile keeps everything of its name."""
        claimed, _ = await self._claim(orphan_id)
        try:
            done = await self._delete(claimed.orphan.find)
        except (ClaimLost, OrphanNotFound):
            # Refused before anything was done.
            await self._orphans.release_orphan(claimed, gone=False)
            raise
        await self._orphans.release_orphan(claimed, gone=done)
        await self._note(claimed.orphan, "orphan.deleted" if done else "orphan.stopped", by)

    async def _claim(self, orphan_id: OrphanId) -> tuple[ClaimedOrphan, UserId]:
        """
        Take charge of what bears the orphan's name, if it is proven ours, and return whose it is.

        1. Nothing knows the name, and its secret is about to be destroyed.
        2. Meanwhile its user is ensured: the row is made, and a worker takes up the secret that is there.
        3. The secret goes, under a stack that lives.

        So a row that is made under the claim waits until that is released. After a failure nobody knows what became of the
        effect; the claim is left to lapse then, which is when no effect of ours can be under way any more.
        """
        orphan = await self._orphans.get_orphan(orphan_id)
        if orphan is None:
            raise OrphanNotFound
        if not orphan.proven or orphan.find.user_id is None:
            raise OrphanNotProven
        now = self._now()
        lapses_at = now + timedelta(seconds=2 * self._timeout)
        claimed = await self._orphans.claim_orphan(orphan_id, now=now, lapses_at=lapses_at)
        return claimed, orphan.find.user_id

    async def _delete(self, find: Find) -> bool:
        """Delete it and return whether it is gone. A job is stopped first, and purged when nothing of it runs."""
        deadline = Deadline.after(self._timeout, f"delete the orphaned {find.kind} {find.job_id}")
        places = self._places
        match find.kind:
            case OrphanKind.JOB:
                return await self._delete_job(find, deadline)
            case OrphanKind.SECRET:
                await places.passwords.destroy(find.job_id, deadline)
            case OrphanKind.VARIABLE:
                await places.live_files.clear(find.job_id, deadline)
            case OrphanKind.VOLUME:
                await places.workspaces.destroy(VolumeId(find.reference), deadline)
            case OrphanKind.SERVICE:
                for instance in await places.catalog.instances(find.job_id, deadline):
                    if instance.service_id == find.reference:
                        await places.catalog.deregister(instance, deadline)
        return True

    async def _delete_job(self, find: Find, deadline: Deadline) -> bool:
        seen = await self._places.orchestrator.observe(find.job_id, deadline)
        if not isinstance(seen.job, JobSeen):
            return True
        if not seen.job.belongs_to(self._installation):
            raise OrphanNotFound
        if not seen.job.stopped and seen.job.submitted_at != find.written_at:
            raise ClaimLost(
                "It was registered anew since it was found. What it is now is found by the next comparison."
            )
        if not seen.job.stopped or seen.live:
            await self._places.orchestrator.deregister(find.job_id, purge=False, deadline=deadline)
            return False
        # Purged only when nothing of it runs: on Nomad 1.11 a volume whose claimant lost its job panics the scheduler.
        await self._places.orchestrator.deregister(find.job_id, purge=True, deadline=deadline)
        return True

    async def _note(self, orphan: Orphan, kind: str, by: str) -> None:
        find = orphan.find
        log.warning(kind, kind=find.kind, job_id=find.job_id, reference=find.reference, by=by)
        event = Event(
            id=new_event_id(),
            user_id=find.user_id or UserId(""),
            kind=kind,
            actor=by,
            at=self._now(),
            generation=0,
            data={"kind": find.kind.value, "job_id": find.job_id, "reference": find.reference},
        )
        await self._events.append([event])
