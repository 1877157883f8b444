"""Commands that look: show, list, address, credentials, logs, operation, events."""

import codecs
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import click

from opencode_lifecycle.cli.client import CallFailed, JsonObject
from opencode_lifecycle.cli.connection import Session, calls_service
from opencode_lifecycle.cli.output import age, counted, plain
from opencode_lifecycle.cli.parameters import (
    DurationType,
    PairType,
    StaleType,
    UserIdType,
    choice,
    user_argument,
)
from opencode_lifecycle.cli.release_names import release_id_of
from opencode_lifecycle.cli.stack_tables import show_events, show_operation, show_stack, show_stacks
from opencode_lifecycle.model.facets import Facet
from opencode_lifecycle.model.identifiers import UserId
from opencode_lifecycle.model.states import Health, MigrationState, Phase, Reason


@click.command()
@user_argument
@calls_service("show")
async def show(session: Session, user_id: UserId) -> None:
    """Everything known of USER's stack, and how to see it in Nomad, Consul and Vault."""
    stack = await session.client.stack(user_id)
    if session.screen.as_json:
        session.screen.document(stack)
    else:
        show_stack(session.screen, stack)


@click.command("list")
@click.option("--phase", type=choice(Phase))
@click.option("--health", type=choice(Health))
@click.option("--migration-state", type=choice(MigrationState))
@click.option(
    "--reason",
    type=choice(Reason),
    metavar="REASON",
    help=f"Only what is shown with this reason: {', '.join(Reason)}. In what it is stale is --stale FACET.",
)
@click.option("--release", metavar="RELEASE", help="Stacks that run this release.")
@click.option("--group", metavar="NAME")
@click.option(
    "--stale",
    type=StaleType(),
    is_flag=False,
    flag_value=StaleType.ANY,
    metavar="[FACET]",
    help=f"Only what is stale, in anything or in this facet: {', '.join(Facet)}.",
)
@click.option("--current", is_flag=True, help="Only what is not stale.")
@click.option("--label", type=PairType(), help="Only stacks with this label.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many; without it, all.")
@click.option("--cursor", help="Go on where a list with the same filters and --limit ended: its next_cursor.")
@calls_service("list")
async def list_stacks(
    session: Session,
    /,
    *,
    stale: str | None,
    current: bool,
    label: tuple[str, str] | None,
    limit: int | None,
    cursor: str | None,
    **filters: str | None,
) -> None:
    """Stacks, all or those that match every filter. Pages are fetched as needed."""
    if filters["release"] is not None:
        filters["release"] = await release_id_of(session.client, filters["release"])
    query = [(name, value) for name, value in filters.items() if value is not None]
    if stale is not None and current:
        raise click.UsageError("--stale and --current exclude each other")
    if stale is not None or current:
        query.append(("stale", stale or "false"))
    if label is not None:
        query.append(("label", "=".join(label)))
    found = await _gather(session.client.stacks(query, limit, cursor=cursor))
    if session.screen.as_json:
        session.screen.document(found)
        return
    if found["items"]:
        show_stacks(session.screen, found["items"])
    more = f"; there are more, go on with --cursor {found['next_cursor']}" if found["next_cursor"] else ""
    session.screen.note(f"{counted(len(found['items']), 'stack')}{more}")


@click.command()
@user_argument
@click.option("--audience", type=click.Choice(["internal", "public"]), default="internal", show_default=True)
@calls_service("address")
async def address(session: Session, user_id: UserId, audience: str) -> None:
    """Print the proven address of USER's runtime. Exit code 6 when there is none now."""
    found = await session.client.address(user_id, audience)
    if session.screen.as_json:
        session.screen.document(found)
        return
    session.screen.line(str(found.get("url")))
    session.screen.note(
        f"allocation {found.get('allocation_id')}, generation {found.get('generation')}, "
        f"proven {age(found.get('proven_at'))}"
    )


@click.command()
@user_argument
@click.option("--wrap", type=DurationType(), help="Print a Vault wrapping token of this lifetime instead.")
@calls_service("credentials")
async def credentials(session: Session, user_id: UserId, wrap: int | None) -> None:
    """Print the credentials of USER's running server. This is audited, and the only command that shows a password."""
    found = await session.client.credentials(user_id, wrap)
    if session.screen.as_json:
        session.screen.document(found)
        return
    if "wrapping_token" in found:
        session.screen.facts(
            [
                ("wrapping token", found["wrapping_token"]),
                ("opens once within", f"{found.get('ttl_seconds')} s"),
            ]
        )
        session.screen.note("Open it with: vault unwrap (it asks for the token)")
        return
    session.screen.facts(
        [
            ("url", await _url_if_known(session, user_id)),
            ("username", found.get("username")),
            ("password", found.get("password")),
            ("secret version", found.get("secret_version")),
            ("allocation", found.get("allocation_id")),
        ]
    )


@click.command()
@user_argument
@click.option("--type", "kind", type=click.Choice(["stdout", "stderr"]), default="stdout", show_default=True)
@click.option(
    "--tail", type=click.IntRange(0, 10_000), default=200, show_default=True, help="Last lines to show."
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@calls_service("logs")
async def logs(session: Session, user_id: UserId, kind: str, tail: int, follow: bool) -> None:  # noqa: FBT001 - click passes options by name
    """
    Print the log of USER's runtime, byte for byte when it goes to a file.

    The service answers with text, so --json changes nothing. On a terminal, control characters are taken out.
    """
    out = sys.stdout.buffer
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode if sys.stdout.isatty() else None
    async with aclosing(session.client.log(user_id, kind=kind, tail=tail, follow=follow)) as pieces:
        async for piece in pieces:
            out.write(plain(decode(piece)).encode() if decode is not None else piece)
            out.flush()


@click.command()
@click.argument("operation_id", metavar="ID")
@calls_service("operation")
async def operation(session: Session, operation_id: str) -> None:
    """How an accepted request stands: its phases, outcome and receipt."""
    found = await session.client.operation(operation_id)
    if session.screen.as_json:
        session.screen.document(found)
    else:
        show_operation(session.screen, found)


@click.command()
@click.argument("user_id", metavar="[USER]", required=False, type=UserIdType())
@click.option("--last", type=click.IntRange(min=1), default=50, show_default=True, help="How many to show.")
@calls_service("events")
async def events(session: Session, user_id: UserId | None, last: int) -> None:
    """History, the latest at the end: who did what to whom, of USER or of all."""
    latest: deque[JsonObject] = deque(maxlen=last)
    async for page in session.client.events(user_id):
        latest.extend(page["items"])
    if session.screen.as_json:
        session.screen.document({"items": list(latest), "next_cursor": None})
    else:
        show_events(session.screen, latest)


async def _gather(pages: AsyncIterator[JsonObject]) -> dict[str, Any]:
    """Join pages into one list of the same shape; its cursor is that of the last page."""
    items: list[JsonObject] = []
    cursor = None
    async for page in pages:
        items += page["items"]
        cursor = page.get("next_cursor")
    return {"items": items, "next_cursor": cursor}


async def _url_if_known(session: Session, user_id: UserId) -> str | None:
    """Return where the credentials are good; they are worth showing without it."""
    try:
        return str((await session.client.address(user_id, "internal")).get("url"))
    except CallFailed:
        return None
