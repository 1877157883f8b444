"""Commands that ask for a change and watch it happen: ensure, start, stop, recreate, recover, rotate-password, delete."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from opencode_lifecycle.cli.client import Answer, Client, JsonObject
from opencode_lifecycle.cli.connection import Session, calls_service, ended_badly
from opencode_lifecycle.cli.data_option import data_body, data_option
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.following import (
    ShowProgress,
    follow_operation,
    follow_stack,
    is_finished,
    is_ready,
    progress,
)
from opencode_lifecycle.cli.output import Screen, state
from opencode_lifecycle.cli.parameters import DurationType, PairType, mapping, user_argument
from opencode_lifecycle.cli.stack_tables import show_readiness, show_receipt
from opencode_lifecycle.model.deadline import Deadline
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.operation import OperationState

ACCEPTED: Final = 202
"""HTTP's word for: done later."""


def wait_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --wait."""
    return click.option(
        "--wait",
        type=DurationType(),
        default=default,
        show_default=True,
        help="How long to watch; 0s returns as soon as the request is accepted.",
    )


@click.command()
@user_argument
@click.option("--group", metavar="NAME")
@click.option("--resources", metavar="CLASS", help="Resource class, such as small.")
@click.option("--label", "labels", type=PairType(), multiple=True, help="The labels it has; replaces all.")
@click.option("--no-label", is_flag=True, help="Take all labels away.")
@click.option(
    "--env", "environment", type=PairType(), multiple=True, help="Variables; replaces all. No secrets."
)
@click.option("--no-env", is_flag=True, help="Take all variables away.")
@wait_option("60s")
@calls_service("ensure")
async def ensure(
    session: Session,
    *,
    user_id: UserId,
    group: str | None,
    resources: str | None,
    labels: tuple[tuple[str, str], ...],
    no_label: bool,
    environment: tuple[tuple[str, str], ...],
    no_env: bool,
    wait: int,
) -> None:
    """
    Make USER's runtime run as asked, and wait until its address is proven.

    Safe to repeat. What is not given stays as it is.
    """
    asked = {
        "group": group,
        "resources": resources,
        "labels": mapping("label", labels, none=no_label),
        "environment": mapping("env", environment, none=no_env),
    }
    answer = await session.client.ensure(user_id, {k: v for k, v in asked.items() if v is not None})
    stack, operation = answer.body, None
    if answer.status == ACCEPTED and wait:
        with _watching(session.screen, user_id, answer) as show:
            stack, operation = await _until_ready(
                session.client, answer, deadline=Deadline.after(wait, "ensure"), show=show
            )
    if session.screen.as_json:
        session.screen.document(stack)
    else:
        show_readiness(session.screen, stack)
    if answer.status == ACCEPTED and wait:
        _judge_ensure(user_id, stack, operation, wait)
    elif answer.status == ACCEPTED:
        session.screen.note(
            f"accepted: {answer.operation_id or 'nothing new; it cannot be seen at the moment'}"
        )


async def _until_ready(
    client: Client, answer: Answer, *, deadline: Deadline, show: ShowProgress
) -> tuple[JsonObject, JsonObject | None]:
    """
    Return the stack as it came out, and the operation that was followed to get there.

    Another request may supersede ours; then the stack is what tells. So it does when the service accepted nothing new
    and only cannot see the runtime at the moment.
    """
    operation = None
    if answer.operation_id is not None:
        operation = await client.operation(answer.operation_id)
        operation = await follow_operation(client, operation, deadline=deadline, show=show)
    stack = await client.stack(str(answer.body["user_id"]))
    if operation is None or operation.get("state") == OperationState.SUPERSEDED:
        stack = await follow_stack(client, stack, deadline=deadline, show=show)
    return stack, operation


def _judge_ensure(user_id: UserId, stack: JsonObject, operation: JsonObject | None, wait: int) -> None:
    outcome = operation.get("state") if operation is not None else None
    if operation is not None and outcome == OperationState.FAILED:
        raise ended_badly("ensure", user_id, ExitCode.FAILED, operation, "it could not be started")
    if outcome != OperationState.SUCCEEDED and not is_ready(stack):
        raise ended_badly("ensure", user_id, ExitCode.NOT_IN_TIME, stack, f"not ready within {wait} s")


@click.command()
@user_argument
@wait_option("60s")
@calls_service("start")
async def start(session: Session, user_id: UserId, wait: int) -> None:
    """Start USER's stopped runtime."""
    await carry_out(session, "start", user_id, await session.client.command(user_id, "start"), wait)


