"""
Who may be sent a password: an address that Nomad and Consul name for one and the same allocation.

A port that was given to another user's runtime meanwhile would learn it otherwise. Nomad alone does not tell: while a
node's client is away it goes on calling an allocation running that ended long ago.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.recent_passwords import RecentPasswords
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.ports.prober import Activity, ReadPassword, RuntimeProber
from opencode_lifecycle.ports.service_catalog import ServiceCatalog

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class NotVouched(Exception):
    """The address may be somebody else's; the message says why."""


async def why_not_vouched(
    catalog: ServiceCatalog,
    job_id: JobId,
    allocation_id: AllocationId,
    address: Address,
    deadline: Deadline,
) -> str | None:
    """Return why Consul does not vouch for *address* as the allocation's, or None when it does."""
    for instance in await catalog.instances(job_id, deadline):
        if instance.allocation_id == allocation_id:
            if instance.address == address:
                return None
            return f"Consul has {instance.address.url} and Nomad {address.url} for its allocation"
    return "Consul does not list its allocation yet"


class Vouching:
    """Asks runtimes what needs their password, each only at the address that Consul names for its allocation."""

    def __init__(
        self, *, fleet: Fleet, prober: RuntimeProber, passwords: RecentPasswords, catalog: ServiceCatalog
    ) -> None:
        self._fleet = fleet
        self._prober = prober
        self._passwords = passwords
        self._catalog = catalog

    def reader(self, stack: Stack, deadline: Deadline) -> tuple[Address, ReadPassword] | None:
        """
        Return where the runtime that the row names is proven to be, and what reads its password when it is to be sent there.

        Consul is asked then, and where it does not vouch for the address that raises `NotVouched`.
        """
        runtime = stack.status.runtime
        if runtime is None or runtime.address is None:
            return None
        address = runtime.address

        async def read_password() -> Password:
            known = self._fleet.get(stack.user_id)
            if known is not None and (doubt := known.doubt_of(address)):
                raise NotVouched(doubt)
            why = await why_not_vouched(self._catalog, stack.job_id, runtime.allocation_id, address, deadline)
            if why:
                raise NotVouched(why)
            return await self._passwords.read(stack, runtime.secret_version, deadline)

        return address, read_password

    async def ask(self, stack: Stack, what: str, ask: "Ask[Answer]", deadline: Deadline) -> Answer | None:
        """
        Return what *ask* makes of the runtime that the row names; None when it cannot be asked *what*.

        Consul is asked when the runtime has shown that it wants a password: one that answers nothing costs nobody anything.
        """
        found = self.reader(stack, deadline)
        if found is None:
            return None
        address, read_password = found
        try:
            return await ask(self._prober, address, read_password)
        except (UpstreamError, DeadlineExceeded) as error:
            log.info("cannot ask runtime", what=what, job_id=stack.job_id, error=error.message)
        except NotVouched as error:
            log.warning("cannot ask runtime", what=what, job_id=stack.job_id, error=str(error))
        return None

    async def activity(self, stack: Stack, deadline: Deadline) -> Activity | None:
        """Ask what its sessions do; None when that cannot be seen."""

        async def ask(prober: RuntimeProber, address: Address, read: ReadPassword) -> Activity | None:
            return await prober.activity(address=address, read_password=read, deadline=deadline)

        return await self.ask(stack, "activity", ask, deadline)


Ask = Callable[[RuntimeProber, Address, ReadPassword], Awaitable[Answer | None]]
