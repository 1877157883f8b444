"""
The whole production application, with one stack that is running and current, and every port behind a counter.

It says its address, the token and the body of an ensure. For each line that it is told it says what was counted so far.
"""

import asyncio
import json
import sys
from pathlib import Path

from bench.counting import Counting
from opencode_lifecycle import application, telemetry
from opencode_lifecycle.adapters.database.database import Database
from opencode_lifecycle.lifecycle.control_plane import Neighbours
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import Rate, Rates, Settings
from world import World

USER = "ada"


def settings_in(directory: Path) -> Settings:
    """Return production's settings but for the rate, which is raised so that the limiter works and never refuses."""
    token = directory / "token"
    return Settings(
        nomad_token_file=token,
        vault_token_file=token,
        consul_token_file=token,
        database_url=f"sqlite:///{directory / 'hot.db'}",
        driver="raw_exec",
        opencode_path=Path("/bin/true"),
        listen_port=0,
        rates=Rates(ensure=Rate(per_second=1e6, burst=1_000_000)),
    )


async def main(directory: Path, log_level: str) -> None:
    settings = settings_in(directory)
    telemetry.configure_logging(form=settings.log_format, level=log_level)
    token = await application.issue_token(settings, name="bench", role=Role.BACKEND, subject=None)
    world = World(directory)
    database = Database(url=settings.database_url, exclusive=True)
    await database.open()
    calls = Counting.new()
    neighbours = Neighbours(
        store=Counting(database, "store", calls),
        orchestrator=Counting(world.nomad, "nomad", calls),
        workspaces=Counting(world.nomad.workspaces, "workspaces", calls),
        live_files=Counting(world.nomad.live_files, "live files", calls),
        cluster_mark=Counting(world.nomad.cluster_mark, "cluster mark", calls),
        passwords=Counting(world.vault, "vault", calls),
        catalog=Counting(world.consul, "consul", calls),
        prober=Counting(world.prober, "prober", calls),
        events=world.prober,
    )
    async with application.serving(settings, neighbours) as address:
        await _say({"address": address, "token": token})
        lines = await _lines()
        while await lines.readline():
            counted = {"request": {}, "service": {}}
            for (who, what), times in sorted(calls.items()):
                counted[who][what] = times
            await _say({**counted, "statements": database.statements})
    await database.close()


async def _lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def _say(value: object) -> None:
    print(json.dumps(value), flush=True)  # noqa: T201 - how the bench learns of it


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
