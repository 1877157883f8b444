"""
What each step does to the world, and what is learnt from the answer. Every effect is named after the stack and safe to
repeat.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Final, assert_never

import structlog

from opencode_lifecycle.lifecycle.observing.data_reports import DataReports
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.lifecycle.reconciling.aims import Aim, Aims
from opencode_lifecycle.lifecycle.reconciling.passes import Pass
from opencode_lifecycle.lifecycle.reconciling.planning.moves import facets_in
from opencode_lifecycle.lifecycle.reconciling.restoring import restored_by, snapshot_to_restore
from opencode_lifecycle.lifecycle.reconciling.runtime_effects import RuntimeEffects
from opencode_lifecycle.lifecycle.reconciling.steps import (
    AbortTurns,
    CheckDelivery,
    CheckJob,
    CheckServiceGone,
    ClearLiveFiles,
    CompareJob,
    DestroySecret,
    DestroyWorkspace,
    FinishDeletion,
    Limits,
    Look,
    LookAtActivity,
    LookAtNodes,
    LookForCutTurns,
    MakeSecret,
    MakeWorkspace,
    Move,
    Part,
    PublishLiveFiles,
    PurgeJob,
    ReadReport,
    RegisterJob,
    Reload,
    Rest,
    RotateSecret,
    Step,
    StopJob,
    Work,
)
from opencode_lifecycle.lifecycle.reconciling.wanted import Site, job_variables, wanted_facets
from opencode_lifecycle.lifecycle.reconciling.work import Desk
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, IndexConflict, SecretMissing, UpstreamError
from opencode_lifecycle.model.facets import Facets
from opencode_lifecycle.model.identifiers import VolumeId
from opencode_lifecycle.model.observation import JobSeen
from opencode_lifecycle.model.release import Release
from opencode_lifecycle.model.stack import Stack, Workspace
from opencode_lifecycle.model.states import Health, MigrationState, Phase
from opencode_lifecycle.ports.orchestrator import (
    Comparison,
    LiveFiles,
    Orchestrator,
    Owner,
    RenderedJob,
    Variables,
    Workspaces,
)
from opencode_lifecycle.ports.secrets import PasswordStore, SecretSeen
from opencode_lifecycle.ports.service_catalog import ServiceCatalog

log = structlog.get_logger(__name__)


class NotYet(Exception):
    """Something takes its time; *message* says what. Not a failure."""


class SecretUnusable(Exception):
    """The version of the secret that is to follow has no password, which nobody could log in with."""


class WorkspaceLost(Exception):
    """The volume that the stack worked on is not there any more, and its data with it."""


class Effects:
    """Raises `UpstreamError`, `DeadlineExceeded`, `NotYet` or `WorkspaceLost`; whatever was done by then is found again."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        workspaces: Workspaces,
        live_files: LiveFiles,
        passwords: PasswordStore,
        recent_passwords: RecentPasswords,
        catalog: ServiceCatalog,
        of_runtime: RuntimeEffects,
        reports: DataReports,
        releases: Releases,
        aims: Aims,
        desk: Desk,
        fleet: Fleet,
        site: Site,
        limits: Limits,
        now: Clock,
        upstream_timeout: timedelta,
    ) -> None:
        self._orchestrator = orchestrator
        self._workspaces = workspaces
        self._live_files = live_files
        self._passwords = passwords
        self._recent_passwords = recent_passwords
        self._catalog = catalog
        self._of_runtime = of_runtime
        self._reports = reports
        self._releases = releases
        self._aims = aims
        self._desk = desk
        self._fleet = fleet
        self._site = site
        self._limits = limits
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()

    def _aim(self, current: Pass) -> Aim:
        aim = self._aims.of(current.work.stack)
        assert aim is not None, "whoever works on a stack has its releases in memory"
        return aim

    def _owner(self, stack: Stack) -> Owner:
        return Owner(installation=self._site.installation, user_id=stack.user_id)

    async def apply(self, current: Pass, step: Step) -> None:
        """Take one step with an effect and learn from its answer."""
        stack = current.work.stack
        deadline = Deadline.after(self._upstream_timeout, f"{type(step).__name__} for {stack.job_id}")
        log.debug("step", step=type(step).__name__, job_id=stack.job_id, phase=stack.status.phase)
        match step:
            case Look() | LookAtNodes():
                look = self._look if isinstance(step, Look) else self._look_at_nodes
                await look(current, deadline)
            case MakeSecret():
                version = await self._passwords.ensure(stack.job_id, deadline)
                self._fleet.saw_secret(stack.user_id, SecretSeen(version=version))
                self._learn(current, Part.SECRET, secret_version=version)
            case RotateSecret(known=known):
                await self._rotate(current, known, deadline)
            case MakeWorkspace():
                await self._make_workspace(current, deadline)
            case PublishLiveFiles():
                await self._publish_live_files(current, deadline)
            case RegisterJob(expected_index=expected_index, facets=facets):
                await self._register(current, expected_index, facets, deadline)
            case CompareJob():
                await self._compare(current, deadline)
            case CheckJob():
                await self._check(current, deadline)
            case (
                LookAtActivity()
                | CheckDelivery()
                | Reload()
                | AbortTurns()
                | LookForCutTurns()
                | ReadReport()
            ):
                await self._of_runtime.apply(current, step, self._aim(current).release, deadline)
            case StopJob() | PurgeJob():
                purge = isinstance(step, PurgeJob)
                index = await self._orchestrator.deregister(stack.job_id, purge=purge, deadline=deadline)
                self._fleet.wrote(stack.job_id, index)
                current.receipt["job"] = "purged" if purge else "stopped"
                status = replace(stack.status, job_modify_index=index or stack.status.job_modify_index)
                current.work = replace(current.work, stack=stack.moved_to(status))
                await self._look(current, deadline)
            case DestroySecret():
                await self._passwords.destroy(stack.job_id, deadline)
                self._learn(current, Part.SECRET, receipt=("secret", "destroyed"), secret_version=None)
            case ClearLiveFiles():
                await self._live_files.clear(stack.job_id, deadline)
                self._learn(current, Part.LIVE_FILES, receipt=("variables", "deleted"))
            case DestroyWorkspace():
                await self._destroy_workspace(current, deadline)
            case CheckServiceGone():
                await self._check_service_gone(current, deadline)
            case Move() | Rest() | FinishDeletion():
                raise AssertionError(step)
            case unreachable:
                assert_never(unreachable)

    def _learn(
        self, current: Pass, part: Part, *, receipt: tuple[str, str] | None = None, **facts: object
    ) -> None:
        work = current.work
        status = replace(work.stack.status, **facts)  # type: ignore[arg-type]  # names and types are checked by use
        reworked = self._desk.rework(work, work.stack.moved_to(status))
        current.work = replace(reworked, done=work.done | {part})
        if receipt is not None:
            current.receipt[receipt[0]] = receipt[1]

    async def _look(self, current: Pass, deadline: Deadline) -> None:
        stack = current.work.stack
        seen = await self._orchestrator.observe(stack.job_id, deadline)
        self._fleet.see(stack.job_id, seen)
        current.work = replace(current.work, observation=seen, done=current.work.done | {Part.LOOK})

    async def _look_at_nodes(self, current: Pass, deadline: Deadline) -> None:
        begun = self._fleet.nodes.now()
        closed = await self._orchestrator.closed_nodes(deadline)
        self._fleet.apply_nodes(closed, begun=begun)
        current.work = replace(
            current.work,
            closed_node=self._fleet.closed_node(current.work.stack),
            nodes_age=self._fleet.nodes.age,
            done=current.work.done | {Part.NODES},
        )

    async def _rotate(self, current: Pass, known: int, deadline: Deadline) -> None:
        """
        Have a password that is newer than version *known*. That it is there is saved before a job may be pinned to it.

        1. We write version 2; the reply is lost, or we die.
        2. The next try finds 2 where the row says 1: that is the new password, whoever wrote it.
        3. A secret that is gone altogether is made anew, which is a new password as well.
        """
        stack = current.work.stack
        version = await self._passwords.latest_version(stack.job_id, deadline)
        if version is None:
            version = await self._passwords.ensure(stack.job_id, deadline)
        elif version <= known:
            version = await self._passwords.rotate(stack.job_id, expected=version, deadline=deadline)
        self._learn(current, Part.SECRET, secret_version=version, rotation_done=stack.intent.rotation)

    async def _make_workspace(self, current: Pass, deadline: Deadline) -> None:
        """Find the stack's volume or make its first one. One that it had and that is gone is never made up for in silence."""
        stack = current.work.stack
        known = stack.status.workspace
        found = (
            await self._workspaces.ensure(stack.job_id, deadline, avoid=self._fleet.nodes.closed)
            if known is None
            else await self._workspaces.find(stack.job_id, deadline)
        )
        if found is None or (known is not None and found.volume_id != known.volume_id):
            raise WorkspaceLost
        workspace = Workspace(volume_id=VolumeId(found.volume_id), node_id=found.node_id, path=found.path)
        self._learn(current, Part.WORKSPACE, workspace=workspace)

    async def _publish_live_files(self, current: Pass, deadline: Deadline) -> None:
        release = self._aim(current).release
        instructions = await self._live_files.publish(release.instructions, deadline)
        managed = await self._live_files.publish(release.managed, deadline)
        stack = current.work.stack
        await self._live_files.point(
            stack.job_id,
            self._owner(stack),
            instructions=instructions,
            managed=managed,
            deadline=deadline,
        )
        self._learn(current, Part.LIVE_FILES)

    async def _register(self, current: Pass, expected_index: int, facets: Facets, deadline: Deadline) -> None:
        """
        Register, and look for ourselves when it turns out that somebody else wrote before us.

        1. We register; Nomad commits; the reply is lost.
        2. The next try finds the job at another index: a conflict.
        3. The look shows a job with our revision, which the plan adopts. No second version is made.
        """
        stack = current.work.stack
        aim = self._aim(current)
        restore = await snapshot_to_restore(self._reports, stack, aim, facets)
        variables = job_variables(aim.stack, aim.release, self._site, facets, restore_snapshot=restore)
        job = await self._rendered(current, aim, variables, deadline)
        try:
            index = await self._orchestrator.register(job, expected_index=expected_index, deadline=deadline)
        except IndexConflict:
            await self._look(current, deadline)
            return
        self._fleet.wrote(stack.job_id, index)
        now = self._now()
        phase = Phase.STARTING if stack.status.phase is Phase.PENDING else stack.status.phase
        built = replace(
            aim.building,
            facets=facets,
            restore=restore,
            used=phase is Phase.RUNNING,
            moved_data=_is_of_another_version(facets, current.work),
        )
        status = replace(
            stack.status,
            phase=phase,
            phase_since=now if phase is not stack.status.phase else stack.status.phase_since,
            reason=stack.status.reason if phase is Phase.STOPPING else None,
            message=_AFTER_REGISTRATION.get(phase, ""),
            health=Health.STARTING if phase is Phase.STARTING else stack.status.health,
            facets=facets,
            release=aim.release.id,
            migration_state=(
                MigrationState.VERIFYING
                if stack.status.migration_state is MigrationState.REPLACING and phase is Phase.STARTING
                else stack.status.migration_state
            ),
            built=built.after(stack.status.built),
            job_modify_index=index,
            edits=(),
            edits_restart=False,
        )
        current.work = replace(
            current.work,
            stack=stack.moved_to(status),
            observation=self._fleet.observation(stack.job_id),
            proof=None if phase is Phase.STARTING else current.work.proof,
            done=current.work.done | {Part.JOB},
        )

    async def _compare(self, current: Pass, deadline: Deadline) -> None:
        """
        Learn what somebody else changed in the job, from Nomad's own plan of what we registered.

        What is wanted now may be something else again: that is another reason, and is not mixed with this one. Where what
        we registered cannot be told any more, since what it was made of was changed meanwhile, nobody is blamed for the
        difference: it is stale for that, and put right as a whole.
        """
        work = current.work
        stack, job = work.stack, work.observation.job if work.observation is not None else None
        assert isinstance(job, JobSeen), "only a job that is seen is compared"
        status = stack.status
        found = Comparison(edits=status.edits, restart=status.edits_restart)
        # One that is not known to run is adopted only when it is as wanted: our registration, whose reply was lost.
        is_lost_reply = status.phase is Phase.PENDING
        release, ours = self._aim(current).release, work.wanted
        if not is_lost_reply and status.facets is not None:
            release, _ = await self._releases.get(status.release or stack.intent.wanted_release)
            ours = status.facets
        built = status.built
        again = wanted_facets(stack, release, self._site, secret_version=ours.secret_version)
        if replace(again, prompt=ours.prompt, config=ours.config) == ours:
            restore = restored_by(built, ours)
            found = await self._differences(stack, release, ours, restore, deadline)
            if is_lost_reply and found.edits:
                # Which snapshot it names was to be written down with the reply.
                for named in await self._reports.ids_of(stack, ours.opencode_version):
                    other = await self._differences(stack, release, ours, named, deadline)
                    if not other.edits:
                        found, built = other, replace(self._aim(current).building, restore=named).after(built)
                        break
        if found.edits and not status.edits:
            log.warning(
                "job edited outside", job_id=stack.job_id, fields=[edit.field for edit in found.edits]
            )
            current.note("stack.edited_outside", fields=[edit.field for edit in found.edits])
        self._learn(
            current,
            Part.COMPARISON,
            job_modify_index=job.modify_index,
            facets=facets_in(job, work) or status.facets,
            built=built,
            edits=tuple(found.edits),
            edits_restart=found.restart,
        )

    async def _differences(
        self, stack: Stack, release: Release, facets: Facets, restore: str, deadline: Deadline
    ) -> Comparison:
        """Return how the job that is there differs from the one of *facets* that names *restore*."""
        variables = job_variables(stack, release, self._site, facets, restore_snapshot=restore)
        rendered = await self._orchestrator.render(release.template, variables, deadline)
        return await self._orchestrator.compare(rendered, deadline)

    async def _check(self, current: Pass, deadline: Deadline) -> None:
        """
        Have Nomad render and check what is to follow, so that nothing is stopped for a job that will be refused.

        Whether the scheduler could place it now is not asked: what runs still takes the room. And the secret is read where
        what follows will read it: while Vault is away it would not start, and an administrator may have written anything
        into the secret, so that it has no password.
        """
        work = current.work
        if work.needs.secret:
            try:
                await self._recent_passwords.read_now(work.stack, work.wanted.secret_version, deadline)
            except SecretMissing:
                raise SecretUnusable from None
        aim = self._aim(current)
        variables = job_variables(aim.stack, aim.release, self._site, work.wanted)
        await self._orchestrator.validate(await self._rendered(current, aim, variables, deadline), deadline)
        current.work = replace(work, done=(work.done - {Part.ACTIVITY}) | {Part.CHECK})

    async def _rendered(
        self, current: Pass, aim: Aim, variables: Variables, deadline: Deadline
    ) -> RenderedJob:
        """Have Nomad render the job, unless it has rendered this very one in this pass."""
        if current.rendered is None or current.rendered[:2] != (aim.release.id, variables):
            job = await self._orchestrator.render(aim.release.template, variables, deadline)
            current.rendered = aim.release.id, variables, job
        return current.rendered[2]

    async def _destroy_workspace(self, current: Pass, deadline: Deadline) -> None:
        stack = current.work.stack
        workspace = stack.status.workspace
        volume_id = workspace.volume_id if workspace is not None else None
        if volume_id is None:
            found = await self._workspaces.find(stack.job_id, deadline)
            volume_id = VolumeId(found.volume_id) if found is not None else None
        if volume_id is not None:
            await self._workspaces.destroy(volume_id, deadline)
        self._learn(current, Part.WORKSPACE, receipt=("workspace", "deleted"), workspace=None)

    async def _check_service_gone(self, current: Pass, deadline: Deadline) -> None:
        """
        Wait for Consul, until the deadline of a stop, to show that the service is gone, and put down what it showed.

        What is left there leads nowhere: nothing of the stack runs by now, and the next comparison finds it.
        """
        stack = current.work.stack
        overdue = self._now() - stack.status.phase_since >= self._limits.stop
        try:
            left = await self._catalog.instances(stack.job_id, deadline)
        except (UpstreamError, DeadlineExceeded) as error:
            if not overdue:
                raise
            log.warning("service not seen gone", job_id=stack.job_id, error=error.message)
            self._learn(
                current, Part.SERVICE, receipt=("service", "not seen gone: Consul could not be asked")
            )
            return
        if left and not overdue:
            raise NotYet("waiting for Consul to forget the service")
        outcome = f"{len(left)} instances still listed by Consul" if left else "deregistered"
        self._learn(current, Part.SERVICE, receipt=("service", outcome))


def _is_of_another_version(facets: Facets, work: Work) -> bool:
    """Whether *facets* are of another version than the job that is there was registered with, whoever did that."""
    job = work.observation.job if work.observation is not None else None
    before = (facets_in(job, work) if isinstance(job, JobSeen) else None) or work.stack.status.facets
    return before is not None and before.opencode_version != facets.opencode_version


_AFTER_REGISTRATION: Final = {
    Phase.STARTING: "registered; waiting for an allocation",
    Phase.STOPPING: "what is to follow is registered; waiting for the allocation before to end",
}
