"""Consul's catalogue in memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from fakes.faults import Faults, Hold
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamDenied, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.service_catalog import ServiceInstance


class FakeConsul:
    """A `ServiceCatalog`. Set `leaderless` or `denied` for lasting trouble, `faults` for single calls."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.leaderless = False
        self.denied = False
        self._followers: list[asyncio.Event] = []
        self._services: dict[JobId, dict[AllocationId, ServiceInstance]] = {}

    # What a test may do to it

    def fail_next(
        self, method: str, error: Exception, *, after_commit: bool = False, times: int | None = 1
    ) -> None:
        self.faults.fail_next(method, error, after_commit=after_commit, times=times)

    def hold_next(self, method: str, *, after_commit: bool = False) -> Hold:
        return self.faults.hold_next(method, after_commit=after_commit)

    def register(
        self,
        job_id: JobId,
        allocation_id: AllocationId,
        address: Address,
        *,
        passing: bool = True,
        installation: str = "main",
    ) -> None:
        """Do what Nomad does when an allocation starts; repeating it replaces what was there."""
        instance = ServiceInstance(
            allocation_id=allocation_id,
            address=address,
            passing=passing,
            service_id=f"_nomad-task-{allocation_id}-server-{job_id}-http",
            node="node-1",
            installation=installation,
        )
        self._services.setdefault(job_id, {})[allocation_id] = instance
        self._tell()

    def set_passing(self, job_id: JobId, allocation_id: AllocationId, *, passing: bool) -> None:
        service = self._services[job_id]
        service[allocation_id] = replace(service[allocation_id], passing=passing)
        self._tell()

    def _tell(self) -> None:
        for follower in self._followers:
            follower.set()

    def forget(self, job_id: JobId, allocation_id: AllocationId) -> None:
        """Forget one instance. One that is gone is no error."""
        service = self._services.get(job_id, {})
        service.pop(allocation_id, None)
        if not service:
            self._services.pop(job_id, None)
        self._tell()

    @property
    def job_ids(self) -> frozenset[JobId]:
        """Every service that has an instance."""
        return frozenset(self._services)

    # The port

    async def instances(self, job_id: JobId, deadline: Deadline) -> Sequence[ServiceInstance]:
        async with self.faults.call("instances", deadline):
            self._admit("instances")
            return tuple(self._services.get(job_id, {}).values())

    async def list_all(self, deadline: Deadline) -> Mapping[JobId, Sequence[ServiceInstance]]:
        async with self.faults.call("list_all", deadline):
            self._admit("list all")
            return {
                job_id: tuple(instances.values())
                for job_id, instances in self._services.items()
                if job_id.startswith("oc-")
            }

    async def follow_critical(self) -> AsyncIterator[frozenset[tuple[JobId, AllocationId]]]:
        news, told = asyncio.Event(), None
        self._followers.append(news)
        try:
            while True:
                async with self.faults.call("follow_critical", Deadline.after(30, "follow the checks")):
                    self._admit("follow critical")
                news.clear()
                critical = frozenset(
                    (job_id, instance.allocation_id)
                    for job_id, instances in self._services.items()
                    for instance in instances.values()
                    if job_id.startswith("oc-") and not instance.passing
                )
                if critical != told:
                    told = critical
                    yield critical
                await news.wait()
        finally:
            self._followers.remove(news)

    async def deregister(self, instance: ServiceInstance, deadline: Deadline) -> None:
        async with self.faults.call("deregister", deadline):
            self._admit("deregister")
            for job_id, instances in list(self._services.items()):
                for each in list(instances.values()):
                    if (each.service_id, each.node) == (instance.service_id, instance.node):
                        self.forget(job_id, each.allocation_id)

    async def ping(self, deadline: Deadline) -> None:
        async with self.faults.call("ping", deadline):
            self._admit("ping")

    def _admit(self, operation: str) -> None:
        if self.leaderless:
            raise UpstreamUnavailable("consul", operation, "it has no leader")
        if self.denied:
            raise UpstreamDenied("consul", operation, "our token lacks the right")
