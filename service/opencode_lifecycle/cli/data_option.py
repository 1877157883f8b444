"""What becomes of data that an older version is not to be started on, and the question before it is given up."""

import sys
from collections.abc import Callable
from typing import Any

import click

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.model.migration import DataPolicy


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give *command* the options `data` and `yes`."""
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.option(
        "--data",
        type=click.Choice([each.value for each in DataPolicy]),
        default=DataPolicy.KEEP.value,
        show_default=True,
        help="Whether work that was done since OpenCode's data was migrated is kept, and with it the newer version, or set "
        "aside as a snapshot so that the older version gets its data back.",
    )(command)


def data_body(data: str, whose: str, *, yes: bool) -> JsonObject | None:
    """Return the body that says it; None where nothing is given up. What is given up is asked for first."""
    if data == DataPolicy.KEEP:
        return None
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("--data restore asks before it acts; where nobody can answer, add --yes")
        click.confirm(
            f"Sessions and messages that {whose} wrote since OpenCode's data was migrated will be there no more. They are "
            "set aside as a snapshot in the workspace, and nothing brings them back by itself. Go back all the same?",
            abort=True,
            err=True,
        )
    return {"data": data}
