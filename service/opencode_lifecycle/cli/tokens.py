"""Service tokens: create, list, revoke."""

import asyncio
from pathlib import Path

import click

from opencode_lifecycle.cli.client import JsonObject
from opencode_lifecycle.cli.connection import (
    Session,
    call_service,
    calls_service,
    connection_options,
    json_option,
)
from opencode_lifecycle.cli.output import Screen, age
from opencode_lifecycle.cli.parameters import UserIdType, choice
from opencode_lifecycle.cli.serving import load_settings, own_failures
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.principal import Role


@click.group()
def token() -> None:
    """Tokens of the service, each with a role. Operators only."""


@token.command()
@click.option("--name", required=True, help="Who will hold it, as it shall stand in the history.")
@click.option("--role", required=True, type=choice(Role))
@click.option(
    "--subject", type=UserIdType(), help="For the role user: the one user whose stack it may touch."
)
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Go straight to the database of these settings: how the very first token is made.",
)
@connection_options
@json_option
def create(
    *, name: str, role: str, subject: UserId | None, settings_file: Path | None, as_json: bool
) -> None:
    """
    Create a token and print its secret, this once.

    The secret alone goes to stdout, so that a file can take it: umask 077; opencode-lifecycle token create … > FILE
    """
    if (role == Role.USER) != (subject is not None):
        raise click.UsageError("--subject belongs to the role user, and to no other")
    screen = Screen(as_json=as_json)
    if settings_file is not None:
        _show_created(
            screen, _issue_without_service(settings_file, name=name, role=Role(role), subject=subject)
        )
        return

    async def create_through_service(session: Session) -> None:
        body = {"name": name, "role": role, **({"subject": subject} if subject is not None else {})}
        _show_created(screen, await session.client.create_token(body))

    call_service("token create", screen, create_through_service)


@token.command("list")
@calls_service("token list")
async def list_tokens(session: Session) -> None:
    """Tokens, with those that were revoked. Their secrets are known to nobody but their holders."""
    items = [item async for page in session.client.tokens() for item in page["items"]]
    if session.screen.as_json:
        session.screen.document({"items": items, "next_cursor": None})
        return
    session.screen.table(
        ["ID", "NAME", "ROLE", "SUBJECT", "CREATED", "BY", "REVOKED"],
        [
            [
                item.get("id"),
                item.get("name"),
                item.get("role"),
                item.get("subject"),
                age(item.get("created_at")),
                item.get("created_by"),
                age(item.get("revoked_at")),
            ]
            for item in items
        ],
    )


@token.command()
@click.argument("token_id", metavar="ID")
@calls_service("token revoke")
async def revoke(session: Session, token_id: str) -> None:
    """Revoke a token. It is refused everywhere within a second."""
    answer = await session.client.revoke_token(token_id)
    if session.screen.as_json:
        session.screen.document(answer)
    else:
        session.screen.line(f"{token_id} is revoked.")


def _issue_without_service(file: Path, *, name: str, role: Role, subject: UserId | None) -> JsonObject:
    from opencode_lifecycle import application  # noqa: PLC0415 - only this way needs the whole service

    settings = load_settings(file)
    with own_failures("token create"):
        secret = asyncio.run(application.issue_token(settings, name=name, role=role, subject=subject))
    return {"name": name, "role": role, "subject": subject, "secret": secret}


def _show_created(screen: Screen, issued: JsonObject) -> None:
    if screen.as_json:
        screen.document(issued)
        return
    screen.line(str(issued.get("secret")))
    screen.note(
        f"{issued.get('id') or 'token'} for {issued.get('name')} ({issued.get('role')}): shown this once"
    )
