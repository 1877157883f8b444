"""
Runtimes that are simulated: where Nomad runs an allocation of its mock driver, a server in this process answers.

They are those of the tests' fake, which is held to the contract of every port that asks runtimes for something. What they
know they learn as a real one does: that they run from Nomad, and their password from Vault.
"""

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from fakes.opencode import FakeOpenCode, FakeProber
from opencode_lifecycle.lifecycle.neighbours import Neighbours
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import AllocationId, JobId
from opencode_lifecycle.model.observation import AllocationSeen, ClientStatus, Observation
from opencode_lifecycle.model.password import Password
from opencode_lifecycle.ports.config_check import NoConfigCheck
from opencode_lifecycle.ports.orchestrator import AllocationChanged, Change, Listing


class SimulatedRuntimes:
    """A server for each allocation that runs, at its address. `prober` asks them, and follows their events."""

    def __init__(self) -> None:
        self.prober = FakeProber()
        self._passwords: dict[JobId, str] = {}
        self._serving: dict[tuple[str, int], AllocationId] = {}
        self._newest: dict[JobId, FakeOpenCode] = {}

    def among(self, neighbours: Neighbours) -> Neighbours:
        """Return *neighbours* with these runtimes in the place of real ones."""
        return replace(
            neighbours,
            orchestrator=_SeenBy(neighbours.orchestrator, self),
            passwords=_ReadBy(neighbours.passwords, self),
            prober=self.prober,
            events=self.prober,
            config_check=NoConfigCheck(),
        )

    def see(self, job_id: JobId, allocation: AllocationSeen) -> None:
        """Begin to serve at the address of an allocation that runs, and cease at that of one that does not."""
        address = allocation.address
        if address is None:
            return
        place = address.host, address.port
        serving = self._serving.get(place)
        if allocation.client_status is not ClientStatus.RUNNING:
            if serving == allocation.id:
                del self._serving[place]
                self.prober.withdraw(address)
            return
        if serving != allocation.id:
            # Until it is known, nobody has its password.
            server = FakeOpenCode(password=self._passwords.get(job_id) or secrets.token_urlsafe())
            self._serving[place] = allocation.id
            self._newest[job_id] = self.prober.serve(address, server)

    def learn(self, job_id: JobId, password: Password) -> None:
        """Take in what the job's secret in Vault is, as the template of its task does."""
        self._passwords[job_id] = password.reveal()
        if job_id in self._newest:
            self._newest[job_id].password = password.reveal()


class _SeenBy:
    """Nomad, with the runtimes seeing what it tells."""

    def __init__(self, nomad: Any, runtimes: SimulatedRuntimes) -> None:
        self._nomad = nomad
        self._runtimes = runtimes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nomad, name)

    async def observe(self, job_id: JobId, deadline: Deadline) -> Observation:
        seen: Observation = await self._nomad.observe(job_id, deadline)
        self._see_all(job_id, seen)
        return seen

    async def list_all(self, deadline: Deadline) -> Listing:
        listing: Listing = await self._nomad.list_all(deadline)
        for job_id, seen in listing.stacks.items():
            self._see_all(job_id, seen)
        return listing

    async def follow(self, index: int | None) -> AsyncIterator[Change]:
        async for change in self._nomad.follow(index):
            if isinstance(change, AllocationChanged):
                self._runtimes.see(change.job_id, change.allocation)
            yield change

    def _see_all(self, job_id: JobId, seen: Observation) -> None:
        for allocation in seen.allocations:
            self._runtimes.see(job_id, allocation)


class _ReadBy:
    """Vault, with the runtimes learning each password that is read."""

    def __init__(self, vault: Any, runtimes: SimulatedRuntimes) -> None:
        self._vault = vault
        self._runtimes = runtimes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vault, name)

    async def read(self, job_id: JobId, version: int, deadline: Deadline) -> Password:
        password: Password = await self._vault.read(job_id, version, deadline)
        self._runtimes.learn(job_id, password)
        return password
