"""
The use cases behind the API. A write commits the intent with its event and then answers; the reconciler does the work.

An ensure that changes nothing is answered from memory, and what only asks by `Inspection`.
"""

import asyncio
from datetime import timedelta
from time import monotonic

from opencode_lifecycle.lifecycle.observing.fleet import Fleet
from opencode_lifecycle.lifecycle.orphans.adoption import Found, as_it_is
from opencode_lifecycle.lifecycle.reconciling.dispatcher import Dispatcher
from opencode_lifecycle.lifecycle.reconciling.wanted import Site
from opencode_lifecycle.lifecycle.releases import Releases
from opencode_lifecycle.lifecycle.requests.decisions import (
    adopt,
    delete,
    ensure,
    recreate,
    start,
    stop,
)
from opencode_lifecycle.lifecycle.requests.groups import Groups
from opencode_lifecycle.lifecycle.requests.inspection import Inspection
from opencode_lifecycle.lifecycle.requests.pinning import pin, unpin
from opencode_lifecycle.lifecycle.requests.request import Decide, Request
from opencode_lifecycle.lifecycle.requests.views import Views
from opencode_lifecycle.model.clock import Clock
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.errors import DeadlineExceeded, UpstreamError
from opencode_lifecycle.model.identifiers import OperationId, ReleaseId, TokenId, UserId
from opencode_lifecycle.model.migration import DataPolicy
from opencode_lifecycle.model.operation import Operation
from opencode_lifecycle.model.principal import Principal, Role
from opencode_lifecycle.model.stack import Intent, Stack
from opencode_lifecycle.model.states import Phase
from opencode_lifecycle.model.view import UNCHANGED, EnsureAnswer, EnsureRequest, StackView
from opencode_lifecycle.ports.stores import Decision, Situation, StackStore

HOT_SECONDS = 1.0
"""How long a ready stack is given out again without working out that it is ready."""


class Provisioning:
    """Everything a caller may ask for."""

    def __init__(
        self,
        *,
        stacks: StackStore,
        releases: Releases,
        groups: Groups,
        fleet: Fleet,
        views: Views,
        inspection: Inspection,
        dispatcher: Dispatcher,
        site: Site,
        now: Clock,
        namespace: str,
        region: str,
        default_resources: str,
        observation_max_age: timedelta,
    ) -> None:
        self._stacks = stacks
        self._releases = releases
        self._groups = groups
        self._fleet = fleet
        self._views = views
        self._inspection = inspection
        self._dispatcher = dispatcher
        self._site = site
        self._now = now
        self._namespace = namespace
        self._region = region
        self._default_resources = default_resources
        self._max_age = observation_max_age.total_seconds()
        self._ending = False
        self._uncertain = inspection.uncertain
        self._ensuring: dict[
            tuple[UserId, str, str, int | None], asyncio.Task[tuple[Situation, Decision]]
        ] = {}
        # Callers have one place to ask, for what changes nothing too.
        self.inspect = inspection.inspect
        self.find = inspection.find
        self.address = inspection.address
        self.credentials = inspection.credentials
        self.operation = inspection.operation
        self.events = inspection.events
        self.log = inspection.log

    # --- ensure

    def hot(self, user_id: UserId, request: EnsureRequest) -> StackView | None:
        """
        Return the stack when an ensure of it changes nothing and its runtime is proven, all from memory.

        Memory that another replica's writes may be missing in answers for nothing: the row is read then.
        """
        if self._inspection.is_behind():
            return None
        known = self._fleet.get(user_id)
        if known is None or user_id in self._uncertain or not _asks_nothing_new(known.stack, request):
            return None
        if known.view is not None and monotonic() < known.ready_until:
            return known.view
        if not self._views.is_ready(known):
            return None
        view = self._views.of(known)
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

        Repeating it changes nothing. With *wait*, the answer comes as soon as the runtime is ready, it failed or has to
        wait for its node, or that many seconds have passed.
        """
        await self._inspection.look_if_unseen(user_id)
        if if_match is None and (view := self.hot(user_id, request)) is not None:
            return EnsureAnswer(view=view, ready=True, operation=view.stack.intent.last_operation)
        operation = await self._decide_once(user_id, request, by=by, if_match=if_match)
        if wait:
            await self._wait(user_id, wait)
        known = await self._inspection.known(user_id)
        return EnsureAnswer(
            view=self._views.of(known),
            ready=self._views.is_ready(known) and (operation is None or bool(wait)),
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

    def stop_waiting(self) -> None:
        """Have every request that waits answer now with what there is: the service is about to end."""
        self._ending = True
        self._fleet.wake_all()

    async def _wait(self, user_id: UserId, seconds: float) -> None:
        deadline = Deadline.after(seconds, "wait for the runtime")
        while (left := deadline.left()) > 0 and not self._ending:
            known = self._fleet.get(user_id)
            if known is None or self._views.is_ready(known):
                return
            stack = known.stack
            if stack.status.phase is Phase.FAILED and stack.is_settled and stack.status.attempts > 0:
                return
            if stack.is_held_by_node and stack.is_settled:
                return
            await self._fleet.change_of(user_id, left)

    # --- writes

    async def start(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, start(self._request(user_id, by, if_match)))

    async def recover(
        self, user_id: UserId, *, by: Principal, if_match: int | None, data: DataPolicy = DataPolicy.KEEP
    ) -> Operation:
        request = self._request(user_id, by, if_match)
        return await self._write(user_id, start(request, recover=True, restore=data is DataPolicy.RESTORE))

    async def stop(self, user_id: UserId, *, by: Principal, hold: bool, if_match: int | None) -> Operation:
        return await self._write(user_id, stop(self._request(user_id, by, if_match), hold=hold))

    async def recreate(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, recreate(self._request(user_id, by, if_match)))

    async def rotate_password(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, recreate(self._request(user_id, by, if_match), rotate=True))

    async def pin(
        self, user_id: UserId, release_id: ReleaseId, *, by: Principal, if_match: int | None
    ) -> Operation:
        """Hold the stack on that release, or raise `ReleaseNotFound`."""
        await self._releases.find(release_id)
        return await self._write(user_id, pin(self._request(user_id, by, if_match), release_id))

    async def unpin(self, user_id: UserId, *, by: Principal, if_match: int | None) -> Operation:
        return await self._write(user_id, unpin(self._request(user_id, by, if_match)))

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

    async def adopt(self, user_id: UserId, found: Found, by: str) -> None:
        """Make the row of a stack that has none, as it was found, in the name of *by*."""
        principal = Principal(token_id=TokenId("-"), name=by, role=Role.OPERATOR)
        request = self._request(user_id, principal, None)

        def take_over(stack: Stack) -> tuple[Intent, list[str]]:
            known = self._releases.peek(stack.intent.wanted_release)
            assert known is not None, "targets are in memory"
            return as_it_is(stack, found, known[0], self._site)

        await self._decide(user_id, adopt(request, running=found.runs, take_over=take_over))

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
            group_pins=self._groups.pins,
            default_resources=self._default_resources,
            check_resources=self._releases.check_resources,
        )


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
