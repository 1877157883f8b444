"""The command `opencode-lifecycle`: its groups and global options."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

import click

from opencode_lifecycle.cli import exit_codes
from opencode_lifecycle.cli.connection import connection_options

COMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "address": ("stacks", "address"),
    "cluster": ("cluster_commands", "cluster"),
    "conditions": ("oversight", "conditions"),
    "credentials": ("stacks", "credentials"),
    "database": ("serving", "database"),
    "delete": ("changes", "delete"),
    "doctor": ("diagnosis", "doctor"),
    "ensure": ("changes", "ensure"),
    "events": ("stacks", "events"),
    "explain": ("explain", "explain"),
    "group": ("releases", "group"),
    "list": ("stacks", "list_stacks"),
    "logs": ("stacks", "logs"),
    "openapi": ("diagnosis", "openapi"),
    "operation": ("stacks", "operation"),
    "orphans": ("oversight", "orphans"),
    "pin": ("releases", "pin"),
    "reconcile": ("oversight", "reconcile"),
    "recover": ("changes", "recover"),
    "recreate": ("changes", "recreate"),
    "release": ("releases", "release"),
    "rollout": ("rollouts", "rollout"),
    "rotate-password": ("changes", "rotate_password"),
    "serve": ("serving", "serve"),
    "show": ("stacks", "show"),
    "snapshots": ("snapshots", "snapshots"),
    "staleness": ("oversight", "staleness"),
    "start": ("changes", "start"),
    "stop": ("changes", "stop"),
    "token": ("tokens", "token"),
    "unpin": ("releases", "unpin"),
}
"""Each command's module and its name there."""


class CommandsOnDemand(click.Group):
    """
    Imports the module of a command when it is asked for.

    Settings, cluster and service take longer to import than most commands take to run.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"opencode_lifecycle.cli.{module}"), name)
        return command


@click.group(
    cls=CommandsOnDemand,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=exit_codes.table(),
)
@click.version_option(package_name="opencode-lifecycle", message="%(version)s")
@connection_options
def main() -> None:
    """
    One private OpenCode server per user, as a Nomad job.

    Commands speak to the service's HTTP API. Results go to stdout, everything else to stderr; with --json, stdout has
    the service's own JSON and nothing else. Only `credentials` shows a password.
    """
