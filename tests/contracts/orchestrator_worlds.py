"""The fake and the real Nomad, behind one face: how a test makes things happen in either."""

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol
from uuid import uuid4

from cluster_fixture import RealCluster
from fakes.nomad import FakeNomad
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.model.clock import utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.observation import ClientStatus, Observation, TaskTrouble
from opencode_lifecycle.ports.orchestrator import (
    LiveFiles,
    Orchestrator,
    Owner,
    Placement,
    Variables,
    Workspaces,
)

TEMPLATE = """
variable "job_id" {
  type = string
  validation {
    condition     = var.job_id != "" && regex_replace(var.job_id, "^[a-z0-9-]*$", "") == ""
    error_message = "The job_id is made of a-z, 0-9 and hyphens."
  }
}
variable "namespace" {
  type    = string
  default = "opencode"
}
variable "installation" {
  type    = string
  default = "main"
}
variable "user_id" {
  type    = string
  default = "ada"
}
variable "image" {
  type    = string
  default = ""
}
variable "memory" {
  type    = number
  default = 10
}
variable "start_error" {
  type    = string
  default = ""
}
variable "run_for" {
  type    = string
  default = "1h"
}
variable "exit_code" {
  type    = number
  default = 0
}
variable "labels" {
  type    = map(string)
  default = {}
}
variable "volume" {
  type    = list(string)
  default = []
}
variable "node" {
  type    = string
  default = ""
}
variable "live_files" {
  type    = map(string)
  default = {}
}

job "contract" {
  id          = var.job_id
  name        = var.job_id
  namespace   = var.namespace
  datacenters = ["*"]
  meta {
    image        = var.image
    user         = var.user_id
    installation = var.installation
    managed_by   = "opencode-lifecycle"
  }
  update {
    max_parallel = 0
  }
  migrate {
    max_parallel = 0
  }
  group "opencode" {
    dynamic "constraint" {
      for_each = var.node == "" ? [] : [var.node]
      content {
        attribute = "${node.unique.id}"
        value     = constraint.value
      }
    }
    network {
      port "http" {}
    }
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    dynamic "volume" {
      for_each = var.volume
      labels   = ["workspace"]
      content {
        type            = "host"
        source          = volume.value
        access_mode     = "single-node-single-writer"
        attachment_mode = "file-system"
      }
    }
    task "server" {
      driver = "mock_driver"
      config {
        run_for       = var.run_for
        start_error   = var.start_error
        exit_code     = var.exit_code
        stdout_string = "one\\ntwo\\nthree\\n"
      }
      dynamic "template" {
        for_each = var.live_files
        content {
          destination = "local/${template.value}"
          change_mode = "noop"
          data        = "{{ with nomadVar \\"nomad/jobs/${var.job_id}/opencode/server\\" }}{{ with nomadVar (print \\"opencode/bundles/\\" .${template.key}) }}{{ .text }}{{ end }}{{ end }}"
          wait {
            min = "10ms"
            max = "100ms"
          }
        }
      }
      resources {
        cpu    = 1
        memory = var.memory
      }
    }
  }
}
"""
"""The names of our real templates around Nomad's mock driver, which starts in no time."""

LIVE_FILES = {"instructions": "live/instructions/AGENTS.md", "managed": "live/managed/opencode.json"}
"""The `live_files` of a job whose task shall have those that its pointer names."""

IMPOSSIBLE_MEMORY = 1_000_000_000

OWNER = Owner(installation="main", user_id=UserId("ada"))


def soon(purpose: str = "contract", seconds: float = 20) -> Deadline:
    return Deadline.after(seconds, purpose)


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        await asyncio.sleep(0.05)


Value = str | int | Mapping[str, str]


class World(Protocol):
    """One Nomad, and the few things that tests do to it and not through the ports."""

    orchestrator: Orchestrator
    workspaces: Workspaces
    live_files: LiveFiles

    async def register(self, job_id: JobId, *, at: int = 0, **variables: Value) -> int: ...

    async def register_too_large(self, job_id: JobId, *, at: int = 0) -> int: ...

    async def register_failing(self, job_id: JobId, trouble: TaskTrouble) -> int: ...

    async def plan_too_large(self, job_id: JobId) -> Placement: ...

    async def plan_without_a_node(self, job_id: JobId) -> Placement:
        """Plan it where no node may take it."""
        ...

    async def drain(self, deadline: timedelta | None) -> None:
        """Drain the one node there is, None for without a deadline."""
        ...

    async def close_node(self) -> None: ...

    async def open_node(self) -> None: ...

    async def log_of(self, job_id: JobId) -> None:
        """Make the running task write `one`, `two`, `three`, if it did not yet."""
        ...


class _Common:
    def __init__(self, orchestrator: Orchestrator, workspaces: Workspaces, live_files: LiveFiles) -> None:
        self.orchestrator = orchestrator
        self.workspaces = workspaces
        self.live_files = live_files
        self.jobs: set[JobId] = set()

    async def register(self, job_id: JobId, *, at: int = 0, **variables: Value) -> int:
        values: Variables = {"job_id": job_id, **variables}
        job = await self.orchestrator.render(TEMPLATE, values, soon())
        self.jobs.add(job_id)
        return await self.orchestrator.register(job, expected_index=at, deadline=soon())

    async def seen(self, job_id: JobId, condition: Callable[[Observation], bool], what: str) -> Observation:
        """Observe until *condition* holds and return that observation."""
        found: list[Observation] = []

        async def holds() -> bool:
            found[:] = [await self.orchestrator.observe(job_id, soon())]
            return condition(found[0])

        await until(holds, what)
        return found[0]

    async def plan(self, job_id: JobId, **variables: Value) -> Placement:
        job = await self.orchestrator.render(TEMPLATE, {"job_id": job_id, **variables}, soon())
        return await self.orchestrator.plan_placement(job, soon())


