"""The command `explain`: why one stack is as it is, what happens next, and what that waits for, on one screen."""

from collections import deque
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import click

from opencode_lifecycle.cli import explanation
from opencode_lifecycle.cli.client import CallFailed, JsonObject
from opencode_lifecycle.cli.connection import Session, calls_service
from opencode_lifecycle.cli.explanation import Known
from opencode_lifecycle.cli.neighbours_away import neighbours_away
from opencode_lifecycle.cli.output import Screen, ago, plain, state
from opencode_lifecycle.cli.parameters import user_argument
from opencode_lifecycle.cli.rollout_watching import latest_rollout
from opencode_lifecycle.cli.stack_tables import nomad_commands, show_events_of_one
from opencode_lifecycle.model.identifiers import UserId

Found = TypeVar("Found")

LAST_EVENTS: Final = 10

_NOT_FOR_ALL: Final = frozenset({403, 404})
"""Parts that the token may not see, or that were forgotten meanwhile, are left out."""


@click.command()
@user_argument
@calls_service("explain")
async def explain(session: Session, user_id: UserId) -> None:
    """
    Why USER's runtime is as it is, what happens next, and what that waits for.

    With --json: everything that was asked for it, and the sentences.
    """
    known = await _ask(session, user_id)
    rows = explanation.explain(known, now=datetime.now(UTC))
    if session.screen.as_json:
        session.screen.document(known.document(rows))
        return
    session.screen.facts(_once(rows))
    _show_operation(session.screen, known.operation)
    if known.events:
        session.screen.heading(f"Last {len(known.events)} events")
        show_events_of_one(session.screen, known.events)
    session.screen.heading("In Nomad's own words")
    for command in nomad_commands(known.stack):
        session.screen.line(command)


async def _ask(session: Session, user_id: UserId) -> Known:
    client = session.client
    stack = await client.stack(user_id)
    operation_id = stack.get("last_operation")
    return Known(
        stack=stack,
        operation=await _if_seen(client.operation(str(operation_id))) if operation_id else None,
        events=await _if_seen(_latest_events(session, user_id)) or (),
        conditions=await _if_seen(_conditions(session)) or (),
        rollout=await _if_seen(_rollout_of(session, user_id, stack)),
        next_look=await _if_seen(client.next_look(user_id)),
        away=await neighbours_away(client),
    )


async def _rollout_of(session: Session, user_id: UserId, stack: JsonObject) -> JsonObject | None:
    """Return the rollout by whose order the stack is migrated, else the latest if the stack is in it."""
    client, by_order = session.client, explanation.rollout_of(stack)
    latest = by_order or await latest_rollout(client)
    if latest is None:
        return None
    found = await client.rollout(latest, [("user", user_id)])
    return found if by_order or (found.get("members") or {}).get("items") else None


async def _latest_events(session: Session, user_id: UserId) -> list[JsonObject]:
    latest: deque[JsonObject] = deque(maxlen=LAST_EVENTS)
    async for page in session.client.events(user_id):
        latest.extend(page["items"])
    return list(latest)


async def _conditions(session: Session) -> list[JsonObject]:
    return [item async for page in session.client.conditions(standing=True) for item in page["items"]]


async def _if_seen(asked: Awaitable[Found]) -> Found | None:
    try:
        return await asked
    except CallFailed as failure:
        if failure.status in _NOT_FOR_ALL:
            return None
        raise


def _once(rows: Sequence[explanation.Row]) -> list[explanation.Row]:
    """Name what several rows in a row are about in the first of them alone."""
    return [
        ("" if number and rows[number - 1][0] == about else about, says)
        for number, (about, says) in enumerate(rows)
    ]


def _show_operation(screen: Screen, operation: JsonObject | None) -> None:
    if operation is None:
        return
    said = state(operation.get("state"))
    said.append(f", {ago(operation.get('finished_at') or operation.get('created_at'))}")
    if operation.get("message"):
        said.append(f": {plain(operation['message'])}")
    screen.heading("Last operation")
    screen.facts([(f"{operation.get('kind')} {operation.get('id')}", said)])
