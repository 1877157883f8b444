"""What every command that calls the service shares: its options, the open client, and how a failed call ends it."""

import asyncio
import functools
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from opencode_lifecycle.cli.advice import about_problem, about_reason
from opencode_lifecycle.cli.client import CallFailed, Client, JsonObject
from opencode_lifecycle.cli.exit_codes import ExitCode, exit_code_of
from opencode_lifecycle.cli.output import Screen, show_failure

DEFAULT_URL: Final = "http://127.0.0.1:8700"
_META: Final = "opencode_lifecycle."

P = ParamSpec("P")


class CommandFailed(click.ClickException):
    """Ends the command with *exit_code*, telling what failed and what to do."""

    def __init__(self, code: ExitCode, what: str, *, details: tuple[str, ...] = (), advice: str = "") -> None:
        super().__init__(what)
        self.exit_code = code  # type: ignore[misc]  # click reads it from the exception, though it declares it for the class
        self.details = details
        self.advice = advice

    def show(self, file: Any = None) -> None:
        del file
        show_failure(self.message, details=self.details, advice=self.advice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An open connection and the screen of the command that uses it."""

    client: Client
    screen: Screen


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --url and --token-file. They may stand before the command or after it; the later one counts."""
    url = click.option(
        "--url",
        envvar="OPENCODE_LIFECYCLE_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="Address of the service.",
        callback=_remember,
        expose_value=False,
    )
    token_file = click.option(
        "--token-file",
        envvar="OPENCODE_LIFECYCLE_TOKEN_FILE",
        show_envvar=True,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File that holds the token. A token itself is never an argument: process lists show those.",
        callback=_remember,
        expose_value=False,
    )
    return url(token_file(command))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the service's JSON and nothing else.")(
        command
    )


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    key = f"{_META}{param.name}"
    if key not in ctx.meta or ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
        ctx.meta[key] = value


def chosen_url(ctx: click.Context) -> str:
    """Return the service's address, or end with a usage error when it is none that can be used."""
    url: str = ctx.meta[f"{_META}url"]
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise click.UsageError("--url must begin with http:// or https:// and name a host")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise click.UsageError(
            "--url takes scheme, host, port and path alone; the token goes into --token-file"
        )
    return url


def chosen_token_file(ctx: click.Context) -> Path | None:
    file: Path | None = ctx.meta[f"{_META}token_file"]
    return file


def read_token(file: Path | None) -> str | None:
    """Return the token in *file*, or raise a usage error that does not repeat what the file holds."""
    if file is None:
        return None
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"token file {file}: {reason}") from None
    if not token or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise click.UsageError(f"token file {file}: it must hold one token and nothing else")
    return token


def calls_service(
    failing: str,
) -> Callable[[Callable[Concatenate[Session, P], Awaitable[None]]], Callable[..., Any]]:
    """
    Make a coroutine a command body: it gets an open `Session`, and what it raises ends the command as documented.

    *failing* completes the sentence "Error: … failed". A `user_id` among the arguments names the stack in it.
    """

    def decorate(body: Callable[Concatenate[Session, P], Awaitable[None]]) -> Callable[..., Any]:
        @functools.wraps(body)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            screen = Screen(as_json=bool(kwargs.pop("as_json")))
            call_service(
                failing, screen, lambda session: body(session, *args, **kwargs), user_id=kwargs.get("user_id")
            )

        return connection_options(json_option(run))

    return decorate


def call_service(
    failing: str, screen: Screen, work: Callable[[Session], Awaitable[None]], *, user_id: object = None
) -> None:
    """Run *work* with a connection as the command line chose it."""
    ctx = click.get_current_context()
    url, token = chosen_url(ctx), read_token(chosen_token_file(ctx))

    async def connected() -> None:
        async with Client.connected(url, token) as client:
            await work(Session(client=client, screen=screen))

    try:
        asyncio.run(connected())
    except CallFailed as failure:
        raise refused(failing, user_id, failure) from None
    except KeyboardInterrupt:
        # Whoever only stops looking has aborted nothing, which is what click would say.
        raise click.exceptions.Exit(ExitCode.FAILED) from None


def refused(failing: str, user_id: object, failure: CallFailed) -> CommandFailed:
    """Say of a failed call what failed, for which stack, and what to do."""
    details = [f"{fault.pointer or '/'}: {fault.detail}" for fault in failure.faults]
    if failure.retry_after is not None:
        details.append(f"The service asks to wait {failure.retry_after} s.")
    return CommandFailed(
        exit_code_of(failure.status, failure.code),
        f"{_subject(failing, user_id)}: {failure.detail} ({failure.code})",
        details=tuple(details),
        advice=_named(about_problem(failure.code), user_id),
    )


def ended_badly(
    failing: str, user_id: object, code: ExitCode, status: JsonObject, what: str
) -> CommandFailed:
    """Say of an operation or a stack that did not come out as asked why, and what to do."""
    reason, message = status.get("reason"), status.get("message")
    said = " ".join(str(part) for part in (message, f"({reason})" if reason else "") if part)
    return CommandFailed(
        code,
        f"{_subject(failing, user_id)}: {what}{': ' if said else ''}{said}",
        advice=_named(about_reason(reason), user_id),
    )


def _subject(failing: str, user_id: object) -> str:
    return f"{failing} failed for stack {user_id}" if user_id else f"{failing} failed"


def _named(advice: str, user_id: object) -> str:
    return advice.replace("USER", shlex.quote(str(user_id))) if user_id else advice
