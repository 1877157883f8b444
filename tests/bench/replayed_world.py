"""The replayed Nomad behind the face that the contract of an orchestrator knows."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from aiohttp.test_utils import TestServer

from bench.replay import ReplayedNomad
from bench.replay_http import NomadServer
from contracts.orchestrator_worlds import soon, until
from opencode_lifecycle.adapters.nomad.nomad import Nomad
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.observation import Observation


class ReplayedWorld:
    """A job is registered by the one who replays: nothing is rendered, and nothing placed, but as it was recorded."""

    def __init__(self, server: NomadServer, orchestrator: Nomad) -> None:
        self.server = server
        self.orchestrator = orchestrator
        self._ports = count(20000)

    async def register(
        self,
        job_id: JobId,
        *,
        at: int = 0,
        user_id: str = "ada",
        installation: str = "main",
        fits: bool = True,
        **meta: str,
    ) -> int:
        whose = {"user": user_id, "installation": installation, "managed_by": "opencode-lifecycle"}
        meta = {"image": "", **whose, **meta}
        return self.server.nomad.register(job_id, meta, host="127.0.0.1", port=next(self._ports), fits=fits)

    async def register_too_large(self, job_id: JobId, *, at: int = 0) -> int:
        return await self.register(job_id, fits=False)

    async def seen(self, job_id: JobId, condition: Callable[[Observation], bool], what: str) -> Observation:
        found: list[Observation] = []

        async def holds() -> bool:
            found[:] = [await self.orchestrator.observe(job_id, soon())]
            return condition(found[0])

        await until(holds, what)
        return found[0]


@asynccontextmanager
async def replayed_world(directory: Path) -> AsyncIterator[ReplayedWorld]:
    token = directory / "token"
    token.write_text("of-nobody")
    server = NomadServer(ReplayedNomad())
    async with TestServer(server.app) as running:
        nomad = Nomad(address=str(running.make_url("")), token_file=token, namespace="opencode", page_size=2)
        yield ReplayedWorld(server, nomad)
        server.cut_streams()
        await nomad.close()
