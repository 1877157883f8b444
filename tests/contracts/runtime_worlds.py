"""A runtime in memory, one over HTTP and the real OpenCode, behind one face: how a test makes things happen in any."""

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import aiohttp

from contracts.orchestrator_worlds import until
from fakes.faults import Hold
from fakes.model_server import ModelServer
from fakes.opencode import FakeOpenCode, FakeProber, FakeSession
from hostile_server import HostileServer, Misbehaviour, Reply, SeenRequest, reply
from opencode_lifecycle.adapters.opencode.prober import OpenCodeProber
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.ports.prober import PromptOutcome, PromptResult, RuntimeProber, Turn
from opencode_session import client_of
from real_opencode import VERSION, RealOpenCode

PASSWORD = "planted-password-of-the-runtime"
PROMPT = "Say that you are there."


class History(Enum):
    """What the last turn of a session came to, as the session tells it."""

    NONE = "nothing was said"
    ANSWERED = "it was answered"
    ABORTED = "it was aborted"
    WITHOUT_END = "it says nothing of its end"


class Prompts(Enum):
    """What becomes of prompts."""

    ANSWERED = "answered"
    FAIL = "fail"
    HANG = "hang"


class World(Protocol):
    """One runtime, and the few things that tests do to it and not through the port."""

    prober: RuntimeProber
    address: Address
    password: str
    directory: str

    async def open_session(self) -> Turn: ...

    async def begin_turn(self) -> Turn:
        """Let an agent be in the middle of an answer."""
        ...

    async def wait_for_user(self) -> Turn:
        """Let an agent ask for a permission."""
        ...

    async def history_of(self, turn: Turn) -> History: ...

    async def sessions(self) -> set[str]: ...

    def answer(self, prompts: Prompts) -> None: ...

    def spoil_configuration(self) -> None:
        """Let the configuration that would be read next be one that cannot be loaded."""
        ...

    def spoil_project(self, directory: str) -> None:
        """The same for the file of a user's project."""
        ...

    async def kill_and_start(self) -> None: ...


class _OverState:
    """What the fake and the stub have in common: a `FakeOpenCode`."""

    def __init__(self) -> None:
        self.server = FakeOpenCode(password=PASSWORD, version=VERSION)
        self.password = PASSWORD
        self.directory = "/workspace"
        self._ids = itertools.count(1)

    async def open_session(self) -> Turn:
        return self._session().turn

    async def begin_turn(self) -> Turn:
        return self._session(at_work=True).turn

    async def wait_for_user(self) -> Turn:
        return self._session(at_work=True).turn

    async def history_of(self, turn: Turn) -> History:
        [session] = [each for each in self.server.sessions if each.id == turn.session_id]
        if session.was_aborted:
            return History.ABORTED
        return History.WITHOUT_END if session.at_work or session.was_cut else History.NONE

    async def sessions(self) -> set[str]:
        return {session.id for session in self.server.sessions}

    def answer(self, prompts: Prompts) -> None:
        outcome = {
            Prompts.ANSWERED: PromptOutcome.ANSWERED,
            Prompts.FAIL: PromptOutcome.FAILED,
            Prompts.HANG: PromptOutcome.TIMED_OUT,
        }
        self.server.answers = PromptResult(outcome=outcome[prompts])

    def spoil_configuration(self) -> None:
        self.server.bad_config = True

    def spoil_project(self, directory: str) -> None:
        self.server.user_errors.add(directory)

    def _session(self, **state: Any) -> FakeSession:
        session = FakeSession(
            id=f"ses_{next(self._ids)}",
            directory=f"{self.directory}/project",
            changed_at=datetime.now(UTC),
            **state,
        )
        self.server.sessions.append(session)
        return session


class InMemory(_OverState):
    def __init__(self) -> None:
        super().__init__()
        self.prober = FakeProber()
        self.address = Address(host="127.0.0.1", port=24001)
        self.prober.serve(self.address, self.server)

    async def kill_and_start(self) -> None:
        kept = self.server.cut_off(datetime.now(UTC))
        self.server = FakeOpenCode(password=PASSWORD, version=VERSION, sessions=kept)
        self.prober.serve(self.address, self.server)


