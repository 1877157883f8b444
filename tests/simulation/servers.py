"""
Servers that are not what they should be, and what must hold of them (I2).

One that is open to everybody, of another version than its job names, or that has another password than its secret is never
published · an open one is stopped · who asks for the stack is told why.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from fakes.opencode import FakeOpenCode
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.stack import Status
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.cluster import Cluster

Place = tuple[str, int]

OPEN_FOR = 60.0
"""Seconds after which no server may be open any more, where nothing else goes wrong."""
_IN_TIME = 30.0
"""Seconds for which a proof may be on its way into the row: what has opened itself since it was proven is seen to later."""
_ALWAYS = -1e9


class Oddity(StrEnum):
    """What is wrong with a server."""

    OPEN = "open to everybody"
    OTHER_VERSION = "of another version"
    OTHER_PASSWORD = "shut to its own password"


ODDITIES = tuple(Oddity)


MANNER = "MANNER"
"""The variable of a release's environment that says how its servers are: `dud`, `mute`, or odd; as they should be without it."""
ODD: Mapping[str, Oddity] = {
    "open": Oddity.OPEN,
    "stranger": Oddity.OTHER_VERSION,
    "shut": Oddity.OTHER_PASSWORD,
}
"""The manners of odd ones."""
BAD_CONFIG = '{"provider": "none"}'
"""A managed configuration that no server can load."""


class Servers:
    """Brings up servers, and knows which of them are odd since when."""

    def __init__(self, cluster: "Cluster", random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self.are_dud = False
        """Whether servers that start now answer nothing, ever."""
        self.are_mended = False
        """Whether servers of bad releases that start now are as good as any other."""
        self.oddity: Oddity | None = None
        """What is wrong with every server that starts now."""
        self.odd: dict[Place, tuple[Oddity, float]] = {}
        """By address what is wrong with the server there, and since when: always, where it started like that."""
        self.violate: Callable[[str], None] = lambda _: None

    def start(self, job_id: JobId, place: Place, password: str, version: str) -> FakeOpenCode:
        """Return the server of a job that starts at *place*, as its release makes it, and as all are that start now."""
        if not self._cluster.has_rollouts:
            return self._make(job_id, place, password, version, self.oddity)
        environment = self._cluster.nomad.jobs[job_id].specification["Variables"].get("environment", {})
        manner = environment.get(MANNER, "") if not self.are_mended else ""
        server = self._make(job_id, place, password, version, ODD.get(manner, self.oddity))
        if manner == "dud":
            server.hangs = True
            self._write_nonsense(job_id)
        if manner == "mute":
            server.answers = PromptResult(outcome=PromptOutcome.FAILED, detail="it answered with status 500")
        server.on_reload = partial(self._on_reload, job_id, server)
        self._read_config(job_id, server)
        if server.bad_config:
            server.broken.add(None)
        return server

    def _make(
        self, job_id: JobId, place: Place, password: str, version: str, oddity: Oddity | None
    ) -> FakeOpenCode:
        if oddity is None:
            return FakeOpenCode(password=password, version=version, hangs=self.are_dud)
        self._cluster.say(f"{job_id}: its server is {oddity}")
        self._note(job_id, place, oddity, _ALWAYS)
        match oddity:
            case Oddity.OPEN:
                return FakeOpenCode(password="", version=version)
            case Oddity.OTHER_VERSION:
                return FakeOpenCode(password=password, version="0.0.1")
            case Oddity.OTHER_PASSWORD:
                return FakeOpenCode(password=f"another's {self._random.random()}", version=version)

    def _write_nonsense(self, job_id: JobId) -> None:
        volume = self._cluster.nomad.workspaces.volumes.get(job_id)
        if volume is not None and self._random.random() < 0.5:
            self._cluster.data.write(volume.volume_id, by_user=False)

    def _on_reload(self, job_id: JobId, server: FakeOpenCode) -> None:
        self._cluster.say(f"{job_id} reads its configuration anew")
        self._read_config(job_id, server)

    def _read_config(self, job_id: JobId, server: FakeOpenCode) -> None:
        files = self._cluster.nomad.live_files
        managed = files.bundles.get(files.pointers.get(job_id, {}).get("managed", ""), "")
        server.bad_config = managed == BAD_CONFIG and not self.are_mended

    def open_up(self, job_id: JobId, place: Place) -> None:
        """Let the server there lose its password while it runs."""
        self._cluster.prober.servers[place].password = ""
        self._note(job_id, place, Oddity.OPEN, self._cluster.loop.time())

    def gone(self, place: Place) -> None:
        """Forget the server there: it has ended."""
        self.odd.pop(place, None)

    def _note(self, job_id: JobId, place: Place, oddity: Oddity, since: float) -> None:
        self.odd[place] = oddity, since
        if oddity is Oddity.OPEN:
            self._cluster.loop.call_later(OPEN_FOR, self._check_stopped, job_id, place)

    # --- what must hold

    def check_published(self, user: str, status: Status) -> None:
        """Hold an address, when it is first published, against what its server is."""
        assert status.runtime is not None
        assert status.runtime.address is not None
        address = status.runtime.address
        oddity, since = self.odd.get((address.host, address.port), (None, 0.0))
        if oddity is not None and self._cluster.loop.time() - since > _IN_TIME:
            self.violate(f"I2: {user} is given the address of a server that is {oddity}")

    def _check_stopped(self, job_id: JobId, place: Place) -> None:
        cluster = self._cluster
        row = next((row for row in cluster.store.rows.values() if row.stack.job_id == job_id), None)
        if place not in self.odd or row is None:
            return
        if cluster.is_calm(OPEN_FOR):
            self.violate(f"I2: the server of {job_id} is open to everybody, and is left so")
        else:
            cluster.loop.call_later(OPEN_FOR / 2, self._check_stopped, job_id, place)

    def why_odd(self, place: Place) -> Oddity | None:
        return self.odd[place][0] if place in self.odd else None
