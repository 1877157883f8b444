"""What of a stack can be asked without changing it: what it is, where it answers, how to get in, and what it said."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

from opencode_lifecycle.lifecycle.observing.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.requests.views import Views, is_seen_running
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    DeadlineExceeded,
    NoPublicAddress,
    OperationNotFound,
    RuntimeNotReady,
    StackNotFound,
    UpstreamError,
)
from opencode_lifecycle.model.identifiers import AllocationId, OperationId, UserId, new_event_id
from opencode_lifecycle.model.operation import Event, Operation
from opencode_lifecycle.model.principal import Principal
from opencode_lifecycle.model.stack import Runtime, Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.model.view import AddressView, Credentials, Page, StackView
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.prober import RuntimeProber
from opencode_lifecycle.ports.secrets import PasswordStore
from opencode_lifecycle.ports.stores import EventStore, OperationStore, StackQuery, StackStore

OPENCODE_USERNAME = "opencode"
RETRY_AFTER_SECONDS = 2
"""What a caller is told to wait for a runtime that is starting: about half of a start."""


class Inspection:
    """Answers from memory, and looks for itself where memory is too old to say."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        operations: OperationStore,
        events: EventStore,
        orchestrator: Orchestrator,
        passwords: PasswordStore,
        prober: RuntimeProber,
        fleet: Fleet,
        views: Views,
        load_releases: Callable[[Stack], Awaitable[None]],
        is_behind: Callable[[], bool],
        now: Clock,
        upstream_timeout: timedelta,
    ) -> None:
        self._stacks = stacks
        self._operations = operations
        self._events = events
        self._orchestrator = orchestrator
        self._passwords = passwords
        self._prober = prober
        self._fleet = fleet
        self._views = views
        self._load_releases = load_releases
        self.is_behind = is_behind
        self._now = now
        self._upstream_timeout = upstream_timeout.total_seconds()
        self.uncertain: set[UserId] = set()
        """Users about whom a write may have happened of which memory knows nothing."""
        self._looks: dict[UserId, asyncio.Task[None]] = {}

    async def inspect(self, user_id: UserId) -> StackView:
        """Return the stack as it should be and as it is seen."""
        return self._views.of(await self.known(user_id))

    async def find(self, query: StackQuery) -> Page[StackView]:
        page = await self._stacks.find(query)
        for stack in page.items:
            await self._load_releases(stack)
        views = [self._views.of(self._fleet.put(stack)) for stack in page.items]
        return Page(items=views, next_cursor=page.next_cursor)

    async def address(self, user_id: UserId, audience: str) -> AddressView:
        """Return the proven address, or raise `RuntimeNotReady` or `NoPublicAddress`."""
        stack, runtime = await self._ready_runtime(user_id)
        assert runtime.address is not None
        host, port, url = runtime.address.host, runtime.address.port, runtime.address.url
        if audience == "public":
            public = self._views.public_url(stack)
            if public is None:
                raise NoPublicAddress(user_id=user_id)
            scheme, _, rest = public.partition("://")
            host, _, given_port = rest.partition("/")[0].partition(":")
            port, url = int(given_port or (443 if scheme == "https" else 80)), public
        return AddressView(
            url=url,
            host=host,
            port=port,
            audience=audience,
            allocation_id=runtime.allocation_id,
            generation=stack.status.observed_generation,
            proven_at=runtime.proven_at,
        )

    async def credentials(self, user_id: UserId, *, by: Principal, wrap_seconds: int | None) -> Credentials:
        """Read the running allocation's password from Vault, after writing down who asked."""
        stack, runtime = await self._ready_runtime(user_id)
        deadline = Deadline.after(self._upstream_timeout, f"read the password of {stack.job_id}")
        event = Event(
            id=new_event_id(),
            user_id=user_id,
            kind="credentials.read",
            actor=by.name,
            at=self._now(),
            generation=stack.intent.generation,
            data={"secret_version": runtime.secret_version, "wrapped": wrap_seconds is not None},
        )
        await self._events.append([event])
        answer = Credentials(
            username=OPENCODE_USERNAME,
            secret_version=runtime.secret_version,
            allocation_id=runtime.allocation_id,
        )
        if wrap_seconds is not None:
            wrapped = await self._passwords.wrap(
                stack.job_id, runtime.secret_version, ttl_seconds=wrap_seconds, deadline=deadline
            )
            return replace(answer, wrapped=wrapped)
        return replace(
            answer, password=await self._passwords.read(stack.job_id, runtime.secret_version, deadline)
        )

    async def operation(self, operation_id: OperationId) -> Operation:
        found = await self._operations.get_operation(operation_id)
        if found is None:
            raise OperationNotFound(operation_id=operation_id)
        return found

    async def events(self, user_id: UserId | None, after: str | None, limit: int) -> Page[Event]:
        return await self._events.find_events(user_id=user_id, after=after, limit=limit)

    async def log(self, user_id: UserId, *, kind: str, tail: int, follow: bool) -> AsyncIterator[bytes]:
        """Yield the log of the newest allocation, or raise `RuntimeNotReady` when there never was one."""
        known = await self.known(user_id)
        stack = known.stack
        allocation_id: AllocationId | None = None
        if stack.status.runtime is not None:
            allocation_id = stack.status.runtime.allocation_id
        else:
            seen = self._fleet.latest(stack.job_id)
            allocation_id = seen.newest.id if seen is not None and seen.newest is not None else None
        if allocation_id is None:
            raise RuntimeNotReady(
                "The stack has no allocation to read a log of.", retry_after=RETRY_AFTER_SECONDS
            )
        deadline = Deadline.after(self._upstream_timeout, f"read the log of {stack.job_id}")
        lines = self._orchestrator.read_log(
            allocation_id, kind=kind, tail=tail, follow=follow, deadline=deadline
        )
        async for chunk in lines:
            yield chunk

    # --- parts

    async def known(self, user_id: UserId) -> Known:
        """
        Return the stack from memory, or from the database where memory may lag behind; else `StackNotFound`.

        While the database is away, what is remembered is better than nothing, unless a write of ours may be missing in it.
        """
        known = self._fleet.get(user_id)
        is_uncertain = user_id in self.uncertain
        if known is not None and not is_uncertain and not self.is_behind():
            return known
        try:
            stack = await self._stacks.get(user_id)
            if stack is not None:
                await self._load_releases(stack)
        except UpstreamError:
            if known is not None and not is_uncertain:
                return known
            raise
        self.uncertain.discard(user_id)
        if stack is None:
            self._fleet.remove(user_id)
            raise StackNotFound(user_id=user_id)
        return self._fleet.put(stack)

    async def _ready_runtime(self, user_id: UserId) -> tuple[Stack, Runtime]:
        await self.look_if_unseen(user_id)
        known = await self.known(user_id)
        stack, runtime = known.stack, known.stack.status.runtime
        seen = self._fleet.observation(stack.job_id)
        is_dead = runtime is not None and seen is not None and not is_seen_running(seen, runtime)
        if is_dead or (runtime is not None and not known.has_answered()):
            message = "The runtime does not answer at the moment."
            raise RuntimeNotReady(message, retry_after=RETRY_AFTER_SECONDS, user_id=user_id)
        if stack.status.phase is not Phase.RUNNING or runtime is None or runtime.address is None:
            phase = f"The stack is {stack.status.phase}"
            why = f": {stack.status.message}" if stack.status.message else "."
            raise RuntimeNotReady(phase + why, retry_after=RETRY_AFTER_SECONDS, user_id=user_id)
        return stack, runtime

    async def look_if_unseen(self, user_id: UserId) -> None:
        """
        See for ourselves when a stack that should run was seen too long ago, or never by this process, to say so.

        All who ask at the same time share one look.
        """
        known = self._fleet.get(user_id)
        if known is None or known.stack.status.phase is not Phase.RUNNING:
            return
        if self._fleet.observation(known.stack.job_id) is not None and known.has_answered():
            return
        look = self._looks.get(user_id)
        if look is None:
            look = asyncio.create_task(self._look(known.stack), name=f"look at {known.stack.job_id}")
            self._looks[user_id] = look
            look.add_done_callback(lambda _: self._looks.pop(user_id, None))
        await asyncio.shield(look)

    async def _look(self, stack: Stack) -> None:
        deadline = Deadline.after(min(2.0, self._upstream_timeout), f"look at {stack.job_id}")
        if self._fleet.observation(stack.job_id) is None:
            try:
                self._fleet.see(stack.job_id, await self._orchestrator.observe(stack.job_id, deadline))
            except (UpstreamError, DeadlineExceeded):
                return
        known, runtime = self._fleet.get(stack.user_id), stack.status.runtime
        if known is None or runtime is None or runtime.address is None or known.has_answered():
            return
        liveness = await self._prober.liveness(runtime.address, deadline)
        self._fleet.probed(stack.user_id, (runtime.allocation_id, runtime.restarts), liveness, steady=False)
