"""Where runtimes are registered. Consul in production."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInstance:
    """One instance of a stack's service. `passing` is what all of its checks say together."""

    allocation_id: AllocationId
    address: Address
    passing: bool


class ServiceCatalog(Protocol):
    """Every call raises `UpstreamError` of system `consul` or `DeadlineExceeded`; never a vendor's exception."""

    async def instances(self, job_id: JobId, deadline: Deadline) -> Sequence[ServiceInstance]:
        """Return all instances of the service named like the job, whatever their checks say. Empty means none."""
        ...

    async def ping(self, deadline: Deadline) -> None:
        """Return when a leader is known and our token is accepted; raise otherwise."""
        ...
