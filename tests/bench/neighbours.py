"""
Vault, Consul and all runtimes on loopback, as far as a fleet at rest asks them.

Vault is served by threads of Python's own server: lists are asked of it with a method that aiohttp's does not know.
"""

import asyncio
import json
import threading
from collections import Counter
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from aiohttp import web

from bench.recording import recording
from bench.replay import NODE, Allocation, ReplayedNomad

VERSION: Final = "1.18.34"
_LONGEST_WAIT: Final = 300


class Neighbours:
    """`consul` and `runtimes` are applications. Every runtime has an address of its own in 127.0.0.0/8."""

    def __init__(self, nomad: ReplayedNomad, asked: Counter[str], written: Counter[str]) -> None:
        self._nomad = nomad
        self._asked = asked
        self._written = written
        self._recorded = recording()
        self.consul = web.Application()
        self.consul.add_routes(
            [
                web.get("/v1/status/leader", self._leader),
                web.get("/v1/acl/token/self", self._consul_token),
                web.get("/v1/catalog/nodes", self._nodes),
                web.get(f"/v1/catalog/node-services/{NODE}", self._services),
                web.get("/v1/health/service/{id}", self._instances),
                web.get("/v1/health/state/critical", self._critical),
                web.post("/v1/internal/acl/authorize", self._authorize),
                web.route("*", "/{path:.*}", self._refuse),
            ]
        )
        self.runtimes = runtime()

    async def _refuse(self, request: web.Request) -> web.Response:
        self._written[f"{request.method} {request.path}"] += 1
        return web.Response(status=501)

    # --- Consul

    async def _leader(self, request: web.Request) -> web.Response:
        return web.json_response("127.0.0.1:8300")

    async def _consul_token(self, request: web.Request) -> web.Response:
        return web.json_response({"AccessorID": "00000000-0000-0000-0000-000000000001"})

    async def _authorize(self, request: web.Request) -> web.Response:
        return web.json_response([{**each, "Allow": True} for each in await request.json()])

    async def _nodes(self, request: web.Request) -> web.Response:
        self._asked["catalogue"] += 1
        return web.json_response(self._recorded["consul nodes"])

    async def _services(self, request: web.Request) -> web.Response:
        self._asked["catalogue"] += 1
        services = [
            self._service(allocation)
            for allocation in self._nomad.allocations.values()
            if allocation.state in {"running", "restarted"}
        ]
        return web.json_response({"Node": self._recorded["consul services"]["Node"], "Services": services})

    def _service(self, allocation: Allocation) -> dict[str, Any]:
        recorded = self._recorded["consul health"][0]["Service"]
        job_id = allocation.job_id
        return {
            **recorded,
            "ID": f"_nomad-task-{allocation.id}-server-{job_id}-http",
            "Service": job_id,
            "Address": allocation.host,
            "Port": allocation.port,
            "TaggedAddresses": {},
        }

    async def _instances(self, request: web.Request) -> web.Response:
        self._asked["instances"] += 1
        job_id = request.match_info["id"]
        found = self._nomad.allocations_of(job_id)
        node = self._recorded["consul health"][0]["Node"]
        entries = [
            {"Node": node, "Service": self._service(each), "Checks": [{"Status": "passing"}]}
            for each in found
            if each.state in {"running", "restarted"}
        ]
        return web.json_response(entries)

    async def _critical(self, request: web.Request) -> web.StreamResponse:
        """Answer at once the first time; a repeated question waits, as nothing ever changes."""
        self._asked["critical checks"] += 1
        if "index" in request.query:
            await asyncio.sleep(_LONGEST_WAIT)
        return web.json_response([], headers={"X-Consul-Index": "42"})


def runtime() -> web.Application:
    """Return what answers as a healthy OpenCode does, to whoever has any password."""
    app = web.Application()
    app.add_routes([web.get("/global/health", _health), web.get("/config", _configuration)])
    return app


async def _health(request: web.Request) -> web.Response:
    if not _is_local(request):
        return web.Response(status=403)
    if "Authorization" not in request.headers:
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="Secure Area"'})
    body = json.dumps({"healthy": True, "version": VERSION})
    return web.Response(text=body, content_type="application/json")


async def _configuration(request: web.Request) -> web.Response:
    return web.Response(text="{}", content_type="application/json")


class Vault(ThreadingHTTPServer):
    """Begin it with `start`. It ends with the process."""

    daemon_threads = True

    def __init__(self, nomad: ReplayedNomad, asked: Counter[str], written: Counter[str]) -> None:
        super().__init__(("127.0.0.1", 0), _VaultHandler)
        self.nomad = nomad
        self.asked = asked
        self.written = written

    def start(self) -> int:
        """Serve in threads, and return the port."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return int(self.server_address[1])


class _VaultHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Vault

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        kind, _, job_id = path.removeprefix("/v1/kv/").partition("/opencode/")
        job = self.server.nomad.jobs.get(job_id)
        if path == "/v1/auth/token/lookup-self":
            self._answer(200, {"data": {"renewable": False, "creation_ttl": 0, "ttl": 0}})
        elif kind not in {"metadata", "data"} or job is None:
            self._answer(404, {"errors": []})
        elif kind == "data":
            self.server.asked["secret"] += 1
            data = {"data": {"password": "of-a-bench-runtime", "env": {}}, "metadata": {"version": 1}}
            self._answer(200, {"data": data})
        else:
            self.server.asked["secret metadata"] += 1
            answer = deepcopy(recording()["vault metadata"])
            owner = {"installation": job.meta["installation"], "user_id": job.meta["user"]}
            answer["data"]["custom_metadata"] = owner
            self._answer(200, answer)

    def do_LIST(self) -> None:
        self.server.asked["secrets"] += 1
        self._answer(200, {"data": {"keys": sorted(self.server.nomad.jobs)}})

    def do_POST(self) -> None:
        self.server.written[f"{self.command} {self.path}"] += 1
        self._answer(501, {"errors": []})

    def do_PATCH(self) -> None:
        self.do_POST()

    def do_PUT(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def _answer(self, status: int, body: object) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _is_local(request: web.Request) -> bool:
    """Whether it came by one of the loopback addresses: their socket has to listen on all that there are."""
    transport = request.transport
    return transport is not None and str(transport.get_extra_info("sockname")[0]).startswith("127.")