class Stub(_OverState):
    """OpenCode as far as the prober sees it, over HTTP."""

    def __init__(self, http: HostileServer) -> None:
        super().__init__()
        self.prober = OpenCodeProber()
        self.http = http
        http.script = self._answer

    @property
    def address(self) -> Address:
        return Address(host="127.0.0.1", port=self.http.port)

    async def kill_and_start(self) -> None:
        kept = self.server.cut_off(datetime.now(UTC))
        self.server = FakeOpenCode(password=PASSWORD, version=VERSION, sessions=kept)

    def _answer(self, request: SeenRequest) -> Reply:
        server, url = self.server, urlsplit(request.path)
        page = reply(200, b"<!doctype html><title>OpenCode</title>", content_type="text/html")
        if server.hangs:
            return Misbehaviour.HANG
        if server.is_something_else:
            return page
        if server.password and not self._admits(request):
            return reply(401, WWW_Authenticate='Basic realm="Secure Area"', content_type="")
        [directory] = parse_qs(url.query).get("directory", [None])
        if directory in server.broken and not url.path.startswith("/global/"):
            return reply(400, {"name": "ConfigJsonError"})
        _, first, session_id, *rest = (*url.path.split("/"), "")
        if first == "session" and session_id.startswith("ses_"):
            return self._of_session(request, session_id, rest[0]) or page
        return self._of_server(request, url.path, directory) or page

    def _of_server(self, request: SeenRequest, path: str, directory: str | None) -> Reply | None:
        match request.method, path:
            case "GET", "/global/health":
                return reply(200, {"healthy": self.server.healthy, "version": self.server.version})
            case "GET", "/config":
                return reply(200, {"mode": {}})
            case "POST", "/global/dispose":
                self.server.reload()
                return reply(200, b"true")
            case "GET", "/experimental/session":
                return reply(200, [_listed(session) for session in self.server.sessions])
            case "POST", "/session":
                return reply(200, _listed(self._session(title=json.loads(request.body)["title"])))
            case "GET", "/session/status":
                return self._status(directory)
            case "GET", "/pty":
                return reply(200, [])
        return None

    def _of_session(self, request: SeenRequest, session_id: str, what: str) -> Reply | None:
        [session] = [each for each in self.server.sessions if each.id == session_id]
        match request.method, what:
            case "DELETE", "":
                self.server.sessions.remove(session)
                return reply(200, b"true")
            case "POST", "abort":
                session.was_aborted = session.was_aborted or session.at_work
                session.at_work = False
                return reply(200, b"true")
            case "POST", "message":
                return self._say(json.loads(request.body)["parts"][0]["text"])
            case "GET", "message":
                return reply(200, [_message(session)])
        return None

    def _status(self, directory: str | None) -> Reply:
        at_work = [each for each in self.server.sessions if each.at_work and each.directory == directory]
        return reply(200, {each.id: {"type": "busy"} for each in at_work})

    def _say(self, text: str) -> Reply:
        self.server.prompts.append(text)
        now = datetime.now(UTC).timestamp() * 1000
        info = {"role": "assistant", "time": {"created": now, "completed": now}}
        match self.server.answers.outcome:
            case PromptOutcome.TIMED_OUT:
                return Misbehaviour.HANG
            case PromptOutcome.FAILED:
                return reply(200, {"info": info | {"error": {"name": "APIError"}}, "parts": []})
        return reply(200, {"info": info, "parts": [{"type": "text", "text": f"You said: {text}"}]})

    def _admits(self, request: SeenRequest) -> bool:
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind != "Basic":
            return False
        username, _, password = base64.b64decode(text).decode().partition(":")
        self.server.tried.append(password)
        return (username, password) == ("opencode", self.server.password)


def _listed(session: FakeSession) -> dict[str, object]:
    updated = round(session.changed_at.timestamp() * 1000)
    return {
        "id": session.id,
        "directory": session.directory,
        "title": session.title,
        "time": {"created": 1, "updated": updated},
    }


def _message(session: FakeSession) -> dict[str, object]:
    began = round(session.changed_at.timestamp() * 1000)
    ended = {} if session.at_work or session.was_cut else {"completed": began + 1}
    error = {"error": {"name": "MessageAbortedError"}} if session.was_aborted else {}
    return {"info": {"role": "assistant", "time": {"created": began, **ended}, **error}, "parts": []}


Start = Callable[[], AbstractContextManager[RealOpenCode]]


