"""
Figures of rollouts: 1,000 simulated runtimes brought to another release, against a plain loop with as many in flight.

The jobs are of Nomad's mock driver, without log collectors, templates and volumes, so that a slice of them fits on one
machine; each has a port and a service in Consul. The runtimes are simulated in the service's process. Both arms replace
every allocation of a slice, turn about. Ours rolls out a release: it asks Nomad whether it would take the new job, sees that
the agent is idle, commits the stop, replaces, proves what then runs, and writes all of it down. The plain loop registers the
new version and waits until its allocation runs, no more; its jobs are of the same template.

Each arm is watched by the same reader of Nomad's event stream, which counts ten times a second how many jobs have no
allocation that runs. The service counts as often, in the memory that its API answers from, whose address it would not give.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import servers
from bench.availability import watched
from bench.figures import Block, Figure, ratio_of, spread
from bench.plain_loop import PlainLoop
from bench.rolled_fleet import RolledFleet
from bench.rounds import alternate
from bench.servers import Operator, cpu_of
from bench.service import service, settings_of
from bench.show import say
from cluster_fixture import RealCluster
from opencode_lifecycle import application
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import Rate, Rates, ResourceClassSettings, Settings

SLICE: Final = 250
BLOCKS, SPARE = 2, 0
"""Rounds of ours, plain, plain, ours: four slices of each, which are 1,000 runtimes."""
IN_FLIGHT: Final = 32
PAUSES: Final = 6
WALL_BAR, CPU_BAR_MS, PAUSE_BAR = 1.25, 30.0, 1.0
_FAST = Rate(per_second=1e5, burst=100_000)
_STRATEGY: Final = {
    "canary": "0",
    "waves": ["100%"],
    "max_in_flight": IN_FLIGHT,
    "max_unavailable": str(IN_FLIGHT),
    "soak": "0s",
}
MOCK_TEMPLATE: Final = Path(__file__).parent / "mock.nomad.hcl"
_NETWORK: Final = """\
    network {
      port "http" {}
    }

"""
_SERVICE: Final = """\
      service {
        name     = var.job_id
        port     = "http"
        provider = "consul"

        meta {
          installation = var.installation
          managed_by   = "opencode-lifecycle"
        }

        identity {
          aud = ["consul.io"]
          ttl = "1h"
        }
      }

