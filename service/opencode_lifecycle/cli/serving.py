"""Commands that run on the service's own machine, with its settings: serve, and the upgrade of its database."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from opencode_lifecycle.cli.connection import CommandFailed, json_option
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.output import Screen
from opencode_lifecycle.model.errors import InvalidSettings, LifecycleError
from opencode_lifecycle.settings import Settings, load

settings_option = click.option(
    "--settings",
    "settings_file",
    envvar="OPENCODE_LIFECYCLE_SETTINGS",
    show_envvar=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file with the settings; OPENCODE_LIFECYCLE_<NAME> in the environment wins over it.",
)


@click.command()
@settings_option
def serve(settings_file: Path | None) -> None:
    """Run the service until it is told to stop (SIGTERM, SIGINT)."""
    # What is loaded now stays, so looking through it for garbage is in vain. The service begins to when it is ready.
    gc.disable()
    from opencode_lifecycle import application  # noqa: PLC0415 - only these commands need the whole service

    settings = load_settings(settings_file)
    with own_failures("serve"):
        asyncio.run(application.serve(settings))


@click.group()
def database() -> None:
    """The service's database."""


@database.command()
@settings_option
@json_option
def upgrade(settings_file: Path | None, *, as_json: bool) -> None:
    """Bring the database to the schema of this version. Safe to repeat."""
    from opencode_lifecycle import application  # noqa: PLC0415 - only these commands need the whole service

    settings = load_settings(settings_file)
    with own_failures("database upgrade"):
        asyncio.run(application.migrate(settings))
    screen = Screen(as_json=as_json)
    if as_json:
        screen.document({"upgraded": True})
    else:
        screen.line("The database has the schema of this version.")


def load_settings(file: Path | None) -> Settings:
    """Return the settings, or end the command with every problem of them on a line of its own."""
    try:
        return load(file)
    except InvalidSettings as error:
        raise InvalidSettingsGiven(error) from None


class InvalidSettingsGiven(CommandFailed):
    """Shows the problems alone, a line each, so that they can be worked through or counted."""

    def __init__(self, error: InvalidSettings) -> None:
        super().__init__(ExitCode.USAGE, error.message)
        self.problems = error.problems

    def show(self, file: object = None) -> None:
        del file
        for problem in self.problems:
            click.echo(problem, err=True)


@contextmanager
def own_failures(failing: str) -> Iterator[None]:
    """End the command with what the service's own parts raise on purpose; a defect keeps its traceback."""
    try:
        yield
    except LifecycleError as error:
        raise CommandFailed(ExitCode.FAILED, f"{failing} failed: {error.message} ({error.code})") from None
