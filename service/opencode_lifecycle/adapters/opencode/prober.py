"""Proves runtimes over OpenCode's HTTP API."""

from typing import Final

from opencode_lifecycle.adapters.opencode import v1
from opencode_lifecycle.adapters.opencode.exchange import Exchange, exchange_with
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import Activity, Liveness, ReadPassword

_V1: Final = "1"


class OpenCodeProber:
    """
    The `RuntimeProber` over HTTP. Every look has connections of its own, closed when it ends.

    Version 2 has another API: when it comes, `prove` chooses by the expected version which module to ask.
    """

    def __init__(self, *, now: Clock = utc_now) -> None:
        self._now = now

    async def prove(
        self,
        *,
        address: Address,
        allocation_id: AllocationId,
        expected_version: str,
        directory: str | None,
        read_password: ReadPassword,
        deadline: Deadline,
    ) -> Proof:
        if expected_version.partition(".")[0] == _V1:
            async with exchange_with(address, deadline) as exchange:
                version, finding = await _prove_v1(exchange, expected_version, directory, read_password)
        else:
            version, finding = "", (ProofResult.NOT_READY, "no way to look at this version is known")
        result, detail = finding or (ProofResult.PROVEN, "")
        return Proof(
            result=result,
            address=address,
            allocation_id=allocation_id,
            version=version,
            detail=detail,
            at=self._now(),
        )

    async def activity(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Activity | None:
        async with exchange_with(address, deadline) as exchange:
            _, finding = await v1.look_unauthenticated(exchange)
            if finding is not None:
                return None
            return await v1.look_at_activity(exchange, await read_password(), self._now())

    async def liveness(self, address: Address, deadline: Deadline) -> Liveness:
        async with exchange_with(address, deadline) as exchange:
            liveness, _ = await v1.look_unauthenticated(exchange)
        return liveness


async def _prove_v1(
    exchange: Exchange, expected_version: str, directory: str | None, read_password: ReadPassword
) -> tuple[str, v1.Finding | None]:
    """Go as far as each look allows; the password is read once the server has shown that it asks for one."""
    _, finding = await v1.look_unauthenticated(exchange)
    if finding is not None:
        return "", finding
    password = await read_password()
    version, finding = await v1.look_at_health(exchange, password, expected_version)
    if finding is None:
        finding = await v1.look_at_configuration(exchange, password, directory)
    return version, finding