"""
"""As in our own templates, but for the check: where a runtime is simulated nothing listens."""
_SETTLING: Final = 2.0
"""Seconds after a run, in which Nomad comes to rest."""


@dataclass(slots=True)
class _Measured:
    cpu: defaultdict[str, defaultdict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    """Milliseconds for each runtime, by arm and process."""
    without_allocation: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    without_address: list[int] = field(default_factory=list)
    counted: int = 0
    pauses: list[float] = field(default_factory=list)
    begun_after: list[int] = field(default_factory=list)


class _Bench:
    """Both arms, side by side on one cluster."""

    def __init__(self, cluster: RealCluster, by: Operator, fleet: RolledFleet, plain: PlainLoop) -> None:
        self._cluster = cluster
        self._operator = by
        self._fleet = fleet
        self._plain = plain
        self.measured = _Measured()

    async def ours(self) -> float:
        """Return the seconds from the order of a rollout until its last runtime was proven and it has succeeded."""
        release = await self._fleet.release()
        await self._fleet.most_unusable()

        async def roll_out() -> float:
            return await self._fleet.until_ended(await self._fleet.start(release))

        took = await self._timed("ours", self._fleet.jobs, self._fleet.cpu_seconds, roll_out)
        await self._count_addresses()
        return took

    async def bare(self) -> float:
        """Return the seconds from the first registration until the last new allocation runs."""
        async with self._plain.ready() as loop:
            go = self._plain.go
            return await self._timed("plain", self._plain.jobs, loop.cpu_seconds, lambda: go(loop))

    async def _timed(
        self, arm: str, jobs: Sequence[str], own: Callable[[], float], act: Callable[[], Awaitable[float]]
    ) -> float:
        """Return the seconds until the moment that *act* says it was done at."""
        async with watched(self._operator, jobs) as availability:
            before, begun = {**cpu_of(self._cluster), "own": own()}, time.time()
            took = await act() - begun
            after = {**cpu_of(self._cluster), "own": own()}
        for name, seconds in after.items():
            self.measured.cpu[arm][name].append((seconds - before[name]) * 1000 / SLICE)
        self.measured.without_allocation[arm].append(availability.most)
        self.measured.counted += availability.times if arm == "ours" else 0
        await self._settle()
        return took

    async def _count_addresses(self) -> None:
        found = await self._fleet.most_unusable()
        self.measured.without_address.append(found["most"])
        self.measured.counted += found["times"]

    async def _settle(self) -> None:
        """Have Nomad forget what has ended, so that no run is slowed down by those before it."""
        await self._operator.nomad("PUT", "system/gc")
        await asyncio.sleep(_SETTLING)

    async def pause_again_and_again(self) -> None:
        """
        Pause one rollout at several points, and look when the last stop was begun after each answer.

        Before it is resumed everything in flight has come to its end, so that nothing is left that could begin later.
        """
        rollout = await self._fleet.start(await self._fleet.release())
        spans = []
        async with watched(self._operator, self._fleet.jobs) as availability:
            for number in range(PAUSES):
                await self._fleet.until_migrated(rollout, (number * SLICE) // (PAUSES + 1) + 1)
                paused = await self._fleet.tell(rollout, "pause")
                await self._fleet.until_nothing_moves(rollout)
                await asyncio.sleep(1)
                spans.append((paused, time.time()))
                await self._fleet.tell(rollout, "resume")
            await self._fleet.until_ended(rollout)
        self.measured.without_allocation["ours"].append(availability.most)
        await self._count_addresses()
        begun = self._fleet.stops_begun()
        for paused, until in spans:
            after = [moment - paused for moment in begun if paused < moment < until]
            self.measured.pauses.append(max(after, default=0.0))
            self.measured.begun_after.append(len(after))


def template_text() -> str:
    """Return the template of both arms: a job that costs nothing, with a port, and a service in Consul that names it."""
    text, network, service = MOCK_TEMPLATE.read_text(), '  group "mock" {\n', "      resources {\n"
    assert (text.count(network), text.count(service)) == (1, 1), "the template is not as expected"
    return text.replace(network, network + _NETWORK).replace(service, _SERVICE + service)


async def measure(cluster: RealCluster, directory: Path) -> list[Figure]:
    say(
        f"rollout: {BLOCKS * 2} times {SLICE} simulated runtimes, {IN_FLIGHT} in flight, against a plain loop"
    )
    place = directory / "rollout"
    place.mkdir()
    async with _both_arms(cluster, place) as bench:
        blocks = await alternate(
            ours=bench.ours, bare=bench.bare, blocks=BLOCKS, spare=SPARE, disk=cluster.directory, unit="s"
        )
        await bench.pause_again_and_again()
    measured = bench.measured
    return [_wall(blocks, measured), _cpu(measured), _unavailable(measured), _pause(measured)]


@asynccontextmanager
async def _both_arms(cluster: RealCluster, place: Path) -> AsyncIterator[_Bench]:
    template = place / "rollout.nomad.hcl"
    template.write_text(template_text())
    settings = _settings(cluster, place, template)
    tokens = {
        role: await application.issue_token(settings, name=role, role=role, subject=None)
        for role in (Role.BACKEND, Role.OPERATOR)
    }
    async with AsyncExitStack() as stack:
        by = await stack.enter_async_context(servers.operator(cluster))
        await by.clean_up()
        stack.push_async_callback(by.clean_up)
        running = await stack.enter_async_context(
            service(settings, place, token=tokens[Role.OPERATOR], module="bench.rollout_server")
        )
        fleet = RolledFleet(
            running,
            backend=await stack.enter_async_context(replace(running, token=tokens[Role.BACKEND]).session()),
            operator=await stack.enter_async_context(running.session()),
            count=SLICE,
            strategy=_STRATEGY,
        )
        plain = PlainLoop(cluster, place, by, template=template.read_text(), count=SLICE, in_flight=IN_FLIGHT)
        begun = time.perf_counter()
        await fleet.ensure_all()
        say(f"  {SLICE} stacks run after {time.perf_counter() - begun:.0f} s")
        await plain.start()
        bench = _Bench(cluster, by, fleet, plain)
        await bench.bare()  # and both have replaced a whole slice once, before anything counts
        await bench.ours()
        bench.measured = _Measured()
        yield bench


def _settings(cluster: RealCluster, place: Path, template: Path) -> Settings:
    return settings_of(
        cluster,
        place,
        job_template=template,
        opencode_path=template,  # there must be one, and nothing starts it
        resource_classes={"small": ResourceClassSettings(cpu=1, memory=10, memory_max=10)},
        rates=Rates(read=_FAST, ensure=_FAST, lifecycle=_FAST, admin=_FAST),
        start_deadline=timedelta(minutes=10),
        idle_after=timedelta(0),
        when_stale="report",
    )


# --- figures


def _wall(blocks: Sequence[Block], measured: _Measured) -> Figure:
    ratio = ratio_of(blocks)
    return Figure(
        name="rollout: wall time of a plain loop",
        value=round(ratio, 3),
        unit="x",
        bar=f"<= {WALL_BAR}",
        holds=ratio <= WALL_BAR,
        details={
            "ratio": spread([block.ratio for block in blocks]),
            "ours_seconds_for_a_slice": spread([each for block in blocks for each in block.ours], 2),
            "plain_seconds_for_a_slice": spread([each for block in blocks for each in block.bare], 2),
            "cpu_ms_for_a_runtime": _medians(measured.cpu),
            "runtimes": SLICE * BLOCKS * 2,
            "in_a_slice": SLICE,
            "in_flight": IN_FLIGHT,
            "noisy_blocks_kept": [block.noise for block in blocks if block.noise],
        },
    )


def _medians(cpu: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    return {
        arm: {name: round(median(values), 1) for name, values in processes.items()}
        for arm, processes in cpu.items()
    }


def _cpu(measured: _Measured) -> Figure:
    spent = measured.cpu["ours"]["own"]
    return Figure(
        name="rollout: our CPU time for a runtime",
        value=round(median(spent), 2),
        unit="ms",
        bar=f"<= {CPU_BAR_MS:.0f}",
        holds=median(spent) <= CPU_BAR_MS,
        details={
            "ms": spread(spent, 2),
            "is": "all of the service's process, the simulated runtimes included",
        },
    )


def _unavailable(measured: _Measured) -> Figure:
    most: dict[str, Any] = {
        "without_an_address_of_ours": max(measured.without_address),
        "without_an_allocation_that_runs": max(measured.without_allocation["ours"]),
    }
    worst = max(most.values())
    return Figure(
        name="rollout: most unavailable at once",
        value=worst,
        unit="stacks",
        bar=f"<= {IN_FLIGHT}",
        holds=0 < worst <= IN_FLIGHT,
        details={
            **most,
            "allowed": IN_FLIGHT,
            "counts": measured.counted,
            "plain_loop_without_an_allocation_that_runs": max(measured.without_allocation["plain"]),
        },
    )


def _pause(measured: _Measured) -> Figure:
    worst = max(measured.pauses)
    return Figure(
        name="rollout: last replacement begun after a pause was answered",
        value=round(worst, 3),
        unit="s",
        bar=f"<= {PAUSE_BAR}",
        holds=worst <= PAUSE_BAR,
        details={
            "seconds": [round(each, 3) for each in measured.pauses],
            "replacements_begun_after_it": measured.begun_after,
            "a_replacement_begins": "when the stop of its runtime is committed",
        },
    )
