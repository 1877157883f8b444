"""
The use cases behind the API. A write commits the intent with its event and then answers; the reconciler does the work.

Reads, and an ensure that changes nothing, are answered from memory.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from time import monotonic

from opencode_lifecycle.lifecycle.decisions import (
    Decide,
    Request,
    adopt,
    delete,
    ensure,
    recreate,
    start,
    stop,
)
from opencode_lifecycle.lifecycle.dispatcher import Dispatcher
from opencode_lifecycle.lifecycle.fleet import Fleet, Known
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.wanted import Site, wanted_facets
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import (
    BodyFault,
    DeadlineExceeded,
    InvalidBody,
    NoPublicAddress,
    OperationNotFound,
    RuntimeNotReady,
    StackNotFound,
    UpstreamError,
)
from opencode_lifecycle.model.identifiers import AllocationId, OperationId, TokenId, UserId, new_event_id
from opencode_lifecycle.model.observation import JobSeen, Observation
from opencode_lifecycle.model.operation import Event, Operation
from opencode_lifecycle.model.principal import Principal, Role
from opencode_lifecycle.model.stack import Runtime, Stack
from opencode_lifecycle.model.staleness import Staleness, staleness_of
from opencode_lifecycle.model.states import Desired, Health, Phase, Reason
from opencode_lifecycle.model.view import (
    UNCHANGED,
    AddressView,
    Credentials,
    EnsureAnswer,
    EnsureRequest,
    Page,
    StackView,
)
from opencode_lifecycle.ports.orchestrator import Orchestrator
from opencode_lifecycle.ports.prober import RuntimeProber
from opencode_lifecycle.ports.secrets import PasswordStore
from opencode_lifecycle.ports.stores import (
    Decision,
    EventStore,
    OperationStore,
    Situation,
    StackQuery,
    StackStore,
)

OPENCODE_USERNAME = "opencode"
HOT_SECONDS = 1.0
"""How long a ready stack is given out again without working out that it is ready."""
RETRY_AFTER_SECONDS = 2
"""What a caller is told to wait for a runtime that is starting: about half of a start."""


class Provisioning:
    """Everything a caller may ask for."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        operations: OperationStore,
        events: EventStore,
        releases: Releases,
        orchestrator: Orchestrator,
        passwords: PasswordStore,
        prober: RuntimeProber,
        fleet: Fleet,
        dispatcher: Dispatcher,
        site: Site,
        now: Clock,
        namespace: str,
        region: str,
        default_resources: str,
        public_url_template: str | None,
        upstream_timeout: timedelta,
        observation_max_age: timedelta,
    ) -> None:
        self._stacks = stacks
        self._operations = operations
        self._events = events
        self._releases = releases
        self._orchestrator = orchestrator
        self._passwords = passwords
        self._prober = prober
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._site = site
        self._now = now
        self._namespace = namespace
        self._region = region
        self._default_resources = default_resources
        self._public_url_template = public_url_template
        self._upstream_timeout = upstream_timeout.total_seconds()
        self._max_age = observation_max_age.total_seconds()
        self._ending = False
        self._uncertain: set[UserId] = set()
        """Users about whom a write may have happened of which memory knows nothing."""
        self._looks: dict[UserId, asyncio.Task[None]] = {}
        self._ensuring: dict[
            tuple[UserId, str, str, int | None], asyncio.Task[tuple[Situation, Decision]]
        ] = {}

    # --- ensure

    def hot(self, user_id: UserId, request: EnsureRequest) -> StackView | None:
        """Return the stack when an ensure of it changes nothing and its runtime is proven, all from memory."""
        known = self._fleet.get(user_id)
        if known is None or user_id in self._uncertain or not _asks_nothing_new(known.stack, request):
            return None
        if known.view is not None and monotonic() < known.ready_until:
            return known.view
        if not self._is_ready(known):
            return None
        view = self._view(known)
        # For a moment nothing needs to be worked out again: whatever happens to the stack ends it at once, and time
        # alone cannot make what was seen older than it may be.
        age = (self._now() - view.observed_at).total_seconds() if view.observed_at is not None else 0.0
        known.ready_until = monotonic() + min(HOT_SECONDS, self._max_age - age)
        return view

    async def ensure(
        self,
        user_id: UserId,
        request: EnsureRequest,
        *,
        by: Principal,
        wait: float | None,
        if_match: int | None,
    ) -> EnsureAnswer:
        """
        Have the user's runtime run as asked, and say whether it does.

        Repeating it changes nothing. With *wait*, the answer comes as soon as the runtime is ready, it failed, or that
        many seconds have passed.
        """
        self._check_resources(request)
        await self._look_if_unseen(user_id)
        if if_match is None and (view := self.hot(user_id, request)) is not None:
            return EnsureAnswer(view=view, ready=True, operation=view.stack.intent.last_operation)
        operation = await self._decide_once(user_id, request, by=by, if_match=if_match)
        if wait:
            await self._wait(user_id, wait)
        known = await self._known(user_id)
        return EnsureAnswer(
            view=self._view(known),
            ready=self._is_ready(known) and (operation is None or bool(wait)),
            operation=known.stack.intent.last_operation,
        )

    async def _decide_once(
        self, user_id: UserId, wish: EnsureRequest, *, by: Principal, if_match: int | None
    ) -> OperationId | None:
        """
        Write the decision, once for all who ask the same at the same time.

        The write runs in a task of its own: a caller that goes away takes nothing with it that others wait for.
        """
        key = (user_id, repr(wish), by.token_id, if_match)
        task = self._ensuring.get(key)
        if task is None:
            decide = ensure(self._request(user_id, by, if_match), wish)
            task = asyncio.create_task(self._decide(user_id, decide), name=f"ensure {user_id}")
            self._ensuring[key] = task
            task.add_done_callback(lambda _: self._ensuring.pop(key, None))
        _, decision = await asyncio.shield(task)
        return decision.operation.id if decision.operation is not None else None

    async def _look_if_unseen(self, user_id: UserId) -> None:
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

    def stop_waiting(self) -> None:
        """Have every request that waits answer now with what there is: the service is about to end."""
        self._ending = True
        self._fleet.wake_all()

    async def _wait(self, user_id: UserId, seconds: float) -> None:
        deadline = Deadline.after(seconds, "wait for the runtime")
        while (left := deadline.left()) > 0 and not self._ending:
            known = self._fleet.get(user_id)
            if known is None or self._is_ready(known):
                return
            stack = known.stack
            if stack.status.phase is Phase.FAILED and stack.is_settled and stack.status.attempts > 0:
                return
            await self._fleet.change_of(user_id, left)

    def _is_ready(self, known: Known) -> bool:
        stack = known.stack
        runtime = stack.status.runtime
        return (
            stack.intent.desired is Desired.RUNNING
            and stack.status.phase is Phase.RUNNING
            and stack.is_settled
            and runtime is not None
            and runtime.address is not None
            and known.has_answered()
            and stack.status.health in {Health.HEALTHY, Health.DEGRADED}
            and _is_seen_running(self._fleet.observation(stack.job_id), runtime)
        )

    def _check_resources(self, request: EnsureRequest) -> None:
        release = self._releases.current
        if request.resources is None or release is None or request.resources in release.resource_classes:
            return
        names = ", ".join(sorted(release.resource_classes))
        raise InvalidBody([BodyFault("/resources", f"no such resource class; there are {names}")])

    # --- reads

    async def inspect(self, user_id: UserId) -> StackView:
        """Return the stack as it should be and as it is seen."""
        return self._view(await self._known(user_id))

    async def find(self, query: StackQuery) -> Page[StackView]:
        page = await self._stacks.find(query)
        views = [self._view(self._fleet.put(stack)) for stack in page.items]
        return Page(items=views, next_cursor=page.next_cursor)

    async def address(self, user_id: UserId, audience: str) -> AddressView:
        """Return the proven address, or raise `RuntimeNotReady` or `NoPublicAddress`."""
        stack, runtime = await self._ready_runtime(user_id)
        assert runtime.address is not None
        host, port, url = runtime.address.host, runtime.address.port, runtime.address.url
        if audience == "public":
            public = self._public_url(stack)
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
        known = await self._known(user_id)
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

    # --- writes

    async def start(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, start(self._request(user_id, by, if_match)))

    async def recover(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, start(self._request(user_id, by, if_match), recover=True))

    async def stop(self, user_id: UserId, *, by: Principal, hold: bool, if_match: int | None) -> Operation:
        return await self._write(user_id, stop(self._request(user_id, by, if_match), hold=hold))

    async def recreate(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, recreate(self._request(user_id, by, if_match)))

    async def rotate_password(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, recreate(self._request(user_id, by, if_match), rotate=True))

    async def delete(
        self, user_id: UserId, *, by: Principal, delete_workspace: bool, if_match: int | None
    ) -> Operation:
        return await self._write(
            user_id, delete(self._request(user_id, by, if_match), delete_workspace=delete_workspace)
        )

    async def _write(self, user_id: UserId, decide: Decide) -> Operation:
        situation, decision = await self._decide(user_id, decide)
        operation = decision.operation or situation.last_operation
        assert operation is not None, "a decision without an operation repeats one that is at work"
        return operation

    async def _decide(self, user_id: UserId, decide: Decide) -> tuple[Situation, Decision]:
        """
        Write the decision.

        1. A deletion is written; the reply is lost, and its caller is told that it failed.
        2. The next ensure must not be answered from a memory in which the stack still runs.
        """
        try:
            situation, decision = await self._stacks.decide(user_id, decide)
        except (UpstreamError, DeadlineExceeded):
            self._uncertain.add(user_id)
            raise
        self._uncertain.discard(user_id)
        stack = decision.stack or situation.stack
        if stack is not None:
            self._fleet.put(stack)
            if decision.wake:
                self._dispatcher.hint(stack.user_id)
        return situation, decision

    async def adopt(self, user_id: UserId, running: bool, by: str) -> None:  # noqa: FBT001 - the sweep names it
        """Make the row of a stack that has none, in the name of *by*."""
        principal = Principal(token_id=TokenId("-"), name=by, role=Role.OPERATOR)
        await self._decide(user_id, adopt(self._request(user_id, principal, None), running=running))

    # --- parts

    def _request(self, user_id: UserId, by: Principal, if_match: int | None) -> Request:
        release = self._releases.current
        assert release is not None, "the first release is made before requests are taken"
        return Request(
            user_id=user_id,
            by=by,
            now=self._now(),
            if_match=if_match,
            installation=self._site.installation,
            namespace=self._namespace,
            region=self._region,
            current_release=release.id,
            default_resources=self._default_resources,
        )

    async def _known(self, user_id: UserId) -> Known:
        known = self._fleet.get(user_id)
        if known is not None and user_id not in self._uncertain:
            return known
        stack = await self._stacks.get(user_id)
        self._uncertain.discard(user_id)
        if stack is None:
            self._fleet.remove(user_id)
            raise StackNotFound(user_id=user_id)
        return self._fleet.put(stack)

    async def _ready_runtime(self, user_id: UserId) -> tuple[Stack, Runtime]:
        await self._look_if_unseen(user_id)
        known = await self._known(user_id)
        stack, runtime = known.stack, known.stack.status.runtime
        seen = self._fleet.observation(stack.job_id)
        is_dead = runtime is not None and seen is not None and not _is_seen_running(seen, runtime)
        if is_dead or (runtime is not None and not known.has_answered()):
            message = "The runtime does not answer at the moment."
            raise RuntimeNotReady(message, retry_after=RETRY_AFTER_SECONDS, user_id=user_id)
        if stack.status.phase is not Phase.RUNNING or runtime is None or runtime.address is None:
            phase = f"The stack is {stack.status.phase}"
            why = f": {stack.status.message}" if stack.status.message else "."
            raise RuntimeNotReady(phase + why, retry_after=RETRY_AFTER_SECONDS, user_id=user_id)
        return stack, runtime

    def _view(self, known: Known) -> StackView:
        stack = known.stack
        seen_at = self._fleet.last_seen_at(stack.job_id)
        is_unseen = stack.status.phase is Phase.RUNNING and self._fleet.observation(stack.job_id) is None
        if known.view is not None and known.view.observed_at == seen_at and not is_unseen:
            return known.view
        if is_unseen:
            message = "it cannot be seen at the moment; this is what was known last"
            unseen = replace(stack.status, health=Health.UNKNOWN, reason=Reason.UNKNOWN, message=message)
            stack = replace(stack, status=unseen)
        elif self._is_seen_gone(stack):
            # The row follows as soon as it is written down; what is seen is shown before.
            message = "its allocation ended or restarted"
            gone = replace(stack.status, health=Health.UNKNOWN, reason=Reason.LOST, message=message)
            stack = replace(stack, status=gone)
        known.view = StackView(
            stack=stack,
            staleness=self._staleness(stack),
            observed_at=seen_at,
            public_url=self._public_url(stack),
        )
        return known.view

    def _is_seen_gone(self, stack: Stack) -> bool:
        runtime, seen = stack.status.runtime, self._fleet.observation(stack.job_id)
        if stack.status.phase is not Phase.RUNNING or runtime is None or seen is None:
            return False
        return not _is_seen_running(seen, runtime)

    def _staleness(self, stack: Stack) -> tuple[Staleness, ...]:
        found = self._releases.peek(stack.intent.wanted_release)
        if found is None:
            return ()
        want = wanted_facets(stack, found[0], self._site, secret_version=stack.status.secret_version or 0)
        return staleness_of(stack.status, want, desired=stack.intent.desired)

    def _public_url(self, stack: Stack) -> str | None:
        template = self._public_url_template
        return template.replace("{job_id}", stack.job_id) if template is not None else None


def _asks_nothing_new(stack: Stack, request: EnsureRequest) -> bool:
    if request is UNCHANGED:
        return True
    intent = stack.intent
    return (
        (request.group is None or request.group == intent.group)
        and (request.resources is None or request.resources == intent.resources)
        and (request.labels is None or request.labels == intent.labels)
        and (request.environment is None or request.environment == intent.environment)
    )


def _is_seen_running(seen: Observation | None, runtime: Runtime) -> bool:
    """Whether the very run of the allocation that was proven is what Nomad shows now."""
    if seen is None or not isinstance(seen.job, JobSeen) or seen.job.stopped:
        return False
    return any(
        allocation.id == runtime.allocation_id
        and allocation.restarts == runtime.restarts
        and not allocation.client_status.is_terminal
        for allocation in seen.allocations
    )