class Real:
    """
    The real OpenCode with a model on loopback.

    It may be shared, so that a test looks at its own sessions alone. With *start* it is this test's, and can be killed.
    """

    def __init__(self, running: RealOpenCode, model: ModelServer, *, start: Start | None = None) -> None:
        self.model = model
        self._running = running
        self._start = start
        self._servers = ExitStack()
        self._numbers = itertools.count()
        self._asking: list[asyncio.Task[None]] = []
        self._holds = list[Hold]()

    @property
    def prober(self) -> OpenCodeProber:
        return self._running.prober

    @property
    def address(self) -> Address:
        return self._running.address

    @property
    def password(self) -> str:
        return self._running.password

    @property
    def directory(self) -> str:
        return self._running.directory

    async def open_session(self, **settings: Any) -> Turn:
        project = Path(self.directory) / "project"
        project.mkdir(exist_ok=True)
        session = await self._call("POST", "/session", directory=str(project), body=settings)
        return Turn(session_id=session["id"], directory=str(project))

    async def begin_turn(self) -> Turn:
        turn = await self.open_session()
        question = f"Take your time, {next(self._numbers)} of {turn.session_id}."
        self._holds.append(self.model.hold(question))
        self._ask(turn, question)
        await self._until_busy(turn)
        await asyncio.wait_for(self._holds[-1].reached.wait(), 60)
        return turn

    async def wait_for_user(self) -> Turn:
        rule = {"permission": "bash", "pattern": "*", "action": "ask"}
        turn = await self.open_session(permission=[rule])
        question = f"Run something, {next(self._numbers)} of {turn.session_id}."
        self.model.call_tool(question, "bash", command="echo hello", description="Says hello")
        self._ask(turn, question)

        async def waits() -> bool:
            permissions = await self._call("GET", "/permission", directory=turn.directory)
            return turn.session_id in {each["sessionID"] for each in permissions}

        await until(waits, "it asks for a permission", 60)
        return turn

    async def history_of(self, turn: Turn) -> History:
        path = f"/session/{turn.session_id}/message"
        messages = await self._call("GET", path, directory=turn.directory)
        answers = [each["info"] for each in messages if each["info"]["role"] == "assistant"]
        if not answers:
            return History.NONE
        if "completed" not in answers[-1]["time"]:
            return History.WITHOUT_END
        error = answers[-1].get("error", {}).get("name")
        return History.ABORTED if error == "MessageAbortedError" else History.ANSWERED

    async def sessions(self) -> set[str]:
        return {each["id"] for each in await self._call("GET", "/experimental/session", limit="500")}

    def answer(self, prompts: Prompts) -> None:
        match prompts:
            case Prompts.ANSWERED:
                self.model.say("I am here.")
            case Prompts.FAIL:
                self.model.refuse(400)
            case Prompts.HANG:
                self._holds.append(self.model.hold(PROMPT))

    def spoil_configuration(self) -> None:
        (Path(self.directory).parent / "managed" / "opencode.json").write_text("{ not json")

    def spoil_project(self, directory: str) -> None:
        (Path(directory) / "opencode.json").write_text("{ not json")

    async def kill_and_start(self) -> None:
        assert self._start is not None, "this server is shared"
        self._servers.close()
        self._running = self._servers.enter_context(self._start())

    @classmethod
    @asynccontextmanager
    async def of_its_own(cls, start: Start, model: ModelServer) -> AsyncIterator["Real"]:
        with ExitStack() as servers:
            real = cls(servers.enter_context(start()), model, start=start)
            real._servers = servers
            async with real.clearing_up():
                yield real

    @asynccontextmanager
    async def clearing_up(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for hold in self._holds:
                hold.release()
            for asking in self._asking:
                asking.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)

    def _ask(self, turn: Turn, question: str) -> None:
        async def ask() -> None:
            # What comes of it is the history's to tell: the turn may be aborted, or its server killed.
            with suppress(aiohttp.ClientError):
                body = {"parts": [{"type": "text", "text": question}]}
                path = f"/session/{turn.session_id}/message"
                await self._call("POST", path, directory=turn.directory, body=body)

        self._asking.append(asyncio.create_task(ask()))

    async def _until_busy(self, turn: Turn) -> None:
        async def is_busy() -> bool:
            return turn.session_id in await self._call("GET", "/session/status", directory=turn.directory)

        await until(is_busy, "it is at work", 60)

    async def _call(self, method: str, path: str, *, body: object = None, **query: str) -> Any:
        async with (
            client_of(self.address.url, self.password) as client,
            client.request(method, path, params=query, json=body) as response,
        ):
            return await response.json()
