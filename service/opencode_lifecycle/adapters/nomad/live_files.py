"""Live files: texts by content and a pointer per stack, in Nomad's variables."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opencode_lifecycle.adapters.nomad.connection import SYSTEM, Answer, NomadConnection, path_of
from opencode_lifecycle.adapters.nomad.event_stream import PREFIX
from opencode_lifecycle.adapters.nomad.reading import instant, mapping, text
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import UpstreamNonsense, VersionConflict
from opencode_lifecycle.model.facets import digest_of_text
from opencode_lifecycle.model.identifiers import JobId, UserId
from opencode_lifecycle.model.orphan import Find, OrphanKind
from opencode_lifecycle.ports.orchestrator import Owner

_TRIES: Final = 3
_INDEX: Final = "ModifyIndex"
_PAGE: Final = 500
_POINTER: Final = re.compile(r"nomad/jobs/([a-z0-9-]+)/opencode/server")


class NomadLiveFiles:
    """The `LiveFiles` port. Every write is a check-and-set on what was read."""

    def __init__(self, *, connection: NomadConnection, bundles_path: str) -> None:
        self._connection = connection
        self._bundles_path = bundles_path

    async def publish(self, text: str, deadline: Deadline) -> str:
        digest = digest_of_text(text)
        await self._write("publish", f"{self._bundles_path}/{digest}", {"text": text}, deadline)
        return digest

    async def point(
        self, job_id: JobId, owner: Owner, *, instructions: str, managed: str, deadline: Deadline
    ) -> None:
        items = {
            "instructions": instructions,
            "managed": managed,
            "installation": owner.installation,
            "user_id": owner.user_id,
        }
        await self._write("point", pointer_path(job_id), items, deadline)

    async def clear(self, job_id: JobId, deadline: Deadline) -> None:
        await self._connection.delete("clear", path_of("var", pointer_path(job_id)), deadline=deadline)

    async def list_all(self, deadline: Deadline) -> Sequence[Find]:
        operation = "list pointers"
        query = {"prefix": f"nomad/jobs/{PREFIX}"}
        stubs, _ = await self._connection.pages(
            operation, path_of("vars"), query, page_size=_PAGE, deadline=deadline
        )
        finds = [_find(operation, mapping(operation, stub)) for stub in stubs]
        return [find for find in finds if find is not None]

    async def owner_of(self, job_id: JobId, deadline: Deadline) -> Owner | None:
        operation = "read pointer"
        answer = await self._connection.get(
            operation, path_of("var", pointer_path(job_id)), deadline=deadline
        )
        items = mapping(operation, answer.body).get("Items") if answer.found else None
        match items:
            case {"installation": str(installation), "user_id": str(user_id)}:
                return Owner(installation=installation, user_id=UserId(user_id))
            case _:
                return None

    async def _write(self, operation: str, path: str, items: dict[str, str], deadline: Deadline) -> None:
        """Make the variable hold *items*, and write nothing if it does already."""
        for tries_left in range(_TRIES - 1, -1, -1):
            answer = await self._connection.get(operation, path_of("var", path), deadline=deadline)
            index = _index_of(operation, answer)
            if index and mapping(operation, answer.body).get("Items") == items:
                return
            try:
                await self._connection.put(
                    operation, path_of("var", path), {"Items": items}, {"cas": index}, deadline=deadline
                )
            except VersionConflict:
                if not tries_left:
                    raise
            else:
                return


def pointer_path(job_id: JobId) -> str:
    """Return where Nomad lets the task of the job, and nobody else's, read without a policy."""
    return f"nomad/jobs/{job_id}/opencode/server"


def _find(operation: str, stub: Mapping[str, Any]) -> Find | None:
    match = _POINTER.fullmatch(text(operation, stub, "Path"))
    if match is None:
        return None
    find = Find(kind=OrphanKind.VARIABLE, job_id=JobId(match[1]), reference=match[1])
    return find.dated(instant(operation, stub, "ModifyTime"))


def _index_of(operation: str, answer: Answer) -> int:
    if not answer.found:
        return 0
    index: Any = mapping(operation, answer.body).get(_INDEX)
    if not isinstance(index, int) or index <= 0:
        raise UpstreamNonsense(SYSTEM, operation, f"{_INDEX} is no number")
    return index
