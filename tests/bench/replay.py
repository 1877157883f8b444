"""
A Nomad that replays what was recorded of a real one, for as many stacks as wanted.

Every object it shows is a recorded one with other ids, indexes, addresses and meta; nothing else is made up. A job lives
the recorded lives: it is registered and runs, its task is restarted, it is stopped and purged, or it fits nowhere. It
holds no HTTP: `replay_http` serves it.
"""

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bench.recording import recording

BUFFERED: Final = 100
"""Events that Nomad keeps for those who come late, by default."""
NODE: Final = "opencode"
_NAMESPACE: Final = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
_STATES: Final = ("pending", "running", "restarted", "stopping", "complete")


@dataclass(slots=True, kw_only=True)
class Job:
    id: str
    meta: Mapping[str, str]
    version: int
    create_index: int
    modify_index: int
    job_modify_index: int
    submitted_at: int
    stopped: bool = False
    status: str = "running"
    stub: bytes = b""
    """As listings show it, until something of it changes."""


@dataclass(slots=True, kw_only=True)
class Allocation:
    id: str
    job_id: str
    job_version: int
    create_index: int
    modify_index: int
    host: str
    port: int
    state: str
    restarts: int = 0
    started_at: str = ""
    stub: bytes = b""


@dataclass(slots=True)
class Follower:
    """Whoever reads the event stream: *tell* is given each line."""

    tell: Callable[[bytes], None]
    from_index: int


@dataclass(slots=True)
class Tables:
    """The last index that changed each table, which is what `X-Nomad-Index` says of a listing."""

    jobs: int = 1
    allocations: int = 1
    evaluations: int = 1


def allocation_id_of(job_id: str, number: int = 0) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"allocation {job_id} {number}"))


def volume_id_of(job_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"volume {job_id}"))


