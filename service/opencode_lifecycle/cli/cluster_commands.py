"""`opencode-lifecycle cluster`: the embedded cluster, for people and scripts."""

import asyncio
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from opencode_lifecycle.cli.connection import CommandFailed
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.output import Screen, duration, state
from opencode_lifecycle.cluster import demo, shutdown, startup
from opencode_lifecycle.cluster import record as record_file
from opencode_lifecycle.cluster import status as cluster_status
from opencode_lifecycle.cluster.binaries import find_servers
from opencode_lifecycle.cluster.layout import Layout, write_private
from opencode_lifecycle.cluster.opencode_package import ensure_opencode
from opencode_lifecycle.cluster.progress import Shown, Silent
from opencode_lifecycle.cluster.record import Record
from opencode_lifecycle.cluster.service_settings import write_settings
from opencode_lifecycle.cluster.status import ClusterStatus
from opencode_lifecycle.cluster.supervisor import supervise as run_supervisor
from opencode_lifecycle.model.errors import LifecycleError
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import Settings, load

_OPENCODE_VERSION: Final[str] = Settings.model_fields["opencode_version"].default
_ROLES: Final = (Role.BACKEND, Role.OPERATOR, Role.AUDITOR)

_directory = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    help="Where everything of this cluster lies.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


@click.group()
def cluster() -> None:
    """Run Nomad, Consul, Vault and the service on this machine."""


@cluster.command()
@_json
@click.option("--opencode-version", default=_OPENCODE_VERSION, show_default=True, metavar="VERSION")
@click.option("--require-mock-driver", is_flag=True, help="Take only a Nomad that tests can use.")
def fetch(*, as_json: bool, opencode_version: str, require_mock_driver: bool) -> None:
    """Find, download or build the servers and OpenCode, and start nothing."""
    screen = Screen(as_json=as_json)

    async def get_everything() -> dict[str, str]:
        shown = Silent() if as_json else Shown(screen.notes)
        with shown as progress:
            servers = await find_servers(progress=progress, require_mock_driver=require_mock_driver)
            opencode = await ensure_opencode(opencode_version, progress=progress)
        return {name: str(path) for name, path in {**servers, "opencode": opencode}.items()}

    with _own_failures("fetch"):
        programs = asyncio.run(get_everything())
    if as_json:
        screen.document(programs)
    else:
        for name, path in programs.items():
            screen.line(f"{name:9} {path}")


@cluster.command()
@_directory
@_json
@click.option("--servers-only", is_flag=True, help="Leave out the service and the demo user's OpenCode.")
@click.option("--opencode-version", default=_OPENCODE_VERSION, show_default=True, metavar="VERSION")
@click.option("--private", is_flag=True, hidden=True)
@click.option("--roomy", is_flag=True, hidden=True)
@click.option("--require-mock-driver", is_flag=True, hidden=True)
def up(*, directory: Path, as_json: bool, **options: Any) -> None:
    """
    Start everything in the background and return once it works.

    Repeating it is safe: what runs is left alone, what was interrupted goes on where it stopped.
    """
    layout, screen = Layout(directory.absolute()), Screen(as_json=as_json)

    async def bring_up() -> None:
        shown = Silent() if as_json else Shown(screen.notes)
        with shown as progress:
            chosen = startup.Options(**options)
            record = await startup.up(layout, chosen, progress, _supervise_command(layout))
            if not chosen.servers_only:
                await demo.ensure(layout, record, progress)

    with _own_failures("up"):
        asyncio.run(bring_up())
        _show(layout, screen, summary=True)


@cluster.command()
@_directory
def down(*, directory: Path) -> None:
    """
    Stop everything and keep all data.

    Jobs stay registered, so `up` brings every runtime back with its workspace.
    """
    screen = Screen()
    with _own_failures("down"), Shown(screen.notes) as progress:
        was_up = startup.down(Layout(directory.absolute()), progress)
    screen.note(
        "Stopped. `opencode-lifecycle cluster up` brings everything back."
        if was_up
        else "Nothing was running."
    )


@cluster.command()
@_directory
@_json
def status(*, directory: Path, as_json: bool) -> None:
    """Show what runs. Ends with 0 when everything works and with 1 when anything does not."""
    with _own_failures("status"):
        seen = _show(Layout(directory.absolute()), Screen(as_json=as_json), summary=False)
    sys.exit(ExitCode.OK if seen is not None and seen.works else ExitCode.FAILED)


