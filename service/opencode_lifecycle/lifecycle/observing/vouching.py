"""
Who may be sent a password: an address that Nomad and Consul name for one and the same allocation.

A port that was given to another user's runtime meanwhile would learn it otherwise. Nomad alone does not tell: while a
node's client is away it goes on calling an allocation running that ended long ago.
"""

import structlog

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.model.stack import Address, Stack
from opencode_lifecycle.ports.prober import Activity, RuntimeProber
from opencode_lifecycle.ports.secrets import PasswordStore
from opencode_lifecycle.ports.service_catalog import ServiceCatalog

log = structlog.get_logger(__name__)


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


async def look_at_activity(
    stack: Stack,
    *,
    fleet: Fleet,
    prober: RuntimeProber,
    passwords: PasswordStore,
    catalog: ServiceCatalog,
    deadline: Deadline,
) -> Activity | None:
    """
    Ask the runtime what its sessions do; None when that cannot be seen.

    Consul is asked when the runtime has shown that it wants a password: one that answers nothing costs nobody anything.
    """
    runtime = stack.status.runtime
    if runtime is None or runtime.address is None:
        return None
    address = runtime.address

    async def read_password() -> Password:
        known = fleet.get(stack.user_id)
        if known is not None and (doubt := known.doubt_of(address)):
            raise NotVouched(doubt)
        if why := await why_not_vouched(catalog, stack.job_id, runtime.allocation_id, address, deadline):
            raise NotVouched(why)
        return await passwords.read(stack.job_id, runtime.secret_version, deadline)

    try:
        return await prober.activity(address=address, read_password=read_password, deadline=deadline)
    except (UpstreamError, DeadlineExceeded) as error:
        log.info("activity unknown", job_id=stack.job_id, error=error.message)
    except NotVouched as error:
        log.warning("activity unknown", job_id=stack.job_id, error=str(error))
    return None
