"""A fleet of simulated runtimes that the service has started, and what an operator has it do with rollouts."""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import aiohttp

from bench.service import INSTALLATION, Service
from opencode_lifecycle.model.identifiers import JobId, UserId, job_id_of

ENDED: Final = frozenset({"succeeded", "failed", "aborted", "rolled_back"})
_PATIENCE: Final = 600.0
_PAUSE: Final = 0.05
_SELDOM: Final = 1.0
_AT_ONCE: Final = 32


async def until(condition: Callable[[], Awaitable[bool]], pause: float = _PAUSE) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await condition():  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(pause)


class RolledFleet:
    """*count* stacks. *strategy* is that of every rollout."""

    def __init__(
        self,
        running: Service,
        *,
        backend: aiohttp.ClientSession,
        operator: aiohttp.ClientSession,
        count: int,
        strategy: Mapping[str, Any],
    ) -> None:
        self._running = running
        self._backend = backend
        self._operator = operator
        self._strategy = dict(strategy)
        self._images = itertools.count(2)
        self.count = count
        self._users = [UserId(f"rolled-{number}") for number in range(count)]

    @property
    def jobs(self) -> list[JobId]:
        return [job_id_of(INSTALLATION, user) for user in self._users]

    async def ensure_all(self) -> None:
        async def ensure(users: Sequence[UserId]) -> None:
            for user in users:
                async with self._backend.put(f"/v1/stacks/{user}") as answer:
                    assert answer.status == 202, await answer.text()

        async with asyncio.TaskGroup() as tasks:
            for part in range(_AT_ONCE):
                tasks.create_task(ensure(self._users[part::_AT_ONCE]))

        async def all_run() -> bool:
            query = {"phase": "running", "health": "healthy", "limit": "500"}
            async with self._operator.get("/v1/stacks", params=query) as answer:
                assert answer.status == 200, await answer.text()
                return len((await answer.json())["items"]) == self.count

        await until(all_run, 1.0)

    async def release(self) -> str:
        """Make a release that differs from all before by its image, which forces a restart."""
        body = {"image": f"of-the-bench:{next(self._images)}"}
        async with self._operator.post("/v1/releases", json=body) as answer:
            assert answer.status == 201, await answer.text()
            return str((await answer.json())["id"])

    async def start(self, release: str) -> str:
        body = {"release": release, "strategy": self._strategy}
        async with self._operator.post("/v1/rollouts", json=body) as answer:
            assert answer.status == 201, await answer.text()
            return str((await answer.json())["id"])

    async def look(self, rollout: str) -> dict[str, Any]:
        async with self._operator.get(f"/v1/rollouts/{rollout}", params={"limit": "1"}) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    async def tell(self, rollout: str, what: str) -> float:
        """Pause or resume, and return when that was answered."""
        async with self._operator.post(f"/v1/rollouts/{rollout}/{what}") as answer:
            answered = time.time()
            assert answer.status == 200, await answer.text()
        return answered

    async def until_migrated(self, rollout: str, count: int) -> None:
        async def is_there() -> bool:
            return (await self.look(rollout))["counts"].get("migrated", 0) >= count

        await until(is_there)

    async def until_nothing_moves(self, rollout: str) -> None:
        async def is_still() -> bool:
            return "ordered" not in (await self.look(rollout))["counts"]

        await until(is_still)

    async def until_ended(self, rollout: str) -> float:
        """
        Return when every stack was moved and proven, by the service's clock; fail when anything else became of any.

        It is seldom looked: each look costs the service something that is none of the rollout's.
        """
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            found.update(await self.look(rollout))
            assert found["state"] not in {"paused", "rolling_back"}, found["message"]
            return found["state"] in ENDED

        await until(has_ended, _SELDOM)
        assert (found["state"], found["counts"]) == ("succeeded", {"migrated": self.count}), found
        return datetime.fromisoformat(found["finished_at"]).timestamp()

    async def most_unusable(self) -> dict[str, int]:
        """Return how many stacks at most had no address since this was asked last, and how often it was counted."""
        await self._running.program.tell("unusable?")
        found: dict[str, int] = json.loads(await self._running.program.line())
        return found

    def cpu_seconds(self) -> float:
        return self._running.program.cpu_seconds()

    def stops_begun(self) -> list[float]:
        """Return when each stop of a runtime was committed, by the service's log."""
        return [
            datetime.fromisoformat(entry["timestamp"]).timestamp()
            for entry in self._running.log()
            if entry.get("event") == "phase entered" and entry.get("phase") == "stopping"
        ]
