"""What Nomad keeps besides jobs, in memory: dynamic host volumes and variables."""

import itertools
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from uuid import UUID

from fakes.faults import Faults
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import NoCapacity, UpstreamRejected
from opencode_lifecycle.model.facets import digest_of_text
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.orphan import Find, OrphanKind
from opencode_lifecycle.ports.orchestrator import Owner, WorkspaceFound

LARGEST_VARIABLE = 65536


class FakeClusterMark:
    """Marks by installation."""

    def __init__(self) -> None:
        self.marks: dict[str, str] = {}
        self.faults = Faults()

    async def read(self, installation: str, deadline: Deadline) -> str | None:
        async with self.faults.call("read_mark", deadline):
            return self.marks.get(installation)

    async def write(self, installation: str, mark: str, *, replace: bool = False, deadline: Deadline) -> str:
        async with self.faults.call("write_mark", deadline):
            if replace or installation not in self.marks:
                self.marks[installation] = mark
            return self.marks[installation]


class FakeWorkspaces:
    """Volumes, one per job id. A volume of a job with a live allocation is claimed."""

    def __init__(
        self,
        *,
        pick_node: Callable[[Collection[str]], str | None],
        is_claimed: Callable[[JobId], bool],
        now: Clock = utc_now,
    ) -> None:
        self.volumes: dict[JobId, WorkspaceFound] = {}
        self._made_at = dict[JobId, datetime]()
        self._now = now
        self.faults = Faults()
        self._is_claimed = is_claimed
        self._pick_node = pick_node
        self._ids = itertools.count(1)

    async def ensure(
        self, job_id: JobId, deadline: Deadline, *, avoid: Collection[str] = ()
    ) -> WorkspaceFound:
        async with self.faults.call("ensure", deadline):
            if job_id not in self.volumes:
                node = self._pick_node(avoid)
                if node is None:
                    raise NoCapacity("nomad", "create volume", "no node meets constraints")
                volume_id = str(UUID(int=(1 << 64) + next(self._ids)))
                self.volumes[job_id] = WorkspaceFound(
                    volume_id=volume_id, node_id=node, path=f"/volumes/{volume_id}"
                )
                self._made_at[job_id] = self._now()
            return self.volumes[job_id]

    async def find(self, job_id: JobId, deadline: Deadline) -> WorkspaceFound | None:
        async with self.faults.call("find", deadline):
            return self.volumes.get(job_id)

    async def list_all(self, deadline: Deadline) -> Sequence[Find]:
        async with self.faults.call("list_volumes", deadline):
            return [
                Find(kind=OrphanKind.VOLUME, job_id=job_id, reference=volume.volume_id).dated(
                    self._made_at.get(job_id)
                )
                for job_id, volume in self.volumes.items()
                if job_id.startswith("oc-")
            ]

    async def destroy(self, volume_id: str, deadline: Deadline) -> None:
        async with self.faults.call("destroy", deadline):
            for job_id, volume in list(self.volumes.items()):
                if volume.volume_id != volume_id:
                    continue
                if self._is_claimed(job_id):
                    raise UpstreamRejected("nomad", "delete volume", f"volume {volume_id} is in use")
                del self.volumes[job_id]

    def lose(self, job_id: JobId) -> None:
        """Let the volume vanish, as it does with its node."""
        del self.volumes[job_id]


class FakeLiveFiles:
    """Bundles by digest and pointers by job id. `writes` counts what a real server would have stored."""

    def __init__(self, *, now: Clock = utc_now) -> None:
        self.bundles: dict[str, str] = {}
        self.pointers: dict[JobId, dict[str, str]] = {}
        self._written_at = dict[JobId, datetime]()
        self._now = now
        self.writes = 0
        self.faults = Faults()

    async def publish(self, text: str, deadline: Deadline) -> str:
        async with self.faults.call("publish", deadline):
            if len(text.encode()) > LARGEST_VARIABLE:
                raise UpstreamRejected("nomad", "publish", "variables are limited to 64KiB in total size")
            digest = digest_of_text(text)
            if digest not in self.bundles:
                self.bundles[digest] = text
                self.writes += 1
            return digest

    async def point(
        self, job_id: JobId, owner: Owner, *, instructions: str, managed: str, deadline: Deadline
    ) -> None:
        async with self.faults.call("point", deadline):
            wanted = {
                "instructions": instructions,
                "managed": managed,
                "installation": owner.installation,
                "user_id": owner.user_id,
            }
            if self.pointers.get(job_id) != wanted:
                self.pointers[job_id] = wanted
                self._written_at[job_id] = self._now()
                self.writes += 1

    async def list_all(self, deadline: Deadline) -> Sequence[Find]:
        async with self.faults.call("list_pointers", deadline):
            return [
                Find(kind=OrphanKind.VARIABLE, job_id=job_id, reference=job_id).dated(
                    self._written_at.get(job_id)
                )
                for job_id in self.pointers
                if job_id.startswith("oc-")
            ]

    async def owner_of(self, job_id: JobId, deadline: Deadline) -> Owner | None:
        async with self.faults.call("owner_of", deadline):
            pointer = self.pointers.get(job_id)
            if pointer is None:
                return None
            return Owner(installation=pointer["installation"], user_id=UserId(pointer["user_id"]))

    async def clear(self, job_id: JobId, deadline: Deadline) -> None:
        async with self.faults.call("clear", deadline):
            if self.pointers.pop(job_id, None) is not None:
                self.writes += 1
