"""OpenCode servers in memory, and a prober that looks at them."""

from dataclasses import dataclass, field
from datetime import datetime

from fakes.faults import Faults, Hold
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import Activity, Liveness, ReadPassword


@dataclass(slots=True, kw_only=True)
class FakeOpenCode:
    """
    One server. An empty `password` leaves it open, as it does the real one.

    `hangs`: takes the connection and says nothing. `is_something_else`: another program holds the port. A directory in
    `broken` has a configuration that it cannot load. `busy`: one of its sessions is at work; `changed_at`: when any of them
    last changed. `tried` are the passwords it was shown.
    """

    password: str
    version: str = "1.18.34"
    healthy: bool = True
    hangs: bool = False
    is_something_else: bool = False
    busy: bool = False
    changed_at: datetime | None = None
    broken: set[str | None] = field(default_factory=set)
    tried: list[str] = field(default_factory=list)


class FakeProber:
    """A `RuntimeProber` over the servers that were put at addresses with `serve`."""

    def __init__(self, now: Clock = utc_now) -> None:
        self.faults = Faults()
        self.servers: dict[tuple[str, int], FakeOpenCode] = {}
        self._now = now

    # What a test may do to it

    def hold_next(self, method: str, *, after_commit: bool = False) -> Hold:
        """Let the next look (`prove`, `liveness`) hang; when its deadline ends it, nothing has answered."""
        return self.faults.hold_next(method, after_commit=after_commit)

    def serve(self, address: Address, server: FakeOpenCode) -> FakeOpenCode:
        self.servers[address.host, address.port] = server
        return server

    def withdraw(self, address: Address) -> None:
        """Let nothing listen there. Nothing listening already is no error."""
        self.servers.pop((address.host, address.port), None)

    # The port

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
        seen = await self._look("prove", address, deadline)
        if seen is None:
            password = await read_password()
            server = self.servers.get((address.host, address.port))
            seen = (
                _try_password(server, password.reveal(), expected_version, directory)
                if server is not None
                else (ProofResult.NOT_LISTENING, "", "nothing listens there")
            )
        result, version, detail = seen
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
        if await self._look("activity", address, deadline) is not None:
            return None
        password = await read_password()
        server = self.servers.get((address.host, address.port))
        if server is None:
            return None
        server.tried.append(password.reveal())
        if password.reveal() != server.password:
            return None
        return Activity(busy=server.busy, changed_at=server.changed_at)

    async def liveness(self, address: Address, deadline: Deadline) -> Liveness:
        match await self._look("liveness", address, deadline):
            case None:
                return Liveness.ALIVE
            case (ProofResult.OPEN, _, _):
                return Liveness.OPEN
            case _:
                server = self.servers.get((address.host, address.port))
                if server is None:
                    return Liveness.SILENT
                return Liveness.HUNG if server.hangs or not server.is_something_else else Liveness.STRANGE

    async def _look(self, method: str, address: Address, deadline: Deadline) -> "_Seen | None":
        """Ask without credentials; None is a proper refusal."""
        try:
            async with self.faults.call(method, deadline):
                server = self.servers.get((address.host, address.port))
        except DeadlineExceeded:
            return ProofResult.NOT_READY, "", "it did not answer in time"
        if server is None:
            return ProofResult.NOT_LISTENING, "", "nothing listens there"
        if server.hangs:
            return ProofResult.NOT_READY, "", "it did not answer in time"
        if server.is_something_else:
            return ProofResult.NOT_READY, "", "it answered 200 text/html, which is not OpenCode's health"
        if not server.password:
            return ProofResult.OPEN, "", "it answered without credentials"
        return None


_Seen = tuple[ProofResult, str, str]
"""A result, the version seen, and prose."""


def _try_password(server: FakeOpenCode, password: str, expected_version: str, directory: str | None) -> _Seen:
    server.tried.append(password)
    if password != server.password:
        return ProofResult.REFUSES_PASSWORD, "", "it refused the password of its job"
    if not server.healthy:
        return ProofResult.NOT_READY, server.version, "it says that it is not healthy"
    if server.version != expected_version:
        detail = f"it is version {server.version}, not {expected_version}"
        return ProofResult.WRONG_VERSION, server.version, detail
    if directory in server.broken:
        return ProofResult.NOT_READY, server.version, "its configuration answered 400"
    return ProofResult.PROVEN, server.version, ""
