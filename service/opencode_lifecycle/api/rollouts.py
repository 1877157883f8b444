"""Calls on rollouts."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from opencode_lifecycle.api import cursors
from opencode_lifecycle.api import parameters as query
from opencode_lifecycle.api.bodies import BodyReader
from opencode_lifecycle.api.calls import arguments_of, principal_of
from opencode_lifecycle.api.conditional_requests import PLACE, Idempotency
from opencode_lifecycle.api.identifiers import is_rollout_id, rollout_id_of
from opencode_lifecycle.api.responses import respond
from opencode_lifecycle.api.rollout_use_cases import Rollouts
from opencode_lifecycle.api.routes import MEMBERS, ROLLOUTS
from opencode_lifecycle.api.schemas import (
    DataBody,
    MemberShape,
    NothingBody,
    RolloutBody,
    RolloutDetailShape,
    RolloutPlanShape,
    RolloutShape,
    StartRolloutBody,
)
from opencode_lifecycle.model.errors import InvalidRequest, InvalidUserId, PlanLapsed, PlanNotFound
from opencode_lifecycle.model.identifiers import PlanId, RolloutId, UserId, parse_user_id
from opencode_lifecycle.model.rollout import Rollout
from opencode_lifecycle.ports.stores import IdempotentAnswer

_FORGOTTEN = "The plan that was made with this key is too old and was forgotten; plan anew, with another key."
_MADE_UP = "The cursor is not one that this list gave out."


class RolloutHandlers:
    def __init__(self, *, rollouts: Rollouts, idempotency: Idempotency, bodies: BodyReader) -> None:
        self._rollouts = rollouts
        self._idempotency = idempotency
        self._bodies = bodies

    async def plan_rollout(self, request: web.Request) -> web.Response:
        """Repeated with its key it answers with the plan of then, for as long as that is kept: what is applied is one plan."""
        body = await self._bodies.read(request, RolloutBody)

        async def first() -> web.Response:
            plan = await self._rollouts.plan(body.to_domain(), by=principal_of(request))
            response = respond(await RolloutPlanShape.from_domain(plan))
            response[PLACE] = plan.id
            return response

        async def again(earlier: IdempotentAnswer) -> web.Response:
            try:
                plan = await self._rollouts.find_plan(PlanId(earlier.location or ""))
            except PlanNotFound:
                raise PlanLapsed(_FORGOTTEN, plan=earlier.location) from None
            return respond(await RolloutPlanShape.from_domain(plan))

        return await self._idempotency.once(request, first, again)

    async def start_rollout(self, request: web.Request) -> web.Response:
        body = await self._bodies.read(request, StartRolloutBody)
        plan_id = body.plan_id()

        async def first() -> web.Response:
            by = principal_of(request)
            if plan_id is not None:
                return _begun(await self._rollouts.apply(plan_id, by=by))
            return _begun(await self._rollouts.start(body.to_domain(), by=by))

        async def again(earlier: IdempotentAnswer) -> web.Response:
            rollout_id = (earlier.location or "").rpartition("/")[2]
            return _begun((await self._rollouts.get(RolloutId(rollout_id))).rollout)

        return await self._idempotency.once(request, first, again)

    async def list_rollouts(self, request: web.Request) -> web.Response:
        arguments = arguments_of(request)
        cursor = arguments[query.CURSOR]
        after = cursors.unseal("rollouts", None, cursor) if cursor is not None else None
        if after is not None and not is_rollout_id(after):
            raise InvalidRequest(_MADE_UP)
        page = await self._rollouts.find(
            after=RolloutId(after) if after is not None else None, limit=arguments[query.LIMIT]
        )
        return respond(
            ROLLOUTS.from_domain(
                page, RolloutShape.from_domain, lambda last: cursors.seal("rollouts", None, last)
            )
        )

    async def rollout(self, request: web.Request) -> web.Response:
        """Show it with one page of its members, those in one state or that of one user when that is asked for."""
        rollout_id, arguments = rollout_id_of(request), arguments_of(request)
        state, user = arguments[query.MEMBER_STATE], arguments[query.MEMBER]
        cursor, listed = arguments[query.CURSOR], [rollout_id, state, user]
        view = await self._rollouts.get(rollout_id)
        members = await self._rollouts.members(
            rollout_id,
            state=state,
            user=user,
            after=_after(listed, cursor),
            limit=arguments[query.LIMIT],
        )
        waits = view.rollout.specification.strategy.deadline
        page = MEMBERS.from_domain(
            members,
            lambda member: MemberShape.from_domain(member, waits),
            lambda last: cursors.seal("members", listed, last),
        )
        return respond(RolloutDetailShape.of(view, page))

    async def pause_rollout(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        return await self._change(
            request, lambda rollout_id: self._rollouts.pause(rollout_id, by=principal_of(request))
        )

    async def resume_rollout(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        return await self._change(
            request, lambda rollout_id: self._rollouts.resume(rollout_id, by=principal_of(request))
        )

    async def abort_rollout(self, request: web.Request) -> web.Response:
        await self._bodies.read(request, NothingBody)
        return await self._change(
            request, lambda rollout_id: self._rollouts.abort(rollout_id, by=principal_of(request))
        )

    async def rollback_rollout(self, request: web.Request) -> web.Response:
        body = await self._bodies.read(request, DataBody)
        return await self._change(
            request,
            lambda rollout_id: self._rollouts.rollback(rollout_id, by=principal_of(request), data=body.data),
        )

    async def _change(
        self, request: web.Request, act: Callable[[RolloutId], Awaitable[Rollout]]
    ) -> web.Response:
        """Do *act* once per Idempotency-Key; repeated, it answers with how the rollout stands now."""
        rollout_id = rollout_id_of(request)

        async def first() -> web.Response:
            return respond(RolloutShape.from_domain(await act(rollout_id)))

        async def again(_: IdempotentAnswer) -> web.Response:
            return respond(RolloutShape.from_domain((await self._rollouts.get(rollout_id)).rollout))

        return await self._idempotency.once(request, first, again)


def _begun(rollout: Rollout) -> web.Response:
    return respond(
        RolloutShape.from_domain(rollout), status=HTTPStatus.CREATED, location=f"/v1/rollouts/{rollout.id}"
    )


def _after(listed: object, cursor: str | None) -> UserId | None:
    if cursor is None:
        return None
    try:
        return parse_user_id(cursors.unseal("members", listed, cursor))
    except InvalidUserId:
        raise InvalidRequest(_MADE_UP) from None
