"""The command `opencode-lifecycle`: its groups and global options."""

import click

from opencode_lifecycle.cli import changes, diagnosis, exit_codes, serving, stacks, tokens
from opencode_lifecycle.cli.cluster_commands import cluster
from opencode_lifecycle.cli.connection import connection_options


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=exit_codes.table())
@click.version_option(package_name="opencode-lifecycle", message="%(version)s")
@connection_options
def main() -> None:
    """
    One private OpenCode server per user, as a Nomad job.

    Commands speak to the service's HTTP API. Results go to stdout, everything else to stderr; with --json, stdout has
    the service's own JSON and nothing else. Only `credentials` shows a password.
    """


for command in (
    stacks.show,
    stacks.list_stacks,
    stacks.address,
    stacks.credentials,
    stacks.logs,
    stacks.operation,
    stacks.events,
    changes.ensure,
    changes.start,
    changes.stop,
    changes.recreate,
    changes.recover,
    changes.rotate_password,
    changes.delete,
    tokens.token,
    serving.serve,
    serving.database,
    diagnosis.openapi,
    diagnosis.doctor,
    cluster,
):
    main.add_command(command)