class ReplayedNomad:
    def __init__(self) -> None:
        self._recorded = recording()
        self._specimen: Mapping[str, str] = self._recorded["specimen"]
        self._lives = _lives_in(self._recorded["events"], self._specimen["job"])
        self._job_stub = _one(self._recorded["jobs"]["body"], "ID", self._specimen["job"])
        self._allocation_stub = _one(
            self._recorded["allocations"]["body"], "ID", self._specimen["allocation"]
        )
        self.node_id: str = self._allocation_stub["NodeID"]
        self.index = 1000
        self.tables = Tables(jobs=1000, allocations=1000, evaluations=1000)
        self.jobs: dict[str, Job] = {}
        self.allocations: dict[str, Allocation] = {}
        self._by_job: dict[str, list[Allocation]] = {}
        self.blocked: dict[str, Mapping[str, Any]] = {}
        self.variables: dict[str, Mapping[str, Any]] = {}
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=BUFFERED)
        self._followers: list[Follower] = []

    # --- what is done to it

    def fill(self, stacks: Iterable[tuple[str, Mapping[str, str], str, int]]) -> None:
        """Take in running jobs (id, meta, host, port) as of long ago, without a word in the stream."""
        for job_id, meta, host, port in stacks:
            self.index += 4
            created = self.index
            self.jobs[job_id] = Job(
                id=job_id,
                meta=meta,
                version=0,
                create_index=created,
                modify_index=created + 1,
                job_modify_index=created,
                submitted_at=1_795_000_000_000_000_000 + created,
            )
            allocation = Allocation(
                id=allocation_id_of(job_id),
                job_id=job_id,
                job_version=0,
                create_index=created + 1,
                modify_index=created + 3,
                host=host,
                port=port,
                state="running",
            )
            self._add(allocation)
        self.index += 4
        self.tables = Tables(self.index - 1, self.index - 1, self.index - 2)

    def register(
        self, job_id: str, meta: Mapping[str, str], *, host: str, port: int, fits: bool = True
    ) -> int:
        """Register a job, or another version of it, and let it run; return its `JobModifyIndex`."""
        before = self.jobs.get(job_id)
        self.index += 1
        job = Job(
            id=job_id,
            meta=meta,
            version=before.version + 1 if before is not None else 0,
            create_index=before.create_index if before is not None else self.index,
            modify_index=self.index,
            job_modify_index=self.index,
            submitted_at=time.time_ns(),
        )
        self.jobs[job_id] = job
        self._tell_job(job, "JobRegistered")
        if not fits:
            # What runs of the version before runs on until something takes its place.
            self._block(job)
            return job.job_modify_index
        for allocation in self.allocations_of(job_id):
            if allocation.state in {"pending", "running", "restarted"}:
                self._to(allocation, "complete")
        if self.blocked.pop(job_id, None) is not None:
            self._unblock(job_id)
        self.index += 1
        allocation = Allocation(
            id=allocation_id_of(job_id, self.index),
            job_id=job_id,
            job_version=job.version,
            create_index=self.index,
            modify_index=self.index,
            host=host,
            port=port,
            state="pending",
        )
        self._add(allocation)
        self._tell_allocation(allocation, "PlanResult")
        self._to(allocation, "running")
        return job.job_modify_index

    def deregister(self, job_id: str, *, purge: bool) -> int:
        self.index += 1
        index = self.index
        job = self.jobs.get(job_id)
        if job is None:
            return index
        job.stopped, job.status, job.stub = True, "dead", b""
        job.modify_index = job.job_modify_index = index
        job.submitted_at = time.time_ns()
        if not purge:
            job.version += 1
        else:
            del self.jobs[job_id]
        self._tell_job(job, "JobDeregistered", deleted=purge)
        for allocation in self.allocations_of(job_id):
            if allocation.state in {"pending", "running", "restarted"}:
                self._to(allocation, "stopping", kind="PlanResult")
                self._to(allocation, "complete")
        return index

    def restart_task(self, allocation_id: str) -> int:
        """Let the task have ended and been started again, and return the index of that."""
        allocation = self.allocations[allocation_id]
        allocation.restarts += 1
        self._to(allocation, "restarted")
        return self.index

    def _to(self, allocation: Allocation, state: str, *, kind: str = "AllocationUpdated") -> None:
        self.index += 1
        allocation.state, allocation.modify_index, allocation.stub = state, self.index, b""
        allocation.started_at = datetime.now(UTC).isoformat().replace("+00:00", "000Z")
        self._tell_allocation(allocation, kind)

    def _add(self, allocation: Allocation) -> None:
        self.allocations[allocation.id] = allocation
        self._by_job.setdefault(allocation.job_id, []).append(allocation)

    def forget(self, allocation_id: str) -> None:
        """Collect an allocation that has ended, as Nomad does after a while."""
        allocation = self.allocations.pop(allocation_id)
        self._by_job[allocation.job_id].remove(allocation)

    def allocations_of(self, job_id: str) -> Sequence[Allocation]:
        return tuple(self._by_job.get(job_id, ()))

    def _block(self, job: Job) -> None:
        self.index += 1
        blocked = deepcopy(self._recorded["blocked evaluations"]["body"][0])
        blocked |= {
            "ID": str(uuid.uuid4()),
            "JobID": job.id,
            "CreateIndex": self.index,
            "ModifyIndex": self.index,
            "JobModifyIndex": job.job_modify_index,
        }
        self.blocked[job.id] = blocked
        self.tables.evaluations = self.index
        self._tell("Evaluation", "EvaluationUpdated", blocked["ID"], {"Evaluation": blocked})

    def _unblock(self, job_id: str) -> None:
        self.index += 1
        self.tables.evaluations = self.index
        evaluation = {**self._recorded["job evaluations"]["body"][0], "JobID": job_id, "Status": "complete"}
        self._tell("Evaluation", "EvaluationUpdated", evaluation["ID"], {"Evaluation": evaluation})

    # --- the event stream

    def follow(self, follower: Follower) -> None:
        """Give *follower* what is buffered from its index on, then all that comes."""
        for index, line in self._buffer:
            if index >= follower.from_index:
                follower.tell(line)
        self._followers.append(follower)

    def leave(self, follower: Follower) -> None:
        if follower in self._followers:
            self._followers.remove(follower)

    def _tell_job(self, job: Job, kind: str, *, deleted: bool = False) -> None:
        self.tables.jobs = self.index
        payload: dict[str, Any] = {"Job": self.job(job)}
        if deleted:
            payload["Deleted"] = True
        self._tell("Job", kind, job.id, payload)

    def _tell_allocation(self, allocation: Allocation, kind: str) -> None:
        # A summary of its job changes with an allocation, and with it the index of the table of jobs.
        self.tables.allocations = self.tables.jobs = self.index
        whole = self.allocation(allocation)
        del whole["Job"]
        self._tell("Allocation", kind, allocation.id, {"Allocation": whole})

    def _tell(self, topic: str, kind: str, key: str, payload: Mapping[str, Any]) -> None:
        event = {
            "Topic": topic,
            "Type": kind,
            "Key": key,
            "Namespace": self._job_stub["Namespace"],
            "FilterKeys": None,
            "Index": self.index,
            "Payload": payload,
        }
        line = json.dumps({"Index": self.index, "Events": [event]}, separators=(",", ":")).encode() + b"\n"
        self._buffer.append((self.index, line))
        for follower in list(self._followers):
            follower.tell(line)

    # --- what it shows

    def job_stub(self, job: Job) -> bytes:
        if not job.stub:
            stub = deepcopy(self._job_stub)
            stub |= self._head(job)
            stub["JobSummary"] |= {"JobID": job.id, "CreateIndex": job.create_index}
            job.stub = _bytes_of(stub)
        return job.stub

    def job_status(self, job: Job) -> Mapping[str, Any]:
        """Return what the listing of Nomad's web UI says of it."""
        recorded = self._recorded["job statuses"]["body"][0]
        head = {"ID": job.id, "Name": job.id, "SubmitTime": job.submitted_at, "Version": job.version}
        return {**recorded, **head, "ModifyIndex": job.modify_index, "Allocs": []}

    def job(self, job: Job) -> dict[str, Any]:
        whole = self._renamed("job", job.id)
        whole |= self._head(job)
        whole["Version"] = job.version
        return whole

    def _head(self, job: Job) -> dict[str, Any]:
        return {
            "ID": job.id,
            "Name": job.id,
            "CreateIndex": job.create_index,
            "ModifyIndex": job.modify_index,
            "JobModifyIndex": job.job_modify_index,
            "Meta": dict(job.meta),
            "Status": job.status,
            "Stop": job.stopped,
            "SubmitTime": job.submitted_at,
        }

    def allocation_stub(self, allocation: Allocation) -> bytes:
        if not allocation.stub:
            stub = deepcopy(self._allocation_stub)
            stub |= self._life_of(allocation)
            stub["JobVersion"] = allocation.job_version
            _put_address(stub, allocation)
            allocation.stub = _bytes_of(stub)
        return allocation.stub

    def allocation_of_job(self, allocation: Allocation) -> dict[str, Any]:
        """Return the stub without resources that the listing of one job has."""
        stub = deepcopy(self._recorded["job allocations"]["body"][0])
        stub |= self._life_of(allocation)
        stub["JobVersion"] = allocation.job_version
        return stub

    def allocation(self, allocation: Allocation) -> dict[str, Any]:
        whole = self._renamed("allocation", allocation.job_id)
        whole |= self._life_of(allocation)
        _put_address(whole, allocation)
        job = self.jobs.get(allocation.job_id)
        if job is not None:
            whole["Job"] = {**self.job(job), "Version": allocation.job_version}
        return whole

    def _life_of(self, allocation: Allocation) -> dict[str, Any]:
        """Return the fields that change over a life, as they were recorded at this point of one."""
        life = deepcopy(self._lives[allocation.state])
        states = life.get("TaskStates")
        if states:
            states["server"]["Restarts"] = allocation.restarts
            if allocation.started_at:
                states["server"]["StartedAt"] = allocation.started_at
        return {
            **life,
            "ID": allocation.id,
            "JobID": allocation.job_id,
            "Name": f"{allocation.job_id}.opencode[0]",
            "CreateIndex": allocation.create_index,
            "ModifyIndex": allocation.modify_index,
            "NodeID": self.node_id,
        }

    def evaluations_of(self, job_id: str) -> list[Mapping[str, Any]]:
        if job_id in self.blocked:
            return [self.blocked[job_id]]
        recorded = self._recorded["job evaluations"]["body"]
        return [{**each, "JobID": job_id} for each in recorded]

    def volumes(self) -> Iterator[dict[str, Any]]:
        recorded = self._recorded["volumes"]["body"][0]
        for job_id in self.jobs:
            yield {**recorded, "ID": volume_id_of(job_id), "Name": job_id, "NodeID": self.node_id}

    def volume(self, volume_id: str) -> dict[str, Any] | None:
        recorded = self._recorded["volume"]["body"]
        for job_id in self.jobs:
            if volume_id_of(job_id) == volume_id:
                return {**recorded, "ID": volume_id, "Name": job_id, "NodeID": self.node_id}
        return None

    def pointers(self) -> Iterator[dict[str, Any]]:
        recorded = self._recorded["pointers"]["body"][0]
        for job_id in self.jobs:
            yield {**recorded, "Path": f"nomad/jobs/{job_id}/opencode/server"}

    def _renamed(self, name: str, job_id: str) -> dict[str, Any]:
        text = json.dumps(self._recorded[name]["body"]).replace(self._specimen["job"], job_id)
        renamed: dict[str, Any] = json.loads(text)
        return renamed


