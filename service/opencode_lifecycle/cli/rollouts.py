"""Commands on rollouts: plan, start, list, show, watch, pause, resume, abort, rollback."""

import asyncio
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import click

from opencode_lifecycle.cli.client import Client, JsonObject
from opencode_lifecycle.cli.connection import CommandFailed, Session, calls_service
from opencode_lifecycle.cli.data_option import data_body, data_option
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.output import Screen, counted
from opencode_lifecycle.cli.parameters import DurationType, choice
from opencode_lifecycle.cli.rollout_options import as_named, body_of, specification_options
from opencode_lifecycle.cli.rollout_tables import (
    show_members,
    show_plan,
    show_rollout,
    show_rollouts,
)
from opencode_lifecycle.cli.rollout_watching import (
    Lookout,
    follow_rollout,
    latest_rollout,
    progress_of_rollout,
)
from opencode_lifecycle.cli.rollout_words import count_of, is_over, outcome, waits_of
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.rollout import MemberState, RolloutState

_TELLING: Final = (
    MemberState.ORDERED,
    MemberState.FAILED,
    MemberState.HELD,
    MemberState.SKIPPED,
    MemberState.LEFT_OUT,
)
"""Of these each member is named unless others are asked for: those that moved and those that wait are many, and as they should be."""

_NONE: Final = "there is no rollout"


@click.group()
def rollout() -> None:
    """Bring stacks to what they should be, wave by wave, without cutting off an agent at work. Operators only."""


