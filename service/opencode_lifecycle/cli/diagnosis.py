"""Commands for when something is wrong or unclear: doctor, openapi."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from opencode_lifecycle.cli.advice import FOR_DEPENDENCIES, about_dependency, about_problem
from opencode_lifecycle.cli.client import Answer, CallFailed, Client
from opencode_lifecycle.cli.connection import (
    Session,
    calls_service,
    chosen_token_file,
    chosen_url,
    connection_options,
    json_option,
    read_token,
)
from opencode_lifecycle.cli.exit_codes import ExitCode
from opencode_lifecycle.cli.installed import look_at_programs
from opencode_lifecycle.cli.output import Screen, counted, state
from opencode_lifecycle.cli.standing import Standing, look_at_the_whole, waiting_for_a_person
from opencode_lifecycle.cli.verdict import NOTHING_TO_DO, Level, Verdict, doubtful, fine, wrong
from opencode_lifecycle.model.errors import InvalidSettings
from opencode_lifecycle.model.principal import Role
from opencode_lifecycle.settings import load

LARGEST_SKEW_SECONDS: Final = 5.0
"""More, and workload identities and ages of observations begin to be judged wrongly."""
_SHOWN_ORPHANS: Final = 20
_NOBODY: Final = "doctor-asks-for-nobody"
"""A user id that no stack has, to see what a token may ask for."""


@click.command()
@calls_service("openapi")
async def openapi(session: Session) -> None:
    """Print the OpenAPI document of the service; it needs no token."""
    session.screen.document(await session.client.openapi())


@click.command()
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check this settings file too.",
)
@connection_options
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, settings_file: Path | None, as_json: bool) -> None:
    """
    What is wrong with the connection, the service or the whole of what it keeps, and what to do next.

    Exit code 0 when nothing is wrong, else 1. What is only worth a look is a warning, and does not count as wrong.
    """
    url, token_file = chosen_url(ctx), chosen_token_file(ctx)
    screen = Screen(as_json=as_json)
    found = asyncio.run(_examine(url, token_file, settings_file))
    healthy = all(verdict.level is not Level.FAILED for verdict in found.verdicts)
    if as_json:
        screen.document(
            {
                "ok": healthy,
                "checks": [asdict(verdict) for verdict in found.verdicts],
                "conditions": found.conditions,
                "watches": found.watches,
                "orphans": found.orphans,
                "next": what_next(found.verdicts),
            }
        )
    else:
        _show(screen, found)
    ctx.exit(ExitCode.OK if healthy else ExitCode.FAILED)


async def _examine(url: str, token_file: Path | None, settings_file: Path | None) -> Standing:
    token, verdicts = _look_at_token_file(url, token_file)
    whole = Standing(verdicts=())
    async with Client.connected(url, token) as client:
        try:
            readiness = await client.readiness()
        except CallFailed as failure:
            verdicts = [
                wrong("service", failure.code, failure.detail, about_problem(failure.code)),
                *verdicts,
            ]
        else:
            neighbours, made_of_them = _look_at_readiness(readiness)
            verdicts = [fine("service", f"answers at {url}"), *neighbours, *verdicts]
            verdicts.append(_look_at_clock(readiness, datetime.now(UTC)))
            if token is not None:
                role = await _look_at_role(client)
                verdicts.append(role)
                if role.level is Level.OK:
                    whole = await look_at_the_whole(client, readiness)
            verdicts += [*whole.conditions_found, *made_of_them]
    verdicts += whole.verdicts
    verdicts += look_at_programs()
    if settings_file is not None:
        verdicts += _look_at_settings(settings_file)
    return replace(whole, verdicts=verdicts)


def what_next(verdicts: Sequence[Verdict]) -> str:
    """Say in one sentence what to do next: what is wrong comes before what is worth a look, causes before effects."""
    failed = [verdict for verdict in verdicts if verdict.level is Level.FAILED]
    doubted = [verdict for verdict in verdicts if verdict.level is Level.WARNING]
    if not failed and not doubted:
        return "Nothing is wrong, and there is nothing to do."
    wrongs = f"{counted(len(failed), 'check')} failed" if failed else "Nothing is wrong"
    doubts = f", {len(doubted)} {'is' if len(doubted) == 1 else 'are'} worth a look" if doubted else ""
    told = f"{wrongs}{doubts}."
    to_do = [verdict for verdict in failed or doubted if not verdict.advice.startswith(NOTHING_TO_DO)]
    return f"{told} Begin with {to_do[0].check}: {to_do[0].advice}." if to_do else told


def _look_at_token_file(url: str, file: Path | None) -> tuple[str | None, list[Verdict]]:
    if file is None:
        return None, [
            wrong("token", "token-missing", "no token file is named", about_problem("unauthenticated"))
        ]
    try:
        token = read_token(file)
    except click.UsageError as error:
        return None, [
            wrong(
                "token",
                "token-unreadable",
                error.message,
                "write a token there (`token create`), or name another",
            )
        ]
    verdicts = []
    if file.stat().st_mode & 0o077:
        verdicts.append(
            doubtful("token file", "token-file-open", f"{file} can be read by others", f"chmod 600 {file}")
        )
    host = urlsplit(url)
    if host.scheme == "http" and host.hostname not in {"127.0.0.1", "::1", "localhost"}:
        verdicts.append(
            doubtful(
                "address", "plain-http", f"the token travels to {host.hostname} in clear", "use https://"
            )
        )
    return token, verdicts


def _look_at_readiness(answer: Answer) -> tuple[list[Verdict], list[Verdict]]:
    """Return what the service says of its neighbours, and of what it makes of them: effects are told after causes."""
    neighbours: list[Verdict] = []
    made_of_them: list[Verdict] = []
    dependencies = answer.body.get("dependencies")
    for dependency in dependencies if isinstance(dependencies, list) else []:
        name, detail = str(dependency.get("name")), str(dependency.get("detail") or "")
        if name == "conditions":
            continue  # looked at by themselves
        verdict = (
            fine(f"service: {name}", detail or "reachable")
            if dependency.get("ok")
            else wrong(f"service: {name}", "dependency-not-ready", detail, about_dependency(name))
        )
        (made_of_them if name in FOR_DEPENDENCIES else neighbours).append(verdict)
    if answer.status != 200 and all(v.level is Level.OK for v in [*neighbours, *made_of_them]):  # noqa: PLR2004 - HTTP's OK
        neighbours.append(wrong("service", "service-not-ready", "it says so itself", "read its log"))
    return neighbours, made_of_them


def _look_at_clock(answer: Answer, now: datetime) -> Verdict:
    try:
        theirs = parsedate_to_datetime(answer.date or "")
    except ValueError:
        return doubtful(
            "clock", "clock-unknown", "the service sends no Date", "see that no proxy takes it out"
        )
    skew = (now - theirs).total_seconds()
    if abs(skew) > LARGEST_SKEW_SECONDS:
        return wrong(
            "clock",
            "clock-skew",
            f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the service",
            "synchronise the clocks of both machines (NTP)",
        )
    return fine("clock", f"within {LARGEST_SKEW_SECONDS:.0f} s of the service's")


async def _look_at_role(client: Client) -> Verdict:
    """
    Tell the role of the token by what it may read.

    No call says it outright. Only an operator may list tokens; a user may not list stacks; of the other two, only a
    backend may ask for addresses, here for that of nobody.
    """
    status, code = await client.status_of("v1", "stacks", query=[("limit", "1")])
    if status == 401:  # noqa: PLR2004 - HTTP's Unauthorized
        return wrong(
            "token",
            "token-refused",
            "the service does not know this token",
            "create another (`token create`)",
        )
    if status not in {200, 403}:
        return wrong("token", code, f"the service answered {status}", about_problem(code))
    role = Role.USER
    if status == 200:  # noqa: PLR2004 - HTTP's OK
        tokens, _ = await client.status_of("v1", "tokens", query=[("limit", "1")])
        address, _ = await client.status_of("v1", "stacks", _NOBODY, "address")
        role = (
            Role.OPERATOR if tokens == 200 else Role.AUDITOR if address == 403 else Role.BACKEND  # noqa: PLR2004
        )
    return fine("token", f"valid, role {role}")


def _look_at_settings(file: Path) -> list[Verdict]:
    try:
        load(file)
    except InvalidSettings as error:
        return [
            wrong("settings", "settings-invalid", problem, f"correct it in {file}, or in the environment")
            for problem in error.problems
        ]
    return [fine("settings", f"{file} is valid")]


def _show(screen: Screen, found: Standing) -> None:
    screen.table(
        ["CHECK", "RESULT", "DETAIL", "WHAT TO DO"],
        [[v.check, state(v.level), v.detail, v.advice] for v in found.verdicts],
    )
    if found.orphans:
        why = waiting_for_a_person(found.orphans)
        screen.heading("Orphans that wait for a person")
        screen.table(
            ["ID", "KIND", "NAME", "USER", "WHY"],
            [
                [o.get("id"), o.get("kind"), o.get("job_id"), o.get("user_id"), why.get(str(o.get("id")))]
                for o in found.orphans[:_SHOWN_ORPHANS]
            ],
            whole={"ID", "KIND", "NAME"},
        )
    screen.gap()
    screen.line(what_next(found.verdicts))
