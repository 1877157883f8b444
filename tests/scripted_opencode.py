"""OpenCode over HTTP as a test scripts it: every answer sound, but for those that the test puts in their place."""

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, reply

PASSWORD = "planted-password-of-the-runtime"
BASIC = "Basic " + base64.b64encode(f"opencode:{PASSWORD}".encode()).decode()
REFUSAL = reply(401, WWW_Authenticate='Basic realm="Secure Area"', content_type="")
PAGE = reply(200, b"<!doctype html>", content_type="text/html")
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SESSIONS = "GET /experimental/session"

UNREADABLE: list[Reply] = [
    reply(400, {"name": "BadRequest"}),
    reply(404, {}),
    reply(500, {}),
    reply(201, []),
    reply(302, {}, Location="/"),
    PAGE,
    reply(200, b"[]", content_type="text/plain"),
    reply(200, b"["),
    reply(200, b"[" * 100_000),
    reply(200, b"\xff\xfe"),
    reply(200, b'"' + b"x" * 5_000_000 + b'"'),
    reply(200, None),
    reply(200, "busy"),
    reply(200, 0),
    reply(200, b"null"),
    Misbehaviour.RESET,
    Misbehaviour.CLOSE,
    Misbehaviour.CUT,
    Misbehaviour.GARBLE,
    Misbehaviour.ENDLESS,
]
"""What no list of sessions, no status, no message and no reply to an order is."""

Answer = Reply | Callable[[], Reply]


def session(
    name: str = "ses_1", directory: object = "/work", *, ago: timedelta = timedelta(hours=1), **more: object
) -> dict[str, object]:
    updated = round((NOW - ago).timestamp() * 1000)
    return {"id": name, "directory": directory, "time": {"created": 1, "updated": updated}, **more}


def message(role: str = "assistant", created: object = 1, **info: object) -> dict[str, Any]:
    """Make a message; with `completed=...` it has come to its end."""
    time = {"created": created} | ({"completed": info.pop("completed")} if "completed" in info else {})
    return {"info": {"role": role, "time": time, **info}, "parts": [{"type": "text", "text": "Hello."}]}


@dataclass
class ScriptedOpenCode:
    """
    The script of a `HostileServer`.

    `answers` are given for a method and path, as `POST /session`; those of `per_directory` for one in one directory (None:
    without any). What is callable is asked for its answer each time.
    """

    sessions: Iterable[object] = ()
    answers: dict[str, Answer] = field(default_factory=dict)
    per_directory: dict[tuple[str, str | None], Answer] = field(default_factory=dict)

    def __call__(self, request: SeenRequest) -> Reply:
        if request.headers.get("authorization") != BASIC:
            return REFUSAL
        url = urlsplit(request.path)
        [directory] = parse_qs(url.query).get("directory", [None])
        asked = f"{request.method} {url.path}"
        answer = self.per_directory.get((asked, directory), self.answers.get(asked, _sound(self, asked)))
        return answer() if callable(answer) else answer


def _sound(server: ScriptedOpenCode, asked: str) -> Reply:
    method, path = asked.split(" ", 1)
    known = {
        SESSIONS: list(server.sessions),
        "GET /session/status": {},
        "GET /pty": [],
        "GET /config": {},
        "POST /global/dispose": True,
        "POST /session": {"id": "ses_new"},
    }
    if asked in known:
        return reply(200, known[asked])
    if path.startswith("/session/") and path.endswith("/message"):
        done = message(completed=2)
        return reply(200, done if method == "POST" else [done])
    if path.startswith("/session/") and (path.endswith("/abort") or method == "DELETE"):
        return reply(200, b"true")
    return PAGE


def asked_of(server: HostileServer) -> list[str]:
    """Return what was asked with the password, in order, as `METHOD path?query`."""
    return [
        f"{request.method} {request.path}"
        for request in server.requests
        if "authorization" in request.headers
    ]