def _bytes_of(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _one(items: Iterable[Mapping[str, Any]], name: str, value: str) -> dict[str, Any]:
    return next(dict(item) for item in items if item[name] == value)


_OF_A_LIFE: Final = (
    "ClientStatus",
    "ClientDescription",
    "DesiredStatus",
    "DesiredDescription",
    "DesiredTransition",
    "TaskStates",
    "FollowupEvalID",
    "NextAllocation",
)


def _lives_in(lines: Iterable[Mapping[str, Any]], stopped_job: str) -> Mapping[str, Mapping[str, Any]]:
    """Return what an allocation was like when it was placed, ran, was restarted, told to stop, and had ended."""
    lives: dict[str, Mapping[str, Any]] = {}
    for event in (event for line in lines for event in line["Events"] if event["Topic"] == "Allocation"):
        allocation = event["Payload"]["Allocation"]
        life = {name: allocation[name] for name in _OF_A_LIFE if name in allocation}
        restarts = ((life.get("TaskStates") or {}).get("server") or {}).get("Restarts", 0)
        if life["DesiredStatus"] == "stop":
            state = "complete" if life["ClientStatus"] == "complete" else "stopping"
        elif life["ClientStatus"] == "pending":
            state = "pending"
        elif restarts:
            state = "restarted"
        else:
            state = "running"
        if state in {"pending", "running", "restarted"} or allocation["JobID"] == stopped_job:
            lives[state] = life
    assert set(lives) == set(_STATES), f"the recording lacks a part of a life: {sorted(lives)}"
    return lives


def _put_address(target: dict[str, Any], allocation: Allocation) -> None:
    shared = target["AllocatedResources"]["Shared"]
    for port in shared["Ports"]:
        port |= {"HostIP": allocation.host, "Value": allocation.port}
    for network in shared["Networks"]:
        network["IP"] = allocation.host
        for port in network["DynamicPorts"]:
            port["Value"] = allocation.port
