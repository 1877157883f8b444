"""
The service's HTTP API with scripted answers, on a real socket in a thread of its own.

What it answers has the exact shapes of the contract (a test holds them against the service's own schemas). It refuses
whoever lacks the token, and remembers what it was asked.
"""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

TOKEN = "olt_planted-service-token-5c1d"
PUBLIC = {"/readyz", "/openapi.json"}
SINCE = "2026-01-02T03:04:05Z"
JOB = "oc-ada-abcdefghijklmnopqrst"


@dataclass(frozen=True, kw_only=True)
class Asked:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, kw_only=True)
class Scripted:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    after: float = 0.0


class LifecycleService:
    """Answers each call with the next of its scripted answers; the last one stays."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self._script: dict[tuple[str, str], list[Scripted]] = defaultdict(list)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="lifecycle service")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the scripted service did not start"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stopped is not None
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)

    def answers(self, call: str, body: Any = None, *, status: int = 200, **headers: str) -> None:
        """Add an answer to *call*, such as `GET /v1/stacks/ada`, its path as it is on the wire, without query."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._next(call).append(Scripted(status=status, body=body, headers=named))

    def now_answers(self, call: str, body: Any) -> None:
        """Answer *call* with *body* from now on, whatever was said before."""
        self._next(call)[:] = [Scripted(body=body)]

    def is_slow(self, call: str, seconds: float, body: Any) -> None:
        """Answer *call* so late."""
        self._next(call).append(Scripted(body=body, after=seconds))

    def refuses(self, call: str, status: int, code: str, detail: str = "", **more: Any) -> None:
        """Answer *call* with a problem document from now on."""
        self._next(call).append(Scripted(status=status, body=problem(status, code, detail, **more)))

    def cuts(self, call: str) -> None:
        """Drop the connection of *call* after reading it."""
        self._next(call).append(Scripted(cut=True))

    def was_asked(self, method: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.method == method]

    def _next(self, call: str) -> list[Scripted]:
        method, _, path = call.partition(" ")
        return self._script[method, path]

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            self._started.set()
            await self._stopped.wait()
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        text = await request.text()
        self.asked.append(
            Asked(
                method=request.method,
                path=path,
                query=dict(request.query),
                headers=dict(request.headers),
                body=json.loads(text) if text else None,
            )
        )
        if path not in PUBLIC and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _response(Scripted(status=401, body=problem(401, "unauthenticated", "A token is needed.")))
        script = self._script[request.method, path]
        if not script:
            return _response(Scripted(status=404, body=problem(404, "not-found", "No such call.")))
        scripted = script.pop(0) if len(script) > 1 else script[0]
        await asyncio.sleep(scripted.after)
        if scripted.cut:
            assert request.transport is not None
            request.transport.abort()
        return _response(scripted)


def _response(scripted: Scripted) -> web.Response:
    headers = dict(scripted.headers)
    if isinstance(scripted.body, bytes):
        return web.Response(status=scripted.status, body=scripted.body, headers=headers)
    if scripted.body is None:
        return web.Response(status=scripted.status, headers=headers)
    kind = (
        "application/problem+json"
        if scripted.status >= 400 and "code" in scripted.body
        else "application/json"
    )
    body = json.dumps(scripted.body)
    return web.Response(status=scripted.status, text=body, content_type=kind, headers=headers)


def problem(status: int, code: str, detail: str = "", **more: Any) -> dict[str, Any]:
    return {
        "type": f"https://opencode-lifecycle.example/problems/{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail or f"It is {code}.",
        "instance": "urn:uuid:00000000-0000-4000-8000-000000000000",
        "code": code,
        **more,
    }


