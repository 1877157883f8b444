"""Entrypoints in the allocations of a world, and a stack that they have moved to a newer version: what tests of its data begin with."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from migrating import QUICK, a_release, order, until_outcome
from opencode_lifecycle.model.migration import OrderOutcome
from opencode_lifecycle.model.observation import TaskTrouble
from opencode_lifecycle.model.snapshot import REPORT_PATH
from opencode_lifecycle.model.states import Phase, WhenStale
from world import ADA, World

OLD, NEW = "1.18.34", "1.19.0"
WRITTEN = "since snapshot S it was written to: 1 session, 2 messages"


class Entrypoints:
    """What entrypoints do for the data, by the rules of the real one, in every allocation that starts to run."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.last = ""
        self.is_written = False
        self.is_full = False
        self.snapshots: list[dict] = []
        self.taken = 0
        self.named: list[str] = []
        world.nomad.on_run = self.on_run

    def on_run(self, job_id, allocation) -> None:
        variables = self.world.nomad.jobs[job_id].specification["Variables"]
        version, named = variables["opencode_version"], variables.get("restore_snapshot", "")
        self.named.append(named)
        refused = None
        if self.last not in {"", version}:
            is_older = tuple(map(int, version.split("."))) < tuple(map(int, self.last.split(".")))
            if self.is_full:
                refused = (74, "no room for a snapshot of the data", TaskTrouble.DISK_FULL)
            elif is_older and self.is_written and not named:
                refused = (65, WRITTEN, TaskTrouble.DATA_NEWER)
            else:
                self.snapshots.append(receipt(self.taken, self.last, version))
                self.taken += 1
                self.is_written = False
        report = {
            "version": version,
            "snapshots": self.snapshots,
            "refused": {"code": refused[0], "reason": refused[1]} if refused else None,
        }
        self.world.nomad.files.of.setdefault(allocation.id, {})[REPORT_PATH] = json.dumps(report).encode()
        if refused:
            asyncio.get_running_loop().call_soon(
                self.world.nomad.trouble_allocation, job_id, refused[2], f"Exit Code: {refused[0]}"
            )
        else:
            self.last = version
            self.world._on_run(job_id, allocation)


def receipt(number: int, of: str, before: str) -> dict:
    return {
        "id": f"01ARZ3NDEKTSV4RRFFQ69G5F{number:02}",
        "taken_at": "2026-11-24T17:00:00Z",
        "opencode_version": of,
        "before_version": before,
        "migrations": {"count": 32, "last": "20260511173437_session-metadata"},
        "bytes": 12,
        "files": [{"path": "opencode.db", "bytes": 12, "sha256": "a" * 64}],
    }


async def world_with(tmp_path, **changes) -> World:
    return World(tmp_path, **{"limits": QUICK, "when_stale": WhenStale.REPORT, **changes})


@asynccontextmanager
async def moved_to_a_newer_version(tmp_path) -> AsyncIterator[World]:
    """One whose stack was moved to a newer version by an order, and can be ordered back to `world.older`."""
    world = await world_with(tmp_path)
    entrypoints = Entrypoints(world)
    async with world.running():
        await world.ensure()
        world.older, world.entrypoints = world.stack().intent.wanted_release, entrypoints
        world.newer = await a_release(world, opencode_version=NEW)
        assert await until_outcome(world, await order(world, world.newer)) is OrderOutcome.DONE
        yield world


async def order_back_what_never_became_healthy(world: World) -> OrderOutcome | None:
    """Have a version fail, and the stack ordered back to what ran before while that is being stopped."""
    even_newer = await a_release(world, opencode_version="1.20.0")
    world.server_changes = {"version": "0.0.1"}
    world.nomad.autostop = False
    order_id = await order(world, even_newer)
    await world.phase(Phase.STOPPING)
    world.nomad.end_allocation(world.job_id())
    await until_outcome(world, order_id)
    world.entrypoints.is_written = True
    world.server_changes = {}
    back = await order(world, world.newer)
    world.nomad.end_allocation(world.job_id())
    return await until_outcome(world, back)


async def stored(world: World) -> list[str]:
    return [snapshot.id for snapshot in (await world.store.snapshots_of(ADA)).snapshots]
