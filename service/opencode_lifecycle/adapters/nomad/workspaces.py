"""Workspaces: dynamic host volumes, one per stack, bearing the job's name."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, NomadConnection, path_of
from opencode_lifecycle.adapters.nomad.event_stream import PREFIX
from opencode_lifecycle.adapters.nomad.reading import instant, mapping, text
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, UpstreamRejected
from opencode_lifecycle.model.identifiers import JobId
from opencode_lifecycle.model.orphan import Find, OrphanKind
from opencode_lifecycle.ports.orchestrator import WorkspaceFound

PLUGIN: Final = "mkdir"
ACCESS_MODE: Final = "single-node-single-writer"
_PAGE: Final = 500
_GONE: Final = "no such volume"


class NomadWorkspaces:
    """
    The `Workspaces` port.

    A new volume takes Nomad's client 5 to 10 seconds to report to the scheduler; a job that is registered meanwhile is
    blocked for want of its volume and placed as soon as the report is there.
    """

    def __init__(
        self,
        *,
        connection: NomadConnection,
        node_pool: str,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self._connection = connection
        self._node_pool = node_pool
        self._parameters = dict(parameters or {})

    async def ensure(
        self, job_id: JobId, deadline: Deadline, *, avoid: Collection[str] = ()
    ) -> WorkspaceFound:
        """
        Return the volume, creating it where there is none.

        Nomad makes it on the first node that has the plugin, drained or not, so it is told which to leave out. Two that
        create it at once on different nodes would leave one too many: whoever calls holds the stack's claim.
        """
        found = await self.find(job_id, deadline)
        if found is not None:
            return found
        operation = "create volume"
        volume = {
            "Name": job_id,
            "Namespace": self._connection.namespace,
            "PluginID": PLUGIN,
            "NodePool": self._node_pool,
            "Parameters": self._parameters,
            "RequestedCapabilities": [{"AccessMode": ACCESS_MODE, "AttachmentMode": "file-system"}],
            "Constraints": [
                {"LTarget": "${node.unique.id}", "Operand": "!=", "RTarget": node_id}
                for node_id in sorted(avoid)
            ],
        }
        answer = await self._connection.put(
            operation, path_of("volume", "host", "create"), {"Volume": volume}, deadline=deadline
        )
        return _found(operation, mapping(operation, answer.body).get("Volume"))

    async def find(self, job_id: JobId, deadline: Deadline) -> WorkspaceFound | None:
        operation = "find volume"
        query = {"type": "host"}
        stubs, _ = await self._connection.pages(
            operation, path_of("volumes"), query, page_size=_PAGE, deadline=deadline
        )
        ids = [
            text(operation, stub, "ID")
            for stub in (mapping(operation, each) for each in stubs)
            if text(operation, stub, "Name") == job_id
        ]
        for volume_id in sorted(ids):
            answer = await self._connection.get(
                operation, path_of("volume", "host", volume_id), deadline=deadline
            )
            if answer.found:
                return _found(operation, answer.body)
        return None

    async def list_all(self, deadline: Deadline) -> Sequence[Find]:
        operation = "list volumes"
        stubs, _ = await self._connection.pages(
            operation, path_of("volumes"), {"type": "host"}, page_size=_PAGE, deadline=deadline
        )
        found = [mapping(operation, stub) for stub in stubs]
        return [_find(operation, stub) for stub in found if text(operation, stub, "Name").startswith(PREFIX)]

    async def destroy(self, volume_id: str, deadline: Deadline) -> None:
        path = f"{path_of('volume', 'host', volume_id)}/delete"
        try:
            await self._connection.delete("delete volume", path, deadline=deadline)
        except UpstreamRejected as refused:
            if _GONE not in refused.detail:
                raise


def _found(operation: str, source: Any) -> WorkspaceFound:
    volume = mapping(operation, source)
    path = text(operation, volume, "HostPath")
    if not path.startswith("/"):
        raise UpstreamNonsense(SYSTEM, operation, "the volume has no host path")
    return WorkspaceFound(
        volume_id=text(operation, volume, "ID"), node_id=text(operation, volume, "NodeID"), path=path
    )


def _find(operation: str, stub: Mapping[str, Any]) -> Find:
    find = Find(
        kind=OrphanKind.VOLUME,
        job_id=JobId(text(operation, stub, "Name")),
        reference=text(operation, stub, "ID"),
        details={"node": text(operation, stub, "NodeID"), "state": text(operation, stub, "State")},
    )
    return find.dated(instant(operation, stub, "CreateTime"))
