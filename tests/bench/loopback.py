"""
All neighbours of the service as one process on loopback: a Nomad that replays what was recorded, with a fleet at rest.

    python -m bench.loopback COUNT INSTALLATION

It says its addresses, then for each line that it is told: `meta {...}` gives the jobs their meta and fills Nomad,
`counted?` says what was asked since the last time and `listings?` when listings began, `cut` ends the event streams and
refuses new ones until `mend`, `change {...}` restarts tasks.
"""

import asyncio
import json
import sys
import time
from typing import Any

from aiohttp import web

from bench.neighbours import Neighbours, Vault
from bench.replay import ReplayedNomad, allocation_id_of
from bench.replay_http import NomadServer
from bench.replayed_fleet import Member, members, meta_of


class Loopback:
    def __init__(self, count: int, installation: str) -> None:
        self._installation = installation
        self._members = list(members(count, installation=installation))
        self._nomad = ReplayedNomad()
        self._server = NomadServer(self._nomad)
        self._neighbours = Neighbours(self._nomad, self._server.asked, self._server.written)
        self._port = 0

    async def start(self) -> dict[str, Any]:
        addresses = {
            "nomad": await _serve(self._server.app, "127.0.0.1"),
            "vault": Vault(self._nomad, self._server.asked, self._server.written).start(),
            "consul": await _serve(self._neighbours.consul, "127.0.0.1"),
        }
        self._port = await _serve(self._neighbours.runtimes, "0.0.0.0")
        return {**addresses, "runtimes": self._port, "node_id": self._nomad.node_id}

    async def obey(self, line: str) -> Any:
        order, _, rest = line.partition(" ")
        match order:
            case "meta":
                said = json.loads(rest)
                self._nomad.variables[f"opencode/installations/{self._installation}"] = {
                    "Items": {"mark": said["mark"]},
                    "ModifyIndex": 900,
                }
                self._nomad.fill(self._filling(member, said["meta"]) for member in self._members)
                for job in self._nomad.jobs.values():
                    self._nomad.job_stub(job)
                for allocation in self._nomad.allocations.values():
                    self._nomad.allocation_stub(allocation)
                return len(self._nomad.jobs)
            case "counted?":
                counted = {"asked": dict(self._server.asked), "written": dict(self._server.written)}
                self._server.asked.clear()
                self._server.written.clear()
                return counted
            case "listings?":
                begun = list(self._server.listings)
                self._server.listings.clear()
                return begun
            case "cut":
                self._server.refuses_streams = True
                self._server.cut_streams()
                return "cut"
            case "mend":
                self._server.refuses_streams = False
                return "mended"
            case "change":
                return await self._change(**json.loads(rest))
            case _:
                return f"what is {order}?"

    def _filling(self, member: Member, facets: dict[str, str]) -> tuple[str, Any, str, int]:
        meta = meta_of(member, facets, installation=self._installation)
        return member.job_id, meta, member.host, self._port

    async def _change(self, *, numbers: list[int], per_second: float) -> list[float]:
        """Restart the task of each of *numbers* at an even pace, and return when each was done."""
        moments = []
        begun = time.monotonic()
        for place, number in enumerate(numbers):
            await asyncio.sleep(max(0.0, begun + place / per_second - time.monotonic()))
            self._nomad.restart_task(allocation_id_of(self._members[number].job_id))
            moments.append(time.monotonic())
        return moments


async def _serve(app: web.Application, host: str) -> int:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, backlog=1024)
    await site.start()
    return int(runner.addresses[0][1])


async def main(count: int, installation: str) -> None:
    loopback = Loopback(count, installation)
    _say(await loopback.start())
    reader = asyncio.StreamReader(limit=2**24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        _say(await loopback.obey(line.decode().strip()))


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - how the bench learns of it


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