class FakeWorld(_Common):
    def __init__(self) -> None:
        self.nomad = FakeNomad()
        super().__init__(self.nomad, self.nomad.workspaces, self.nomad.live_files)

    async def register_too_large(self, job_id: JobId, *, at: int = 0) -> int:
        self.nomad.refuse_placement("no node can take it: 1 node without enough memory", job_id)
        index = await self.register(job_id, at=at, memory=IMPOSSIBLE_MEMORY)
        self.nomad._refusals.clear()
        return index

    async def register_failing(self, job_id: JobId, trouble: TaskTrouble) -> int:
        index = await self.register(job_id)
        self.nomad.fail_allocation(job_id, trouble, "it failed", reschedule=False)
        return index

    async def plan_too_large(self, job_id: JobId) -> Placement:
        self.nomad.refuse_placement("no node can take it: 1 node without enough memory", job_id)
        return await self.plan(job_id, memory=IMPOSSIBLE_MEMORY)

    async def plan_without_a_node(self, job_id: JobId) -> Placement:
        self.nomad.refuse_placement("no node can take it: 1 node excluded by ${node.unique.id} = x", job_id)
        return await self.plan(job_id, node="x")

    async def drain(self, deadline: timedelta | None) -> None:
        at = utc_now() + deadline if deadline is not None else None
        self.nomad.nodes.drain("node-1", deadline=at)
        if deadline is not None and deadline < timedelta(minutes=1):
            self.nomad.nodes.pass_deadline("node-1")

    async def close_node(self) -> None:
        self.nomad.nodes.close("node-1")

    async def open_node(self) -> None:
        self.nomad.nodes.open("node-1")

    async def log_of(self, job_id: JobId) -> None:
        allocation = self.nomad.allocations[job_id][0]
        self.nomad.logs[allocation.id, "stdout"] = [b"one", b"two", b"three"]


class RealWorld(_Common):
    def __init__(self, cluster: RealCluster) -> None:
        self.nomad = Nomad(
            address=cluster.nomad_address,
            token_file=cluster.nomad_token_file,
            namespace="opencode",
            page_size=2,  # so that listings have several pages
        )
        self._cluster = cluster
        super().__init__(self.nomad, self.nomad.workspaces, self.nomad.live_files)

    async def drain(self, deadline: timedelta | None) -> None:
        nanoseconds = round(deadline.total_seconds() * 1e9) if deadline is not None else 0
        await self._put_node("drain", {"DrainSpec": {"Deadline": nanoseconds, "IgnoreSystemJobs": True}})

    async def close_node(self) -> None:
        await self._put_node("eligibility", {"Eligibility": "ineligible"})

    async def open_node(self) -> None:
        """End a drain, be it over or not, as `nomad node drain -disable` does."""
        await self._put_node("drain", {"DrainSpec": None, "MarkEligible": True})

    async def _put_node(self, what: str, body: Mapping[str, object]) -> None:
        (node,) = await asyncio.to_thread(self._call, "GET", "nodes", None)
        await asyncio.to_thread(self._call, "PUT", f"node/{node['ID']}/{what}", body)

    def _call(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        """Do what an operator does: the service itself may do nothing to a node."""
        request = urllib.request.Request(
            f"{self._cluster.nomad_address}/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"X-Nomad-Token": self._cluster.nomad_token},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    async def register_too_large(self, job_id: JobId, *, at: int = 0) -> int:
        return await self.register(job_id, at=at, memory=IMPOSSIBLE_MEMORY)

    async def register_failing(self, job_id: JobId, trouble: TaskTrouble) -> int:
        if trouble is TaskTrouble.DRIVER:
            return await self.register(job_id, start_error="the image is not there")
        return await self.register(job_id, run_for="10ms", exit_code=3)

    async def plan_too_large(self, job_id: JobId) -> Placement:
        return await self.plan(job_id, memory=IMPOSSIBLE_MEMORY)

    async def plan_without_a_node(self, job_id: JobId) -> Placement:
        return await self.plan(job_id, node="00000000-0000-4000-8000-000000000000")

    async def log_of(self, job_id: JobId) -> None:
        """The mock driver has written them at its start."""


@asynccontextmanager
async def real_world(cluster: RealCluster) -> AsyncIterator[RealWorld]:
    world = RealWorld(cluster)
    try:
        yield world
        for job_id in world.jobs:
            await world.orchestrator.deregister(job_id, purge=True, deadline=soon())
    finally:
        await world.nomad.close()


def new_job_id() -> JobId:
    return JobId(f"oc-{uuid4().hex[:20]}")


def runs(seen: Observation) -> bool:
    return any(each.client_status is ClientStatus.RUNNING for each in seen.live)


def has_ended(seen: Observation) -> bool:
    return bool(seen.allocations) and not seen.live
