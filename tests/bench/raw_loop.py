"""
The barest program that starts the same runtimes: for each, write the secret to Vault, register the job with Nomad.

It reads its work from a file, says that it is ready, begins when it is told to, and says when it has handed over all.
"""

import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import aiohttp


async def main(work: dict[str, Any]) -> None:
    vault = aiohttp.ClientSession(work["vault"], headers={"X-Vault-Token": work["vault_token"]})
    nomad = aiohttp.ClientSession(work["nomad"], headers={"X-Nomad-Token": work["nomad_token"]})
    jobs = iter(work["jobs"])

    async def worker() -> None:
        for job in jobs:
            secret = {
                "data": {"password": secrets.token_urlsafe(32), "env": {}},
                "options": {"cas": 0},
            }
            async with vault.post(f"/v1/kv/data/opencode/{job['ID']}", json=secret) as answer:
                answer.raise_for_status()
                await answer.read()
            async with nomad.post("/v1/jobs", json={"Job": job}) as answer:
                answer.raise_for_status()
                await answer.read()

    async with vault, nomad:
        print("ready", flush=True)  # noqa: T201 - how the bench learns of it
        await asyncio.to_thread(sys.stdin.readline)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(work["in_flight"]):
                tasks.create_task(worker())
        print("done", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
