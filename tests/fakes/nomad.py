"""
Nomad in memory, as far as the ports see it.

It keeps jobs with versions and modify indexes, schedules one allocation per job, and passes the same contract as the
real one. Allocations run and stop by themselves unless a test takes that into its own hands:

    nomad = FakeNomad(autorun=False)
    nomad.run_allocation(job_id, address=Address(host="127.0.0.1", port=4096))
    nomad.fail_allocation(job_id, TaskTrouble.DRIVER, "no such image")
    nomad.faults.fail_next("register", UpstreamUnavailable("nomad", "register"), after_commit=True)
    hold = nomad.workspaces.faults.hold_next("ensure")
    nomad.files.deaf.add(job_id)  # its live files stay as they are, until nomad.deliver(job_id)
    nomad.go_down(); nomad.come_up()
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from fakes.faults import Faults
from fakes.nomad_files import FakeFiles
from fakes.nomad_jobs import KeptJob, check, render
from fakes.nomad_levers import Hides, Levers, Snapshot
from fakes.nomad_nodes import FakeNodes
from fakes.nomad_storage import FakeClusterMark, FakeLiveFiles, FakeWorkspaces
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    IndexConflict,
    UpstreamNonsense,
    UpstreamRejected,
    UpstreamUnavailable,
)
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.job_template import TemplateNeeds, declared_variables
from opencode_lifecycle.model.node import ClosedNode
from opencode_lifecycle.model.observation import ABSENT, AllocationSeen, ClientStatus, JobSeen, Observation
from opencode_lifecycle.model.stack import FieldEdit
from opencode_lifecycle.ports.orchestrator import (
    AllocationChanged,
    Change,
    Comparison,
    Connected,
    JobChanged,
    Listing,
    NodesChanged,
    Placement,
    PlacementChanged,
    RenderedJob,
    Usage,
    Variables,
)

CHANGED_IN_PLACE = frozenset({"labels", "description", "public_url"})
"""Variables of the templates that stand only where a change of them leaves the task as it is."""


class FakeNomad(Levers):
    """The Orchestrator port. `workspaces` and `live_files` are the other two, of the same cluster."""

    def __init__(
        self, *, autorun: bool = True, autostop: bool = True, now: Clock = utc_now, node: str = "node-1"
    ) -> None:
        self.autorun = autorun
        self.autostop = autostop
        self.faults = Faults()
        self.index = 10
        self.jobs: dict[JobId, KeptJob] = {}
        self.allocations: dict[JobId, list[AllocationSeen]] = {}
        self.logs: dict[tuple[AllocationId, str], list[bytes]] = {}
        self.on_run: Callable[[JobId, AllocationSeen], None] | None = None
        """Called when an allocation starts to run; a test can start a fake runtime on its address."""
        self.on_change: Callable[[], None] | None = None
        """Called whenever anything changes, also what no stream tells."""
        self.workspaces = FakeWorkspaces(
            pick_node=lambda avoid: self.nodes.pick(avoid=avoid),
            is_claimed=lambda job_id: bool(self._live(job_id)),
            now=now,
        )
        self.nodes = FakeNodes(
            node,
            is_empty=lambda name: not self._live_on(name),
            on_change=lambda: self._tell(NodesChanged(index=self._next_index())),
            on_open=self._place_what_waits,
            evict=self._evict,
        )
        self.live_files = FakeLiveFiles(now=now)
        self.files = FakeFiles()
        self.cluster_mark = FakeClusterMark()
        self.memory: dict[AllocationId, int] = {}
        """Bytes that an allocation uses; of any other it is not known."""
        self.is_racy = False
        self.is_mute = False
        """Whether the event stream leaves out what happens, without a word."""
        self.unlinked: set[JobId] = set()
        """Jobs that were stopped while an allocation of theirs lived: the next one does not wait for it."""
        self._hidden: set[JobId] | None = None
        self._behind = None
        """What listings leave out; None for nothing, a set that holds every name for everything."""
        self._hides: Hides = "both"
        self._now = now
        self._ports = itertools.count(20000)
        self._ids = itertools.count(1)
        self._refusals: dict[JobId | None, str] = {}
        self._placement: dict[JobId, str] = {}
        self._followers: list[asyncio.Queue[Change | None]] = []

    # The port

    async def render(self, template: str, variables: Variables, deadline: Deadline) -> RenderedJob:
        if unknown := sorted(set(variables) - declared_variables(template)):
            raise UpstreamRejected(
                "nomad", "render", f"the template declares no variable {', '.join(unknown)}"
            )
        async with self.faults.call("render", deadline):
            return render(template, variables)

    async def register(self, job: RenderedJob, *, expected_index: int, deadline: Deadline) -> int:
        async with self.faults.call("register", deadline):
            check(job, "register")
            self._check_index(job.job_id, expected_index)
            if self.is_racy:
                # As on 1.11: the check is not repeated where the job is written, so two writers can both pass it. That is
                # a moment of the server's: a caller that is frozen meanwhile has not sent its request yet, and sends none
                # once its deadline is past.
                moment = self._now()
                await asyncio.sleep(0)
                if self._now() != moment:
                    if not deadline.left():
                        raise DeadlineExceeded(deadline.purpose)
                    self._check_index(job.job_id, expected_index)
            known = self.jobs.get(job.job_id)
            unchanged = (
                known is not None and not known.seen.stopped and known.specification == job.specification
            )
            if not unchanged:
                meta = {str(key): str(value) for key, value in job.specification["Meta"].items()}
                self._put_job(job.job_id, known, meta, job.specification)
            self._schedule(job.job_id)
            return self.jobs[job.job_id].seen.modify_index

    def _check_index(self, job_id: JobId, expected: int) -> None:
        known = self.jobs.get(job_id)
        actual = known.seen.modify_index if known else 0
        if actual != expected:
            raise IndexConflict("nomad", "register", f"{job_id} is at index {actual}, not {expected}")

    async def compare(self, job: RenderedJob, deadline: Deadline) -> Comparison:
        async with self.faults.call("compare", deadline):
            known = self.jobs.get(job.job_id)
            if known is None:
                raise UpstreamRejected("nomad", "compare", "there is no such job")
            edits = [
                *_differences("Meta", known.seen.meta, job.specification["Meta"]),
                *_differences(
                    "Variables", known.specification.get("Variables", {}), job.specification["Variables"]
                ),
            ]
            live = {f"Variables[{name}]" for name in CHANGED_IN_PLACE}
            return Comparison(edits=edits, restart=any(edit.field not in live for edit in edits))

    async def validate(self, job: RenderedJob, deadline: Deadline) -> None:
        async with self.faults.call("validate", deadline):
            check(job, "validate")

    async def plan_placement(self, job: RenderedJob, deadline: Deadline) -> Placement:
        async with self.faults.call("plan_placement", deadline):
            check(job, "plan placement")
            refusal = self._refusals.get(job.job_id, self._refusals.get(None))
            missing = self._missing_volume(job.job_id, job.specification)
            return Placement(failure=refusal or missing or self._missing_node(job.job_id, job.specification))

    async def submitted(self, job: JobSeen, deadline: Deadline) -> Variables | None:
        async with self.faults.call("submitted", deadline):
            known = self.jobs.get(job.job_id)
            values = known.specification.get("Variables") if known is not None else None
            return dict(values) if values is not None else None

    async def usage(self, allocation_id: AllocationId, deadline: Deadline) -> Usage | None:
        async with self.faults.call("usage", deadline):
            everything = (a.id for all_of_job in self.allocations.values() for a in all_of_job)
            if allocation_id not in everything:
                return None
            return Usage(memory=self.memory.get(allocation_id))

    async def deregister(self, job_id: JobId, *, purge: bool, deadline: Deadline) -> int:
        async with self.faults.call("deregister", deadline):
            job = self.jobs.get(job_id)
            if job is None:
                return self.index
            index = job.seen.modify_index
            if not job.seen.stopped:
                index = self._next_index()
                job.seen = replace(
                    job.seen,
                    stopped=True,
                    version=job.seen.version + 1,
                    modify_index=index,
                    submitted_at=self._now(),
                )
                self._tell(JobChanged(index=index, job_id=job_id, job=job.seen))
            self._placement.pop(job_id, None)
            if self._live(job_id):
                self.unlinked.add(job_id)
            self._stop_allocations(job_id)
            if purge:
                del self.jobs[job_id]
                index = self._next_index()
                self._tell(JobChanged(index=index, job_id=job_id, job=None))
                self._forget_ended(job_id)
            return index

    async def observe(self, job_id: JobId, deadline: Deadline) -> Observation:
        async with self.faults.call("observe", deadline):
            return self._observation(job_id, self)

    async def list_all(self, deadline: Deadline) -> Listing:
        async with self.faults.call("list_all", deadline):
            read = self._behind or self
            names = {name for name in [*read.jobs, *read.allocations] if name.startswith("oc-")}
            shown = {name: self._listed(name, read) for name in sorted(names)}
            return Listing(
                index=read.index,
                observed_at=self._now(),
                stacks={name: seen for name, seen in shown.items() if seen is not None},
            )

    async def closed_nodes(self, deadline: Deadline) -> Sequence[ClosedNode]:
        async with self.faults.call("closed_nodes", deadline):
            return list(self.nodes.closed.values())

    async def follow(self, index: int | None) -> AsyncIterator[Change]:
        # Like a server whose buffer is empty, nothing is replayed; and what lies before the index is not told.
        changes: asyncio.Queue[Change | None] = asyncio.Queue()
        async with self.faults.call("follow", Deadline.after(30, "open the event stream")):
            self._followers.append(changes)
        try:
            index = self.index if index is None else index
            yield Connected(index=index)
            while (change := await changes.get()) is not None:
                if change.index > index:
                    yield change
        finally:
            if changes in self._followers:
                self._followers.remove(changes)
        raise UpstreamUnavailable("nomad", "follow", "the event stream ended")

    async def read_log(
        self, allocation_id: AllocationId, *, kind: str, tail: int, follow: bool, deadline: Deadline
    ) -> AsyncIterator[bytes]:
        async with self.faults.call("read_log", deadline):
            if not any(a.id == allocation_id for all_of_job in self.allocations.values() for a in all_of_job):
                raise UpstreamRejected("nomad", "read log", "no such allocation")
            lines = self.logs.get((allocation_id, kind), [])
        for line in lines[-tail:] if tail else []:
            yield line

    async def read_file(
        self, allocation_id: AllocationId, path: str, *, limit: int, deadline: Deadline
    ) -> bytes | None:
        async with self.faults.call("read_file", deadline):
            jobs = [
                name for name, each in self.allocations.items() if any(a.id == allocation_id for a in each)
            ]
            for job_id in jobs:
                if self.files.hears(job_id):
                    self.deliver(job_id)
            found = self.files.of.get(allocation_id, {}).get(path) if jobs else None
            if found is not None and len(found) > limit:
                raise UpstreamNonsense("nomad", "read file", "the file is too large")
            return found

    async def ping(self, deadline: Deadline) -> None:
        async with self.faults.call("ping", deadline):
            return

    # How the cluster behaves

    def _observation(self, job_id: JobId, read: Snapshot | Levers) -> Observation:
        job = read.jobs.get(job_id)
        return Observation(
            job=job.seen if job else ABSENT,
            allocations=tuple(read.allocations.get(job_id, ())),
            placement_failure=self._placement.get(job_id),
            index=read.index,
            observed_at=self._now(),
        )

    def _put_job(
        self, job_id: JobId, known: KeptJob | None, meta: Mapping[str, str], specification: Mapping[str, Any]
    ) -> None:
        index = self._next_index()
        seen = JobSeen(
            job_id=job_id,
            version=known.seen.version + 1 if known else 0,
            modify_index=index,
            stopped=False,
            meta=dict(meta),
            submitted_at=self._now(),
        )
        submissions = [*known.submissions, specification] if known else [specification]
        self.jobs[job_id] = KeptJob(seen=seen, specification=specification, submissions=submissions)
        self._tell(JobChanged(index=index, job_id=job_id, job=seen))

    def _schedule(self, job_id: JobId, *, autorun: bool | None = None) -> None:
        job = self.jobs[job_id]
        live = [a for a in self._live(job_id) if a.desired_status == "run"]
        if live and not self._destroys(job_id, live[0]):
            self._update(live[0], job_id, job_version=job.seen.version)
            return
        refusal = (
            self._refusals.get(job_id, self._refusals.get(None))
            or self._missing_volume(job_id, job.specification)
            or self._missing_node(job_id, job.specification)
        )
        node = self._node_for(job_id, job.specification)
        if refusal or node is None:
            # What runs is let run: it is only ended for what can follow it.
            self._say_placement(job_id, refusal or "no node")
            return
        if live:
            self._stop_allocations(job_id)
        if self._placement.pop(job_id, None) is not None:
            self._tell(PlacementChanged(index=self._next_index(), job_id=job_id, failure=None))
        index = self._next_index()
        allocation = AllocationSeen(
            id=AllocationId(str(UUID(int=next(self._ids)))),
            job_version=job.seen.version,
            modify_index=index,
            create_index=index,
            desired_status="run",
            client_status=ClientStatus.PENDING,
            node_id=node,
            node_name=node,
        )
        self.allocations.setdefault(job_id, []).insert(0, allocation)
        self._tell(AllocationChanged(index=index, job_id=job_id, allocation=allocation))
        waits = any(not a.client_status.is_terminal for a in self.allocations[job_id][1:])
        if (self.autorun if autorun is None else autorun) and not waits:
            self.run_allocation(job_id)

    def _destroys(self, job_id: JobId, allocation: AllocationSeen) -> bool:
        """Whether the newest version of the job needs another process than the one that runs."""
        submissions = self.jobs[job_id].submissions
        if allocation.job_version == self.jobs[job_id].seen.version or len(submissions) < 2:
            return False
        before, after = (
            {"Meta": each.get("Meta"), "Template": each.get("Template")}
            | {k: v for k, v in each.get("Variables", {}).items() if k not in CHANGED_IN_PLACE}
            for each in submissions[-2:]
        )
        return before != after or self.jobs[job_id].seen.meta != after["Meta"]

    def _missing_volume(self, job_id: JobId, specification: Mapping[str, Any]) -> str | None:
        needs = TemplateNeeds.of(str(specification.get("Template", "")))
        if not needs.workspace or job_id in self.workspaces.volumes:
            return None
        return f"Constraint missing compatible host volumes: no node has the volume {job_id}"

    def _node_for(self, job_id: JobId, specification: Mapping[str, Any]) -> str | None:
        """Return where the job can be placed: where its volume lies, if it needs one."""
        needs = TemplateNeeds.of(str(specification.get("Template", "")))
        volume = self.workspaces.volumes.get(job_id) if needs.workspace else None
        return self.nodes.pick(volume.node_id if volume is not None else None)

    def _missing_node(self, job_id: JobId, specification: Mapping[str, Any]) -> str | None:
        is_placeable = self._node_for(job_id, specification) is not None
        return None if is_placeable else "no node can take it: no node is eligible"

    def _evict(self, node: str) -> None:
        """End what runs on the node, and place it anew where that can be."""
        for job_id in self._live_on(node):
            self._stop_allocations(job_id)
            if job_id in self.jobs and not self.jobs[job_id].seen.stopped:
                self._schedule(job_id)

    def _live_on(self, node: str) -> list[JobId]:
        return [name for name in list(self.allocations) if any(a.node_id == node for a in self._live(name))]

    def _say_placement(self, job_id: JobId, sentence: str) -> None:
        self._placement[job_id] = sentence
        self._tell(PlacementChanged(index=self._next_index(), job_id=job_id, failure=sentence))

    def _stop_allocations(self, job_id: JobId) -> None:
        for allocation in self._live(job_id):
            stopping = self._update(allocation, job_id, desired_status="stop")
            if self.autostop:
                self._update(stopping, job_id, client_status=ClientStatus.COMPLETE)

    def _forget_ended(self, job_id: JobId) -> None:
        """Nomad drops what ended of a job that was purged."""
        self.allocations[job_id] = self._live(job_id)
        if not self.allocations[job_id]:
            del self.allocations[job_id]

    def _render_files(self, job_id: JobId, allocation_id: AllocationId) -> None:
        self.files.render(allocation_id, self.live_files.pointers.get(job_id), self.live_files.bundles)

    def _live(self, job_id: JobId) -> list[AllocationSeen]:
        return [a for a in self.allocations.get(job_id, ()) if not a.client_status.is_terminal]

    def _one_live(self, job_id: JobId) -> AllocationSeen:
        live = self._live(job_id)
        assert live, f"{job_id} has no live allocation"
        stopping = [a for a in live if a.desired_status == "stop"]
        return (stopping or live)[-1]

    def _update(self, allocation: AllocationSeen, job_id: JobId, **changes: Any) -> AllocationSeen:
        index = self._next_index()
        updated = replace(allocation, modify_index=index, **changes)
        all_of_job = self.allocations[job_id]
        all_of_job[next(i for i, each in enumerate(all_of_job) if each.id == allocation.id)] = updated
        self._tell(AllocationChanged(index=index, job_id=job_id, allocation=updated))
        started = (
            updated.client_status is ClientStatus.RUNNING
            and allocation.client_status is not ClientStatus.RUNNING
        )
        if started:
            self._render_files(job_id, updated.id)
        if started and self.on_run is not None:
            self.on_run(job_id, updated)
        if updated.client_status.is_terminal and job_id not in self.jobs:
            self._forget_ended(job_id)
        elif updated.client_status.is_terminal and self.autorun:
            successors = [a for a in self._live(job_id) if a.client_status is ClientStatus.PENDING]
            if successors and successors[0].desired_status == "run" and not successors[0].trouble:
                self.run_allocation(job_id)
        if updated.client_status.is_terminal:
            self.nodes.emptied(updated.node_id)
        return updated

    def _next_index(self) -> int:
        self.index += 1
        if self.on_change is not None:
            self.on_change()
        return self.index

    def _tell(self, change: Change) -> None:
        if self.is_mute:
            return
        for follower in self._followers:
            follower.put_nowait(change)


def _differences(kind: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> Iterator[FieldEdit]:
    for name in sorted({*have, *want}):
        if have.get(name) != want.get(name):
            yield FieldEdit(
                field=f"{kind}[{name}]", have=str(have.get(name, "")), want=str(want.get(name, ""))
            )
