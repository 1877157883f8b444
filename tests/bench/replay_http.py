"""Nomad's HTTP API in front of a `ReplayedNomad`: its pages, headers, words and stream, as far as the service reads them."""

import asyncio
import gzip
import json
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from bench.recording import recording
from bench.replay import Follower, ReplayedNomad, allocation_id_of

HEARTBEAT_SECONDS: Final = 30.0
_GZIP_LEVEL: Final = 1
"""Nomad packs what it sends to whoever takes it packed; how well it packs costs only this server."""
_DEFAULT_PAGE: Final = 100_000


class NomadServer:
    """`app` is served by the caller. `asked` counts requests by kind, `written` those that would change something."""

    def __init__(self, nomad: ReplayedNomad) -> None:
        self.nomad = nomad
        self.asked: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self.listings: list[float] = []
        """When each listing of jobs began, on the monotonic clock."""
        self.refuses_streams = False
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        self._packed: dict[tuple[object, ...], tuple[bytes, str]] = {}
        self.app = web.Application(client_max_size=2**22)
        self.app.add_routes(
            [
                web.get("/v1/jobs", self._jobs),
                web.get("/v1/jobs/statuses", self._statuses),
                web.get("/v1/job/{id}", self._job),
                web.delete("/v1/job/{id}", self._deregister),
                web.get("/v1/job/{id}/allocations", self._allocations_of),
                web.get("/v1/job/{id}/evaluations", self._evaluations_of),
                web.get("/v1/allocations", self._allocations),
                web.get("/v1/allocation/{id}", self._allocation),
                web.get("/v1/evaluations", self._evaluations),
                web.get("/v1/nodes", self._closed_nodes),
                web.get("/v1/event/stream", self._stream),
                web.get("/v1/vars", self._pointers),
                web.get("/v1/var/{path:.+}", self._variable),
                web.put("/v1/var/{path:.+}", self._put_variable),
                web.get("/v1/volumes", self._volumes),
                web.get("/v1/volume/host/{id}", self._volume),
                web.get("/v1/status/leader", self._leader),
                web.get("/v1/acl/token/self", self._own_token),
                web.get("/v1/client/allocation/{id}/stats", self._statistics),
                web.route("*", "/{path:.*}", self._refuse),
            ]
        )

    def cut_streams(self) -> None:
        """End every event stream, without a word in it."""
        for stream in list(self._streams):
            stream.put_nowait(None)

    # --- lists

    async def _jobs(self, request: web.Request) -> web.Response:
        self.asked["jobs"] += 1
        if "next_token" not in request.query:
            self.listings.append(time.monotonic())
        nomad, prefix = self.nomad, request.query.get("prefix", "")
        with_meta = request.query.get("meta") == "true"
        index = nomad.tables.jobs
        key = (
            "jobs",
            prefix,
            with_meta,
            index,
            request.query.get("next_token"),
            request.query.get("per_page"),
        )
        if key not in self._packed:
            ids = sorted(job_id for job_id in nomad.jobs if job_id.startswith(prefix))
            shown, following = _page([f"opencode.{job_id}" for job_id in ids], request)
            stubs = [nomad.job_stub(nomad.jobs[ids[at]]) for at in shown]
            if not with_meta:
                stubs = [json.dumps({**json.loads(stub), "Meta": None}).encode() for stub in stubs]
            self._keep(key, stubs, following)
        return self._answer(request, *self._packed[key], index=index)

    async def _allocations(self, request: web.Request) -> web.Response:
        self.asked["allocations"] += 1
        nomad, index = self.nomad, self.nomad.tables.allocations
        with_resources = request.query.get("resources") == "true"
        with_states = request.query.get("task_states", "true") == "true"
        page = (request.query.get("next_token"), request.query.get("per_page"))
        key = ("allocations", with_resources, with_states, index, *page)
        if key not in self._packed:
            ordered = sorted(nomad.allocations.values(), key=lambda each: (each.create_index, each.id))
            shown, following = _page([f"{each.create_index}.{each.id}" for each in ordered], request)
            stubs = [nomad.allocation_stub(ordered[at]) for at in shown]
            left_out = [
                name
                for name, there in (("AllocatedResources", with_resources), ("TaskStates", with_states))
                if not there
            ]
            if left_out:
                nothing = dict.fromkeys(left_out)
                stubs = [json.dumps({**json.loads(stub), **nothing}).encode() for stub in stubs]
            self._keep(key, stubs, following)
        return self._answer(request, *self._packed[key], index=index)

    async def _statuses(self, request: web.Request) -> web.Response:
        self.asked["job statuses"] += 1
        # By their last change, the newest first, whatever prefix is asked for.
        jobs = sorted(self.nomad.jobs.values(), key=lambda job: -job.modify_index)
        shown, following = _page([f"{-job.modify_index}.{job.id}" for job in jobs], request)
        return self._json(
            request, [self.nomad.job_status(jobs[at]) for at in shown], following, self.nomad.index
        )

    async def _evaluations(self, request: web.Request) -> web.Response:
        self.asked["evaluations"] += 1
        found = [
            each for each in self.nomad.blocked.values() if request.query.get("status") == each["Status"]
        ]
        return self._json(request, found, "", self.nomad.tables.evaluations)

    async def _closed_nodes(self, request: web.Request) -> web.Response:
        self.asked["nodes"] += 1
        assert "ineligible" in request.query["filter"], "no other nodes were recorded"
        return self._json(request, [], "", self.nomad.index)

    async def _volumes(self, request: web.Request) -> web.Response:
        self.asked["volumes"] += 1
        found = sorted(self.nomad.volumes(), key=lambda each: str(each["ID"]))
        shown, following = _page([each["ID"] for each in found], request)
        return self._json(request, [found[at] for at in shown], following, self.nomad.index)

    async def _pointers(self, request: web.Request) -> web.Response:
        self.asked["variables"] += 1
        found = sorted(self.nomad.pointers(), key=lambda each: str(each["Path"]))
        shown, following = _page([f"opencode.{each['Path']}" for each in found], request)
        return self._json(request, [found[at] for at in shown], following, self.nomad.index)

    # --- single things

    async def _job(self, request: web.Request) -> web.Response:
        self.asked["job"] += 1
        job = self.nomad.jobs.get(request.match_info["id"])
        if job is None:
            return self._missing(request, "job not found")
        return self._json(request, self.nomad.job(job), "", max(job.modify_index, job.job_modify_index))

    async def _allocations_of(self, request: web.Request) -> web.Response:
        self.asked["allocations of a job"] += 1
        found = self.nomad.allocations_of(request.match_info["id"])
        index = max((each.modify_index for each in found), default=self.nomad.tables.allocations)
        return self._json(request, [self.nomad.allocation_of_job(each) for each in found], "", index)

    async def _evaluations_of(self, request: web.Request) -> web.Response:
        self.asked["evaluations of a job"] += 1
        found = self.nomad.evaluations_of(request.match_info["id"])
        return self._json(request, found, "", self.nomad.tables.evaluations)

    async def _allocation(self, request: web.Request) -> web.Response:
        self.asked["allocation"] += 1
        allocation = self.nomad.allocations.get(request.match_info["id"])
        if allocation is None:
            return self._missing(request, "alloc not found")
        return self._json(request, self.nomad.allocation(allocation), "", allocation.modify_index)

    async def _volume(self, request: web.Request) -> web.Response:
        self.asked["volume"] += 1
        volume = self.nomad.volume(request.match_info["id"])
        if volume is None:
            return self._missing(request, "volume not found")
        return self._json(request, volume, "", self.nomad.index)

    async def _variable(self, request: web.Request) -> web.Response:
        self.asked["variable"] += 1
        path = request.match_info["path"]
        found = self.nomad.variables.get(path)
        if found is None:
            return self._missing(request, "variable not found")
        return self._json(
            request, {**recording()["mark"]["body"], **found, "Path": path}, "", self.nomad.index
        )

    async def _put_variable(self, request: web.Request) -> web.Response:
        self.written["variable"] += 1
        path = request.match_info["path"]
        self.nomad.index += 1
        self.nomad.variables[path] = {
            "Items": (await request.json())["Items"],
            "ModifyIndex": self.nomad.index,
        }
        return self._json(request, {**recording()["mark"]["body"], **self.nomad.variables[path]}, "", 0)

    async def _deregister(self, request: web.Request) -> web.Response:
        self.written["deregister"] += 1
        index = self.nomad.deregister(
            request.match_info["id"], purge=request.query.get("purge", "").lower() == "true"
        )
        answer = {"EvalCreateIndex": index, "EvalID": "", "Index": index, "JobModifyIndex": index}
        return self._json(request, answer, "", index)

    async def _leader(self, request: web.Request) -> web.Response:
        return self._json(request, recording()["leader"]["body"], "", 0)

    async def _own_token(self, request: web.Request) -> web.Response:
        token = {"AccessorID": allocation_id_of("token"), "Name": "service", "Type": "client", "Policies": []}
        return self._json(request, token, "", 0)

    async def _statistics(self, request: web.Request) -> web.Response:
        self.asked["statistics"] += 1
        if request.match_info["id"] not in self.nomad.allocations:
            return self._missing(request, "alloc not found")
        return self._json(request, {"ResourceUsage": {"MemoryStats": {"RSS": 350 * 2**20}}}, "", 0)

    async def _refuse(self, request: web.Request) -> web.Response:
        self.written[f"{request.method} {request.path}"] += 1
        return web.Response(status=501, text="what was recorded has no answer to this")

    # --- the stream

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Open with an empty line, as Nomad does once it has looked at the token, and send one when nothing happens."""
        self.asked["event stream"] += 1
        if self.refuses_streams:
            return web.Response(status=500, text="rpc error: No cluster leader")
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"{}\n")
        follower = Follower(lines.put_nowait, int(request.query.get("index", "0")))
        self.nomad.follow(follower)
        self._streams.add(lines)
        try:
            while (line := await _next(lines)) is not None:
                await response.write(line)
        finally:
            self.nomad.leave(follower)
            self._streams.discard(lines)
        return response

    # --- answers

    def _keep(self, key: tuple[object, ...], stubs: Sequence[bytes], following: str) -> None:
        """Keep a page packed: a page of a table that does not change is packed once for all who read it."""
        if len(self._packed) > 64:
            self._packed.clear()
        self._packed[key] = (gzip.compress(b"[" + b",".join(stubs) + b"]", _GZIP_LEVEL), following)

    def _json(self, request: web.Request, body: Any, following: str, index: int) -> web.Response:
        packed = gzip.compress(json.dumps(body, separators=(",", ":")).encode(), _GZIP_LEVEL)
        return self._answer(request, packed, following, index=index)

    @staticmethod
    def _answer(request: web.Request, packed: bytes, following: str, *, index: int) -> web.Response:
        headers = {
            "X-Nomad-Index": str(index),
            "X-Nomad-KnownLeader": "true",
            "X-Nomad-LastContact": "0",
            "Content-Type": "application/json",
        }
        if following:
            headers["X-Nomad-NextToken"] = following
        if "gzip" not in request.headers.get("Accept-Encoding", ""):
            return web.Response(body=gzip.decompress(packed), headers=headers)
        return web.Response(body=packed, headers={**headers, "Content-Encoding": "gzip"})

    @staticmethod
    def _missing(request: web.Request, words: str) -> web.Response:
        del request
        return web.Response(status=404, text=words)


async def _next(lines: "asyncio.Queue[bytes | None]") -> bytes | None:
    try:
        async with asyncio.timeout(HEARTBEAT_SECONDS):
            return await lines.get()
    except TimeoutError:
        return b"{}\n"


def _page(tokens: Sequence[str], request: web.Request) -> tuple[range, str]:
    """Return which of those in order of *tokens* are on the page, and the token of the first after it."""
    size = int(request.query.get("per_page") or _DEFAULT_PAGE)
    token = request.query.get("next_token")
    begin = bisect_left(tokens, _order(token), key=_order) if token is not None else 0
    end = min(begin + size, len(tokens))
    return range(begin, end), tokens[end] if end < len(tokens) else ""


def _order(token: str) -> tuple[int, str]:
    """Order tokens as Nomad does: those of allocations begin with a number."""
    head, _, rest = token.partition(".")
    return (int(head), rest) if head.removeprefix("-").isdigit() else (0, token)
