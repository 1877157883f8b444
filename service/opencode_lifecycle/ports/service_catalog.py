"""Where runtimes are registered. Consul in production."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.stack import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInstance:
    """One instance of a stack's service. `passing` is what all of its checks say together."""

    allocation_id: AllocationId
    """Empty for one that was registered by hand in the name of an installation."""
    address: Address
    passing: bool
    service_id: str = ""
    """What Consul calls this instance."""
    node: str = ""
    installation: str | None = None
    """Whose it is, as its meta says; None where that says nothing."""


class ServiceCatalog(Protocol):
    """Every call raises `UpstreamError` of system `consul` or `DeadlineExceeded`; never a vendor's exception."""

    async def instances(self, job_id: JobId, deadline: Deadline) -> Sequence[ServiceInstance]:
        """Return all instances of the service named like the job, whatever their checks say. Empty means none."""
        ...

    async def list_all(self, deadline: Deadline) -> Mapping[JobId, Sequence[ServiceInstance]]:
        """
        Return every instance of every service with our prefix: complete, or an error.

        `passing` means nothing here: checks are not read.
        """
        ...

    def follow_critical(self) -> AsyncIterator[frozenset[tuple[JobId, AllocationId]]]:
        """
        Yield which instances have a critical check, first as it is now, then each time that it changes (a blocking
        query; at the latest after minutes the same again). Raises `UpstreamError` when the connection ends.
        """
        ...

    async def deregister(self, instance: ServiceInstance, deadline: Deadline) -> None:
        """Take *instance* out of the catalogue. One that is gone is no error."""
        ...

    async def ping(self, deadline: Deadline) -> None:
        """Return when a leader is known and our token is accepted; raise otherwise."""
        ...
