"""What was kept of a user's data before versions changed."""

from typing import Final

import click

from opencode_lifecycle.cli.connection import Session, calls_service
from opencode_lifecycle.cli.output import ago
from opencode_lifecycle.cli.parameters import user_argument
from opencode_lifecycle.model.identifiers import UserId

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024


@click.command()
@user_argument
@calls_service("snapshots")
async def snapshots(session: Session, user_id: UserId) -> None:
    """Snapshots of a user's data, oldest first: which version's it is, and before which one it was taken."""
    found = await session.client.snapshots(user_id)
    if session.screen.as_json:
        session.screen.document(found)
        return
    refused = found.get("refused")
    if refused:
        session.screen.note(f"Its version was not started (exit code {refused['code']}): {refused['reason']}")
    items = found.get("items") or []
    if not items:
        session.screen.note("There are no snapshots of its data that were ever seen.")
        return
    session.screen.table(
        ["ID", "TAKEN", "DATA OF", "BEFORE", "MIGRATIONS", "SIZE", "RESTORED"],
        [
            [
                item.get("id"),
                ago(item.get("taken_at")),
                item.get("opencode_version") or "unknown",
                item.get("before_version"),
                (item.get("migrations") or {}).get("count"),
                _size(int(item.get("bytes") or 0)),
                ago(item.get("restored_at")) if item.get("restored_at") else None,
            ]
            for item in items
        ],
        whole={"ID"},
    )
    session.screen.note(f"Seen {ago(found.get('observed_at'))}.")


def _size(number: float) -> str:
    for unit in _UNITS[:-1]:
        if number < _STEP:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= _STEP
    return f"{number:.1f} {_UNITS[-1]}"
