"""
Figures of rollouts: what a user of a real OpenCode notices of a migration.

The client reads the address from our API and holds the server there to the neutral proof, again and again. A restart is
compared with the least that does the same: end the program by a signal, start it again on its data, and look until it
passes the same proof. What both start is the same version on data of its own, so that nothing is kept safe first; what a
change of the version costs beyond that, with its snapshot, is stated apart.
"""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

import aiohttp

from bench import servers
from bench.bare_server import BareServer
from bench.figures import Block, Figure, ratio_of, spread
from bench.proof import until_proven
from bench.rolled_fleet import ENDED, until
from bench.rounds import alternate
from bench.service import INSTALLATION, Service, service, settings_of
from bench.show import say
from bench.using import Uses, in_use
from cluster_fixture import RealCluster
from opencode_lifecycle import application
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.model.identifiers import UserId, job_id_of
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import Rate, Rates
from real_opencode import VERSION

BLOCKS, SPARE = 3, 1
GENTLE: Final = 3
"""Migrations of each kind that keep the process."""
BAR: Final = 1.3
OLDER: Final = "1.18.33"
USER: Final = "interrupted"
_VARIABLE: Final = "OF_THE_BENCH"
_STRATEGY: Final = {"canary": "0", "waves": ["100%"], "soak": "0s"}
_FAST = Rate(per_second=1000, burst=1000)


class _Bench:
    """One user's runtime that is migrated again and again, and the same program by hand."""

    def __init__(
        self,
        running: Service,
        *,
        backend: aiohttp.ClientSession,
        operator: aiohttp.ClientSession,
        bare: BareServer,
        password: str,
        directory: str,
    ) -> None:
        self._running = running
        self._backend = backend
        self._operator = operator
        self._bare = bare
        self._password = password
        self._directory = directory
        self._numbers = itertools.count(1)
        self.stops: list[float] = []
        self.parts: defaultdict[str, list[float]] = defaultdict(list)

    async def ours(self) -> float:
        """Return the seconds of the interruption by a restart, for which a release changes the environment."""
        begun = time.time()
        uses = await self.migrate({"environment": {_VARIABLE: str(next(self._numbers))}}, restarts=True)
        self._note_parts(begun)
        return uses.interruption

    def _note_parts(self, since: float) -> None:
        """Write down when each thing happened, in seconds after the stop was committed."""
        stopped_at, job_id = 0.0, job_id_of(INSTALLATION, UserId(USER))
        for entry in self._running.log():
            at = datetime.fromisoformat(entry["timestamp"]).timestamp()
            name = f"{entry['event']}: {entry.get('step') or entry.get('phase')}"
            if at < since or entry.get("job_id") != job_id:
                continue
            if name == "phase entered: stopping":
                stopped_at = at
            if stopped_at:
                self.parts[name].append(at - stopped_at)

    async def bare(self) -> float:
        """Return the seconds from the signal to the proof of the program that was started again."""
        begun = time.perf_counter()
        await self._bare.stop()
        self.stops.append(time.perf_counter() - begun)
        await self._bare.start()
        moments = await until_proven(self._bare.url, self._bare.password, self._bare.project)
        return moments["proven"] - begun

    async def migrate(self, content: Mapping[str, Any], *, restarts: bool) -> Uses:
        """Roll out a release that differs by *content*, and return how the runtime could be used meanwhile."""
        async with self._operator.post("/v1/releases", json=content) as answer:
            assert answer.status == 201, await answer.text()
            release = (await answer.json())["id"]
        before = await self._allocation()
        async with in_use(self._backend, USER, self._password, self._directory) as uses:
            await self._roll_out(release)
        assert (await self._allocation() != before) is restarts, "it was not migrated as it should be"
        return uses

    async def _roll_out(self, release: str) -> None:
        body = {"release": release, "strategy": _STRATEGY}
        async with self._operator.post("/v1/rollouts", json=body) as answer:
            assert answer.status == 201, await answer.text()
            rollout = (await answer.json())["id"]
        found: dict[str, Any] = {}

        async def has_ended() -> bool:
            async with self._operator.get(f"/v1/rollouts/{rollout}") as answer:
                found.update(await answer.json())
            return found["state"] in ENDED

        await until(has_ended, 0.2)
        assert (found["state"], found["counts"]) == ("succeeded", {"migrated": 1}), found

    async def _allocation(self) -> str:
        async with self._operator.get(f"/v1/stacks/{USER}") as answer:
            return str((await answer.json())["runtime"]["allocation_id"])

    async def snapshot(self) -> Mapping[str, Any]:
        """Return the last snapshot that was taken of its data."""
        async with self._operator.get(f"/v1/stacks/{USER}/snapshots") as answer:
            snapshot: Mapping[str, Any] = (await answer.json())["items"][-1]
            return snapshot


