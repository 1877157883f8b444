"""`opencode-lifecycle cluster`: the embedded cluster, for people and scripts."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from opencode_lifecycle.cluster import startup
from opencode_lifecycle.cluster.layout import Layout
from opencode_lifecycle.cluster.progress import Shown
from opencode_lifecycle.cluster.supervisor import supervise as run_supervisor
from opencode_lifecycle.model.errors import LifecycleError

FAILED: Final = 1

_directory = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    help="Where everything of this cluster lies.",
)


@click.group()
def cluster() -> None:
    """Run Nomad, Consul, Vault and the service on this machine."""


@cluster.command()
@_directory
@click.option("--servers-only", is_flag=True, help="Leave out the service and the demo user's OpenCode.")
@click.option("--opencode-version", default="1.18.34", show_default=True)
@click.option("--private", is_flag=True, hidden=True)
@click.option("--roomy", is_flag=True, hidden=True)
@click.option("--require-mock-driver", is_flag=True, hidden=True)
def up(
    *,
    directory: Path,
    servers_only: bool,
    opencode_version: str,
    private: bool,
    roomy: bool,
    require_mock_driver: bool,
) -> None:
    """Start everything in the background and wait until it works."""
    layout = Layout(directory.absolute())
    options = startup.Options(
        servers_only=servers_only,
        private=private,
        roomy=roomy,
        require_mock_driver=require_mock_driver,
        opencode_version=opencode_version,
    )
    console = Console(stderr=True)
    try:
        with Shown(console) as progress:
            asyncio.run(startup.up(layout, options, progress, _supervise_command(layout)))
    except LifecycleError as error:
        _fail(console, error)


@cluster.command()
@_directory
def down(*, directory: Path) -> None:
    """Stop everything and keep all data."""
    console = Console(stderr=True)
    try:
        with Shown(console) as progress:
            startup.down(Layout(directory.absolute()), progress)
    except LifecycleError as error:
        _fail(console, error)


@cluster.command(hidden=True)
@_directory
def supervise(*, directory: Path) -> None:
    """Be the supervisor; started by `up`."""
    sys.exit(0 if run_supervisor(Layout(directory.absolute()), None) else FAILED)


def _supervise_command(layout: Layout) -> list[str]:
    return [
        sys.executable,
        "-m",
        "opencode_lifecycle.cli.cluster_commands",
        "supervise",
        "--directory",
        str(layout.root),
    ]


def _fail(console: Console, error: LifecycleError) -> None:
    console.print(error.message, style="red", markup=False, highlight=False)
    sys.exit(FAILED)


if __name__ == "__main__":
    cluster()