def problems_are_exit_code_2(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make every failure of *command* exit code 2, since 1 has another meaning there."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except CommandFailed as failure:
            raise CommandFailed(
                ExitCode.USAGE, failure.message, details=failure.details, advice=failure.advice
            ) from None

    return run


@rollout.command()
@specification_options
@problems_are_exit_code_2
@calls_service("rollout plan")
async def plan(session: Session, /, **asked: Any) -> None:
    """
    What a rollout would do with each stack, and why. Changes nothing.

    The plan can be applied as it is shown: whoever changed since is left out then. Exit code 0: nothing to do, 1: changes,
    2: a problem.
    """
    body = await as_named(session.client, body_of(asked))
    made = await session.client.plan_rollout(body)
    if session.screen.as_json:
        session.screen.document(made)
    else:
        show_plan(session.screen, made)
    if made.get("has_changes"):
        raise click.exceptions.Exit(ExitCode.FAILED)


@rollout.command()
@click.option("--plan", "plan_id", metavar="PLAN", help="Apply this plan, and nothing else.")
@click.option("--watch", "watching", is_flag=True, help="Watch it until it is over.")
@specification_options
@calls_service("rollout start")
async def start(session: Session, /, *, plan_id: str | None, watching: bool, **asked: Any) -> None:
    """
    Begin a rollout. Without any option every stale stack is put right, at the default pace.

    Only one runs at a time.
    """
    body = body_of(asked)
    if plan_id is not None and (body or asked["file"]):
        raise click.UsageError("--plan is applied as it was made; leave the other options out")
    if plan_id is not None:
        body = {"plan": plan_id}
    begun = await session.client.start_rollout(await as_named(session.client, body))
    rollout_id = str(begun.get("id"))
    if watching:
        session.screen.note(f"{rollout_id} has begun.")
        await _watch_until_over(session, rollout_id, Deadline.after(float("inf"), "rollout"))
        return
    _show_change(session.screen, begun)
    session.screen.note(f"Follow it: opencode-lifecycle rollout watch {rollout_id}")


@rollout.command("list")
@calls_service("rollout list")
async def list_rollouts(session: Session) -> None:
    """Rollouts, the newest first."""
    items = [item async for page in session.client.rollouts() for item in page["items"]]
    if session.screen.as_json:
        session.screen.document({"items": items, "next_cursor": None})
        return
    if items:
        show_rollouts(session.screen, items)
    session.screen.note(counted(len(items), "rollout"))


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@click.option("--state", type=choice(MemberState), help="Name the members in this state, and no others.")
@click.option("--members", is_flag=True, help="Name all members.")
@calls_service("rollout show")
async def show(session: Session, *, rollout_id: str | None, state: str | None, members: bool) -> None:
    """
    How a rollout stands: its waves in numbers, and by name whoever is in flight, failed, is held or was left out.

    Without ID: the one that runs, or the last one.
    """
    client = session.client
    found = await Lookout(client, rollout_id or await _latest(client)).look()
    wanted = [("state", state)] if state else []
    if state or members or session.screen.as_json:
        named = await client.members(str(found["id"]), wanted)
    else:
        named = [
            member
            for each in _TELLING
            if count_of(found.get("counts"), each)
            for member in await client.members(str(found["id"]), [("state", each.value)])
        ]
    if session.screen.as_json:
        found = {name: value for name, value in found.items() if name not in {"draining", "away"}}
        session.screen.document({**found, "members": {"items": named, "next_cursor": None}})
        return
    show_rollout(session.screen, found, waits=waits_of(found, now=datetime.now(UTC)))
    if named:
        session.screen.heading("Members")
        show_members(session.screen, named)


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@click.option("--wait", type=DurationType(), help="How long to watch; without it, until it is over.")
@calls_service("rollout watch")
async def watch(session: Session, *, rollout_id: str | None, wait: int | None) -> None:
    """
    Show the progress of a rollout until it is over: waves, who is in flight, done, failed or held, what it waits for.

    Without ID: the one that runs, or the last one. Exit code 0: it succeeded; 1: it failed, was aborted or taken back; 6:
    not over within --wait.
    """
    deadline = Deadline.after(float("inf") if wait is None else wait, "rollout")
    await _watch_until_over(session, rollout_id or await _latest(session.client), deadline)


def _steering(verb: str, text: str) -> None:
    """Make the command *verb*, explained by *text*."""

    async def change(session: Session, rollout_id: str | None) -> None:
        found = rollout_id or await _active(session.client, verb)
        _show_change(session.screen, await session.client.change_rollout(found, verb))

    change.__doc__ = f"{text}\n\nWithout ID: the one that runs."
    command = calls_service(f"rollout {verb}")(change)
    command = click.argument("rollout_id", metavar="[ID]", required=False)(command)
    rollout.command(verb)(command)


_steering("pause", "Move nobody else until it is resumed; whoever has begun to be moved finishes.")
_steering("resume", "Go on, letting pass what made it pause.")
_steering("abort", "Move nobody else, for good; whoever was moved stays as it is now.")


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@data_option
@calls_service("rollout rollback")
async def rollback(session: Session, *, rollout_id: str | None, data: str, yes: bool) -> None:
    """
    Bring back whoever was moved, and the fleet's target to what it was.

    OpenCode's data goes back with its version where nothing was written since. A stack whose user has worked on keeps the
    newer version, and its work, unless --data says otherwise. Without ID: the one that runs.
    """
    found = rollout_id or await _active(session.client, "rollback")
    body = data_body(data, "users", yes=yes)
    _show_change(session.screen, await session.client.change_rollout(found, "rollback", body))


async def _watch_until_over(session: Session, rollout_id: str, deadline: Deadline) -> None:
    screen, client = session.screen, session.client
    try:
        with progress_of_rollout(screen) as show_progress:
            found = await follow_rollout(client, rollout_id, deadline=deadline, show=show_progress)
    except asyncio.CancelledError:
        screen.note(f"The rollout goes on. See: opencode-lifecycle rollout show {rollout_id}")
        raise
    if screen.as_json:
        screen.document(await client.rollout(rollout_id))
    else:
        show_rollout(screen, found, waits=waits_of(found, now=datetime.now(UTC)))
    if not is_over(found):
        raise CommandFailed(ExitCode.NOT_IN_TIME, f"rollout watch: {rollout_id} is not over yet")
    if found.get("state") != RolloutState.SUCCEEDED:
        raise CommandFailed(
            ExitCode.FAILED,
            f"{rollout_id} {outcome(found)}",
            advice=f"see whom it concerns: opencode-lifecycle rollout show {rollout_id}",
        )


def _show_change(screen: Screen, found: JsonObject) -> None:
    if screen.as_json:
        screen.document(found)
    else:
        show_rollout(screen, found, waits=waits_of(found, now=datetime.now(UTC)))


async def _latest(client: Client) -> str:
    """Return the rollout that runs, or the last one that did."""
    latest = await latest_rollout(client)
    if latest is None:
        raise CommandFailed(ExitCode.NOT_FOUND, _NONE, advice="plan one: opencode-lifecycle rollout plan")
    return latest


async def _active(client: Client, verb: str) -> str:
    async for page in client.rollouts():
        for item in page["items"]:
            if not is_over(item):
                return str(item["id"])
    raise CommandFailed(
        ExitCode.NOT_FOUND,
        f"rollout {verb}: no rollout runs",
        advice="name one of `opencode-lifecycle rollout list`",
    )