async def measure(cluster: RealCluster, directory: Path) -> list[Figure]:
    say("interruption: what a client notices of a migration, against stopping and starting by hand")
    place = directory / "interruption"
    place.mkdir()
    async with _both_arms(cluster, place) as bench:
        upgrade = await bench.migrate({"opencode_version": VERSION}, restarts=True)
        snapshot = await bench.snapshot()
        await bench.bare()  # so that both have their data from a start before, by the same version
        blocks = await alternate(
            ours=bench.ours, bare=bench.bare, blocks=BLOCKS, spare=SPARE, disk=cluster.directory, unit="s"
        )
        gentle = {
            "live: instructions": [
                await bench.migrate({"instructions": f"Be brief, {number}."}, restarts=False)
                for number in range(GENTLE)
            ],
            "reload: the prompt of an agent": [
                await bench.migrate({"agent_prompts": {"build": f"Be kind, {number}."}}, restarts=False)
                for number in range(GENTLE)
            ],
        }
    return [_restart(blocks, bench, upgrade, snapshot), _gentle(gentle)]


@asynccontextmanager
async def _both_arms(cluster: RealCluster, place: Path) -> AsyncIterator[_Bench]:
    program = await ensure_opencode(VERSION)
    older = await ensure_opencode(OLDER)
    pattern = Path(str(program).replace(VERSION, "{version}"))
    assert str(pattern).replace("{version}", OLDER) == str(older), "each version has a place of its own"
    settings = settings_of(
        cluster,
        place,
        opencode_path=pattern,
        opencode_version=OLDER,
        allowed_environment=(_VARIABLE,),
        idle_after=timedelta(0),
        when_stale="report",
        log_level="debug",
        rates=Rates(read=_FAST, ensure=_FAST, lifecycle=_FAST, admin=_FAST),
    )
    tokens = {
        role: await application.issue_token(settings, name=role, role=role, subject=None)
        for role in (Role.BACKEND, Role.OPERATOR)
    }
    bare = BareServer(program, place / "bare")
    async with AsyncExitStack() as stack:
        by = await stack.enter_async_context(servers.operator(cluster))
        stack.push_async_callback(by.clean_up)
        running = await stack.enter_async_context(service(settings, place, token=tokens[Role.OPERATOR]))
        operator = await stack.enter_async_context(running.session())
        backend = await stack.enter_async_context(replace(running, token=tokens[Role.BACKEND]).session())
        password, directory = await _begin(backend)
        await bare.start()
        stack.push_async_callback(bare.kill)
        await until_proven(bare.url, bare.password, bare.project)
        yield _Bench(
            running, backend=backend, operator=operator, bare=bare, password=password, directory=directory
        )


async def _begin(backend: aiohttp.ClientSession) -> tuple[str, str]:
    """Have the runtime started, and return its password and its project's directory."""

    async def runs() -> bool:
        async with backend.put(f"/v1/stacks/{USER}", params={"wait": "20s"}) as answer:
            await answer.read()
            return answer.status == 200

    await until(runs)
    async with backend.post(f"/v1/stacks/{USER}/credentials") as answer:
        password = (await answer.json())["password"]
    async with backend.get(f"/v1/stacks/{USER}/address") as answer:
        address = (await answer.json())["url"]
    credentials = aiohttp.BasicAuth("opencode", password)
    async with aiohttp.ClientSession(address, auth=credentials) as runtime, runtime.get("/path") as answer:
        return password, (await answer.json())["directory"]


def _restart(blocks: Sequence[Block], bench: _Bench, upgrade: Uses, snapshot: Mapping[str, Any]) -> Figure:
    ratio = ratio_of(blocks)
    ours = [each for block in blocks for each in block.ours]
    return Figure(
        name="interruption: a restart, against stop, start and proof by hand",
        value=round(ratio, 3),
        unit="x",
        bar=f"<= {BAR}",
        holds=ratio <= BAR,
        details={
            "ratio": spread([block.ratio for block in blocks]),
            "ours_seconds": spread(ours, 2),
            "bare_seconds": spread([each for block in blocks for each in block.bare], 2),
            "bare_seconds_until_it_has_ended": spread(bench.stops, 2),
            "ours_seconds_after_the_stop": dict(
                sorted(
                    ((name, round(median(at), 3)) for name, at in bench.parts.items()),
                    key=lambda item: item[1],
                )
            ),
            "apart_from_that": {
                "what": f"an upgrade from {OLDER} to {VERSION}, with a snapshot of the data before",
                "seconds": round(upgrade.interruption, 2),
                "more_than_without": round(upgrade.interruption - median(ours), 2),
                "snapshot_bytes": snapshot["bytes"],
            },
            "noisy_blocks_kept": [block.noise for block in blocks if block.noise],
        },
    )


def _gentle(found: Mapping[str, Sequence[Uses]]) -> Figure:
    failed = sum(uses.failed for each in found.values() for uses in each)
    return Figure(
        name="interruption: live and reload",
        value=failed,
        unit="failed uses",
        bar="= 0",
        holds=failed == 0,
        details={
            name: {
                "migrations": len(each),
                "uses": sum(len(uses.tries) for uses in each),
                "failed": dict(sum((Counter(uses.reasons) for uses in each), Counter())),
                "longest_use_ms": round(max(uses.longest for uses in each) * 1000),
            }
            for name, each in found.items()
        },
    )