@cluster.command()
@_directory
def destroy(*, directory: Path) -> None:
    """Stop everything and remove all of its data, workspaces and passwords with it."""
    layout, screen = Layout(directory.absolute()), Screen()
    if record_file.load(layout) is None:
        screen.note(f"There is no cluster in {layout.root}.")
        return
    with _own_failures("destroy"), Shown(screen.notes) as progress:
        startup.down(layout, progress)
        shutdown.remove(layout)
    screen.note(f"Removed {layout.root}. The programs stay in the cache.")


@cluster.command(hidden=True)
@_directory
@click.option("--servers-only", is_flag=True)
def supervise(*, directory: Path, servers_only: bool) -> None:
    """Be the supervisor; `up` starts it."""
    was_up = run_supervisor(Layout(directory.absolute()), None if servers_only else _prepare_service)
    sys.exit(ExitCode.OK if was_up else ExitCode.FAILED)


async def _prepare_service(layout: Layout, record: Record) -> None:
    """Write settings and database schema, and a token for each role that has none yet."""
    from opencode_lifecycle import application  # noqa: PLC0415 - the other commands do not need the whole service

    write_settings(layout, record)
    settings = load(layout.settings, environment={})
    await application.migrate(settings)
    for role in _ROLES:
        file = layout.tokens / role.value
        if not file.exists():
            secret = await application.issue_token(
                settings, name=f"cluster-{role.value}", role=role, subject=None
            )
            write_private(file, f"{secret}\n")


def _supervise_command(layout: Layout) -> list[str]:
    return [
        sys.executable,
        "-m",
        "opencode_lifecycle",
        "cluster",
        "supervise",
        "--directory",
        str(layout.root),
    ]


def _show(layout: Layout, screen: Screen, *, summary: bool) -> ClusterStatus | None:
    seen = cluster_status.look(layout)
    if seen is None:
        if screen.as_json:
            screen.document({"works": False, "phase": "absent"})
        else:
            screen.line(f"There is no cluster in {layout.root}; `opencode-lifecycle cluster up` makes one.")
        return None
    if screen.as_json:
        screen.document(seen.to_json() | {"directory": str(layout.root)})
        return seen
    _show_servers(seen, screen)
    if seen.error and not seen.works:
        screen.line(seen.error)
    if summary:
        _show_summary(layout, seen, screen)
    return seen


def _show_servers(seen: ClusterStatus, screen: Screen) -> None:
    screen.table(
        ["SERVER", "STATE", "ADDRESS", "PROCESS", "UP FOR", "RESTARTS", "LAST EXIT"],
        [
            [
                server.name,
                state(server.state),
                server.address,
                server.pid,
                duration(server.seconds) if server.seconds is not None else None,
                str(server.restarts),
                server.last_exit,
            ]
            for server in seen.servers
        ],
    )
    screen.line(f"Cluster: {seen.phase}; runtime processes: {seen.processes}")
    if not seen.is_root:
        screen.line("Without root Nomad has no cgroups: no limits are enforced and no usage is measured.")


def _show_summary(layout: Layout, seen: ClusterStatus, screen: Screen) -> None:
    address = {server.name: server.address for server in seen.servers}
    environment = shlex.quote(str(layout.environment))
    facts = [
        ("Nomad UI", f"{address['nomad']}/ui"),
        ("Consul UI", f"{address['consul']}/ui"),
        ("Vault UI", f"{address['vault']}/ui"),
        ("Your shell", f". {environment}    (nomad, consul, vault, opencode-lifecycle and their tokens)"),
        ("Stop", "opencode-lifecycle cluster down"),
    ]
    if "service" in address:
        credentials = f"opencode-lifecycle credentials {demo.USER} --token-file {shlex.quote(str(layout.tokens / 'backend'))}"
        facts[3:3] = [("Service API", f"{address['service']}/docs")]
        facts[5:5] = [
            ("Its jobs", f"nomad job status; opencode-lifecycle show {demo.USER}"),
            ("Credentials", credentials),
        ]
    screen.facts(facts)


@contextmanager
def _own_failures(command: str) -> Iterator[None]:
    """End the command with what the cluster raises on purpose; a defect keeps its traceback."""
    try:
        yield
    except LifecycleError as error:
        raise CommandFailed(ExitCode.FAILED, f"cluster {command} failed: {error.message}") from None
