"""Whether this replica can do its work, one line for each thing it depends on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from opencode_lifecycle.lifecycle.background import Pulse
from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.observing.watch_ages import Watches, WatchReport
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import LifecycleError

Ping = Callable[[Deadline], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencyReport:
    """`age_seconds` is how old the knowledge from it is, None where that has no meaning or nothing is known."""

    name: str
    ok: bool
    detail: str
    age_seconds: float | None = None


class Readiness:
    def __init__(
        self,
        *,
        pings: Mapping[str, Ping],
        fleet: Fleet,
        worker_pulse: Pulse,
        has_compared: Callable[[], bool],
        watches: Watches,
        max_age: float,
        timeout: float,
    ) -> None:
        self._has_compared = has_compared
        self._watches = watches
        self._pings = pings
        self._worker_pulse = worker_pulse
        self._fleet = fleet
        self._max_age = max_age
        self._timeout = timeout

    async def report(self) -> Sequence[DependencyReport]:
        """Ask every dependency at once. Never raises: what fails is in the report."""
        asked = await asyncio.gather(*(self._ask(name, ping) for name, ping in self._pings.items()))
        return [*asked, self._view(), self._comparison(), self._workers(), self._conditions()]

    def watches(self) -> Sequence[WatchReport]:
        """
        Tell of each watch how old what it saw is.

        They take no replica out of service: what is too old is unknown already, and nothing is concluded from it.
        """
        return self._watches.report()

    async def _ask(self, name: str, ping: Ping) -> DependencyReport:
        try:
            await ping(Deadline.after(self._timeout, f"ask {name} whether it is well"))
        except LifecycleError as error:
            return DependencyReport(name=name, ok=False, detail=error.message)
        return DependencyReport(name=name, ok=True, detail="ok")

    def _view(self) -> DependencyReport:
        age = self._fleet.listing_pulse.age()
        if age is None:
            return DependencyReport(name="observation", ok=False, detail="nothing was seen of Nomad yet")
        fresh = age <= self._max_age
        detail = "ok" if fresh else f"the last full listing of Nomad is older than {self._max_age:.0f} s"
        return DependencyReport(name="observation", ok=fresh, detail=detail, age_seconds=round(age, 1))

    def _comparison(self) -> DependencyReport:
        done = self._has_compared()
        waiting = "not every stack was compared with what runs yet; what is accepted meanwhile is kept"
        return DependencyReport(name="comparison", ok=done, detail="ok" if done else waiting)

    def _conditions(self) -> DependencyReport:
        """Name what holds work back. It takes no replica out of service: all of them see the same."""
        frozen = ", ".join(sorted(self._fleet.frozen))
        return DependencyReport(
            name="conditions", ok=True, detail=f"held back by {frozen}" if frozen else "ok"
        )

    def _workers(self) -> DependencyReport:
        age = self._worker_pulse.age()
        ok = age is not None and age <= self._max_age
        detail = "ok" if ok else "no work is being taken up; what was accepted is kept"
        return DependencyReport(
            name="workers", ok=ok, detail=detail, age_seconds=round(age, 1) if age is not None else None
        )
