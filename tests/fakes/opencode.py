"""OpenCode servers in memory, and a prober that looks at them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from fakes.faults import Faults, Hold
from opencode_lifecycle.model.clock import Clock, utc_now
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamDenied, UpstreamUnavailable
from opencode_lifecycle.model.identifiers import AllocationId
from opencode_lifecycle.model.proof import Proof, ProofResult
from opencode_lifecycle.model.stack import Address
from opencode_lifecycle.model.states import Reason
from opencode_lifecycle.ports.prober import (
    Activity,
    Liveness,
    PromptOutcome,
    PromptResult,
    ReadPassword,
    Reloaded,
    ReloadResult,
    Turn,
)
from opencode_lifecycle.ports.runtime_events import EventKind, RuntimeEvent

MOST_LOOKED_AT = 50
MOST_COUNTED = 10_000


@dataclass(slots=True, kw_only=True)
class FakeSession:
    """
    A session. `at_work` now, which includes waiting for its user; `was_cut`: its last turn never came to an end;
    `was_aborted`: it did, by being aborted.
    """

    id: str
    directory: str = "/workspace"
    title: str = ""
    changed_at: datetime
    at_work: bool = False
    was_cut: bool = False
    was_aborted: bool = False

    @property
    def turn(self) -> Turn:
        return Turn(session_id=self.id, directory=self.directory, began_at=self.changed_at)


@dataclass(slots=True, kw_only=True)
class FakeOpenCode:
    """
    One server. An empty `password` leaves it open, as it does the real one.

    `hangs`: takes the connection and says nothing. `is_something_else`: another program holds the port. A directory in
    `broken` has a configuration that it cannot load. `tried` are the passwords it was shown.

    `sessions` are its sessions. Where a test needs none in particular, `busy` says that one is at work and `changed_at` when
    any of them last changed.

    `bad_config`: the configuration it would read now is one that it cannot load; read once, it sticks (`broken` has None).
    `user_errors`: directories whose own files would break them when they are loaded anew. `reloads` counts how often it
    was told to read anew, and `on_reload` is called then. `prompts` are the synthetic ones it got, and `answers` what comes
    of the next one.
    """

    password: str
    version: str = "1.18.34"
    healthy: bool = True
    hangs: bool = False
    is_something_else: bool = False
    busy: bool = False
    changed_at: datetime | None = None
    broken: set[str | None] = field(default_factory=set)
    tried: list[str] = field(default_factory=list)
    sessions: list[FakeSession] = field(default_factory=list)
    bad_config: bool = False
    user_errors: set[str] = field(default_factory=set)
    reloads: int = 0
    on_reload: Callable[[], None] | None = None
    prompts: list[str] = field(default_factory=list)
    answers: PromptResult = field(default_factory=lambda: PromptResult(outcome=PromptOutcome.ANSWERED))

    listeners: list["asyncio.Queue[RuntimeEvent | None]"] = field(default_factory=list)
    """Of those who follow its events. Setting `busy` tells them nothing, as in a gap of the stream."""

    def begin_work(self) -> None:
        """Have a session at work, and tell of it."""
        self.busy = True
        self.tell(EventKind.WORKS)

    def end_work(self) -> None:
        """Have its session come to rest, and tell of it."""
        self.busy = False
        self.tell(EventKind.CHANGED)

    def tell(self, kind: EventKind, directory: str | None = "/workspace") -> None:
        for listener in self.listeners:
            listener.put_nowait(RuntimeEvent(kind=kind, directory=directory))

    def hang_up(self) -> None:
        """End every stream of events."""
        for listener in self.listeners:
            listener.put_nowait(None)

    def is_at_work(self) -> bool:
        return self.busy or any(session.at_work for session in self.sessions)

    def last_changed_at(self) -> datetime | None:
        known = [session.changed_at for session in self.sessions]
        return max([*known, self.changed_at] if self.changed_at is not None else known, default=None)

    def abort(self) -> Sequence[Turn]:
        """End what is at work, truly for the history."""
        ended = [session for session in self.sessions if session.at_work]
        for session in ended:
            session.at_work, session.was_aborted = False, True
        nameless = [Turn(session_id="ses_busy", directory="/workspace")] if self.busy and not ended else []
        self.busy = False
        return [*(session.turn for session in ended), *nameless]

    def cut_off(self, at: datetime) -> list[FakeSession]:
        """End as a process does that is killed, and return the sessions as the next one finds them in the workspace."""
        if self.busy and not any(session.at_work for session in self.sessions):
            self.sessions.append(FakeSession(id="ses_busy", changed_at=at, at_work=True))
        for session in self.sessions:
            session.was_cut = session.was_cut or session.at_work
            session.at_work = False
        self.busy = False
        return self.sessions

    def reload(self) -> None:
        """Read the configuration anew, which ends what is at work."""
        self.abort()
        self.reloads += 1
        if self.on_reload is not None:
            self.on_reload()
        if self.bad_config:
            self.broken.add(None)
        self.broken |= self.user_errors


class FakeProber:
    """A `RuntimeProber` over the servers that were put at addresses with `serve`."""

    def __init__(self, now: Clock = utc_now) -> None:
        self.faults = Faults()
        self.servers: dict[tuple[str, int], FakeOpenCode] = {}
        self._now = now

    # What a test may do to it

    def hold_next(self, method: str, *, after_commit: bool = False) -> Hold:
        """Let the next look (named as in the port) hang; when its deadline ends it, nothing has answered."""
        return self.faults.hold_next(method, after_commit=after_commit)

    def serve(self, address: Address, server: FakeOpenCode) -> FakeOpenCode:
        self.servers[address.host, address.port] = server
        return server

    def withdraw(self, address: Address) -> None:
        """Let nothing listen there. Nothing listening already is no error."""
        server = self.servers.pop((address.host, address.port), None)
        if server is not None:
            server.hang_up()

    # The port

    async def prove(
        self,
        *,
        address: Address,
        allocation_id: AllocationId,
        expected_version: str,
        directory: str | None,
        read_password: ReadPassword,
        deadline: Deadline,
    ) -> Proof:
        seen = await self._look("prove", address, deadline)
        if seen is None:
            password = await read_password()
            server = self.servers.get((address.host, address.port))
            seen = (
                _try_password(server, password.reveal(), expected_version, directory)
                if server is not None
                else (ProofResult.NOT_LISTENING, "", "nothing listens there")
            )
        result, version, detail = seen
        return Proof(
            result=result,
            address=address,
            allocation_id=allocation_id,
            version=version,
            detail=detail,
            reason=Reason.BAD_CONFIG if detail == CANNOT_LOAD else None,
            at=self._now(),
        )

    async def activity(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Activity | None:
        server = await self._log_in("activity", address, read_password, deadline)
        if not isinstance(server, FakeOpenCode):
            return None
        return Activity(busy=server.is_at_work(), changed_at=server.last_changed_at())

    async def liveness(self, address: Address, deadline: Deadline) -> Liveness:
        match await self._look("liveness", address, deadline):
            case None:
                return Liveness.ALIVE
            case (ProofResult.OPEN, _, _):
                return Liveness.OPEN
            case _:
                server = self.servers.get((address.host, address.port))
                if server is None:
                    return Liveness.SILENT
                return Liveness.HUNG if server.hangs or not server.is_something_else else Liveness.STRANGE

    async def reload(self, *, address: Address, read_password: ReadPassword, deadline: Deadline) -> Reloaded:
        server = await self._log_in("reload", address, read_password, deadline)
        if not isinstance(server, FakeOpenCode):
            return Reloaded(result=ReloadResult.NOT_ASKED, detail=server)
        if None in server.broken:
            return Reloaded(result=ReloadResult.BAD_CONFIG, detail="it could not load its configuration")
        server.reload()
        if None in server.broken:
            return Reloaded(result=ReloadResult.BAD_CONFIG, detail="it cannot load its configuration")
        directories = dict.fromkeys(session.directory for session in server.sessions)
        return Reloaded(
            result=ReloadResult.RELOADED, broken=[each for each in directories if each in server.broken]
        )

    async def abort_turns(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> Sequence[Turn] | None:
        server = await self._log_in("abort_turns", address, read_password, deadline)
        return server.abort() if isinstance(server, FakeOpenCode) else None

    async def interrupted_turns(
        self, *, address: Address, read_password: ReadPassword, since: datetime, deadline: Deadline
    ) -> Sequence[Turn] | None:
        server = await self._log_in("interrupted_turns", address, read_password, deadline)
        if not isinstance(server, FakeOpenCode):
            return None
        latest = sorted(server.sessions, key=lambda session: session.changed_at, reverse=True)
        return [
            session.turn
            for session in latest[:MOST_LOOKED_AT]
            if session.changed_at >= since and (session.was_cut or session.at_work)
        ]

    async def prompt(
        self, *, address: Address, read_password: ReadPassword, text: str, deadline: Deadline
    ) -> PromptResult:
        server = await self._log_in("prompt", address, read_password, deadline)
        if not isinstance(server, FakeOpenCode):
            return PromptResult(outcome=PromptOutcome.NOT_ASKED, detail=server)
        server.prompts.append(text)
        return server.answers

    async def session_count(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> int | None:
        server = await self._log_in("session_count", address, read_password, deadline)
        if not isinstance(server, FakeOpenCode) or len(server.sessions) > MOST_COUNTED:
            return None
        return len(server.sessions)

    async def follow(
        self, *, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> AsyncIterator[RuntimeEvent]:
        """Follow the events of a server, as the port `RuntimeEvents` says."""
        server = await self._log_in("follow", address, read_password, deadline)
        if not isinstance(server, FakeOpenCode):
            kind = UpstreamDenied if server.startswith("it refused") else UpstreamUnavailable
            raise kind("opencode", "follow", server)
        events: asyncio.Queue[RuntimeEvent | None] = asyncio.Queue()
        server.listeners.append(events)
        try:
            yield RuntimeEvent(kind=EventKind.OPENED)
            while (event := await events.get()) is not None:
                yield event
        finally:
            server.listeners.remove(events)
        raise UpstreamUnavailable("opencode", "follow", "the event stream ended")

    async def _log_in(
        self, method: str, address: Address, read_password: ReadPassword, deadline: Deadline
    ) -> "FakeOpenCode | str":
        """Return the server that took the password, or prose that says why none did."""
        seen = await self._look(method, address, deadline)
        if seen is not None:
            return seen[2]
        password = await read_password()
        server = self.servers.get((address.host, address.port))
        if server is None:
            return "nothing listens there"
        server.tried.append(password.reveal())
        return server if password.reveal() == server.password else "it refused the password of its job"

    async def _look(self, method: str, address: Address, deadline: Deadline) -> "_Seen | None":
        """Ask without credentials; None is a proper refusal."""
        try:
            async with self.faults.call(method, deadline):
                server = self.servers.get((address.host, address.port))
        except DeadlineExceeded:
            return ProofResult.NOT_READY, "", "it did not answer in time"
        if server is None:
            return ProofResult.NOT_LISTENING, "", "nothing listens there"
        if server.hangs:
            return ProofResult.NOT_READY, "", "it did not answer in time"
        if server.is_something_else:
            return ProofResult.NOT_READY, "", "it answered 200 text/html, which is not OpenCode's health"
        if not server.password:
            return ProofResult.OPEN, "", "it answered without credentials"
        return None


CANNOT_LOAD = "it cannot load its configuration"
_Seen = tuple[ProofResult, str, str]
"""A result, the version seen, and prose."""


def _try_password(server: FakeOpenCode, password: str, expected_version: str, directory: str | None) -> _Seen:
    server.tried.append(password)
    if password != server.password:
        return ProofResult.REFUSES_PASSWORD, "", "it refused the password of its job"
    if not server.healthy:
        return ProofResult.NOT_READY, server.version, "it says that it is not healthy"
    if server.version != expected_version:
        detail = f"it is version {server.version}, not {expected_version}"
        return ProofResult.WRONG_VERSION, server.version, detail
    if directory in server.broken:
        return ProofResult.NOT_READY, server.version, CANNOT_LOAD
    return ProofResult.PROVEN, server.version, ""
