"""
Holds what Consul says against what Nomad says and what was proven.

Consul's checks are hints to look at a runtime at once. That an address is listed for another stack as well is more: it
may have been given away, and is withdrawn until its runtime has shown itself again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

import structlog

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, JobId, UserId
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.ports.orchestrator import Listing
from opencode_lifecycle.ports.service_catalog import ServiceCatalog, ServiceInstance

log = structlog.get_logger(__name__)

Claim = tuple[JobId, AllocationId]
SOON = timedelta(seconds=10)
"""Between two comparisons while an address is in doubt."""


def contested(
    catalog: Mapping[JobId, Sequence[ServiceInstance]], is_leftover: Callable[[JobId, ServiceInstance], bool]
) -> Mapping[Address, frozenset[Claim]]:
    """
    Return the addresses that more than one allocation is listed under, with all of them.

    A leftover claims nothing.
    """
    claims: dict[Address, set[Claim]] = {}
    for job_id, instances in catalog.items():
        for instance in instances:
            if not is_leftover(job_id, instance):
                claims.setdefault(instance.address, set()).add((job_id, instance.allocation_id))
    return {address: frozenset(those) for address, those in claims.items() if len(those) > 1}


class CatalogWatch:
    """Follows Consul's critical checks, and compares the whole catalogue now and then."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        catalog: ServiceCatalog,
        look_now: Callable[[UserId], None],
        list_once: Callable[[], Awaitable[Listing]],
        installation: str,
        interval: timedelta,
        timeout: timedelta,
    ) -> None:
        self._fleet = fleet
        self._catalog = catalog
        self._look_now = look_now
        self._list_once = list_once
        self._installation = installation
        self._interval = interval
        self._timeout = timeout.total_seconds()
        self.checks_pulse = Pulse()
        self.comparison_pulse = Pulse()

    async def follow_once(self) -> None:
        """Have every runtime looked at whose check turns critical, until the connection ends."""
        before: frozenset[Claim] = frozenset()
        async for critical in self._catalog.follow_critical():
            self.checks_pulse.beat()
            for job_id, allocation_id in critical - before:
                user_id = self._fleet.user_of(job_id)
                known = self._fleet.get(user_id) if user_id is not None else None
                runtime = known.stack.status.runtime if known is not None else None
                if user_id is not None and runtime is not None and runtime.allocation_id == allocation_id:
                    self._look_now(user_id)
            before = critical

    async def compare_periodically(self) -> None:
        """Wait a period and compare; sooner while an address is in doubt."""
        in_doubt = any(known.doubt for known in self._fleet)
        await asyncio.sleep(
            min(SOON, self._interval).total_seconds() if in_doubt else self._interval.total_seconds()
        )
        await self.compare_once()

    async def compare_once(self) -> None:
        """Hold every proven address against the whole catalogue."""
        catalog = await self._catalog.list_all(Deadline.after(self._timeout, "list Consul's services"))
        disputes = contested(catalog, lambda job_id, each: self._has_ended(job_id, each.allocation_id))
        if disputes:
            listing = await self._listing()
            disputes = contested(catalog, lambda job_id, each: self._is_leftover(job_id, each, listing))
        for known in self._fleet:
            stack = known.stack
            if stack.status.phase not in {Phase.RUNNING, Phase.STARTING}:
                continue
            address = self._address_of(stack.job_id)
            others = (
                {claim for claim in disputes.get(address, ()) if claim[0] != stack.job_id}
                if address
                else set()
            )
            why = ""
            if address is not None and others:
                names = ", ".join(sorted(job_id for job_id, _ in others))
                why = (
                    f"Consul lists {address.url} for {names} as well; it is proven anew when that is settled"
                )
                log.warning("address contested", job_id=stack.job_id, others=names)
            self._fleet.doubt(stack.user_id, address if why else None, why)
        self.comparison_pulse.beat()

    def _address_of(self, job_id: JobId) -> Address | None:
        seen = self._fleet.latest(job_id)
        newest = seen.newest if seen is not None else None
        return newest.address if newest is not None and not newest.client_status.is_terminal else None

    async def _listing(self) -> Listing | None:
        """Return what Nomad lists after the catalogue was read; None where that cannot be seen, or is not believed."""
        try:
            listing = await self._list_once()
        except (UpstreamError, DeadlineExceeded) as error:
            log.info("what contests an address is not known", error=error.message)
            return None
        return None if self._fleet.frozen else listing

    def _is_leftover(self, job_id: JobId, instance: ServiceInstance, listing: Listing | None) -> bool:
        """
        Whether nothing stands behind an entry any more: its allocation has ended, or Nomad does not list it.

        Nomad forgets what ended after hours; after the loss of a node Consul keeps its entries for days. What another
        installation runs may lie in another namespace, where we cannot see it.
        """
        if self._has_ended(job_id, instance.allocation_id):
            return True
        if listing is None or instance.installation != self._installation:
            return False
        seen = listing.stacks.get(job_id)
        return seen is None or all(a.id != instance.allocation_id for a in seen.allocations)

    def _has_ended(self, job_id: JobId, allocation_id: AllocationId) -> bool:
        """Whether Nomad says that the allocation ended. Of one that we know nothing of, that is not known."""
        seen = self._fleet.latest(job_id)
        if seen is None:
            return False
        return any(a.id == allocation_id and a.client_status.is_terminal for a in seen.allocations)