@click.command()
@user_argument
@click.option(
    "--hold", is_flag=True, help="Keep it stopped: ensure is refused until start or recover. Operators."
)
@wait_option("60s")
@calls_service("stop")
async def stop(session: Session, *, user_id: UserId, hold: bool, wait: int) -> None:
    """Stop USER's runtime; its workspace stays."""
    query = [("hold", "true")] if hold else []
    await carry_out(session, "stop", user_id, await session.client.command(user_id, "stop", query), wait)


@click.command()
@user_argument
@wait_option("120s")
@calls_service("recreate")
async def recreate(session: Session, user_id: UserId, wait: int) -> None:
    """Replace USER's runtime by a fresh one with the same workspace."""
    await carry_out(session, "recreate", user_id, await session.client.command(user_id, "recreate"), wait)


@click.command()
@user_argument
@data_option
@wait_option("60s")
@calls_service("recover")
async def recover(session: Session, *, user_id: UserId, data: str, yes: bool, wait: int) -> None:
    """
    Clear what keeps USER's stack failed or held, then start it.

    With --data restore it is moved to the older version that it is wanted to be, as soon as its agent is idle. Operators.
    """
    body = data_body(data, user_id, yes=yes)
    answer = await session.client.command(user_id, "recover", body=body)
    await carry_out(session, "recover", user_id, answer, wait)


@click.command("rotate-password")
@user_argument
@wait_option("120s")
@calls_service("rotate-password")
async def rotate_password(session: Session, user_id: UserId, wait: int) -> None:
    """Give USER's runtime a new password; the old one is refused afterwards. Shows neither."""
    answer = await session.client.command(user_id, "rotate-password")
    await carry_out(session, "rotate-password", user_id, answer, wait)


@click.command()
@user_argument
@click.option(
    "--workspace",
    type=click.Choice(["keep", "delete"]),
    default="keep",
    show_default=True,
    help="Whether the volume waits for the next stack of USER, or goes with all its data.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@wait_option("120s")
@calls_service("delete")
async def delete(session: Session, *, user_id: UserId, workspace: str, yes: bool, wait: int) -> None:
    """Tear USER's stack down and show the receipt of what is gone."""
    if not yes:
        _ask_before_deletion(user_id, workspace)
    answer = await session.client.delete(user_id, workspace)
    await carry_out(session, "delete", user_id, answer, wait)


def _ask_before_deletion(user_id: UserId, workspace: str) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("delete asks before it acts; where nobody can answer, add --yes")
    fate = "DELETE its workspace with all data" if workspace == "delete" else "keep its workspace"
    click.confirm(f"Tear down the stack of {user_id} and {fate}?", abort=True, err=True)


async def carry_out(session: Session, verb: str, user_id: UserId, answer: Answer, wait: int) -> None:
    """Watch the operation that was accepted, show how it ended, and fail as it did."""
    operation = answer.body
    if wait and not is_finished(operation):
        with _watching(session.screen, user_id, answer) as show:
            operation = await follow_operation(
                session.client, operation, deadline=Deadline.after(wait, verb), show=show
            )
    if session.screen.as_json:
        session.screen.document(operation)
    else:
        _tell_outcome(session.screen, verb, operation)
    outcome = operation.get("state")
    if outcome == OperationState.FAILED:
        raise ended_badly(verb, user_id, ExitCode.FAILED, operation, "it did not succeed")
    if outcome == OperationState.SUPERSEDED:
        raise ended_badly(verb, user_id, ExitCode.FAILED, operation, "a later request took its place")
    if wait and not is_finished(operation):
        raise ended_badly(verb, user_id, ExitCode.NOT_IN_TIME, operation, f"not finished within {wait} s")


def _tell_outcome(screen: Screen, verb: str, operation: JsonObject) -> None:
    screen.facts(
        [
            (verb, state(operation.get("state"))),
            ("user", operation.get("user_id")),
            ("operation", operation.get("id")),
        ]
    )
    show_receipt(screen, operation)


@contextmanager
def _watching(screen: Screen, user_id: UserId, answer: Answer) -> Iterator[ShowProgress]:
    """Show progress; who interrupts the watching is told that the request goes on."""
    try:
        with progress(screen, user_id) as show:
            yield show
    except asyncio.CancelledError:
        operation_id = answer.operation_id or answer.body.get("last_operation") or answer.body.get("id")
        screen.note(f"The request stays accepted. See: opencode-lifecycle operation {operation_id}")
        raise