def stack(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    """Return a stack that runs and is current, except for *changes*."""
    return {
        "user_id": user_id,
        "job_id": JOB,
        "namespace": "opencode",
        "region": "global",
        "group": "default",
        "labels": {"team": "search"},
        "resources": "small",
        "generation": 3,
        "observed_generation": 3,
        "desired": "running",
        "phase": "running",
        "health": "healthy",
        "migration_state": "current",
        "reason": None,
        "message": "",
        "release": "rel_1",
        "wanted_release": "rel_2",
        "pinned": False,
        "runtime": runtime(),
        "staleness": [],
        "migration": None,
        "observed_at": SINCE,
        "last_operation": "op_1",
        "created_at": SINCE,
        "updated_at": SINCE,
        **changes,
    }


def runtime(**changes: Any) -> dict[str, Any]:
    return {
        "job_version": 7,
        "allocation_id": "11111111-2222-3333-4444-555555555555",
        "node": "node-a",
        "image": "registry.example/opencode@sha256:feed",
        "opencode_version": "1.18.34",
        "labels": {"team": "search"},
        "revision": "feedfacefeedface",
        "restarts": 1,
        "started_at": SINCE,
        "addresses": {"internal": "http://10.0.0.7:21000", "public": None},
        **changes,
    }


def waiting_stack(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    """Return a stack that was accepted and does not run yet."""
    return stack(
        user_id,
        **{"phase": "pending", "health": "unknown", "runtime": None, "observed_generation": 2, **changes},
    )


def migration(state: str, **changes: Any) -> dict[str, Any]:
    """Return what is shown of a migration in *state* that nobody ordered, except for *changes*."""
    return {
        "state": state,
        "class": "restart",
        "order": None,
        "since": None,
        "busy_until": None,
        "refused": None,
        "footing_release": None,
        "node": None,
        **changes,
    }


def order(**changes: Any) -> dict[str, Any]:
    return {"id": "ro_1", "deadline": None, "at_deadline": "skip", **changes}


def staleness(**changes: Any) -> dict[str, Any]:
    return {"facet": "image", "have": "v1", "want": "v2", "severity": "warning", "restart": True, **changes}


def operation(state: str = "succeeded", **changes: Any) -> dict[str, Any]:
    finished = state in {"succeeded", "failed", "superseded"}
    return {
        "id": "op_1",
        "kind": "ensure",
        "user_id": "ada",
        "state": state,
        "phases": [],
        "reason": None,
        "message": "",
        "receipt": None,
        "created_at": SINCE,
        "finished_at": SINCE if finished else None,
        **changes,
    }


def phases(*names: str) -> list[dict[str, str]]:
    return [{"phase": name, "at": f"2026-01-02T03:04:0{second}Z"} for second, name in enumerate(names)]


def address(**changes: Any) -> dict[str, Any]:
    return {
        "url": "http://10.0.0.7:21000",
        "host": "10.0.0.7",
        "port": 21000,
        "audience": "internal",
        "allocation_id": "11111111-2222-3333-4444-555555555555",
        "generation": 3,
        "proven_at": SINCE,
        **changes,
    }


def event(**changes: Any) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "user_id": "ada",
        "kind": "stack.ensured",
        "actor": "backend-1",
        "at": SINCE,
        "generation": 3,
        "data": {"resources": "small"},
        **changes,
    }


def token(**changes: Any) -> dict[str, Any]:
    return {
        "id": "tok_1",
        "name": "backend-1",
        "role": "backend",
        "subject": None,
        "created_at": SINCE,
        "created_by": "root",
        "revoked_at": None,
        **changes,
    }


RELEASE = "rel_01JABCDEFGHJKMNPQRSTVWXYZ0"
NEXT_RELEASE = "rel_01JABCDEFGHJKMNPQRSTVWXYZ1"
ROLLOUT = "ro_01JABCDEFGHJKMNPQRSTVWXYZ0"
PLAN = "plan_01JABCDEFGHJKMNPQRSTVWXYZ0"


def specification(**changes: Any) -> dict[str, Any]:
    """Return the specification of a rollout to the next release at the default pace, except for *changes*."""
    return {
        "release": NEXT_RELEASE,
        "selector": {
            "all_stale": False, "reasons": [], "releases": [], "labels": {}, "groups": [], "users": [],
        },
        "strategy": {
            "canary": "1",
            "waves": ["10%"],
            "max_in_flight": 10,
            "max_unavailable": None,
            "soak": "30s",
            "gate": {"failure_budget": "5%", "health": True, "prompt": None},
            "deadline": "1h",
            "at_deadline": "skip",
        },
        "rotate_passwords": False,
        "recreate": False,
        **changes,
    }  # fmt: skip


def planned_stack(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "generation": 3,
        "revision": "feedfacefeedface",
        "release": RELEASE,
        "why": [staleness()],
        "class": "restart",
        "busy": "idle",
        "placement": "possible",
        "wave": 1,
        "left_out": None,
        "message": "",
        **changes,
    }


def plan(*stacks: Any, **changes: Any) -> dict[str, Any]:
    """Return a plan of *stacks*, whose totals are theirs, except for *changes*."""
    moved = [each for each in stacks if each["left_out"] is None]
    return {
        "id": PLAN,
        "specification": specification(),
        "target_before": RELEASE,
        "changes_target": bool(moved),
        "has_changes": bool(moved),
        "waves": 1,
        "totals": {
            "stacks": len(stacks),
            "to_move": len(moved),
            "left_out": len(stacks) - len(moved),
            **{
                each: sum(stack["class"] == each for stack in moved) for each in ("live", "reload", "restart")
            },
            "busy": sum(
                stack["busy"] != "idle" and stack["class"] in {"reload", "restart"} for stack in moved
            ),
            "not_placeable": sum(stack["placement"] == "refused" for stack in moved),
        },
        "stacks": list(stacks),
        "created_by": "operator",
        "created_at": SINCE,
        "lapses_at": SINCE,
        **changes,
    }


def rollout(state: str = "running", **changes: Any) -> dict[str, Any]:
    """Return a rollout that moves its first wave after the canary, except for *changes*."""
    return {
        "id": ROLLOUT,
        "state": state,
        "reason": None,
        "message": "",
        "release": NEXT_RELEASE,
        "target_before": RELEASE,
        "promoted_at": SINCE,
        "goes_back": False,
        "rollback_data": "keep",
        "wave": 1,
        "waves": 2,
        "soaks_until": None,
        "counts": {"migrated": 3, "ordered": 2, "waiting": 5},
        "specification": specification(),
        "created_by": "operator",
        "created_at": SINCE,
        "updated_at": SINCE,
        "finished_at": None,
        **changes,
    }


def rollout_detail(state: str = "running", *members: Any, **changes: Any) -> dict[str, Any]:
    return {
        **rollout(state),
        "wave_counts": [
            {"wave": 0, "counts": {"migrated": 1}},
            {"wave": 1, "counts": {"migrated": 2, "ordered": 2}},
            {"wave": 2, "counts": {"waiting": 5}},
        ],
        "members": items(*members),
        **changes,
    }


def member(user_id: str = "ada", **changes: Any) -> dict[str, Any]:
    return {
        "user_id": user_id,
        "wave": 1,
        "state": "ordered",
        "reason": None,
        "message": "",
        "class": "restart",
        "release_before": RELEASE,
        "goes_back": False,
        "ordered_at": SINCE,
        "deadline": "2026-01-02T04:04:05Z",
        "prompt": None,
        "changed_at": SINCE,
        **changes,
    }


def items(*found: Any, next_cursor: str | None = None) -> dict[str, Any]:
    return {"items": list(found), "next_cursor": next_cursor}


def readiness(*failing: str) -> dict[str, Any]:
    return {
        "status": "not ready" if failing else "ready",
        "dependencies": [
            {
                "name": name,
                "ok": name not in failing,
                "detail": "sealed" if name in failing else "",
                "age_seconds": 1.5,
            }
            for name in ("database", "nomad", "vault", "consul")
        ],
        "watches": [watch("nomad_listing"), watch("orphans")],
    }


def watch(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "ok": True, "age_seconds": 1.5, "limit_seconds": 30.0, **changes}


def condition(**changes: Any) -> dict[str, Any]:
    """Return a condition that stands and holds work back, except for *changes*."""
    return {
        "id": "cond_01JABCDEFGHJKMNPQRSTVWXYZ0",
        "kind": "mass_disappearance",
        "status": "standing",
        "freezes": True,
        "message": "7 of 9 stacks that should run are not in Nomad's listing.",
        "details": {"missing": 7},
        "since": SINCE,
        "confirmed_at": None,
        "confirmed_by": None,
        "cleared_at": None,
        **changes,
    }


def snapshot(**changes: Any) -> dict[str, Any]:
    return {
        "id": "01JABCDEFGHJKMNPQRSTVWXYZ0",
        "taken_at": SINCE,
        "opencode_version": "1.17.0",
        "before_version": "1.18.34",
        "migrations": {"count": 32, "last": "20260511173437_session-metadata"},
        "bytes": 3_670_016,
        "files": [{"path": "opencode.db", "bytes": 3_670_016, "sha256": "0" * 64}],
        "restored_at": None,
        **changes,
    }


def orphan(**changes: Any) -> dict[str, Any]:
    return {
        "id": "orp_0123456789abcdef01234567",
        "kind": "job",
        "job_id": JOB,
        "reference": JOB,
        "installation": "main",
        "user_id": "ada",
        "proven": True,
        "confirmations": 2,
        "first_seen_at": SINCE,
        "last_seen_at": SINCE,
        "details": {"stopped": False},
        **changes,
    }


def release(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a release in short, as lists have it."""
    return {
        "id": f"rel_01JABCDEFGHJKMNPQRSTVWXYZ{number - 1}",
        "number": number,
        "image": "registry.example/opencode@sha256:feed",
        "opencode_version": "1.18.34",
        "digests": {"template": "a" * 16, "prompt": "b" * 16, "config": "c" * 16},
        "note": "",
        "created_by": "settings",
        "created_at": SINCE,
        "is_current": number == 1,
        "stacks": 2,
        **changes,
    }


def whole_release(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a release with everything it is made of."""
    return {
        **release(number),
        "template": 'job "x" {}',
        "instructions": "Be kind.",
        "managed_config": "{}",
        "agent_prompts": {},
        "managed": "{}",
        "environment": {"TZ": "UTC"},
        "resource_classes": {"small": {"cpu": 200, "memory": 512, "memory_max": 2048}},
        **changes,
    }


def made_release(number: int = 2, **changes: Any) -> dict[str, Any]:
    checks = {"template": "accepted by Nomad", "config": "not checked: no OpenCode program"}
    return {**whole_release(number), "checks": checks, **changes}


def group(**changes: Any) -> dict[str, Any]:
    return {
        "group": "team-a",
        "pin": None,
        "idle_stop_after": "30m",
        "changed_at": SINCE,
        "changed_by": "operator",
        **changes,
    }
